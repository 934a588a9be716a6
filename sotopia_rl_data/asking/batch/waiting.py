"""When a batch is looked at again, how long a provider may be silent, and what Ctrl-C ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from sotopia_rl_data.errors import Unavailable

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
