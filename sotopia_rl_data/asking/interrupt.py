"""Ctrl-C as a request to come home: once to finish what is in flight, twice to give it up."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Listeners:
    """Who is told of Ctrl-C. The signal is ours from the first that listens until the last has left."""

    def __init__(self) -> None:
        self._told: list[Callable[[], None]] = []
        self._before: Any = None

    def add(self, callback: Callable[[], None]) -> None:
        if not self._told:
            self._before = signal.getsignal(signal.SIGINT)
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._tell)
        self._told.append(callback)

    def remove(self, callback: Callable[[], None]) -> None:
        self._told.remove(callback)
        if not self._told:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, self._before)

    def _tell(self) -> None:
        for callback in list(self._told):
            callback()


_listeners = _Listeners()


@contextmanager
def interruptible(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Call `on_interrupt` in the running loop for every Ctrl-C inside the block, instead of raising. Of several blocks
    at once, each is told.

    Outside the main thread, where no signals arrive, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _listeners.add(on_interrupt)
    try:
        yield
    finally:
        _listeners.remove(on_interrupt)
