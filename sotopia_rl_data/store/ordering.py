"""The order of a config's rows, and how rows that arrive in another order are sorted in bounded memory.

Configs with an identity are ordered by it (`tables.KEYS`), and a key that occurs twice is an error. Rows without an
identity (failures, or rewards imported without episode and turn) are ordered by all their columns, so that the same
rows in another order of arrival are the same dataset. NULL comes first; text compares by code point.

DuckDB's sort moves vectors of 2,048 rows, which is 200 MB where rows are episodes, and fails under a memory limit. The
sort here counts bytes: sorted runs are merged block by block, all blocks together about `MERGE_BYTES`.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.types as pt

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.hashing import canonical_json
from sotopia_rl_data.tables import KEYS

BLOCK_BYTES = 1 << 19
MERGE_BYTES = 16 << 20
MOST_RUNS = MERGE_BYTES // BLOCK_BYTES  # merged at a time: each is an open file and a block in memory
_IDENTIFIED = ("episodes", "attributions", "rewards", "trajectories", "truth")
# Rows without an identity are sorted by their text first: rows that share a prefix become neighbours.
_TEXT_FIRST = ("prompt", "completion")

Key = tuple[tuple[bool, Any], ...]


def identity(config: str, columns: Iterable[str]) -> tuple[str, ...]:
    """The columns that identify a row of `config`; () where rows have no identity."""
    key = KEYS.get(config, ()) if config in _IDENTIFIED else ()
    return key if set(key) <= set(columns) else ()


@dataclass(frozen=True, slots=True)
class Order:
    """The columns by which the config `where` is sorted; `unique` where together they are an identity."""

    where: str
    columns: tuple[str, ...]
    unique: bool

    @classmethod
    def of(cls, config: str, schema: pa.Schema) -> Order:
        """The order of `config` in these columns."""
        key = identity(config, schema.names)
        if key:
            return cls(config, key, True)
        first = [name for name in (*KEYS.get(config, ()), *_TEXT_FIRST) if name in schema.names]
        return cls(config, (*first, *sorted(set(schema.names) - set(first))), False)

    def keys(self, rows: pa.Table) -> pa.Table:
        """The key columns alone, each comparable: a nested column becomes its canonical JSON."""
        return pa.table({name: _comparable(rows.column(name)) for name in self.columns})

    def sort(self, rows: pa.Table) -> pa.Table:
        """`rows` in order (a stable sort), in memory."""
        keys = [(name, "ascending", "at_start") for name in self.columns]
        return rows.take(pc.sort_indices(self.keys(rows), sort_keys=keys))

    def at(self, keys: pa.Table, row: int) -> Key:
        """The key of a row of `keys`, in a form that Python can compare."""
        values = (keys.column(name)[row].as_py() for name in self.columns)
        return tuple((value is not None, value) for value in values)

    def follows(self, keys: pa.Table, before: Key | None) -> bool:
        """Whether `keys` is in order and comes after `before`. Raises InputError where an identity repeats."""
        if not keys.num_rows:
            return True
        first = self.at(keys, 0)
        less, equal = _neighbours(keys, self.columns)
        if not (less | equal).all() or (before is not None and first < before):
            return False
        if self.unique and (equal.any() or first == before):
            twice = first if first == before else self.at(keys, int(np.flatnonzero(equal)[0]))
            named = ", ".join(f"{c} {v!r}" for c, (_, v) in zip(self.columns, twice, strict=True))
            raise InputError(
                f"Two rows of {self.where} have the same {named}, but these columns identify a row.",
                "keep one of the two rows, or give one of them another id",
            )
        return True


class InOrder:
    """Checks that tables, taken one after the other, are in order together."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._last: Key | None = None

    @classmethod
    def of(cls, config: str, schema: pa.Schema) -> InOrder:
        """A check of the rows of `config` with these columns."""
        return cls(Order.of(config, schema))

    def takes(self, rows: pa.Table) -> bool:
        """Whether `rows` are in order and come after all rows that were taken before. If so, they are taken.

        Raises InputError where an identity repeats.
        """
        keys = self._order.keys(rows)
        if not self._order.follows(keys, self._last):
            return False
        if keys.num_rows:
            self._last = self._order.at(keys, keys.num_rows - 1)
        return True


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pt.is_nested(column.type):
        return column
    texts = [None if value is None else canonical_json(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def _neighbours(keys: pa.Table, columns: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For each row but the last: whether its key is less than the next row's, and whether it is equal."""
    count = keys.num_rows - 1
    less, equal = np.zeros(count, bool), np.ones(count, bool)
    for name in columns:
        if not equal.any():
            break
        here, there = keys.column(name).slice(0, count), keys.column(name).slice(1)
        lower, same = _mask(pc.less(here, there)), _mask(pc.equal(here, there))
        if keys.column(name).null_count:
            no_here, no_there = _mask(here.is_null()), _mask(there.is_null())
            lower, same = lower | (no_here & ~no_there), same | (no_here & no_there)
        less |= equal & lower
        equal &= same
    return less, equal


def _mask(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(values, False).to_numpy())


@contextmanager
def writing_run(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """A new file of sorted rows; gives what adds rows to it, in blocks that `merge` can read one at a time."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:

        def write(rows: pa.Table) -> None:
            per_block = max(1, rows.num_rows * BLOCK_BYTES // max(rows.nbytes, 1))
            writer.write_table(rows, max_chunksize=per_block)

        yield write


def read_run(path: Path, runs: int) -> Iterator[pa.Table]:
    """The rows of one of so many runs, a few blocks in memory at a time."""
    step = max(1, MERGE_BYTES // (runs * BLOCK_BYTES))
    with pa.OSFile(str(path), "rb") as source:
        reader = pa.ipc.open_file(source)
        for start in range(0, reader.num_record_batches, step):
            stop = min(start + step, reader.num_record_batches)
            yield pa.Table.from_batches([reader.get_batch(i) for i in range(start, stop)])


def merge(order: Order, runs: list[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """All rows of `runs` (each in order) in order. Memory: one block of each run, and the yielded table."""
    heads = [head for head in (_Head(order, run) for run in runs) if head.advance()]
    while heads:
        bound = min(head.last for head in heads)
        yield order.sort(pa.concat_tables([head.until(bound) for head in heads if head.first <= bound]))
        heads = [head for head in heads if head.rows or head.advance()]


class _Head:
    """The rest of a run's current block: how many `rows`, and the keys of the first and the last of them."""

    first: Key
    last: Key

    def __init__(self, order: Order, blocks: Iterator[pa.Table]) -> None:
        self._order, self._blocks, self.rows = order, blocks, 0

    def advance(self) -> bool:
        """Go to the next block that has rows; False at the end of the run."""
        for block in self._blocks:
            if block.num_rows:
                self._block, self._keys, self.rows = block, self._order.keys(block).combine_chunks(), block.num_rows
                self.first, self.last = self._key(0), self._key(self.rows - 1)
                return True
        return False

    def until(self, bound: Key) -> pa.Table:
        """Take the rows whose key is at most `bound`."""
        start, stop = self._block.num_rows - self.rows, self._block.num_rows
        if self.last > bound:
            stop = bisect.bisect_right(range(stop), bound, lo=start, key=self._key)
            self.first = self._key(stop)
        self.rows = self._block.num_rows - stop
        return self._block.slice(start, stop - start)

    def _key(self, row: int) -> Key:
        return self._order.at(self._keys, row)
