"""What a run in batches waits for: providers that are down, and room under a budget that it may share with other runs.

`Waiting` says how long a provider may be down and ends the waiting on Ctrl-C. With no budget, everything fits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import TypeVar

from sotopia_rl_data.asking.batch.intent import BatchLine, Intent
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.tokens import most_prompt_tokens
from sotopia_rl_data.errors import Unavailable
from sotopia_rl_data.ledger.ledger import Attempt, Ledger
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

    def carry(self, intent: Intent, lines: Iterable[BatchLine], ledger: Ledger) -> None:
        """Count a batch that another run has under way. `ledger` has what was fetched of it."""
        if self._budget is not None and intent.id not in self._budget.seen:
            self._budget.seen.add(intent.id)
            carry(self._budget, self._target, ((intent, line) for line in lines), ledger)

    def carry_request(self, pending: PendingRequest) -> None:
        """Count a request that another run has under way."""
        if self._budget is not None and not self._budget.is_reserved(pending.key):
            self._budget.carry(pending.key, pending.request.target, most_prompt_tokens(pending.request))

    def settle(self, key: str, ledger: Ledger) -> None:
        """Settle what is still reserved for a request that is in no batch: a run without a budget fetched its result
        into the `ledger`, or the run that reserved was killed before it had a batch."""
        if self._budget is not None and self._budget.is_reserved(key):
            results = [past for past in ledger.attempts(key) if past.batch and past.time >= self._budget.began]
            billed = [past for past in results if past.status == "answer" or past.maybe_billed]
            self.came(key, (billed[0].usage or Usage()) if billed else None)

    def sharing(self) -> AbstractContextManager[None]:
        """Inside the block other runs may wait for room that this one makes."""
        return nullcontext() if self._budget is None else self._budget.waiters.sharing()

    def begin_round(self) -> None:
        """Begin to count what does not fit, and the releases of other runs."""
        self.short = 0
        if self._budget is not None:
            self._releases = self._budget.waiters.releases
            self._budget.catch_up()

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
        if self._budget is None or not self.short:
            return False
        if await self._budget.waiters.more(self._releases):
            return True
        waits = self._budget.waits_for_others
        if waits:
            await asyncio.sleep(_FIRST_WAIT_S)
        return waits

    def close(self) -> None:
        """Reserve nothing any more."""
        if self._budget is not None:
            self._budget.stop()


def carry(budget: Budget, target: Target, lines: Iterable[tuple[Intent, BatchLine]], ledger: Ledger) -> None:
    """Reserve for the lines of batches whose results `ledger` does not have."""
    for intent, line in lines:
        fetched = brought(ledger, intent, line.key)
        if budget.counts(line.key) and not any(past.status == "answer" or past.maybe_billed for past in fetched):
            budget.carry(line.key, replace(target, sampling=line.sampling), line.input)


def brought(ledger: Ledger, intent: Intent, key: str) -> list[Attempt]:
    """The attempts that an earlier fetch of this batch has put into the ledger for a key."""
    if not intent.batch:
        return []
    return [past for past in ledger.attempts(key) if past.batch == intent.batch and past.time >= intent.made]


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
