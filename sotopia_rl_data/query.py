"""A version as SQL and as data frames. Nothing here can change a version, or read anything else.

The DuckDB connection is locked before it sees a person's SQL (`connections.py`), and is handed exactly one SELECT. How
a result is printed or saved is in `results.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.types as pt

from sotopia_rl_data.connections import MEMORY_LIMIT, lock, unlocked
from sotopia_rl_data.errors import NotFound, QueryError
from sotopia_rl_data.schema import Episode, Manifest
from sotopia_rl_data.store import Version

if TYPE_CHECKING:
    import datasets
    import polars as pl


def connect(
    version: Version, memory_limit: str = MEMORY_LIMIT, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """A locked connection with one view for each config; `split` is the last column of each.

    Close it, or use it in a `with`. Raises StoreError where a file of the version is gone.
    """
    files = {config: version.files(config) for config in version.manifest.configs}
    return lock(unlocked(memory_limit, threads), files, version.ref)


def sql(version: Version, text: str) -> pa.Table:
    """The rows of one SELECT over the version's configs, in memory. Raises QueryError with what is wrong with it."""
    with stream(version, text) as reader:
        return reader.read_all()


@contextmanager
def stream(version: Version, text: str) -> Iterator[pa.RecordBatchReader]:
    """The rows of one SELECT, batch by batch; whole numbers are at most 64 bits and decimals are doubles.

    Raises QueryError, also while the batches are read.
    """
    with connect(version) as connection:
        try:
            text.encode()  # a shell hands over bytes that are no text as lone surrogates; DuckDB would raise TypeError
            statements = connection.extract_statements(text)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError(
                    "A query is exactly one SELECT.", f"SELECT * FROM {next(iter(version.manifest.configs))} LIMIT 10"
                )
            reader = connection.sql(statements[0]).to_arrow_reader(8192)
        except (duckdb.Error, UnicodeEncodeError) as error:
            raise _query_error(error, version) from error
        schema = pa.schema([pa.field(f.name, _narrow_type(f.type)) for f in reader.schema])
        yield pa.RecordBatchReader.from_batches(schema, _batches(reader, schema, version))


def _batches(reader: pa.RecordBatchReader, schema: pa.Schema, version: Version) -> Iterator[pa.RecordBatch]:
    """DuckDB sums integers to 128 bits and reads 0.5 as a decimal: int64 and float64 are what every format can hold."""
    try:
        for batch in reader:
            yield batch if batch.schema.equals(schema) else batch.cast(schema)
    except (OSError, duckdb.Error, pa.ArrowException) as error:
        raise _query_error(error, version) from error


def _narrow_type(kind: pa.DataType) -> pa.DataType:
    if not pt.is_decimal(kind):
        return kind
    return pa.int64() if kind.scale == 0 else pa.float64()


def _query_error(error: Exception, version: Version) -> QueryError:
    """DuckDB's error in one sentence; in the midst of a result it comes as an OSError with the same text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    if lines[0].startswith("Out of Memory"):
        return QueryError(
            f"The query needs more than {MEMORY_LIMIT} of memory.",
            "select fewer columns: long texts (prompt, turns, observations) are what takes room",
        )
    if lines[0].startswith("Permission"):
        return QueryError("A query reads the version's own tables and nothing else.", _tables(version))
    hint = next((f" ({line})" for line in lines[1:] if line.startswith("Candidate")), "")
    return QueryError(f"The query failed: {lines[0].rstrip('!.')}{hint}.", _tables(version))


def _tables(version: Version) -> str:
    tables = list(version.manifest.columns)
    return f'the tables are {", ".join(tables)}; "SELECT * FROM {tables[0]} LIMIT 1" shows the columns of one'


class Dataset:
    """One version, opened for reading: `open_dataset("org/name@v1.2.0")`."""

    def __init__(self, version: Version) -> None:
        self.version = version

    def __repr__(self) -> str:
        return f"Dataset({self.version.ref!r})"

    @property
    def manifest(self) -> Manifest:
        """What the version is and where it came from."""
        return self.version.manifest

    def sql(self, text: str) -> pa.Table:
        """One SELECT over `rewards`, `episodes`, `attributions`, `failures`, as an Arrow table.

        Every table has a `split` column. `polars.from_arrow` makes it a DataFrame. Raises QueryError.
        """
        return sql(self.version, text)

    def scan(self, config: str = "rewards", split: str | None = None) -> pl.LazyFrame:
        """A config (or one split of it) as a Polars LazyFrame, with a `split` column. Raises NotFound."""
        import polars as pl

        files = self._files(config, split)
        return pl.concat(
            [pl.scan_parquet(paths, glob=False).with_columns(split=pl.lit(name)) for name, paths in files.items()]
        )

    def to_hf(self, config: str = "rewards", split: str | None = None) -> datasets.DatasetDict | datasets.Dataset:
        """A config as a `datasets.DatasetDict`, or one split of it as a `datasets.Dataset`.

        Memory-mapped from the cache under HF_HOME; the network is not used. Raises NotFound.
        """
        import datasets

        files = self._files(config, split)
        if not any(self.manifest.configs[config][name].rows for name in files):
            return self._empty_hf(config, split)
        names = {name: [str(path) for path in paths] for name, paths in files.items()}
        return datasets.load_dataset("parquet", data_files=names, split=split)

    def episodes(self, split: str | None = None) -> Iterator[Episode]:
        """The episodes, one at a time, in key order within each split. Raises NotFound."""
        from sotopia_rl_data.store.parts import read_parquet
        from sotopia_rl_data.tables import row_episode

        for paths in self._files("episodes", split).values():
            for path in paths:
                for rows in read_parquet(path):
                    for batch in rows.to_batches(max_chunksize=64):
                        yield from map(row_episode, batch.to_pylist())

    def _empty_hf(self, config: str, split: str | None) -> datasets.DatasetDict | datasets.Dataset:
        """`load_dataset` (5.2) refuses a split of zero rows, so an empty config is made from its columns alone."""
        import datasets
        import pyarrow.parquet as pq

        ((name, (path, *_)),) = self.version.files(config).items()
        empty = datasets.Dataset(pq.read_schema(path).empty_table(), split=datasets.NamedSplit(name))
        return empty if split else datasets.DatasetDict({name: empty})

    def _files(self, config: str, split: str | None) -> dict[str, list[Path]]:
        files = self.version.files(config)
        if split is None:
            return files
        if split not in files:
            raise NotFound(f"{self.version.ref} has no {split!r} in {config}.", f"name one of: {', '.join(files)}")
        return {split: files[split]}
