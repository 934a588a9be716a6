"""The ledger's files as one table, `calls`: one row for each attempt; read row by row or by SQL, and compacted.

Files are listed and read inside `reading`, a shared lock under which no process compacts them. SQL runs on a connection
that can read the ledger and nothing else.

`compact` turns journals into Parquet; a kill at any moment neither loses nor doubles a record. A compacted file names
in its metadata the files that it covers. It is written under another name, synced and renamed; only then are the
covered files removed. Readers ignore covered files, so the ledger changes at one moment: the rename. Journals that a
living process still writes are locked by it and left alone.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.errors import QueryError, StoreError
from sotopia_rl_data.formats import check_number, newer
from sotopia_rl_data.ledger.attempt import FORMAT, Attempt, check_record, damaged, kept_usage, parse_record
from sotopia_rl_data.ledger.lines import SUFFIX, lines_of, write_lines
from sotopia_rl_data.locks import NO_LOCKS, locked, open_lock, wait
from sotopia_rl_data.store.disk import private_file, sync_file

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


log = logging.getLogger(__name__)
ROWS_A_GROUP = 2_000
COVERS = b"covers"  # under this key the metadata of a compacted file names the files that it covers
VERSION = b"ledger_format"  # under this key the metadata has the file's format, if it is higher than 1
LOCK = ".compact.lock"
_ADDED_LATER = {"batch", "maybe_billed", "thought", "form"}  # columns that files of earlier versions lack
_USAGE = ("input", "cached", "written", "output")
_EXAMPLE = "SELECT model, status, count(*), sum(input), sum(cached), sum(output) FROM calls GROUP BY ALL"


def calls_schema() -> pa.Schema:
    """Columns of the table `calls`. Token counts are NULL where the provider reported none."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    columns = {
        "key": text,
        "question": text,
        "time": pa.float64(),
        "provider": text,
        "base_url": text,
        "model": text,
        "sampling": text,
        "sample": pa.int32(),
        "status": text,
        "text": text,
        "finish": text,
        "returned_model": text,
        **dict.fromkeys(_USAGE, number),
        "error": text,
        "seconds": pa.float64(),
        "batch": text,
        "maybe_billed": pa.bool_(),
        "thought": text,
        "form": text,
    }
    return pa.schema(list(columns.items()))


def calls_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of `calls` in a file, in the order written; torn lines are skipped. `sampling` is JSON text. Raises
    StoreError where a newer version wrote a line, which compaction would otherwise take for torn, and delete."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_A_GROUP):
                yield from batch.to_pylist()
        return
    with path.open("rb") as lines:
        for line in lines:
            record = parse_record(line, path)
            if record is None:
                continue
            usage = kept_usage(record.pop("usage"))
            record |= dict.fromkeys(_USAGE) if usage is None else asdict(usage)
            record["sampling"] = json.dumps(record["sampling"], sort_keys=True)
            yield record


def row_attempt(row: Mapping[str, Any], path: Path) -> Attempt:
    """The Attempt that a row of `calls` in the file `path` holds. Raises StoreError where it holds none."""
    plain = {k: v for k, v in row.items() if k not in _USAGE}
    plain |= {name: plain.get(name) or "" for name in ("batch", "thought", "form")}
    plain["maybe_billed"] = bool(plain.get("maybe_billed"))
    try:
        plain["sampling"] = json.loads(row["sampling"] or "")
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"the sampling of a call is not JSON ({error})") from error
    check_record(plain | {"v": FORMAT, "usage": None}, path)
    return Attempt(**plain | {"usage": kept_usage([row[name] for name in _USAGE])})


def attempts_in(path: Path) -> Iterator[Attempt]:
    """The attempts that a journal or a compacted file holds, in the order written."""
    return (row_attempt(row, path) for row in calls_rows(path))


def row_batches(paths: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    """The rows of these files, at most `ROWS_A_GROUP` at a time. Raises StoreError where one cannot be kept."""
    import pyarrow as pa

    schema = calls_schema()

    def batch(group: list[tuple[Path, dict[str, Any]]]) -> pa.RecordBatch:
        try:
            return pa.RecordBatch.from_pylist([row for _, row in group], schema=schema)
        except (pa.ArrowException, UnicodeError, OverflowError) as error:
            if len(group) > 1:
                for one in group:  # one of them raises, and names its file
                    batch([one])
            raise damaged(group[0][0], error) from error

    rows = ((path, row) for path in paths for row in calls_rows(path))
    yield from map(batch, iter(lambda: list(islice(rows, ROWS_A_GROUP)), []))


def live_files(directory: Path) -> list[Path]:
    """The ledger's files without those that a compacted file covers, in the order they were begun."""
    compacted = sorted(directory.glob("calls-*.parquet"))
    files = [*compacted, *sorted(directory.glob("journal-*.jsonl"))]
    for path in files:
        if _is_special(path):
            raise damaged(path, "it is not a regular file")
    covered = {name for path in compacted for name in covers(path)}
    return [path for path in files if path.name not in covered]


def _is_special(path: Path) -> bool:
    """Whether a path is not a regular file: a pipe, for one, must not be opened."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # whoever opens it hears why


def covers(path: Path) -> list[str]:
    """Names of the files whose records a compacted file holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.read_metadata(path)
        metadata = file.metadata or {}
        number, names = int(metadata.get(VERSION, b"1")), json.loads(metadata.get(COVERS, b"[]"))
        here = {field.name: field.type for field in file.schema.to_arrow_schema()}
    except (OSError, pa.ArrowException, ValueError) as error:
        raise damaged(path, error) from error
    check_number(number, FORMAT, path)
    known = {field.name: field.type for field in calls_schema()}
    if here.keys() - known.keys():
        raise newer(path)
    lacking = known.keys() - here.keys() - _ADDED_LATER
    if lacking or not isinstance(names, list) or any(here[name] != known[name] for name in here):
        raise damaged(path, "it lacks a column, or one has another type")
    return [str(name) for name in names]


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Inside the block no compaction changes the ledger's files; the block waits for a running compaction. There is
    none on a file system without locks."""
    try:
        handle = open_lock(directory / LOCK, os.O_RDONLY)
    except OSError:  # there is no ledger, or nobody can write it: then no process compacts it
        yield
        return
    try:
        wait(handle, shared=True)
        yield
    finally:
        os.close(handle)


def query(directory: Path, sql: str, seconds: float | None = None) -> pa.Table:
    """The rows of exactly one SELECT over `calls`, in memory. Raises QueryError with what is wrong with it,
    or after `seconds` (default: 300)."""
    import duckdb

    from sotopia_rl_data.query import TIME_LIMIT, check_select, closing, heard, time_limit, unlocked

    with reading(directory), closing(unlocked()) as connection:
        _make_calls(connection, live_files(directory))
        try:
            check_select(connection, sql, _EXAMPLE)
            with time_limit(connection, seconds or TIME_LIMIT) as end:
                return heard(connection, lambda: connection.sql(sql).to_arrow_table(), end)
        except (duckdb.Error, UnicodeEncodeError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
            columns = ", ".join(calls_schema().names)
            raise QueryError(f"The query failed: {reason.rstrip('!.')}.", f"the table is calls({columns})") from error


def _make_calls(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> None:
    """Make the table `calls`, then lock the connection. Journals are parsed into a table of their own."""
    import duckdb
    import pyarrow as pa

    journals = [path for path in files if path.suffix == ".jsonl"]
    compacted = [str(path.resolve()).replace("'", "''") for path in files if path.suffix == ".parquet"]
    raised: list[StoreError] = []  # DuckDB wraps the errors of a stream in its own

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from row_batches(journals)
        except StoreError as error:
            raised.append(error)
            raise

    connection.register("journal_rows", pa.RecordBatchReader.from_batches(calls_schema(), batches()))
    try:
        connection.execute("CREATE TABLE journal AS SELECT * FROM journal_rows")
    except duckdb.Error as error:
        if raised:
            raise raised[0] from error
        raise
    connection.unregister("journal_rows")
    paths = "[" + ", ".join(f"'{path}'" for path in compacted) + "]"
    connection.execute(f"SET allowed_paths = {paths}")
    connection.execute("SET enable_external_access = false")
    also = f" UNION ALL BY NAME SELECT * FROM read_parquet({paths}, union_by_name = true)" if compacted else ""
    connection.execute(f"CREATE VIEW calls AS SELECT * FROM journal{also}")
    connection.execute("SET lock_configuration = true")


MERGE_BELOW = 64 << 20  # bytes; compacted files below this size are merged into the next one
_PATIENCE_S = 5.0


def compact(directory: Path, only: Collection[Path] | None = None) -> int:
    """Move the records of all journals that no process writes (or `only` of these) into one Parquet file; returns the
    number of records moved.

    Does nothing where another process holds the lock for seconds, to compact or to read. Raises StoreError where the
    directory cannot be written.
    """
    try:
        with locked(directory / LOCK, _PATIENCE_S) as ours:
            return _compact(directory, only) if ours else 0
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise StoreError(
                f"The ledger in {directory} cannot be compacted: its file system has no locks, so that another process "
                "could be writing it.",
                "nothing was lost; compact a copy of the folder on a disk of this machine, and name it with --ledger",
            ) from error
        raise StoreError(
            f"The ledger in {directory} cannot be compacted: {error.strerror or error}.",
            "free space or make the folder writable; nothing was lost",
        ) from error


def _compact(directory: Path, only: Collection[Path] | None) -> int:
    patterns = ("calls-*.parquet", f"calls-*{SUFFIX}", "journal-*.jsonl", "calls-*.tmp")
    every = [path for pattern in patterns for path in directory.glob(pattern)]
    # `every` is listed before `live`, so that a journal that appears in between is not removed
    live = live_files(directory)
    used = {*live, *map(lines_of, live)}
    _remove(directory, [p for p in every if p not in used])
    journals = [p for p in live if p.suffix == ".jsonl" and (only is None or p in only) and _closed(p)]
    small = [p for p in live if p.suffix == ".parquet" and p.stat().st_size < MERGE_BELOW]
    count, sources = 0, [*small, *journals] if journals else []
    if sources:
        count = _write(directory, sources)
        log.info("compacted %d attempts of %d files in %s", count, len(sources), directory)
        _remove(directory, [*sources, *map(lines_of, small)])
    for path in live_files(directory):
        if path.suffix == ".parquet" and not lines_of(path).exists():
            _add_lines(path)
    return count


def _add_lines(path: Path) -> None:
    """Make lookups in a compacted file quick, if the disk has room for that."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        write_lines(path, attempts_in(path), pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        log.info("%s could not be written: %s", lines_of(path), error)


def _write(directory: Path, sources: list[Path]) -> int:
    import pyarrow.parquet as pq

    schema = calls_schema().with_metadata({COVERS: json.dumps([path.name for path in sources])})
    final = directory / f"calls-{time.time_ns()}-{os.getpid()}.parquet"
    beside = final.with_suffix(".tmp")
    count = 0
    try:
        with pq.ParquetWriter(private_file(beside), schema, compression="zstd") as writer:
            for batch in row_batches(sources):
                writer.write_batch(batch)
                count += batch.num_rows
        sync_file(beside)
        beside.rename(final)
    finally:
        beside.unlink(missing_ok=True)  # it still exists where writing failed, as on a full disk
    sync_file(directory)
    return count


def _remove(directory: Path, paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        sync_file(directory)


def _closed(path: Path) -> bool:
    """Whether no living process writes this journal. A writer locks its journal before the first byte, so an empty
    journal counts as written."""
    with locked(path) as free:
        return free and path.stat().st_size > 0
