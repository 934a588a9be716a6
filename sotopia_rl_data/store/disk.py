"""What the store needs of a file system: durable files, hard links, and a clear error when it cannot write.

A file or folder survives a power cut only if it and its parent folder were fsynced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sotopia_rl_data.errors import StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_BROKEN = (
    errno.EIO,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.EBUSY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENFILE,
    errno.EISDIR,
)
_CANNOT_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def sync_file(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def private_file(path: Path) -> Path:
    """A new, empty file that its owner alone can read, in place of one that was there."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    return path


_TICK_NS = 50_000_000  # longer than one tick of any file system's clock


def time_of_change(directory: Path) -> int:
    """When a file last appeared in a directory or left it (Unix nanoseconds; 0: there is no directory); -1 where
    another may do so in the same clock tick."""
    try:
        changed = directory.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return changed if time.time_ns() - changed > _TICK_NS else -1


class HashedFile:
    """A new file that libraries may write to: it hashes what is written, and keeps an error for `check` to raise.

    Arrow's Parquet writer must not be told that the disk is full: with content-defined chunking it ends the process.
    """

    closed = False

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.sha256 = path, 0, hashlib.sha256()
        self._failure: OSError | None = None
        self._file = path.open("xb", buffering=0)

    def write(self, data: bytes) -> int:
        """Accept `data` even where the disk fails; `check` raises the error."""
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self.size += len(view)
        start = 0
        try:
            while start < len(view) and self._failure is None:
                start += self._file.write(view[start:])
        except OSError as error:
            self._failure = error
        return len(view)

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def flush(self) -> None:
        """Nothing is buffered."""

    def check(self) -> None:
        """Raise the first OSError that writing met."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Does nothing: libraries call it when they are done, but only `finish` makes the file durable."""

    def finish(self) -> None:
        """Make the file read-only and durable, and close it. Raises OSError where a write failed."""
        self.check()
        os.fchmod(self._file.fileno(), 0o444)
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Give the file up: nothing more is written, and its space is free once it is deleted."""
        self._failure = self._failure or OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        self._file.close()


def write_text(path: Path, text: str) -> None:
    """Write a new file with this text, in the place of what was there; durable except for its folder's entry."""
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    sync_file(path)


def replace_file(path: Path, data: bytes) -> None:
    """Put a new file in the place of `path`, durably. Whatever was there is not written through: neither the file that
    a link leads to nor the bytes that a hard link shares."""
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}.new")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link to `source`; a copy where the file system does not make one (another device, too many links)."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        shutil.copyfile(source, target)
        target.chmod(0o444)
        sync_file(target)


def is_full(error: OSError) -> bool:
    """Whether `error` says that no space is left, or that a file would be larger than allowed."""
    return error.errno in _FULL


_ANOTHER_STORE = "another store with --store or SOTOPIA_RL_DATA_STORE"


@contextmanager
def storing(root: Path, noun: str = "store", another: str = _ANOTHER_STORE) -> Iterator[None]:
    """Turns the operating system's errors about writing under `root` into a StoreError with a hint.

    `noun` is what the error calls `root`; `another` is what its hint tells to name instead.
    """
    try:
        yield
    except OSError as error:
        ours = store_error(error, root, noun, another)
        if ours is None:
            raise
        raise ours from error


def store_error(error: OSError, root: Path, noun: str = "store", another: str = _ANOTHER_STORE) -> StoreError | None:
    """The StoreError that stands for `error`, or None where it is not about the storage. Arguments as in `storing`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return StoreError(
            f"There is no room left on the disk of the {noun} {str(root)!r} ({reason}).",
            f"free some space, or name {another}",
        )
    if error.errno in _REFUSED:
        return StoreError(
            f"The {noun} {str(root)!r} cannot be written ({reason}).",
            f"make it writable, or name {another}",
        )
    if error.errno in _BROKEN:
        return StoreError(
            f"The {noun} {str(root)!r} cannot be used ({reason}: {error.filename or root}).",
            f"name {another}",
        )
    return None
