"""Which process sends a request now: of several on one ledger, one sends it and the others take its answer.

A claim is a lock on one byte of a file, at the place that the key's hash names. The kernel gives it up when the process
ends, however it ends, so that no claim outlives its holder and nothing has to watch over them. Claims hold between
processes on one machine; where the file system has no such locks, everybody gets every claim, and `held` says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from pathlib import Path

from sotopia_rl_data.locks import NO_LOCKS

FILE = ".claims"
_PLACES = (1 << 60) - 1  # if two keys share a place by chance, one waits for the other, and both are asked
_RANGE = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, pid
_LINUX = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")


class Claims:
    """The claims of one process on the keys of a ledger. `directory` is the ledger's; the file appears with the first
    claim. `held` is False where claims mean nothing here."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._handle = -1
        self.held = True

    def take(self, key: str) -> bool:
        """Whether the key is ours to ask; False while another process has it."""
        if not self.held:
            return True
        try:
            if self._handle < 0:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _lock(self._handle, fcntl.F_WRLCK, key)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            if error.errno not in NO_LOCKS:
                raise
            self.held = False
        return True

    def give_up(self, key: str) -> None:
        """Let others ask the key, or see its answer."""
        if self._handle >= 0 and self.held:
            _lock(self._handle, fcntl.F_UNLCK, key)

    def close(self) -> None:
        """Give up all claims."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _lock(handle: int, kind: int, key: str) -> None:
    """Lock or unlock the key's byte without waiting. On Linux the lock is the open file's: two ledgers that one process
    opens exclude each other too, and closing one leaves the other's claims."""
    place = int(key[:16], 16) & _PLACES
    if _LINUX:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _RANGE.pack(kind, os.SEEK_SET, place, 1, 0))
    elif kind == fcntl.F_UNLCK:
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, place)
    else:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
