"""What the workers of a run share: the pace, and the way of their answers and of the budget to the driver.

A permit lets one call be sent. It counts as in flight until the worker tells that the call has ended, and in the same
message comes the answer: so what is lost with a worker is never more than what it had in flight. The pace is
`asking/pacing.py`'s, one `Pacer` for each group of the plan, for all workers together. Leaves out who starts this.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sotopia_rl_data.asking.pacing import Epoch, Pacer, Pacing
from sotopia_rl_data.ledger.attempt import Attempt

_LOOK_S = 0.25  # the longest that a worker waits for an answer without a permit
_NEWS_S = 0.05  # the longest that the driver waits for news, while it looks after shards that end
_GATHER_S = 0.02  # permits that come within this time are given out together
_EPOCHS = 64  # of the last so many it is known which permits belong to them


@dataclass(slots=True)
class Told:
    """What a worker has seen since it last told something.

    `ended` calls have given their permits back; `answered`, `timed_out` and `throttled` (with the number of the epoch,
    and Retry-After) are for the pace; `tokens` were taken beyond the estimate. `attempts` go into the ledger. `done`
    chains of the shard are settled, and `spent` USD since it began; the worker wants `wanted` USD more for its next
    call. `number` counts the worker's messages: one that was sent twice counts once.
    """

    group: int = 0
    number: int = 0
    ended: int = 0
    answered: int = 0
    timed_out: int = 0
    throttled: list[tuple[int, float | None]] = field(default_factory=list)
    tokens: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    done: int = 0
    spent: float = 0.0
    wanted: float = 0.0

    def is_news(self) -> bool:
        """Whether there is anything that the driver or the pace waits for."""
        counts = self.ended or self.answered or self.timed_out or self.throttled or self.tokens or self.attempts
        return bool(counts) or self.wanted > 0


@dataclass(slots=True)
class News:
    """What the driver is told: the attempts with their worker and group, in the order in which they came; how many
    chains each worker has settled, what it has spent and what it wants, in USD; and how many permits each has."""

    attempts: list[tuple[str, int, Attempt]] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    wanted: dict[str, float] = field(default_factory=dict)
    permits: dict[str, int] = field(default_factory=dict)


class Limiter:
    """One for a run. `paces` has the pacing of each group of the plan, and how many calls may be in flight."""

    def __init__(self, paces: Sequence[tuple[Pacing, int]]) -> None:
        self._pacers = [Pacer(pacing, concurrency) for pacing, concurrency in paces]
        self._epochs: list[deque[tuple[int, Epoch]]] = [deque(maxlen=_EPOCHS) for _ in paces]
        self._permits: list[Counter[str]] = [Counter() for _ in paces]
        self._lent: dict[str, float] = {}  # USD that a worker has not been told of
        self._wanting: set[str] = set()  # workers whose want the driver has not answered
        self._news = News()
        self._heard: dict[str, int] = {}  # the number of the last message of each worker
        self._gone: set[str] = set()
        self._is_stopped = False
        self._changed = asyncio.Condition()
        self._is_told = asyncio.Event()

    async def permits(self, worker: str, group: int, tokens: float, most: int) -> list[int]:
        """Up to `most` permits for calls of so many `tokens`, each the number of an epoch: as soon as there is one.
        None where there is none for a while, and after `stop`."""
        pacer, given, until = self._pacers[group], list[int](), 0.0
        while len(given) < most and not self._is_stopped and worker not in self._gone:
            now = asyncio.get_running_loop().time()
            if given and now > until:
                break
            if not await self._slot(worker, group, wait=not given):
                break
            given.append(self._number(group, await pacer.admit(tokens)))
            until = until or now + _GATHER_S
        return given

    async def tell(self, worker: str, told: Told) -> tuple[float | None, bool]:
        """Take what a worker tells. Returns how many USD more it may spend (None: not known yet), and whether it is to
        stop."""
        if worker in self._gone:
            return 0.0, True
        if told.number > self._heard.get(worker, -1):
            self._heard[worker] = told.number
            self._note(worker, told)
        usd = self._lent.pop(worker, None)
        if usd is None and told.wanted > 0 and worker not in self._wanting:
            self._wanting.add(worker)
            self._news.wanted[worker] = told.wanted
        self._is_told.set()
        async with self._changed:
            self._changed.notify_all()
        return usd, self._is_stopped

    def _note(self, worker: str, told: Told) -> None:
        """Count what a message says."""
        pacer, permits = self._pacers[told.group], self._permits[told.group]
        permits[worker] = max(permits[worker] - told.ended, 0)
        for _ in range(told.answered):
            pacer.answered()
        for _ in range(told.timed_out):
            pacer.timed_out()
        epochs = dict(self._epochs[told.group])
        for number, retry_after in told.throttled:
            pacer.throttled(epochs.get(number) or Epoch(0.0), retry_after)
        pacer.spent(0.0, told.tokens)
        news = self._news
        news.attempts += ((worker, told.group, attempt) for attempt in told.attempts)
        news.done[worker], news.spent[worker] = told.done, told.spent

    async def news(self) -> News:
        """What came since the last call; waits a while for something."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_NEWS_S):
                await self._is_told.wait()
        self._is_told.clear()
        news, self._news = self._news, News()
        news.permits = sum(self._permits, Counter[str]())
        return news

    async def lend(self, worker: str, usd: float) -> None:
        """Answer a worker that wants to spend more: so many USD, or nothing."""
        self._lent[worker] = usd
        self._wanting.discard(worker)

    async def leave(self, worker: str) -> None:
        """A worker has ended, or is lost: what it held is free."""
        self._gone.add(worker)
        for permits in self._permits:
            permits.pop(worker, None)
        async with self._changed:
            self._changed.notify_all()

    async def stop(self) -> None:
        """Let calls in flight finish, and send nothing more."""
        self._is_stopped = True
        for pacer in self._pacers:
            pacer.stop()
        async with self._changed:
            self._changed.notify_all()

    async def paces(self) -> list[dict[str, Any]]:
        """Where the next run may begin, for each group."""
        return [pacer.pace for pacer in self._pacers]

    async def _slot(self, worker: str, group: int, wait: bool) -> bool:
        """Take one of the window's places; False where none is free (for a while, with `wait`)."""
        pacer, permits = self._pacers[group], self._permits[group]

        def is_free() -> bool:
            return permits.total() < pacer.window or self._is_stopped

        if not is_free():
            if not wait:
                return False
            async with self._changed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._changed.wait_for(is_free)
        if not is_free() or self._is_stopped or worker in self._gone:
            return False
        permits[worker] += 1
        return True

    def _number(self, group: int, epoch: Epoch) -> int:
        """The number of an epoch, which a worker names when a call of it meets 429."""
        epochs = self._epochs[group]
        if not epochs or epochs[-1][1] is not epoch:
            epochs.append((epochs[-1][0] + 1 if epochs else 0, epoch))
        return epochs[-1][0]
