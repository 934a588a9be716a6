"""What a run in batches waits for: providers that are down, and room under a budget that it may share with other runs.

`Waiting` says how long a provider may be down and ends the waiting on Ctrl-C. With no budget, everything fits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

from sotopia_rl_data.asking.batch.intent import BatchFolder
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.errors import StoreError, Unavailable
from sotopia_rl_data.ledger.lookup import PendingRequest
from sotopia_rl_data.request import Target, Usage

log = logging.getLogger(__name__)


class BatchBudget:
    """A run's use of a budget, which other runs may share. `short` counts the requests that did not fit in this
    round."""

    def __init__(self, budget: Budget | None, target: Target) -> None:
        self._budget, self._target = budget, target
        self._releases = 0
        self.short = 0

    @property
    def over(self) -> bool:
        """Whether more is spent and reserved than the cap allows: then nothing more may be submitted."""
        return self._budget is not None and self._budget.over

    def check(self, folder: BatchFolder) -> None:
        """Raises StoreError where the folder holds batches that the budget does not count."""
        ids = folder.ids()
        if self._budget is not None and self._budget.seen.get(folder.name, ids) != ids:
            raise StoreError(
                f"Another run changed the batches of {self._target.model} while this run counted them for its budget.",
                "run the same command again",
            )

    def sharing(self) -> AbstractContextManager[None]:
        """Inside the block other runs may wait for room that this one makes."""
        return nullcontext() if self._budget is None else self._budget.waiters.sharing()

    def begin_round(self) -> None:
        """Begin to count what does not fit, and the releases of other runs."""
        self.short = 0
        self._releases = 0 if self._budget is None else self._budget.waiters.releases

    def fits(self, pending: PendingRequest) -> bool:
        """Reserve the most that a request may cost; False where it does not fit now."""
        if self._budget is None or self._budget.take(pending.key, pending.request):
            return True
        self.short += 1
        return False

    def came(self, key: str, usage: Usage | None) -> None:
        """Settle the reservation of a line whose result came: see `Budget.came`."""
        if self._budget is not None:
            self._budget.came(key, self._target, usage)

    def batch_ended(self) -> None:
        """Tell other runs that the batch's unused reservations are free."""
        if self._budget is not None:
            self._budget.waiters.release()

    async def more(self) -> bool:
        """Wait for other runs to make room; whether a request that did not fit may fit now."""
        return self._budget is not None and self.short > 0 and await self._budget.waiters.more(self._releases)

    def close(self) -> None:
        """Reserve nothing any more."""
        if self._budget is not None:
            self._budget.stop()


T = TypeVar("T")
_REPORT_S = 1.0
_FIRST_WAIT_S = 0.5  # the wait after a provider's first fault; each further fault doubles it
_LONGEST_WAIT_S = 60.0
_WALL_S = 105.0  # a submission is given up where it is refused for rate for this long, and nothing is under way


class Stopped(Exception):
    """Ctrl-C was pressed while a provider was down."""


class Waiting:
    """Waits that Ctrl-C can end. `report` is called every second; `silence_s` is how long a provider may be down."""

    def __init__(self, silence_s: float, report: Callable[[], None]) -> None:
        self._silence_s, self._report = silence_s, report
        self._stop = asyncio.Event()
        self.words = ""  # what a person is told while a provider gives no answer

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End every wait, now and later."""
        self._stop.set()

    async def until_answered(self, ask: Callable[[], Awaitable[T]], *, alone: bool = False) -> T:
        """Call `ask` until the provider answers. Raises Unavailable where it is down for too long, or where it refuses
        everything for rate and nothing is under way (`alone`); Stopped after Ctrl-C."""
        began, wait = time.monotonic(), _FIRST_WAIT_S
        try:
            while True:
                try:
                    return await ask()
                except Unavailable as error:
                    lasted, pause = time.monotonic() - began, max(wait, error.retry_after or 0.0)
                    longest = min(_WALL_S, self._silence_s) if alone and error.status == 429 else self._silence_s
                    if lasted + pause > longest:
                        raise
                    what = "throttled" if error.status == 429 else "no answer"
                    self.words = f"{what} for {lasted:,.0f} s, given up in {longest - lasted:,.0f} s"
                    log.info("%s (asked again in %.1f s)", error.message, pause)
                    await self.pause(pause)
                    wait = min(2 * wait, _LONGEST_WAIT_S)
                if self._stop.is_set():
                    raise Stopped
        finally:
            self.words = ""

    async def pause(self, seconds: float) -> None:
        """Wait so many seconds, or until Ctrl-C."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and time.monotonic() < until:
            self._report()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(until - time.monotonic(), _REPORT_S)):
                    await self._stop.wait()
