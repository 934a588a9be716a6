"""Where the attempts of each key are in the ledger's files: 16 bytes of memory for each record; replies stay on disk.

The index knows only the first 64 bits of a key. The reader of a record compares the whole key, so that a collision
costs a read and never gives a wrong answer.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from sotopia_rl_data.ledger.attempt import MARKER, check_lines, damaged

Place = tuple[int, int]  # (number of the file, byte offset in a journal or row in a Parquet file)
_OFFSET_BITS = 44  # enough for files of 16 TiB; the other bits are enough for half a million files
_FEW = 50_000  # up to this many new records stay in the dict, however few are in the arrays
_BLOCK_BYTES = 8 << 20  # of a journal that are looked through at a time
_ADDED_BYTES = 240  # about the memory of one record in the dict
_RECORD = re.compile(re.escape(MARKER.encode()) + rb'(?P<key>[0-9a-f]{64})","question":"(?P<question>[0-9a-f]{64})"')


def short(key: str) -> int:
    """The first 64 bits of a hex key."""
    return int(key[:16], 16)


class KeyIndex:
    """Maps short keys to places: sorted arrays, and a dict of the records that were added since the last sorting."""

    def __init__(self, keys: np.ndarray, places: np.ndarray) -> None:
        self._added: dict[int, list[int]] = {}
        self._count = len(keys)
        self._sort(keys, places)

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """About how much memory the index takes."""
        return int(self._keys.nbytes + self._places.nbytes) + _ADDED_BYTES * len(self._added)

    def add(self, key: str, place: Place) -> None:
        self._added.setdefault(short(key), []).append(place[0] << _OFFSET_BITS | place[1])
        self._count += 1
        if len(self._added) > max(_FEW, self._count // 8):
            self._merge()

    def find(self, key: str) -> Iterator[Place]:
        """Places that may hold attempts of `key`."""
        short_key, sorted_places = short(key), ()
        if len(self._keys):
            left, right = (int(self._keys.searchsorted(np.uint64(short_key), side)) for side in ("left", "right"))
            sorted_places = self._places[left:right].tolist()
        for packed in (*sorted_places, *self._added.get(short_key, ())):
            yield packed >> _OFFSET_BITS, packed & ((1 << _OFFSET_BITS) - 1)

    def _merge(self) -> None:
        """Move the dict's records into the arrays: rarely enough to cost nothing, often enough to keep memory small."""
        added = [(key, place) for key, places in self._added.items() for place in places]
        keys = np.array([key for key, _ in added], np.uint64)
        places = np.array([place for _, place in added], np.int64)
        self._sort(np.concatenate([self._keys, keys]), np.concatenate([self._places, places]))
        self._added = {}

    def _sort(self, keys: np.ndarray, places: np.ndarray) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._places = keys[order], places[order]


def index_of(files: Sequence[Path], column: Literal["key", "question"] = "key") -> KeyIndex:
    """The index of all records in these files. A file's number is its position in the list."""
    keys, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for number, path in enumerate(files):
        for own_keys, offsets in (_in_parquet if path.suffix == ".parquet" else _in_journal)(path, column):
            keys.append(np.array(own_keys, np.uint64))
            places.append(offsets + (number << _OFFSET_BITS))
    return KeyIndex(np.concatenate(keys), np.concatenate(places))


def keys_from(path: Path, start: int) -> tuple[list[tuple[str, int]], int]:
    """The keys and byte offsets of a journal's whole records from `start` on, and where to go on from next time. Raises
    StoreError where a newer version wrote one."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    check_lines(data, path)
    end = data.rfind(b"\n") + 1
    found = [(record["key"].decode(), start + record.start()) for record in _RECORD.finditer(data[:end])]
    return found, start + end


def end_of_records(path: Path) -> int:
    """How many bytes of a journal hold whole records; its writer may be in the middle of another."""
    if path.stat().st_size == 0:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.rfind(b"\n") + 1


def _in_journal(path: Path, column: str) -> Iterator[tuple[list[int], np.ndarray]]:
    """Short keys and byte offsets of a journal's records, found without parsing them, in batches."""
    for start, lines in _blocks(path):
        check_lines(lines, path)
        records = [(int(record[column][:16], 16), start + record.start()) for record in _RECORD.finditer(lines)]
        yield [key for key, _ in records], np.array([offset for _, offset in records], np.int64)


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """A file in blocks that end with a line, each with its offset; the last may end in the middle of one."""
    start, rest = 0, b""
    with path.open("rb") as file:
        while data := file.read(_BLOCK_BYTES):
            end = data.rfind(b"\n") + 1
            if not end:
                rest += data
                continue
            block = rest + data[:end]
            yield start, block
            start, rest = start + len(block), data[end:]
    if rest:
        yield start, rest


def _in_parquet(path: Path, column: str) -> Iterator[tuple[list[int], np.ndarray]]:
    """Short keys and row numbers of a compacted file, in batches. Raises StoreError where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(65_536, columns=[column]):
            keys = [short(key) for key in batch.column(0).to_pylist()]
            yield keys, np.arange(row, row + len(keys), dtype=np.int64)
            row += len(keys)
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:  # also: a key that is missing, or not hex
        raise damaged(path, error) from error
