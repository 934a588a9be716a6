"""A version as SQL and as data frames, and DuckDB connections. Nothing here can change a version.

A connection is locked before it sees a person's SQL, and then gets exactly one SELECT. A locked connection may open the
files of its views and nothing else, cannot be unlocked, and installs and loads nothing. A lock is not enough: DuckDB
1.5 takes a PRAGMA for a SELECT and lets `FROM enable_logging(…)` change what is locked, and in 2.0 `WITH x AS (COPY …)`
overwrites those files that a view may open. So `check_select` reads DuckDB's own parse tree before anything runs. How a
result is printed or saved is in `results.py`.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.types as pt

from sotopia_rl_data.errors import NotFound, QueryError, StoreError, is_ctrl_c
from sotopia_rl_data.schema import Episode, Manifest
from sotopia_rl_data.store import Version
from sotopia_rl_data.store.columns import first_line

if TYPE_CHECKING:
    import datasets
    import polars as pl

T = TypeVar("T")
Tables = Mapping[str, Mapping[str, Sequence[Path | str]]]
"""Tables by name: the Parquet files of each split; text is an address that the connection's file system reads."""
MEMORY_LIMIT = "2GB"
_TEMPORARY_LIMIT = "32GB"
TIME_LIMIT = 300.0  # seconds of one query
_PATIENCE_S = 3.0  # DuckDB plans a query, and computes one value, without hearing that it should end
_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE", "RECURSIVE_CTE_NODE"}
_COMPUTING = (
    "range",
    "generate_series",
    "repeat",
    "unnest",
    "json_each",
    "json_tree",
)  # allowed in FROM: no file is read by them


def connect(
    version: Version,
    memory_limit: str = MEMORY_LIMIT,
    threads: int | None = None,
    with_places: bool = False,
    more: Tables | None = None,
) -> duckdb.DuckDBPyConnection:
    """A locked connection with one view for each config, and for each table in `more`; `split` is the last column of
    each. `with_places`, a row also says where it lies: its file as `filename`, and its number in that file as
    `file_row_number`.

    Close it, or use it in a `with`. Raises StoreError where a file of the version is gone.
    """
    connection = unlocked(memory_limit, threads)
    files: dict[str, Mapping[str, Sequence[Path | str]]]
    if version.mirror is None or with_places:  # a place is one in a file on this machine
        files = {config: version.files(config) for config in version.manifest.configs}
    else:
        from sotopia_rl_data.store.ranged import Files

        in_bucket = Files(version.mirror)
        connection.register_filesystem(in_bucket)
        files = {config: in_bucket.sources(version, config) for config in version.manifest.configs}
    return lock(connection, files | dict(more or {}), version.ref, with_places)


def sql(version: Version, text: str, seconds: float = TIME_LIMIT, more: Tables | None = None) -> pa.Table:
    """The rows of one SELECT over the version's configs, in memory. Raises QueryError with what is wrong with it."""
    with stream(version, text, seconds, more=more) as reader:
        return reader.read_all()


@contextmanager
def stream(
    version: Version,
    text: str,
    seconds: float = TIME_LIMIT,
    with_places: bool = False,
    more: Tables | None = None,
) -> Iterator[pa.RecordBatchReader]:
    """The rows of one SELECT, batch by batch; whole numbers are at most 64 bits and decimals are doubles. `with_places`
    and `more` are as in `connect`.

    Raises QueryError, also while the batches are read, and where they take longer than `seconds`.
    """
    with (
        closing(connect(version, with_places=with_places, more=more)) as connection,
        time_limit(connection, seconds) as end,
    ):
        try:
            check_select(connection, text, f"SELECT * FROM {next(iter(version.manifest.configs))} LIMIT 10")
            reader = heard(connection, lambda: connection.sql(text).to_arrow_reader(8192), end)
        except (duckdb.Error, UnicodeEncodeError) as error:
            raise _query_error(error, version) from error
        schema = pa.schema([pa.field(f.name, _narrow_type(f.type)) for f in reader.schema])
        yield pa.RecordBatchReader.from_batches(schema, _batches(connection, reader, schema, version, end))


def close(connection: duckdb.DuckDBPyConnection) -> None:
    """Close the connection, unless it is busy with what `heard` has given up on."""
    with suppress(duckdb.Error):
        connection.close()


@contextmanager
def closing(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """The connection, closed at the end of the block."""
    try:
        yield connection
    finally:
        close(connection)


@contextmanager
def time_limit(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[float]:
    """Inside the block a query that runs on after `seconds` is ended; its value is when `heard` gives up on it. Raises
    QueryError then; KeyboardInterrupt, of which DuckDB makes a RuntimeError."""
    ended = threading.Event()

    def end() -> None:
        ended.set()
        while not timer.finished.wait(0.05):  # a statement that begins only now is ended too
            connection.interrupt()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield time.monotonic() + seconds + _PATIENCE_S
    except Exception as error:
        if is_ctrl_c(error):
            raise KeyboardInterrupt from error
        if ended.is_set():
            raise QueryError(
                f"The query took longer than {seconds:,g} s.",
                "select fewer rows, or allow more with --timeout SECONDS",
            ) from error
        raise
    finally:
        timer.finished.set()
        timer.join()


def heard(connection: duckdb.DuckDBPyConnection, work: Callable[[], T], end: float) -> T:
    """What `work` on this connection returns, KeyboardInterrupt at once, or TimeoutError at `end` of the monotonic
    clock. Another thread does it, for Ctrl-C is heard in a main thread that waits, and not while DuckDB computes in it;
    work that cannot be interrupted is left to that thread, and ends with the process."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    working: Future[T] = Future()

    def run() -> None:
        try:
            working.set_result(work())
        except BaseException as error:  # noqa: BLE001  it is raised in the main thread
            working.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return working.result(end - time.monotonic())
    except BaseException:
        patient = time.monotonic() + _PATIENCE_S
        while not working.done() and time.monotonic() < patient:
            connection.interrupt()  # in a loop, for a statement may begin only now
            wait([working], 0.05)
        raise


def check_select(connection: duckdb.DuckDBPyConnection, text: str, example: str) -> None:
    """Raises QueryError, with the query `example` as its hint, unless `text` is one SELECT that writes nothing and in
    FROM calls only functions that compute; raises duckdb.ParserException or UnicodeEncodeError where it is not SQL."""
    # An argument that is not UTF-8 reaches Python as lone surrogates, for which DuckDB would raise a TypeError.
    text.encode()
    example = f"write, for example: {example}"
    ((serialized,),) = connection.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
    try:
        parsed = json.loads(serialized)
    except RecursionError:
        raise duckdb.ParserException("Parser Error: it is nested too deeply") from None
    if parsed.get("error_type") == "parser":
        raise duckdb.ParserException(f"Parser Error: {parsed['error_message']}")
    nodes = list(_nodes(parsed))
    kinds = {node["type"] for node in nodes if str(node.get("type")).endswith("_NODE")}
    if parsed["error"] or len(parsed["statements"]) != 1 or not kinds <= _READING_NODES:
        raise QueryError("The query must be exactly one SELECT that writes nothing, and this one is not.", example)
    called = {node["function"]["function_name"] for node in nodes if node.get("type") == "TABLE_FUNCTION"}
    for name in sorted(called.difference(_COMPUTING)):
        raise QueryError(
            f"The query reads from {name}(), but may read only from the tables and {', '.join(_COMPUTING)}.", example
        )


def no_condition(text: str, error: Exception, columns: Sequence[str]) -> QueryError:
    """What is wrong with `text`, which should be a condition on rows of these columns."""
    reason = first_line(error).rstrip("!")
    return QueryError(f"{text!r} is not a condition: {reason}.", f"the columns are {', '.join(columns)}")


def _nodes(parsed: Any) -> Iterator[dict[str, Any]]:
    """Every object in a parse tree."""
    waiting = [parsed]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
        waiting.extend(part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())


def _batches(
    connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader, schema: pa.Schema, version: Version, end: float
) -> Iterator[pa.RecordBatch]:
    """DuckDB sums integers to 128 bits and reads 0.5 as a decimal; they become int64 and float64, which every format
    can hold."""
    try:
        while (batch := heard(connection, lambda: next(reader, None), end)) is not None:
            yield batch if batch.schema.equals(schema) else batch.cast(schema)
    except (OSError, duckdb.Error, pa.ArrowException) as error:
        raise _query_error(error, version) from error


def _narrow_type(kind: pa.DataType) -> pa.DataType:
    if not pt.is_decimal(kind):
        return kind
    return pa.int64() if kind.scale == 0 else pa.float64()


def _query_error(error: Exception, version: Version) -> QueryError:
    """DuckDB's error in one sentence; while batches are read it comes as an OSError with the same text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    if lines[0].startswith("Out of Memory"):
        return QueryError(
            f"The query needs more than {MEMORY_LIMIT} of memory.",
            "select fewer columns: long texts (prompt, turns, observations) take the most memory",
        )
    if lines[0].startswith("Permission"):
        return QueryError(
            "The query reads a file or a setting, but only the version's own tables can be read.", _tables(version)
        )
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
        """An empty config, made from its columns alone, since `load_dataset` (5.2) refuses a split of zero rows."""
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
            raise NotFound(
                f"The config {config} of {self.version.ref} has no split {split!r}.", f"name one of: {', '.join(files)}"
            )
        return {split: files[split]}


def unlocked(memory_limit: str = MEMORY_LIMIT, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A connection for our own SQL: its memory is bounded, it spills into a temporary folder, and fetches nothing."""
    connection = duckdb.connect(
        config={
            **({"threads": threads} if threads else {}),
            "memory_limit": memory_limit,
            "max_temp_directory_size": _TEMPORARY_LIMIT,
            "temp_directory": str(Path(tempfile.gettempdir()) / f"sotopia-rl-data-{secrets.token_hex(8)}"),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
    )
    # DuckDB's progress bar would be printed on stdout. In a notebook without ipywidgets it has none, and refuses `SET`.
    if connection.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(True,)]:
        connection.execute("SET enable_progress_bar = false")
    return connection


def lock(
    connection: duckdb.DuckDBPyConnection,
    views: Tables,
    ref: str,
    with_places: bool = False,
) -> duckdb.DuckDBPyConnection:
    """Give `connection` these views and lock it for good. Raises StoreError where a file is gone."""
    paths = [path for splits in views.values() for files in splits.values() for path in files]
    for path in paths:
        if isinstance(path, Path) and not path.is_file():
            connection.close()
            raise _damaged(ref, f"its file {path.name} is missing")
    try:
        connection.execute(f"SET allowed_paths = {_paths(paths)}")
        connection.execute("SET enable_external_access = false")
        for name, splits in views.items():
            connection.execute(f'CREATE VIEW "{name}" AS {rows_of(splits, with_places)}')
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise _damaged(ref, first_line(error)) from error
    return connection


def rows_of(splits: Mapping[str, Sequence[Path | str]], with_places: bool = False) -> str:
    """The SELECT that reads a config's files, with `split` as its last column; `with_places` is as in `connect`."""
    places = ", filename = true, file_row_number = true" if with_places else ""
    reads = (f"SELECT *, '{split}' AS split FROM read_parquet({_paths(of)}{places})" for split, of in splits.items())
    return " UNION ALL ".join(reads)


def _damaged(ref: str, reason: str) -> StoreError:
    return StoreError(f"{ref} cannot be read: {reason}.", f"see what is damaged: sotopia-rl-data verify {ref}")


def _paths(paths: Sequence[Path | str]) -> str:
    texts = (str(path.resolve() if isinstance(path, Path) else path).replace("'", "''") for path in paths)
    return "[" + ", ".join(f"'{text}'" for text in texts) + "]"
