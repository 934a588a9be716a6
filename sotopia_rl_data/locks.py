"""Locks on files: who is at work on a folder, whose process is still alive, and which leftovers may be swept.

The kernel releases a lock (flock) when its process ends, however it ends, also in another container over the same disk;
a process id on record is neither released nor unique. A lock belongs to an open file: two handles of one process
exclude each other too. What somebody who finds a lock taken should be told is up to the caller.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_POLL_S = 0.02


def open_lock(path: Path, access: int = os.O_RDWR) -> int:
    """A handle on the file `path`, made if need be, for `take` or `wait`; closing it gives the lock up."""
    return os.open(path, access | os.O_CREAT | os.O_CLOEXEC, 0o644)


def take(handle: int, patience_s: float = 0.0) -> bool:
    """Whether the file could be locked for us alone within `patience_s` seconds.

    Raises OSError where the file system has no locks.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)


def wait(handle: int, shared: bool = False) -> None:
    """Lock the file, for us alone or for all who share it, however long it takes. Raises OSError as `take` does."""
    fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


@contextlib.contextmanager
def locked(path: Path, patience_s: float = 0.0) -> Iterator[bool]:
    """Whether `path` could be locked within that time; the lock is held inside the block. Raises OSError."""
    handle = open_lock(path)
    try:
        yield take(handle, patience_s)
    finally:
        os.close(handle)


class LockedFolder:
    """A new folder `dir` under `parent` that lives as long as its process: a locked file beside it says so.

    `parent` is made if need be, and what dead processes left there is swept. Raises OSError.
    """

    def __init__(self, parent: Path, name: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        self.dir = parent / f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
        self._path = self.dir.with_name(self.dir.name + ".lock")
        self._handle = _locked_new(self._path)
        try:
            self.dir.mkdir()
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Remove the folder, if it was not renamed away, and give up the lock."""
        shutil.rmtree(self.dir, ignore_errors=True)
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def _sweep(parent: Path) -> None:
    """Remove the folders whose locks nobody holds. Where a file system has no locks, nothing is ever swept."""
    for path in parent.glob("*.lock"):
        with contextlib.suppress(OSError):  # gone meanwhile, or no locks here: not ours to remove
            handle = os.open(path, os.O_RDWR)
            try:
                if take(handle):
                    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                    path.unlink()
            finally:
                os.close(handle)


def _locked_new(path: Path) -> int:
    """A handle on a new file that only we have locked."""
    while True:
        handle = open_lock(path)
        with contextlib.suppress(OSError):  # no locks on this file system: `_sweep` will leave everything alone
            wait(handle)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
            return handle
        os.close(handle)  # a sweeper was between our two calls and took the file for an orphan
