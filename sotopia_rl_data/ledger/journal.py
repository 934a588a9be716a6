"""An append-only file of JSON lines: one unbuffered write for each record; a thread calls fsync for groups of them.

A process that dies loses no record for which `append` has returned; a machine that loses power loses at most the last
`GROUP_S` seconds. Every process writes a file of its own and holds a lock on it, so that compaction leaves it alone.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from pathlib import Path

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.locks import locked, wait

log = logging.getLogger(__name__)

GROUP_S = 0.05
_flush = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Journal:
    """One process's journal. The file appears with the first record. Safe to share between threads.

    Several processes append to a `shared` one, `NAME.jsonl`; its offsets mean nothing, and no record begins in the torn
    one of another process that met a full disk.
    """

    def __init__(self, directory: Path, name: str = "journal", shared: bool = False) -> None:
        self._directory = directory
        self._name, self._shared = name, shared
        self._lock = threading.Lock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._torn = False
        self._fd = -1
        self._size = 0
        self._syncer: threading.Thread | None = None
        self._sync_error: OSError | None = None
        self.path: Path | None = None

    def append(self, line: bytes) -> int:
        """Write one record; returns its offset in bytes. After that, a killed process cannot lose it.

        Raises StoreError where the disk is full or the directory cannot be written.
        """
        with self._lock:
            if self._sync_error is not None:
                raise _store_error(self._directory, self._sync_error)
            try:
                if self._fd < 0:
                    self._open()
                return self._write(line)
            except OSError as error:
                raise _store_error(self._directory, error) from error
            finally:
                self._dirty.set()

    def close(self) -> None:
        """Flush to the disk and release the file. The next `append` begins a new file."""
        with self._lock:
            self._closing.set()
            self._dirty.set()
        if self._syncer is not None:
            self._syncer.join()
        with self._lock:
            if self._fd >= 0:
                if (
                    self.path is not None and not self._size and not self._shared
                ):  # the disk was full, and nothing was written
                    self.path.unlink(missing_ok=True)
                _flush(self._fd)
                os.close(self._fd)
                self._fd = -1
            self._closing.clear()
            self._syncer = None

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = self._name if self._shared else f"{self._name}-{time.time_ns()}-{os.getpid()}"
        path, new = self._directory / f"{name}.jsonl", 0 if self._shared else os.O_EXCL
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | new | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if not self._shared:
            wait(self._fd)
        self.path, self._size, self._torn = path, 0, self._shared
        self._syncer = threading.Thread(target=self._sync, args=(self._fd,), name="journal-fsync", daemon=True)
        self._syncer.start()
        log.info("began %s", path)

    def _write(self, line: bytes) -> int:
        lead = b"\n" if self._torn else b""  # a full disk may have cut the last record short: begin a new line
        line = lead + line
        written = os.write(self._fd, line)
        offset = self._size + len(lead)
        self._size += written
        self._torn = self._shared or written < len(line)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return offset

    def _sync(self, fd: int) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._dirty.clear()
            try:
                _flush(fd)
            except OSError as error:
                self._sync_error = error
                return
            self._closing.wait(GROUP_S)


def is_being_written(path: Path) -> bool:
    """Whether a living process holds a journal, or has just made it. True where the file system has no locks."""
    try:
        if path.stat().st_size == 0:
            return True
        with locked(path) as free:
            return not free
    except FileNotFoundError:
        return False
    except OSError:
        return True


def check_writable(directory: Path) -> None:
    """Raises StoreError where no record could be written into `directory`, which need not exist. Writes nothing."""
    nearest = next(path for path in (directory, *directory.absolute().parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise _store_error(directory, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _store_error(directory, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def _store_error(directory: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The ledger in {directory} cannot be written: {error.strerror or error}.",
        "make the path a writable folder with free space, then run the same command again: what was answered is kept",
    )
