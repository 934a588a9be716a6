"""Locks on files: whether a process works on a folder, and which leftovers of dead processes may be removed.

The kernel releases a lock (flock) when its process ends, however it ends, even in another container on the same disk; a
recorded process id would be neither released nor unique. A lock belongs to an open file: two handles of one process
exclude each other too. Callers say in their own errors what a taken lock means.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # the errors of a file system without locks
_FIRST_POLL_S, _LONGEST_POLL_S = 0.0002, 0.02  # some locks are held for microseconds, others for hours


def open_lock(path: Path, access: int = os.O_RDWR) -> int:
    """A handle on the file `path`, which is made if missing, for `take` or `wait`; closing it releases the lock."""
    return os.open(path, access | os.O_CREAT | os.O_CLOEXEC, 0o600)


def take(handle: int, patience_s: float = 0.0, shared: bool = False) -> bool:
    """Try to lock the file, exclusively or shared; whether that worked within `patience_s` seconds.

    Raises OSError where the file system has no locks.
    """
    deadline, poll_s = time.monotonic() + patience_s, _FIRST_POLL_S
    while True:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(poll_s)
            poll_s = min(2 * poll_s, _LONGEST_POLL_S)


def take_where_possible(handle: int) -> bool:
    """Whether no other process holds the lock: it is ours now. On a file system without locks the answer is yes, and
    its users must keep two processes apart."""
    try:
        return take(handle)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return True


def wait(handle: int, shared: bool = False) -> bool:
    """Lock the file, exclusively or shared, however long it takes; False where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def let_go(handle: int) -> None:
    """Unlock the file and keep it open."""
    fcntl.flock(handle, fcntl.LOCK_UN)


def is_held(path: Path) -> bool:
    """Whether a living process holds the exclusive lock on a file, which may be missing. Raises OSError as `take`
    does."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not take(handle, shared=True)  # shared, so that several may look at once
    finally:
        os.close(handle)


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

    `parent` is made if missing, and folders of dead processes there are removed. Raises OSError.
    """

    def __init__(self, parent: Path, name: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        self.dir = parent / f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
        self._path = self.dir.with_name(self.dir.name + ".lock")
        self._handle = _locked_new(self._path)
        try:
            self.dir.mkdir(mode=0o700)  # nobody reads what is not finished
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Remove the folder, if it was not renamed away, and give up the lock. Where a folder cannot be removed, its
        file stays too, so that a later process tries again."""
        _remove(self._path)
        os.close(self._handle)


def _sweep(parent: Path) -> None:
    """Remove the folders whose locks no process holds. On a file system without locks nothing is ever removed."""
    for path in parent.glob("*.lock"):
        with contextlib.suppress(OSError):  # another process removed the file, or the file system has no locks
            handle = os.open(path, os.O_RDWR)
            try:
                if take(handle):
                    _remove(path)
            finally:
                os.close(handle)


def _locked_new(path: Path) -> int:
    """A handle on a new file, locked exclusively."""
    while True:
        handle = open_lock(path)
        wait(handle)  # `_sweep` removes nothing on a file system without locks
        if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
            return handle
        os.close(handle)  # `_sweep` of another process removed the file before we locked it


def _remove(path: Path) -> None:
    """Remove the folder of a lock file, and then the file."""
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    if not path.with_suffix("").exists():
        path.unlink(missing_ok=True)
