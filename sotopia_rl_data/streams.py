"""Sorted Parquet as a stream of whole episodes, so that several configs of one version are read side by side.

All of them are in key order, which begins with the episode. The rows of some consecutive episodes are therefore next to
each other in every file, and no join over whole files is needed. Text comes as dictionary codes, not as Python strings.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sotopia_rl_data.errors import StoreError

Codes = NDArray[np.int32]


def read(files: Sequence[Path], columns: Sequence[str], rows: int, *, encoded: bool = True) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows of these columns, file after file; text columns come as dictionary codes.

    With `encoded=False` text comes as plain strings, as it always does inside lists. One thread reads: for narrow
    columns more threads cost more CPU than they save. Raises StoreError where a file is missing, damaged, or lacks a
    column.
    """
    for path in files:
        with opened(path, columns, encoded=encoded) as file:
            try:
                yield from file.iter_batches(rows, columns=list(columns), use_threads=False)
            except (OSError, pa.ArrowInvalid) as error:
                raise _unreadable(path, error) from error


def opened(path: Path, columns: Sequence[str], *, encoded: bool = True) -> pq.ParquetFile:
    """The file, ready for `columns`. Raises StoreError where it cannot be read or lacks one of them."""
    try:
        known = pq.read_metadata(path)
        leaves = [known.schema.column(i) for i in range(len(known.schema))]
        lacking = set(columns) - {leaf.path.split(".")[0] for leaf in leaves}
        if lacking:
            raise StoreError(
                f"The file {path} has no column {sorted(lacking)[0]!r}, which is needed here.",
                "run the command that made this version (import or label) again",
            )
        text = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path in columns]
        return pq.ParquetFile(path, metadata=known, read_dictionary=text if encoded else None, pre_buffer=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"The file {path} cannot be read: {str(error).splitlines()[0]}.",
        "run `sotopia-rl-data verify` on the version, then make the version again",
    )


class Episodes:
    """Rows in episode order, taken in whole episodes.

    `what` names them in errors. Rows that go backwards raise StoreError: a stream that is not sorted would lose rows.
    """

    def __init__(self, what: str, batches: Iterable[pa.RecordBatch]) -> None:
        self._what, self._batches = what, iter(batches)
        self._rest = pa.table({})
        self._ended = False
        self._last = ""

    def chunks(self, rows: int) -> Iterator[pa.Table]:
        """All rows, in tables of about `rows` that end where an episode ends."""
        target = rows
        while True:
            while not self._ended and self._rest.num_rows < target:
                self._pull()
            size = self._rest.num_rows
            if not size:
                return
            cut = size if self._ended else bisect.bisect_left(range(size), self._last, key=self._episode)
            target = rows if cut else 2 * size  # without a cut, one episode has more than `size` rows: read on
            if cut:
                yield self._cut(cut)

    def until(self, last: str) -> pa.Table:
        """The rows up to and including the episode `last` that were not yet taken."""
        while not self._ended and self._last <= last:
            self._pull()
        return self._cut(bisect.bisect_right(range(self._rest.num_rows), last, key=self._episode))

    def end(self) -> None:
        """Raises StoreError where a row is left."""
        while not self._ended and not self._rest.num_rows:
            self._pull()
        if self._rest.num_rows:
            raise StoreError(
                f"The {self._what} name the episode {self._episode(0)!r}, but no utterance of it is there.",
                "run the command that made this version (import or label) again",
            )

    def _pull(self) -> None:
        batch = next(self._batches, None)
        if batch is None:
            self._ended = True
        elif batch.num_rows:
            ids = batch.column("episode_id")
            first, last = ids[0].as_py(), ids[-1].as_py()
            if not self._last <= first <= last:
                raise StoreError(
                    f"The rows of {self._what} are not sorted by their episode: {first!r} comes too late.",
                    "run the command that made this version (import or label) again",
                )
            fresh = pa.Table.from_batches([batch])
            self._rest = pa.concat_tables([self._rest, fresh]) if self._rest.num_rows else fresh
            self._last = last

    def _cut(self, rows: int) -> pa.Table:
        taken, self._rest = self._rest.slice(0, rows), self._rest.slice(rows)
        return taken

    def _episode(self, row: int) -> str:
        return str(self._rest.column("episode_id")[row].as_py())


def encode(column: pa.ChunkedArray) -> tuple[Codes, pa.Array]:
    """Text as (codes, distinct values). There may be values that no code points to."""
    array = column.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return np.asarray(array.indices).astype(np.int32, copy=False), array.dictionary


def codes(column: pa.ChunkedArray, among: pa.Array) -> Codes:
    """The index of each text in `among`; -1 where it is not there."""
    own, values = encode(column)
    known = pc.index_in(values, value_set=among.cast(values.type)).fill_null(-1)
    return np.asarray(known).astype(np.int32, copy=False)[own]


def changes(*keys: Codes) -> NDArray[np.bool_]:
    """True at each row whose key differs from the row before it."""
    heads = np.zeros(len(keys[0]), bool)
    heads[:1] = True
    for key in keys:
        heads[1:] |= key[1:] != key[:-1]
    return heads
