"""One shard, asked about on any machine: the plan's own questions, by the function that asks without workers.

Answers are kept in a ledger of the shard's own, and told to the limiter as they come. The shard begins with what the
driver's ledger knows of it, so one that was lost goes on where it stopped. Money and permits are leased: a few at a
time, from the one place where all workers get them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from sotopia_rl_data.asking.ask import ask_within, capped
from sotopia_rl_data.asking.memory import EndpointMemory
from sotopia_rl_data.asking.pacing import Epoch, Pacer, Pacing
from sotopia_rl_data.asking.plan import AskOptions, Plan
from sotopia_rl_data.cluster.limiter import Told
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Outcome

_LOOK_S = 0.5  # between two messages without news
_PERMITS = 8  # asked for at once
_UNUSED_S = 0.25  # a permit that was not used for so long is given back


class LimiterCalls(Protocol):
    """The limiter, wherever it runs."""

    async def permits(self, worker: str, group: int, tokens: float, most: int) -> list[int]: ...
    async def tell(self, worker: str, told: Told) -> tuple[float | None, bool]: ...


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What a worker is given. `plan` makes the shard's plan, beside a ledger; `known` are the attempts at its requests
    that were there already, and `endpoints` what is remembered of the servers. `environment` are the variables that
    hold API keys and servers' addresses."""

    name: str
    plan: Callable[[Ledger], Plan]
    known: Sequence[Attempt]
    endpoints: str
    environment: Mapping[str, str] = field(repr=False)
    options: AskOptions
    prices: Prices
    tell_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a shard ended: the outcome of each group, and the error that ended it, if one did."""

    outcomes: Sequence[Outcome] = ()
    error: SotopiaDataError | None = None
    endpoints: str = ""


def ask_shard(shard: ShardTask, limiter: LimiterCalls) -> Ended:
    """Ask what is left to ask of a shard. Whatever ends it, every answer was told to the limiter."""
    with TemporaryDirectory(prefix="sotopia-rl-data-shard-") as folder:
        path = Path(folder)
        memory = EndpointMemory(path)
        memory.adopt(shard.endpoints)
        leases = Leases(shard.name, limiter, shard.tell_s)
        pacing = replace(shard.options.pacing, shared=leases.pacer)
        options = replace(shard.options, pacing=pacing, progress=leases.show, ledger=path)
        outcomes: list[Outcome] = []
        error = None
        with ToldLedger(path, leases, shard.known) as ledger:
            plan = shard.plan(ledger)
            try:
                if options.budget is None:
                    outcomes = ask_within(plan, ledger, options, shard.prices, None)
                else:
                    with capped(options.budget, plan, ledger, shard.prices) as budget:
                        leases.limit(budget)
                        outcomes = ask_within(plan, ledger, options, shard.prices, budget)
            except SotopiaDataError as raised:
                error = raised
            finally:
                asyncio.run(leases.finish())
        return Ended(outcomes, error, memory.text())


class ToldLedger(Ledger):
    """A shard's ledger: what is appended is told to the limiter too. It begins with what the driver knows."""

    def __init__(self, directory: Path, leases: Leases, known: Sequence[Attempt]) -> None:
        super().__init__(directory)
        self._leases = leases
        for attempt in known:
            super().append(attempt)

    def append(self, attempt: Attempt) -> None:
        """Keep an attempt, here and in the driver's ledger."""
        super().append(attempt)
        self._leases.told.attempts.append(attempt)


class Leases:
    """What a worker holds of what all workers share: permits to send, and USD to spend. For one event loop at a
    time."""

    def __init__(self, name: str, limiter: LimiterCalls, tell_s: float) -> None:
        self._tell_s = tell_s
        self.told = Told()
        self.is_wanted = asyncio.Event()  # whether a call waits for a permit
        self._name, self._limiter = name, limiter
        self._untold: list[Told] = []  # messages on their way
        self._number = 0
        self._pacer: LeasedPacer | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._budget: Budget | None = None
        self._before = 0.0  # USD that were spent before this shard began
        self._lent: asyncio.Future[float] | None = None
        self._next_look = 0.0

    def pacer(self, pacing: Pacing, concurrency: int) -> LeasedPacer:
        """The pacer of the next group. To be called in the event loop that asks."""
        if self._pacer is not None:
            self._pacer.give_back(0.0)
            self._put_aside(self.told.group + 1)
        self._pacer = LeasedPacer(pacing, concurrency, self)
        if not self._loops:
            self._loops = [asyncio.create_task(self._tell()), asyncio.create_task(self._take())]
        return self._pacer

    def limit(self, budget: Budget) -> None:
        """Let a budget have no more than what is lent from now on."""
        self._budget, self._before = budget, budget.spent
        budget.cap, budget.lease = budget.spent, self._borrow

    def show(self, done: int, total: int | None = None, words: str = "") -> None:
        """Note how far the shard is."""
        self.told.done = done

    async def finish(self) -> None:
        """Tell what is left to tell."""
        await self._tell_all()

    async def _borrow(self, usd: float) -> float:
        """How much more may be spent, where `usd` are wanted for the next call; 0 where nothing is left."""
        self.told.wanted = usd
        self._lent = asyncio.get_running_loop().create_future()
        return await self._lent

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(self._tell_s)
            if self._pacer is not None:
                self._pacer.give_back(_UNUSED_S)
            await self._tell_all()

    async def _tell_all(self) -> None:
        """Tell what is new; and twice a second that there is nothing, to hear whether the run is to stop."""
        if self._budget is not None:
            self.told.spent = self._budget.spent - self._before
        if self.told.is_news() or time.monotonic() > self._next_look:
            self._put_aside(self.told.group)
            self._next_look = time.monotonic() + _LOOK_S
        while self._untold:
            usd, is_to_stop = await self._limiter.tell(self._name, self._untold[0])
            del self._untold[0]
            if usd is not None:
                self._borrowed(usd)
            if is_to_stop and self._pacer is not None:
                self._pacer.interrupt_once()

    def _put_aside(self, group: int) -> None:
        """What is told until now is a message; what comes is told of `group`."""
        now = self.told
        self._send(now)
        self.told = Told(group, done=now.done, spent=now.spent, wanted=now.wanted)

    def _send(self, told: Told) -> None:
        """Put a message on its way, under the next number."""
        self._number += 1
        told.number = self._number
        self._untold.append(told)

    def _borrowed(self, usd: float) -> None:
        if self._budget is not None:
            self._budget.cap += usd
        self.told.wanted = 0.0
        if self._lent is not None and not self._lent.done():
            self._lent.set_result(usd)

    async def _take(self) -> None:
        """Take permits while calls wait for them."""
        while True:
            pacer = self._pacer
            if pacer is None or not pacer.waiting:
                self.is_wanted.clear()
                await self.is_wanted.wait()
                continue
            tokens, most = pacer.waiting[0][0], max(_PERMITS, len(pacer.waiting))
            told = self.told
            numbers = await self._limiter.permits(self._name, told.group, tokens, most)
            if pacer is self._pacer:
                pacer.take(numbers, tokens)
            else:
                self._send(Told(told.group, ended=len(numbers), done=self.told.done, spent=self.told.spent))


class _LeasedEpoch(Epoch):
    """The epoch of a permit, which the limiter knows by its number."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        super().__init__(0.0)
        self.number = number


class LeasedPacer(Pacer):
    """Sends with the permits of the limiter, and tells it what comes back."""

    def __init__(self, pacing: Pacing, concurrency: int, leases: Leases) -> None:
        super().__init__(pacing, concurrency)
        self._leases = leases
        self._most = concurrency
        self._is_over = False
        self._unused: deque[tuple[int, float, float]] = deque()  # epoch, tokens, and when it came
        self.waiting: deque[tuple[float, asyncio.Future[int]]] = deque()  # tokens of calls that wait for a permit

    @property
    def window(self) -> int:
        """As many as all workers together: the permits bound what is in flight."""
        return self._most

    @property
    def pace(self) -> dict[str, Any]:
        """Nothing: the limiter knows the pace."""
        return {}

    async def admit(self, tokens: float = 0.0) -> Epoch:
        """Wait for a permit."""
        if self._unused and not self._is_over:
            number, estimated, _ = self._unused.popleft()
            self.spent(estimated, tokens)
            return _LeasedEpoch(number)
        if self._is_over:
            return _LeasedEpoch(-1)
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append((tokens, waiting))
        self._leases.is_wanted.set()
        return _LeasedEpoch(await waiting)

    def take(self, numbers: Sequence[int], tokens: float) -> None:
        """Let calls go on with these permits, each for so many tokens; keep those that are left for a while."""
        now = asyncio.get_running_loop().time()
        for number in numbers:
            while self.waiting and self.waiting[0][1].done():  # it was cancelled
                self.waiting.popleft()
            if self.waiting and not self._is_over:
                own, waiting = self.waiting.popleft()
                self.spent(tokens, own)
                waiting.set_result(number)
            else:
                self._unused.append((number, tokens, now))

    def give_back(self, older_s: float) -> None:
        """Give back the permits that were not used for so many seconds."""
        since = asyncio.get_running_loop().time() - older_s
        while self._unused and (self._unused[0][2] <= since or self._is_over):
            _, tokens, _ = self._unused.popleft()
            self.spent(tokens, 0.0)
            self.ended()

    def stop(self) -> None:
        """End every wait."""
        super().stop()
        self._is_over = True
        for _, waiting in self.waiting:
            if not waiting.done():
                waiting.set_result(-1)
        self.waiting.clear()

    def interrupt_once(self) -> None:
        """End the run, as Ctrl-C does, unless it is ending."""
        if not self._is_over:
            self.interrupt()

    def ended(self) -> None:
        """A call has ended: its permit is free."""
        self._leases.told.ended += 1

    def answered(self) -> None:
        """A reply came."""
        self._leases.told.answered += 1

    def throttled(self, epoch: Epoch, retry_after: float | None) -> None:
        """The provider answered 429."""
        if isinstance(epoch, _LeasedEpoch):
            self._leases.told.throttled.append((epoch.number, retry_after))

    def timed_out(self) -> None:
        """A request met the time limit."""
        self._leases.told.timed_out += 1

    def spent(self, estimated: float, real: float) -> None:
        """Note how many tokens were taken beyond the estimate."""
        if self._pacing.tpm:
            self._leases.told.tokens += real - estimated
