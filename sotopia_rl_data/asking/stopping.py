"""What ends a run early: Ctrl-C and failures.

The first Ctrl-C lets requests in flight finish, the second abandons them. A provider that has failed so often that it
is pointless to go on (a wrong key, an unknown model, a dead server) ends the run too.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sotopia_rl_data.errors import AskingError, KeyMissing, Rejected


class _Listeners:
    """The callbacks that Ctrl-C calls. The signal handler is installed while there is any."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._before: Any = None

    def add(self, callback: Callable[[], None]) -> None:
        if not self._callbacks:
            self._before = signal.getsignal(signal.SIGINT)
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._call)
        self._callbacks.append(callback)

    def remove(self, callback: Callable[[], None]) -> None:
        self._callbacks.remove(callback)
        if not self._callbacks:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, self._before)

    def _call(self) -> None:
        for callback in list(self._callbacks):
            callback()


_listeners = _Listeners()


@contextmanager
def interruptible(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Call `on_interrupt` in the running loop for every Ctrl-C inside the block, instead of raising. Where several
    blocks run at once, each callback is called.

    Does nothing outside the main thread, where no signals arrive.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _listeners.add(on_interrupt)
    try:
        yield
    finally:
        _listeners.remove(on_interrupt)


_ACCOUNT = (401, 402, 403, 404, 429)  # statuses that concern the account or the URL, not a single request
# A run ends after this many failures in a row:
_REFUSED_ACCOUNT = 5  # requests refused with a status of `_ACCOUNT`
_REFUSED_FIRST = 25  # requests refused with any status, if no request was ever answered
_LOST = 8  # requests that used up their tries


class CircuitBreaker:
    """Counts failures in a row. `hopeless` is the error that ends the run at once; `fruitless` the error that it ends
    with when everything was asked and nothing was answered."""

    def __init__(self) -> None:
        self._refused = self._lost = 0
        self._answered = False
        self.hopeless: AskingError | None = None
        self.fruitless: AskingError | None = None

    def answered(self) -> None:
        """An answer came: forget the failures."""
        self._refused = self._lost = 0
        self._answered = True
        self.fruitless = None

    def refused(self, error: AskingError, anything_known: bool) -> None:
        """A request was refused for good. `anything_known`: whether any other request has an answer by now."""
        self._refused += 1
        account = isinstance(error, Rejected) and error.status in _ACCOUNT
        if account and not self._answered:
            self.fruitless = error
        if (
            isinstance(error, KeyMissing)
            or (account and self._refused >= _REFUSED_ACCOUNT)
            or (self._refused >= _REFUSED_FIRST and not anything_known)
        ):
            self.hopeless = error

    def lost(self, error: AskingError) -> None:
        """A request used up its tries."""
        self._lost += 1
        if not self._answered:
            self.fruitless = error
        if self._lost >= _LOST:
            self.hopeless = error
