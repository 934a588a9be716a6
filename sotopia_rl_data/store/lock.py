"""A folder that lives as long as its process: who holds the lock beside it is alive, and what nobody holds is swept.

A lock is released by the kernel when its process ends, however it ends, also in another container over the same disk;
a process id is neither. Where a file system has no locks, nothing is ever swept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from pathlib import Path


class Lock:
    """A new folder `dir` under `staging`, and the lock that says it is in use."""

    def __init__(self, staging: Path, name: str) -> None:
        self.dir = staging / f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
        self._path = self.dir.with_name(self.dir.name + ".lock")
        self._handle = _held(self._path)
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


def sweep(staging: Path) -> None:
    """Remove what dead processes left under `staging`."""
    for path in staging.glob("*.lock"):
        with contextlib.suppress(OSError):  # held, gone meanwhile, or no locks here: not ours to remove
            handle = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink()
            finally:
                os.close(handle)


def _held(path: Path) -> int:
    """A handle on a new file that only we have locked."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        with contextlib.suppress(OSError):  # no locks on this file system: `sweep` will leave everything alone
            fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
            return handle
        os.close(handle)  # a sweeper was between our two calls and took the file for an orphan
