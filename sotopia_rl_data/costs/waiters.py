"""Waiters under a budget that runs share: who finds none waits for what the others release, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Waiters:
    """For one event loop. `releases` counts how often something was released."""

    def __init__(self) -> None:
        self.releases = 0
        self._runs = 0
        self._idle: list[asyncio.Future[bool]] = []
        self._closed = False

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """A run inside the block may release something, unless it waits in `more` itself."""
        self._runs += 1
        try:
            yield
        finally:
            self._runs -= 1
            self._see()

    def release(self) -> None:
        """There is more room now: those who wait may look."""
        self.releases += 1
        self._wake(True)

    def close(self) -> None:
        """Nothing is taken any more: nobody needs to wait, now or later."""
        self._closed = True
        self._wake(False)

    async def more(self, since: int) -> bool:
        """Wait for more `releases` than `since`. False where no run is left that could bring one, and after `close`."""
        if self._closed or self.releases > since:
            return not self._closed
        mine: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._idle.append(mine)
        self._see()
        try:
            return await mine
        finally:
            if mine in self._idle:
                self._idle.remove(mine)

    def _see(self) -> None:
        if len(self._idle) >= self._runs:
            self._wake(False)

    def _wake(self, more: bool) -> None:
        for one in self._idle:
            if not one.done():
                one.set_result(more)
        self._idle.clear()
