"""A run on workers, as the process that was started sees it: divide, hand out, take what comes, hand out again.

The plan is cut into shards, more of them than workers. A shard that is lost with its node is handed out again, and
begins with the answers that had come from it. Answers go into this process's ledger as they come, and it has the only
record of the budget. Leaves out what starts the workers (`on_ray.py`): this module knows them as a `Pool`.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

from sotopia_rl_data.asking.ask import capped
from sotopia_rl_data.asking.keys import OWN, key_for
from sotopia_rl_data.asking.memory import EndpointMemory, keep_pace, remembered_pace
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.asking.plan import AskOptions, DivisiblePlan, Plan, paid_targets, respondents_of
from sotopia_rl_data.cluster.limiter import News
from sotopia_rl_data.cluster.worker import Ended, ShardTask
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.costs.reservations import Hold
from sotopia_rl_data.errors import AskingError, BudgetSpent, Interrupted, SotopiaDataError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, Outcome, PendingRequest
from sotopia_rl_data.ledger.merge import AskedTwice
from sotopia_rl_data.request import Request

log = logging.getLogger(__name__)

_SHARDS = 4  # for each worker
_TRIES = 3  # a shard that was lost so often without an answer in between is given up
_TELL_S = 0.02  # the least between two messages of a worker to the limiter, …
_MESSAGES = 500  # … which gets about so many a second from all of them, however many there are
_CALLS = 8  # the first loan of a worker is for so many calls
_SDKS = ("OPENAI_", "ANTHROPIC_")  # variables that the providers' SDKs read


@dataclass(frozen=True, slots=True)
class Lost:
    """A shard's worker is gone, and why."""

    why: str


class Pool(Protocol):
    """Workers, wherever they are. `size` is how many shards are asked about at once."""

    size: int

    def start(self, paces: Sequence[tuple[Pacing, int]]) -> None:
        """Start the limiter, with these paces."""

    def submit(self, task: ShardTask) -> None:
        """Have a shard asked about, as soon as a worker is free."""

    def ended(self) -> list[tuple[str, Ended | Lost]]:
        """The shards that ended since the last call, by name."""

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the limiter returns."""

    def cancel(self) -> None:
        """Give up everything that is under way."""


Make = Callable[[Ledger], Plan]  # makes a shard's plan, beside a ledger


class Run:
    """One plan, asked by the workers of a pool. `ask` is called once."""

    def __init__(self, plan: DivisiblePlan, ledger: Ledger, options: AskOptions, prices: Prices, pool: Pool) -> None:
        self._plan, self._ledger, self._options, self._prices, self._pool = plan, ledger, options, prices, pool
        self._groups = plan.groups()
        self._memory = EndpointMemory(ledger.directory)
        self._outcomes = [Outcome() for _ in self._groups]
        self._environment = _environment(plan)
        at_servers = any(respondent.target.base_url for respondent in respondents_of(plan))
        # A local model is loaded anew for each shard, so there are no more of these than workers.
        self._parts = enumerate(plan.parts(_SHARDS * pool.size if at_servers else pool.size))
        self._lost: deque[tuple[int, Make]] = deque()  # to be handed out again
        self._tries: Counter[int] = Counter()  # of a shard that was lost
        self._running: dict[str, tuple[int, Make]] = {}
        self._done: Counter[int] = Counter()  # chains, by shard
        self._in_flight: dict[str, int] = {}
        self._loans: dict[str, _Loans] = {}
        self._twice = [AskedTwice(ledger) for _ in self._groups]
        self._answered: dict[int, set[str]] = {}  # keys that a shard under way has answers to
        self._is_ending = False
        self._interrupts = 0
        self._errors: list[SotopiaDataError] = []

    def ask(self) -> Sequence[Outcome]:
        """Ask what the ledger does not answer; returns what was asked, for each group.

        Raises Interrupted after Ctrl-C, and the error that ended two shards, or that ended one where nothing was
        answered. What was left undone by a single error, or when the budget was spent, is left to the caller.
        """
        memory, options = self._memory, self._options
        paces = []
        for group in self._groups:
            pacing = remembered_pace(memory, paid_targets(group.respondents), options.pacing)
            paces.append((pacing, options.concurrency or group.concurrency * self._pool.size))
        self._pool.start(paces)
        capped_at = options.budget
        within = (
            nullcontext()
            if capped_at is None
            else capped(capped_at, self._plan, self._ledger, self._prices, options.spent)
        )
        with within as budget, _interrupting(self._interrupt):
            self._ask_all(budget)
        for group, outcome, pace in zip(self._groups, self._outcomes, self._pool.call("paces"), strict=True):
            outcome.pace = pace
            keep_pace(memory, paid_targets(group.respondents), outcome)
        if self._interrupts:
            raise Interrupted(
                f"Interrupted after {self._done.total():,} of {self._plan.total:,} {self._plan.unit}.",
                "run the same command again: what was answered is kept, and it goes on from there",
            )
        answered = sum(outcome.asked for outcome in self._outcomes)
        if self._errors and (len(self._errors) > 1 or not answered):
            raise self._errors[0]
        return self._outcomes

    def _ask_all(self, budget: Budget | None) -> None:
        """Hand out shards and take what comes, until all have ended."""
        while True:
            if self._interrupts:
                self._stop()
            if self._interrupts > 1:
                self._pool.cancel()
            while not self._is_ending and len(self._running) < self._pool.size:
                part = self._lost.popleft() if self._lost else next(self._parts, None)
                if part is None:
                    break
                self._hand_out(*part)
            if not self._running:
                return
            ended = self._pool.ended()
            self._take(self._pool.call("news"), budget)  # after `ended`: a shard tells everything before it ends
            for name, how in ended:
                self._end(name, how, budget)

    def _hand_out(self, number: int, make: Make) -> None:
        """Have a shard asked about, unless the ledger has all its answers."""
        with self._ledger.noting() as known:
            plan = make(self._ledger)
            is_left = not len(self._ledger) or _is_left(plan, self._ledger, self._options)
        if not is_left:
            self._done[number] = plan.total
            return
        name = f"{number}.{self._tries[number]}"
        task = ShardTask(
            name=name,
            plan=make,
            known=[attempt for attempts in known.values() for attempt in reversed(attempts)],
            endpoints=self._memory.text(),
            environment=self._environment,
            options=replace(self._options, workers=None, progress=None, ledger=None),
            prices=self._prices,
            tell_s=max(_TELL_S, self._pool.size / _MESSAGES),
        )
        self._running[name] = number, make
        self._answered.setdefault(number, set()).update(one.key for one in task.known if one.status == "answer")
        self._loans[name] = _Loans()
        self._pool.submit(task)

    def _take(self, news: News, budget: Budget | None) -> None:
        """Keep answers, lend, and show how far the run is."""
        for name, group, attempt in news.attempts:
            answered = self._answered.setdefault(_number(name), set())
            self._twice[group].known(attempt, partial(_is_at, answered))
            self._ledger.append(attempt)
            outcome = self._outcomes[group]
            if attempt.status == "answer":
                answered.add(attempt.key)
                outcome.asked += 1
                outcome.asked_twice = len(self._twice[group])
                outcome.count(attempt.model, attempt.reply)
            elif attempt.usage is not None:  # it is billed all the same
                outcome.count_usage(attempt.model, attempt.usage)
        for name, done in news.done.items():
            self._done[_number(name)] = done
        self._in_flight = news.permits
        if budget is not None:
            for name, loans in self._loans.items():
                if name in news.spent:
                    loans.settle(news.spent[name], budget)
                if name in news.wanted:
                    self._pool.call("lend", name, self._lend(name, news.wanted[name], budget))
        if self._options.progress is not None:
            words = f"{len(self._running)} workers, {sum(self._in_flight.values()):,} in flight"
            tokens = sum(one.input + one.output for outcome in self._outcomes for one in outcome.usage.values())
            words += f", {tokens:,} tokens" if tokens else ""
            self._options.progress(min(self._done.total(), self._plan.total), self._plan.total, words)

    def _lend(self, name: str, usd: float, budget: Budget) -> float:
        """How much more a worker may spend that wants `usd` for its next call. It gets the more, the more it has, but
        never more than its share of what is left."""
        loans = self._loans[name]
        share = budget.left / (2 * self._pool.size)
        for more in (min(max(_CALLS * usd, loans.open), share), usd):
            if more < usd:
                continue
            key = sha256_of(["loan", name, loans.number])
            hold = budget.lend(key, more, self._chain)
            if hold is not None:
                loans.add(hold)
                return more
        return 0.0

    @cached_property
    def _chain(self) -> str:
        """The key of the plan's first request: other runs of the same plan count what is lent under it."""
        return next((request.key for group in self._groups for request in group.requests()), "")

    def _end(self, name: str, how: Ended | Lost, budget: Budget | None) -> None:
        """A shard has ended, or is lost."""
        part = number, _ = self._running.pop(name)
        self._pool.call("leave", name)
        if budget is not None:
            self._loans.pop(name).close(budget, isinstance(how, Lost))
        if isinstance(how, Lost):
            in_flight = self._in_flight.get(name, 0)
            log.warning("shard %d was lost with %d calls in flight: %s", number + 1, in_flight, how.why)
            self._hand_out_again(part, how.why)
            return
        del self._answered[number]
        for outcome, other in zip(self._outcomes, how.outcomes, strict=False):
            outcome.count_trouble(other)
        self._memory.adopt(how.endpoints)
        if isinstance(how.error, BudgetSpent):
            self._is_ending = True  # the caller asks what still fits
        elif isinstance(how.error, Interrupted) and not self._is_ending:  # its node is about to leave
            self._hand_out_again(part, how.error.message)
        elif how.error is not None and not isinstance(how.error, Interrupted):
            self._fail(how.error)

    def _hand_out_again(self, part: tuple[int, Make], why: str) -> None:
        """Have a shard asked about once more, unless that was in vain too often."""
        self._tries[part[0]] += 1
        if self._tries[part[0]] < _TRIES:
            self._lost.append(part)
            return
        self._fail(
            AskingError(
                f"A worker was lost {_TRIES} times on the same part of the questions: {why}.",
                "look into the logs of the node, then run the same command again: what was answered is kept",
            )
        )

    def _fail(self, error: SotopiaDataError) -> None:
        """Note an error; end the run at the second one, or where nothing was ever answered."""
        self._errors.append(error)
        if len(self._errors) > 1 or not any(outcome.asked for outcome in self._outcomes):
            self._stop()

    def _interrupt(self) -> None:
        """Ctrl-C: the first ends the sending, the second also the waiting for answers. It is acted on between two calls
        of the pool."""
        self._interrupts += 1

    def _stop(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            self._pool.call("stop")


class _Loans:
    """What one worker was lent, and how much of it is spent. All in USD."""

    def __init__(self) -> None:
        self._holds: deque[Hold] = deque()
        self._settled = self._spent = 0.0
        self.number = 0

    @property
    def open(self) -> float:
        """What is not settled yet."""
        return sum(hold.usd for hold in self._holds)

    def add(self, hold: Hold) -> None:
        """One loan more."""
        self._holds.append(hold)
        self.number += 1

    def settle(self, spent: float, budget: Budget) -> None:
        """The worker has spent so much since it began: the loans that are used up are settled."""
        self._spent = spent
        while self._holds and self._settled + self._holds[0].usd <= spent:
            hold = self._holds.popleft()
            self._settled += hold.usd
            budget.settle(hold, hold.usd)

    def close(self, budget: Budget, is_lost: bool) -> None:
        """The worker is done: what it has not spent is free. Where it is lost, all may have been spent."""
        for hold in self._holds:
            if is_lost:
                budget.given_up(hold)
                continue
            used = max(self._spent - self._settled, 0.0)
            cost = used if hold is self._holds[-1] else min(used, hold.usd)  # a call may have cost more than its most
            self._settled += cost
            budget.settle(hold, cost)
        self._holds.clear()


def _number(name: str) -> int:
    """The shard that a worker of this name asks about."""
    return int(name.partition(".")[0])


def _is_at(keys: set[str], attempt: Attempt) -> bool:
    return attempt.key in keys


def _is_left(plan: Plan, ledger: Ledger, options: AskOptions) -> bool:
    """Whether the ledger lacks an answer that the plan asks for. Looks every request of it up."""
    is_left = False
    for group in plan.groups():
        lookup = Lookup(
            ledger,
            lambda request, reply: plan.accepts(request, reply, ledger),
            plan.follow_up,
            retry_failed=options.retry_failed,
        )
        for request in group.requests():
            following: Request | None = request
            while following is not None:
                question, key = following.hashes
                settled = lookup.look_up(PendingRequest(following, question, key))
                is_left = is_left or settled is None
                following = None if settled is None else lookup.hand_over(following, settled)
    return is_left


def _environment(plan: Plan) -> Mapping[str, str]:
    """The variables that workers need to ask what the plan asks: keys, and what the providers' SDKs read."""
    targets = [respondent.target for respondent in respondents_of(plan) if respondent.target.provider in OWN]
    keys = {key.variable: key.value for target in targets if (key := key_for(target)).value}
    return {name: value for name, value in os.environ.items() if name.startswith(_SDKS)} | keys


@contextmanager
def _interrupting(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Call `on_interrupt` for every Ctrl-C and SIGTERM inside the block, instead of raising. Does nothing outside the
    main thread, where no signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: on_interrupt()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
