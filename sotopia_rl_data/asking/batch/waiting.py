"""What a run in batches waits for: providers, and room under a budget that it may share. When a batch is looked at
again, how long a provider may be silent, what Ctrl-C ends; where there is no budget, everything fits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

from sotopia_rl_data.asking.batch.intent import BatchFolder
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.errors import StoreError, Unavailable
from sotopia_rl_data.ledger.lookup import PendingRequest
from sotopia_rl_data.request import Target, Usage


class BatchBudget:
    """`short` counts what did not fit since `begin_round`."""

    def __init__(self, budget: Budget | None, target: Target) -> None:
        self._budget, self._target = budget, target
        self._releases = 0
        self.short = 0

    @property
    def over(self) -> bool:
        """Whether more is spent and reserved than the cap allows: what was not submitted yet must not be."""
        return self._budget is not None and self._budget.over

    def check(self, folder: BatchFolder) -> None:
        """Raises StoreError where the folder holds other batches than those of which the budget was told."""
        ids = folder.ids()
        if self._budget is not None and self._budget.seen.get(folder.name, ids) != ids:
            raise StoreError(
                f"Another run was at work on the batches of {self._target.model} when this one began.",
                "run the same command again",
            )

    def sharing(self) -> AbstractContextManager[None]:
        """Inside the block, other runs may wait for what this one releases."""
        return nullcontext() if self._budget is None else self._budget.waiters.sharing()

    def begin_round(self) -> None:
        """From here on it is noted whether something did not fit, and whether others make room."""
        self.short = 0
        self._releases = 0 if self._budget is None else self._budget.waiters.releases

    def fits(self, asked: PendingRequest) -> bool:
        """Reserve the worst that a request may cost; False where it does not fit now."""
        fits = self._budget is None or self._budget.take(asked.key, asked.request)
        self.short += not fits
        return fits

    def came(self, key: str, usage: Usage | None) -> None:
        """A line's result is here: see `Budget.came`."""
        if self._budget is not None:
            self._budget.came(key, self._target, usage)

    def batch_ended(self) -> None:
        """What a batch cost less than it might have is released: others may look again."""
        if self._budget is not None:
            self._budget.waiters.release()

    async def more(self) -> bool:
        """Wait for the others; whether what did not fit may fit now."""
        return self._budget is not None and self.short > 0 and await self._budget.waiters.more(self._releases)

    def close(self) -> None:
        """Take nothing any more."""
        if self._budget is not None:
            self._budget.stop()


T = TypeVar("T")
_TICK_S = 1.0
_FIRST_WAIT_S = 0.5  # after a provider's fault; doubled for every further one
_LONGEST_WAIT_S = 60.0


class Stopped(Exception):
    """Ctrl-C while a provider was down."""


class Waiting:
    """`report` is called every second of it. `silence_s` is how long a provider may be down."""

    def __init__(self, silence_s: float, report: Callable[[], None]) -> None:
        self._silence_s, self._report = silence_s, report
        self._stop = asyncio.Event()

    @property
    def stopped(self) -> bool:
        """Whether somebody wants it to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Wait no longer."""
        self._stop.set()

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until the provider answers. Raises Unavailable where it is silent for too long, Stopped after Ctrl-C."""
        began, wait = time.monotonic(), _FIRST_WAIT_S
        while True:
            try:
                return await ask()
            except Unavailable as error:
                if time.monotonic() - began + wait > self._silence_s:
                    raise
                await self.pause(max(wait, error.retry_after or 0.0))
                wait = min(2 * wait, _LONGEST_WAIT_S)
            if self._stop.is_set():
                raise Stopped

    async def pause(self, seconds: float) -> None:
        """Wait, but not for longer than it takes to press Ctrl-C."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            self._report()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _TICK_S)):
                    await self._stop.wait()
