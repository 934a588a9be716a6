"""The one way to ask: `ask` takes a plan, a ledger and options, and returns outcomes or raises why it stopped.

Live, the groups of the plan are asked one after the other; in batches, all at once. `dispatch.py` and `batch/rounds.py`
pace and keep the requests; the plan says what they are. Leaves out what is made of the answers: callers read them from
the ledger afterwards.

A cap and a bill count every attempt at the plan's requests, whichever run made it: a run that was killed and continued
has the same bill as one that was not, and a cap holds for all runs of a command together.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sotopia_rl_data.asking.batch.intent import BatchFolder
from sotopia_rl_data.asking.batch.keys import BatchedKeys
from sotopia_rl_data.asking.batch.rounds import ask_batch, batch_client, check_batches
from sotopia_rl_data.asking.batch.waiting import carry
from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.asking.memory import FORMS_KEPT_S, EndpointMemory, keep_pace, remember, remembered_pace
from sotopia_rl_data.asking.plan import AskOptions, Group, Plan, Respondent, is_paid, paid_targets, respondents_of
from sotopia_rl_data.asking.stopping import AnswerBreaker
from sotopia_rl_data.costs.bill import Bill, Tally, bill
from sotopia_rl_data.costs.budget import Budget, price_of
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.costs.reservations import is_lost
from sotopia_rl_data.errors import BudgetSpent, Interrupted, UnderWay
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, Outcome
from sotopia_rl_data.request import Target

T = TypeVar("T")
_OVERRUN = "cost beyond the limit"
_ROUNDING = 1e-6  # USD


def check(respondents: Iterable[Respondent], options: AskOptions, prices: Prices) -> None:
    """Raises UsageError for options that `ask` could not follow, before anything is read or written."""
    if options.batching is not None:
        check_batches(respondents)
    if options.budget is not None:
        check_prices(respondents, prices)


def ask(plan: Plan, ledger: Ledger, options: AskOptions, prices: Prices) -> list[Outcome]:
    """Ask what the ledger does not answer; returns one outcome for each group.

    Raises Interrupted after Ctrl-C, UnderWay where batches are not waited for, BudgetSpent where nothing more fits
    under the budget, and what `ask_all` and `ask_batch` raise. What was answered until then is kept.
    """
    if options.workers is not None:
        elsewhere = options.workers.ask(plan, ledger, options, prices)
        options = replace(options, workers=None, retry_failed=False)
        here = ask(plan, ledger, options, prices)
        return [outcome.with_asked(other) for outcome, other in zip(here, elsewhere, strict=True)]
    if options.budget is None:
        return ask_within(plan, ledger, options, prices, None)
    with capped(options.budget, plan, ledger, prices, options.spent) as budget:
        return ask_within(plan, ledger, options, prices, budget)


def ask_within(plan: Plan, ledger: Ledger, options: AskOptions, prices: Prices, budget: Budget | None) -> list[Outcome]:
    """As `ask`, in this process, within a budget that is open already."""
    outcomes = wait(_Asking(plan, ledger, options, prices, budget).ask())
    ledger.flush()
    return outcomes


class _Asking:
    """One plan, one ledger, one budget; `_outcomes` says how far each group is."""

    def __init__(self, plan: Plan, ledger: Ledger, options: AskOptions, prices: Prices, budget: Budget | None) -> None:
        self._plan, self._ledger, self._options, self._budget = plan, ledger, options, budget
        self._groups = plan.groups()
        self._outcomes: dict[int, Outcome] = {}
        self._prices = {
            respondent.target.model: prices.of(respondent.target, in_batch=options.batching is not None)
            for respondent in respondents_of(plan)
            if is_paid(respondent)
        }

    async def ask(self) -> list[Outcome]:
        """Ask every group."""
        if self._options.batching is not None:
            outcomes = await _all_of([self._in_batches(place, group) for place, group in enumerate(self._groups)])
            self._check(outcomes)
            return outcomes
        outcomes = []
        for place, group in enumerate(self._groups):
            outcomes.append(await self._live(place, group))
            self._check(outcomes)
        return outcomes

    async def _live(self, place: int, group: Group) -> Outcome:
        memory, targets = EndpointMemory(self._ledger.directory), paid_targets(group.respondents)
        for respondent in group.respondents:
            remember(respondent, memory)
        try:
            outcome = await ask_all(
                group.requests(),
                group.send,
                self._lookup(self._breaker(group)),
                concurrency=self._options.concurrency or group.concurrency,
                pacing=remembered_pace(memory, targets, self._options.pacing),
                progress=self._shown(place),
                budget=self._budget if any(is_paid(respondent) for respondent in group.respondents) else None,
                batched=BatchedKeys(targets, self._ledger),
            )
            keep_pace(memory, targets, outcome)
            return outcome
        finally:
            for respondent in group.respondents:
                await respondent.close()

    async def _in_batches(self, place: int, group: Group) -> Outcome:
        (respondent,) = group.respondents
        client = batch_client(respondent)
        client.use_memory(EndpointMemory(self._ledger.directory))
        try:
            return await ask_batch(
                group.requests,
                client,
                self._lookup(),
                batching=self._options.batching,
                progress=self._shown(place),
                budget=self._budget,
                breaker=self._breaker(group),
            )
        finally:
            await client.close()

    def _breaker(self, group: Group) -> AnswerBreaker | None:
        """What ends the asking where answers of a server that costs something cannot be used. There is none where
        questions whose answers could not be used are asked again."""
        at_server = any(target.base_url for target in paid_targets(group.respondents))
        return AnswerBreaker(self._plan.fault) if at_server and not self._options.retry_failed else None

    def _lookup(self, breaker: AnswerBreaker | None = None) -> Lookup:
        plan, ledger = self._plan, self._ledger
        return Lookup(
            ledger,
            lambda request, reply: plan.accepts(request, reply, ledger),
            plan.follow_up if breaker is None else breaker.watching(plan.follow_up),
            retry_failed=self._options.retry_failed,
            total=plan.total // len(self._groups),
        )

    def _check(self, outcomes: Sequence[Outcome]) -> None:
        """Raises Interrupted, UnderWay or BudgetSpent where something is left to ask."""
        total, unit = self._plan.total, self._plan.unit
        done = sum(outcome.settled - outcome.followed for outcome in outcomes)
        exhausted = any(outcome.exhausted for outcome in outcomes)
        waiting, batches = sum(outcome.in_batches for outcome in outcomes), sum(outcome.batches for outcome in outcomes)
        under_way = f"{waiting:,} requests are under way in {batches:,} {'batch' if batches == 1 else 'batches'}"
        if any(outcome.interrupted for outcome in outcomes):
            also = f"; {under_way}, and go on at the provider" if waiting else ""
            raise Interrupted(
                f"Interrupted after {done:,} of {total:,} {unit}{also}.",
                "run the same command again: what was answered is kept, and it goes on from there",
            )
        if waiting:
            tight = ""
            if exhausted:
                tight = "; the rest fits under the budget only if these cost less than is reserved for them"
            hint = "run the same command again: it fetches the batches that have ended, and finishes when all have"
            raise UnderWay(f"{under_way}{tight}.", hint, requests=waiting, batches=batches)
        if self._budget is not None and exhausted:
            raise _budget_spent(self._budget, total - done, total, unit)

    def _shown(self, place: int) -> Callable[[Outcome], None] | None:
        return None if self._options.progress is None else partial(self._show, place)

    def _show(self, place: int, outcome: Outcome) -> None:
        """Report the progress of all groups together, with the tokens that were spent and the calls that failed."""
        if self._options.progress is None:
            return
        self._outcomes[place] = outcome
        outcomes = self._outcomes.values()
        done = sum(each.settled - each.followed for each in outcomes)
        words = [] if self._plan.unit == "calls" else [f"{sum(each.settled for each in outcomes):,} calls"]
        words += self._spent(list(outcomes))
        for number, each in self._outcomes.items():
            if each.words:
                name = f"{self._groups[number].respondents[0].id}: " if len(self._outcomes) > 1 else ""
                words.append(name + each.words)
        self._options.progress(done, self._plan.total, ", ".join(words))

    def _spent(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Tokens, USD and failed calls, each where there are any."""
        words = []
        used = [(model, usage) for outcome in outcomes for model, usage in outcome.usage.items()]
        tokens = sum(usage.input + usage.output for _, usage in used)
        if tokens:
            words.append(f"{tokens:,} tokens")
        usd = sum(price.cost(usage) for model, usage in used if (price := self._prices.get(model)) is not None)
        if usd:
            words.append(f"{usd:.2f} USD")
        failed = sum(outcome.unreachable + max(0, outcome.failed - outcome.followed) for outcome in outcomes)
        if failed:
            words.append(f"{failed:,} failed")
        return words


async def _all_of(asking: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, when every one has ended. An error is raised only then, so that the others can finish."""
    ended = await asyncio.gather(*asking, return_exceptions=True)
    results = []
    for result in ended:
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


def _budget_spent(budget: Budget, left: int, total: int, unit: str) -> BudgetSpent:
    hint = (
        "raise --budget, which counts all runs together, or limit the answers with --max-tokens, and run the same "
        "command again: what was answered is kept"
    )
    taken = f"{budget.spent:.4f} USD are spent"
    beyond = budget.spent - budget.cap
    if budget.was_passed and beyond > _ROUNDING:
        taken += f" ({beyond:.4f} beyond it: a call cost more than the limit of its answer allows)"
    if budget.in_batches:
        taken += f", {budget.in_batches:.4f} are reserved for requests under way in batches"
        hint = f"fetch the batches first, with --batch; or {hint}"
    return BudgetSpent(
        f"Nothing more fits under the budget of {budget.cap:g} USD: {taken}, and {left:,} of {total:,} {unit} are left "
        "undone.",
        hint,
    )


def wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end. Where an event loop runs already (a notebook), a thread of its own runs the coroutine."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def check_prices(respondents: Iterable[Respondent], prices: Prices) -> None:
    """Raises UsageError where a cap cannot be kept: a price or the longest answer is not known."""
    for respondent in respondents:
        if is_paid(respondent):
            price_of(prices, respondent.target)


def bill_of(respondents: Iterable[Respondent], tally: Tally, prices: Prices) -> Bill:
    """What the attempts that were counted have cost."""
    targets = {}
    for respondent in respondents:
        targets[respondent.id] = respondent.target
        if not is_paid(respondent):
            tally.of(respondent.id).maybe.clear()
    return bill(tally.spent, targets, prices)


def _remember_overruns(budget: Budget, memory: EndpointMemory, targets: Iterable[Target], prices: Prices) -> None:
    """Let the budget go by what earlier runs have seen calls cost beyond their most, and keep what this run sees."""
    by_price = {price: target for target in targets if (price := prices.of(target)) is not None}
    for price, target in by_price.items():
        times = memory.recall(target, _OVERRUN, FORMS_KEPT_S)
        if isinstance(times, int | float) and 1 < times < math.inf:
            budget.expect_beyond(price, times)
    budget.keep_beyond = lambda price, times: memory.keep(by_price[price], _OVERRUN, times)


@contextmanager
def capped(cap: float, plan: Plan, ledger: Ledger, prices: Prices, spent: float = 0.0) -> Iterator[Budget]:
    """The budget for what is asked inside the block. It starts with what other plans have `spent`, what earlier runs
    of this one have spent or may have spent, and what they have under way in batches; runs of other processes at the
    same time count too. Raises StoreError where that cannot be kept on record."""
    budget = Budget(cap, prices, ledger.directory, min(spent, cap))  # so that what is free can still be asked
    try:
        respondents = respondents_of(plan)
        in_batches = [
            (target, list(BatchFolder(ledger.directory, target).under_way())) for target in paid_targets(respondents)
        ]
        budget.first_alone = True
        _remember_overruns(budget, EndpointMemory(ledger.directory), paid_targets(respondents), prices)
        budget.seen = {intent.id for _, lines in in_batches for intent, _ in lines}
        ledger.reload()  # last, so that a batch that another process fetches meanwhile is seen twice, not missed
        tally = Tally()
        plan.count(ledger, tally)
        until_now = bill_of(respondents, tally, prices)
        earlier = until_now.known + until_now.maybe
        budget.start(earlier, tally.keys, lambda hold: not is_lost(hold, ledger.attempts(hold.key)))
        for target, lines in in_batches:
            carry(budget, target, lines, ledger)  # `tally` counts a fetched line already
        yield budget
    finally:
        budget.close()
