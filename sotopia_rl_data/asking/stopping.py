"""What ends a run early: Ctrl-C, once to finish what is in flight and twice to give it up; and a provider that failed
so often that asking on is pointless (a wrong key, an unknown model, a dead server)."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sotopia_rl_data.errors import AskingError, KeyMissing, Rejected


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


_ACCOUNT = (401, 402, 403, 404, 429)  # refusals that are about the key, the money or the URL, not about one request
_REFUSED_ACCOUNT = 5  # requests in a row
_REFUSED_FIRST = 25  # requests, where nothing was ever answered
_LOST = 8  # requests in a row that met nothing but faults


class CircuitBreaker:
    """Counts failures in a row. `hopeless` is the error that the run ends with although it could go on; `fruitless`
    the one that it ends with when all was asked and nothing came."""

    def __init__(self) -> None:
        self._refused = self._lost = 0
        self._answered = False
        self.hopeless: AskingError | None = None
        self.fruitless: AskingError | None = None

    def answered(self) -> None:
        """An answer came: all is well."""
        self._refused = self._lost = 0
        self._answered = True
        self.fruitless = None

    def refused(self, error: AskingError, anything_known: bool) -> None:
        """A request was refused for good. `anything_known`: whether the ledger or the provider answered any other."""
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
