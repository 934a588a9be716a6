"""Rows put together by what they belong to, in whatever order they come and however many there are.

Up to a limit they stay in memory. Beyond it they go into temporary files, the rows of one key always into the same
file, and each file is then put together by itself.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROWS = 100_000
FILES = 256


class Spool:
    """Rows (lists of JSON values) by key; `limit` rows at most are kept in memory."""

    def __init__(self, limit: int = ROWS) -> None:
        self._limit, self._count = limit, 0
        self._rows: dict[str, list[Any]] = {}
        self._folder: TemporaryDirectory[str] | None = None
        self._files: list[Path] = []

    def add(self, key: str, row: Any) -> None:
        """Add one row of `key`."""
        self._rows.setdefault(key, []).append(row)
        self._count += 1
        if self._count >= self._limit:
            self._write()

    def groups(self) -> Iterator[tuple[str, list[Any]]]:
        """Each key with its rows, in the order in which they were added. May be called several times."""
        if not self._files:
            yield from self._rows.items()
            return
        self._write()
        for file in self._files:
            together: dict[str, list[Any]] = {}
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    key, row = json.loads(line)
                    together.setdefault(key, []).append(row)
            yield from together.items()

    def close(self) -> None:
        """Remove the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()

    def _write(self) -> None:
        """Move the rows that are in memory into the files."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="sotopia-rl-data-import-")
            self._files = [Path(self._folder.name) / f"{i}.jsonl" for i in range(FILES)]
            for file in self._files:
                file.touch()
        lines: dict[int, list[str]] = {}
        for key, rows in self._rows.items():
            of_file = lines.setdefault(zlib.crc32(key.encode()) % FILES, [])
            of_file += (json.dumps([key, row]) + "\n" for row in rows)
        for i, texts in lines.items():
            with self._files[i].open("a", encoding="utf-8") as appended:
                appended.writelines(texts)
        self._rows, self._count = {}, 0
