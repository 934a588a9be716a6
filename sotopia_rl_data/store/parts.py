"""One split of one config on its way to disk: rows in, sorted Parquet shards and their digest out.

Rows that arrive in order go straight into the final file. From the first piece that is out of order on, rows become
sorted runs beside it, which `finish` merges. Parquet is zstd with a page index and content-defined pages (so that the
Hub stores an appended dataset as a difference), in row groups bounded by rows and by bytes.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
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
from sotopia_rl_data.store.ordering import InOrder, Order, merge, read_run, write_run
from sotopia_rl_data.store.values import check_values

GROUP_BYTES = 32 << 20
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
        self._buffer = _Buffer(limits)
        self._shards = _Shards(root, config, split, schema, self._order, limits)
        self._runs: list[Path] = []

    def write(self, table: pa.Table) -> None:
        """Add rows. Raises InputError where they do not fit the columns, repeat a key, or hold a NaN."""
        for rows in _pieces(table, self._limits):
            given = conform(rows, self._schema, "/".join(self._where))
            check_values(self._where[0], given)
            for piece in self._buffer.add(given):
                self._take(piece)

    def _take(self, piece: pa.Table) -> None:
        if not self._runs and self._shards.offer(piece):
            return
        piece = self._order.sort(piece)
        if not self._runs and self._shards.offer(piece):
            return
        run = self._root / ".runs" / f"{'-'.join(self._where)}-{len(self._runs)}.arrow"
        run.parent.mkdir(exist_ok=True)
        write_run(run, piece)
        self._runs.append(run)

    def abandon(self) -> None:
        """Close open files; harmless after `finish`."""
        self._shards.abandon()

    def finish(self) -> Split:
        """Write everything in order, durably; returns the split as the manifest lists it."""
        for piece in self._buffer.rest():
            self._take(piece)
        if not self._runs:
            return self._shards.finish()
        early = self._shards.paths
        self._shards.close()
        runs = [read_run(run, len(self._runs)) for run in self._runs]
        if early:
            runs.append(itertools.chain.from_iterable(read_parquet(path) for path in early))
        merged = self._shards = _Shards(self._root, *self._where, self._schema, self._order, self._limits)
        buffer = _Buffer(self._limits)
        for rows in merge(self._order, runs):
            for piece in buffer.add(rows):
                merged.offer(piece)  # True, because merged rows are in order; an identity that repeats raises
        for piece in buffer.rest():
            merged.offer(piece)
        for path in (*self._runs, *early):
            path.unlink()
        return merged.finish()


def _pieces(rows: pa.Table, limits: Limits) -> Iterator[pa.Table]:
    """Cuts a big table into pieces of at most about one row group."""
    step = max(1, min(limits.group_rows, rows.num_rows * limits.group_bytes // max(rows.nbytes, 1)))
    return (rows.slice(start, step) for start in range(0, rows.num_rows, step))


class _Buffer:
    """Gathers small tables into pieces of about one row group."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tables: list[pa.Table] = []
        self._bytes = self._rows = 0

    def add(self, rows: pa.Table) -> Iterator[pa.Table]:
        full = (
            self._bytes + rows.nbytes > self._limits.group_bytes or self._rows + rows.num_rows > self._limits.group_rows
        )
        if self._tables and full:
            yield from self.rest()
        self._tables.append(rows)
        self._bytes += rows.nbytes
        self._rows += rows.num_rows

    def rest(self) -> Iterator[pa.Table]:
        tables, self._tables, self._bytes, self._rows = self._tables, [], 0, 0
        if tables:
            yield pa.concat_tables(tables).combine_chunks()


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
