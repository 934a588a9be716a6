"""One split of one config on its way to disk: rows in, sorted Parquet shards and their digest out.

Rows that arrive in order go straight into the final file. From the first piece that is out of order on, rows become
sorted runs beside it, which `finish` merges, some at a time where there are many. Parquet is zstd with a page index and
content-defined pages (so that the Hub stores an appended dataset as a difference), in row groups bounded by rows and by
bytes.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.schema import DataFile, Split
from sotopia_rl_data.store.columns import conform, plain_schema
from sotopia_rl_data.store.digest import RowDigest
from sotopia_rl_data.store.disk import HashedFile, sync_file
from sotopia_rl_data.store.ordering import MOST_RUNS, InOrder, Order, merge, read_run, writing_run
from sotopia_rl_data.store.values import check_values

GROUP_BYTES = 32 << 20
_SMALL_BYTES, _SMALL_TABLES = 64 << 10, 64
GROUP_ROWS = 1 << 17
SHARD_BYTES = 480_000_000  # leaves room for the Parquet footer, so that the file stays under 500 MB


@dataclass(frozen=True, slots=True)
class Limits:
    """The most bytes (of Arrow) and rows in memory before they are written, and the largest Parquet file in bytes."""

    group_bytes: int = GROUP_BYTES
    group_rows: int = GROUP_ROWS
    shard_bytes: int = SHARD_BYTES


class Part:
    """Collects the rows of `config`/`split` under `root`, in any order."""

    def __init__(self, root: Path, config: str, split: str, schema: pa.Schema, limits: Limits) -> None:
        self._where, self._root, self._limits = (config, split), root, limits
        self._schema = schema
        self._order = Order.of(config, schema)
        self._buffer = _Buffer(limits, self._take)
        self._shards = _Shards(root, config, split, schema, self._order, limits)
        self._runs: list[Path] = []
        self._numbers = itertools.count()

    def write(self, table: pa.Table) -> None:
        """Add rows. Raises InputError where they do not fit the columns, repeat a key, or hold a NaN."""
        for rows in _pieces(table, self._limits):
            given = conform(rows, self._schema, "/".join(self._where))
            check_values(self._where[0], given)
            self._buffer.add(given)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes (of Arrow) are in memory, and not written yet."""
        return self._buffer.bytes

    def spill(self) -> None:
        """Write what is in memory."""
        self._buffer.flush()

    def _take(self, piece: pa.Table) -> None:
        if not self._runs and self._shards.offer(piece):
            return
        piece = self._order.sort(piece)
        if not self._runs and self._shards.offer(piece):
            return
        with self._new_run() as write:
            write(piece)

    @contextmanager
    def _new_run(self) -> Iterator[Callable[[pa.Table], object]]:
        """One more run; gives what writes rows to it."""
        run = self._root / ".runs" / f"{'-'.join(self._where)}-{next(self._numbers)}.arrow"
        run.parent.mkdir(exist_ok=True)
        with writing_run(run, self._schema) as write:
            yield write
        self._runs.append(run)

    def abandon(self) -> None:
        """Close open files; harmless after `finish`."""
        self._shards.abandon()

    def finish(self) -> Split:
        """Write everything in order, durably; returns the split as the manifest lists it."""
        self._buffer.flush()
        if not self._runs:
            return self._shards.finish()
        early = self._shards.paths
        self._shards.close()
        while len(self._runs) > MOST_RUNS:
            some, self._runs = self._runs[:MOST_RUNS], self._runs[MOST_RUNS:]
            with self._new_run() as write:
                self._merge([read_run(run, MOST_RUNS) for run in some], write)
            for path in some:
                path.unlink()
        runs = [read_run(run, len(self._runs)) for run in self._runs]
        if early:
            runs.append(itertools.chain.from_iterable(read_parquet(path) for path in early))
        merged = self._shards = _Shards(self._root, *self._where, self._schema, self._order, self._limits)
        self._merge(runs, merged.offer)  # merged rows are in order; an identity that repeats raises
        for path in (*self._runs, *early):
            path.unlink()
        return merged.finish()

    def _merge(self, runs: list[Iterator[pa.Table]], take: Callable[[pa.Table], object]) -> None:
        buffer = _Buffer(self._limits, take)
        for rows in merge(self._order, runs):
            buffer.add(rows)
        buffer.flush()


def _pieces(rows: pa.Table, limits: Limits) -> Iterator[pa.Table]:
    """Cuts a big table into pieces of at most about one row group."""
    step = max(1, min(limits.group_rows, rows.num_rows * limits.group_bytes // max(rows.nbytes, 1)))
    return (rows.slice(start, step) for start in range(0, rows.num_rows, step))


class _Buffer:
    """Gathers small tables into pieces of about one row group; `take` gets each piece, and is its only holder, so that
    it can be freed."""

    def __init__(self, limits: Limits, take: Callable[[pa.Table], object]) -> None:
        self._limits, self._take = limits, take
        self._tables: list[pa.Table] = []
        self._small: list[pa.Table] = []
        self.bytes = self._rows = 0

    def add(self, rows: pa.Table) -> None:
        most = self._limits
        if self.bytes + rows.nbytes > most.group_bytes or self._rows + rows.num_rows > most.group_rows:
            self.flush()
        self._small.append(rows)
        if rows.nbytes > _SMALL_BYTES or len(self._small) == _SMALL_TABLES:
            self._join()
        self.bytes += rows.nbytes
        self._rows += rows.num_rows

    def _join(self) -> None:
        """Make one table of the small ones: what writes and digests rows takes its time for each."""
        if len(self._small) > 1:
            self._small = [pa.concat_tables(self._small).combine_chunks()]
        self._tables += self._small
        self._small = []

    def flush(self) -> None:
        self._join()
        if self._tables:
            self._take(self._gathered())
            pa.default_memory_pool().release_unused()

    def _gathered(self) -> pa.Table:
        tables, self._tables, self.bytes, self._rows = self._tables, [], 0, 0
        return pa.concat_tables(tables)


class _Shards:
    """Writes rows that are in order into Parquet files of at most `shard_bytes`, digesting them on the way."""

    def __init__(self, root: Path, config: str, split: str, schema: pa.Schema, order: Order, limits: Limits) -> None:
        self._folder, self._split, self._limits = root / config, split, limits
        self._order, self._schema, self._digest = InOrder(order), schema, RowDigest(schema)
        self._files: list[HashedFile] = []
        self._rows: list[int] = []
        self._writer: Any = None

    @property
    def paths(self) -> list[Path]:
        """The files written so far, under their temporary names."""
        return [file.path for file in self._files]

    def offer(self, rows: pa.Table) -> bool:
        """Write `rows` if they are in order and come after the rows written before; False otherwise."""
        if not self._order.takes(rows):
            return False
        self._digest.update(rows)
        if self._writer is None:
            self._open()
        self._writer.write_table(rows, row_group_size=self._limits.group_rows)
        self._files[-1].check()
        self._rows[-1] += rows.num_rows
        if self._files[-1].size + self._limits.group_bytes > self._limits.shard_bytes:
            self.close()  # the next row group might make the file larger than `shard_bytes`
        return True

    def _open(self) -> None:
        self._folder.mkdir(exist_ok=True)
        name = f".{self._split}-{secrets.token_hex(4)}.parquet"
        self._files.append(HashedFile(self._folder / name))
        self._rows.append(0)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._files[-1], "w"),
            self._schema,
            compression="zstd",
            write_page_index=True,
            use_content_defined_chunking=True,
        )

    def close(self) -> None:
        """End the current file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self._files[-1].finish()

    def abandon(self) -> None:
        """Give every file up, whatever state it is in."""
        for file in self._files:
            file.abandon()
        if self._writer is not None:
            self._writer.close()

    def finish(self) -> Split:
        """Close the files and give them their final names; returns the split."""
        if not self._files:
            self._open()
        self.close()
        listed = []
        for i, (file, rows) in enumerate(zip(self._files, self._rows, strict=True)):
            final = file.path.rename(file.path.with_name(shard_name(self._split, i, len(self._files))))
            listed.append(DataFile(f"{self._folder.name}/{final.name}", rows, file.size, file.sha256.hexdigest()))
        return Split(self._digest.rows, self._digest.hexdigest(), tuple(listed))


def shard_name(split: str, index: int, count: int) -> str:
    """`train-00000-of-00001.parquet`."""
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


def read_parquet(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a Parquet file (or some columns of them), one row group in memory at a time."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for i in range(file.metadata.num_row_groups):
            yield file.read_row_group(i, columns, use_threads=False).replace_schema_metadata(None)


def too_large(meta: Any) -> bool:
    """Whether a row group of a Parquet file (by its metadata) is far larger than any that a stage writes or takes over:
    a few bytes can stand for billions of values."""
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    return any(
        group.total_byte_size > 64 * GROUP_BYTES
        or any(group.column(i).num_values > 256 * GROUP_ROWS for i in range(group.num_columns))
        for group in groups
    )


def adopt(path: Path, config: str, name: str, limits: Limits) -> Split | None:
    """Take a Parquet file over unchanged, renamed to `name`; None where it has to be written again.

    It is taken over if its columns have their plain types, its rows are in order, and neither the file nor a row group
    is too large.
    """
    with pq.ParquetFile(path, pre_buffer=False) as file:
        schema, meta = file.schema_arrow.remove_metadata(), file.metadata
        groups = [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
    if (
        schema != plain_schema(schema)
        or path.stat().st_size > limits.shard_bytes
        or max(groups, default=0) > 4 * limits.group_bytes
    ):
        return None
    digest, order = RowDigest(schema), InOrder.of(config, schema)
    for rows in read_parquet(path):
        if not order.takes(rows):
            return None
        check_values(config, rows)
        digest.update(rows)
    final = path.rename(path.with_name(name))
    final.chmod(0o444)
    sync_file(final)
    listed = DataFile(f"{config}/{name}", digest.rows, final.stat().st_size, file_sha256(final))
    return Split(digest.rows, digest.hexdigest(), (listed,))
