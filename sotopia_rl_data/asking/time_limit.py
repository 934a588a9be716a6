"""The time limit of one call, which stands still while the call waits to be sent."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

_CURRENT: ContextVar[TimeLimit | None] = ContextVar("the time limit of the call that is made here", default=None)


class TimeLimit:
    """`async with TimeLimit(180, ending) as limit:` raises TimeoutError where the block takes longer, in seconds.
    `began` is the monotonic time since which the limit runs, infinity while it stands still. `is_over()` says whether
    the run has ended, so that what waits is not sent any more."""

    def __init__(self, seconds: float, is_over: Callable[[], bool]) -> None:
        self._seconds, self.is_over = seconds, is_over
        self._timeout = asyncio.timeout(seconds)
        self.began = math.inf

    async def __aenter__(self) -> TimeLimit:
        await self._timeout.__aenter__()
        self.began = time.monotonic()
        self._token = _CURRENT.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _CURRENT.reset(self._token)
        await self._timeout.__aexit__(kind, value, trace)

    def stop(self) -> None:
        """Let the limit stand still."""
        self._timeout.reschedule(None)
        self.began = math.inf

    def restart(self) -> None:
        """Let the whole time run again from now on."""
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)
        self.began = time.monotonic()


@contextmanager
def standing_still() -> Iterator[None]:
    """Inside the block the time limit of the call that is made now stands still; afterwards its whole time runs again.
    A call whose run has ended meanwhile is cancelled."""
    limit = _CURRENT.get()
    if limit is None:
        yield
        return
    limit.stop()
    yield
    if limit.is_over():
        raise asyncio.CancelledError
    limit.restart()


def restart() -> None:
    """Let the whole time run again for a call that is sent once more."""
    limit = _CURRENT.get()
    if limit is not None:
        limit.restart()
