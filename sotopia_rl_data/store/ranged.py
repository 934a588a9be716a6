"""DuckDB reads a version's files in a bucket by ranges: of a large file, the columns and row groups that a query needs.

Files that were fetched before are read from the cache, small ones are fetched whole. A range is of the file that the
manifest lists, whose hash is its key; only a whole file can be checked against that hash.
"""

from __future__ import annotations

import datetime
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractFileSystem

from sotopia_rl_data.schema import DataFile
from sotopia_rl_data.store.mirror import Mirror
from sotopia_rl_data.store.versions import Version

PROTOCOL = "sotopiaversion"
WHOLE = 1 << 20  # bytes: up to here one request for the file costs less than several for its parts
_KEPT = 64  # ranges: each view reads the same footers


class Files(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The files of versions in a bucket that are not on this machine, for `register_filesystem`."""

    protocol = PROTOCOL
    cachable = False

    def __init__(self, mirror: Mirror) -> None:
        super().__init__()
        self._mirror = mirror
        self._files: dict[str, tuple[Version, DataFile]] = {}
        self._ranges: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()

    def sources(self, version: Version, config: str) -> dict[str, Sequence[Path | str]]:
        """What DuckDB is told to read for each split of a config: a path, or an address of this file system."""
        listed = {name: split.files for name, split in version.manifest.configs[config].items()}
        every = (file for files in listed.values() for file in files)
        self._mirror.fetch(version, [file for file in every if file.size <= WHOLE or self._mirror.held(file)])
        return {name: [self._source(version, file) for file in files] for name, files in listed.items()}

    def _source(self, version: Version, file: DataFile) -> Path | str:
        path = version.dir / file.path
        if path.is_file():
            return path
        address = f"{PROTOCOL}://{file.sha256}/{file.path}"
        self._files[address] = version, file
        return address

    def read(self, address: str, start: int, length: int) -> bytes:
        """Bytes of a file. Raises StoreError where the bucket is away, FileNotFoundError where it lost the file."""
        key = (address, start, length)
        found = self._ranges.pop(key, None)
        if found is None:
            found = self._mirror.read_range(*self._files[address], start, length)
        if length <= WHOLE:
            self._ranges[key] = found
            if len(self._ranges) > _KEPT:
                self._ranges.popitem(last=False)
        return found

    def size(self, path: str) -> int:
        """The bytes of a file, by the manifest."""
        return self._files[path][1].size

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What fsspec wants to know of a file."""
        return {"name": path, "size": self.size(path), "type": "file"}

    def modified(self, path: str) -> datetime.datetime:
        """A version never changes."""
        return datetime.datetime.fromtimestamp(0, datetime.UTC)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the version has this file."""
        return path in self._files

    def glob(self, path: str, **_: Any) -> list[str]:
        """The file itself: its path is not a pattern."""
        return [path] if path in self._files else []

    def open(self, path: str, mode: str = "rb", **_: Any) -> _File:
        """The file, for reading."""
        if mode != "rb":
            raise PermissionError(path)
        return _File(self, path)


class _File(io.RawIOBase):
    def __init__(self, files: Files, path: str) -> None:
        self._of, self._path, self._at = files, path, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._of.size(self._path)}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = self._of.size(self._path) - self._at
        length = left if size < 0 else min(size, left)
        data = self._of.read(self._path, self._at, length) if length > 0 else b""
        self._at += len(data)
        return data
