"""Where in the ledger's files each key's attempts lie: sixteen bytes a record, replies stay on the disk.

Keys are known by their first 64 bits here; whoever reads the record compares the whole key, so that a collision costs
a read and never gives a wrong answer.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sotopia_rl_data.ledger.attempt import MARKER

Place = tuple[int, int]  # (number of the file, byte offset in a journal or row in a Parquet file)
_OFFSET_BITS = 44  # 16 TiB a file, a million files
_FEW = 50_000  # records that may lie in the dict, whatever the size of the rest
_ADDED_BYTES = 240  # of a record in the dict
_RECORD = re.compile(re.escape(MARKER.encode()) + rb'([0-9a-f]{64})","question":"([0-9a-f]{64})"')


def short(key: str) -> int:
    """The first 64 bits of a hex key."""
    return int(key[:16], 16)


class KeyIndex:
    """Short keys to places. Built once from arrays; what is added later lies in a dict beside them."""

    def __init__(self, keys: np.ndarray, places: np.ndarray) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._places = keys[order], places[order]
        self._added: dict[int, list[int]] = {}
        self._count = len(keys)

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        return int(self._keys.nbytes + self._places.nbytes) + _ADDED_BYTES * len(self._added)

    def add(self, key: str, place: Place) -> None:
        self._added.setdefault(short(key), []).append(_packed(place))
        self._count += 1
        if len(self._added) > max(_FEW, self._count // 8):
            self._settle()

    def find(self, key: str) -> Iterator[Place]:
        """Places that may hold attempts of `key`."""
        wanted = np.uint64(short(key))
        left = int(np.searchsorted(self._keys, wanted, "left"))
        right = int(np.searchsorted(self._keys, wanted, "right"))
        for packed in (*self._places[left:right].tolist(), *self._added.get(int(wanted), ())):
            yield packed >> _OFFSET_BITS, packed & ((1 << _OFFSET_BITS) - 1)

    def _settle(self) -> None:
        """Move what was added into the arrays: seldom enough to cost nothing, often enough to keep memory small."""
        keys = [key for key, places in self._added.items() for _ in places]
        places = [place for many in self._added.values() for place in many]
        all_keys = np.concatenate([self._keys, np.array(keys, np.uint64)])
        order = np.argsort(all_keys, kind="stable")
        self._keys = all_keys[order]
        self._places = np.concatenate([self._places, np.array(places, np.int64)])[order]
        self._added = {}


def _packed(place: Place) -> int:
    return place[0] << _OFFSET_BITS | place[1]


class Gatherer:
    """Collects (key, place) pairs of many files, then makes the KeyIndex. `column` 1 is the key, 2 the question."""

    def __init__(self, column: int = 1) -> None:
        self._column = column
        self._keys: list[np.ndarray] = []
        self._places: list[np.ndarray] = []

    def journal(self, number: int, path: Path) -> None:
        """Every record of a journal, found without parsing it."""
        if path.stat().st_size == 0:
            return
        keys: list[int] = []
        offsets: list[int] = []
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for found in _RECORD.finditer(data):
                keys.append(int(found[self._column][:16], 16))
                offsets.append(found.start())
        self._take(number, keys, np.array(offsets, np.int64))

    def parquet(self, number: int, path: Path) -> None:
        """Every row of a compacted file."""
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        column = ("key", "question")[self._column - 1]
        row = 0
        for batch in file.iter_batches(65_536, columns=[column]):
            keys = [int(k[:16], 16) for k in batch.column(0).to_pylist()]
            self._take(number, keys, np.arange(row, row + len(keys), dtype=np.int64))
            row += len(keys)

    def index(self) -> KeyIndex:
        if not self._keys:
            return KeyIndex(np.empty(0, np.uint64), np.empty(0, np.int64))
        return KeyIndex(np.concatenate(self._keys), np.concatenate(self._places))

    def _take(self, number: int, keys: list[int], offsets: np.ndarray) -> None:
        self._keys.append(np.array(keys, np.uint64))
        self._places.append(offsets + (number << _OFFSET_BITS))
