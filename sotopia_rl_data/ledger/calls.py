"""The ledger's files as one table, `calls`: a row an attempt, read one by one or by SQL.

Who lists and reads the files does so inside `reading`, a shared lock under which nobody compacts them. SQL runs on a
connection that can read the ledger and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.errors import QueryError, StoreError
from sotopia_rl_data.ledger.attempt import Attempt, parse_record
from sotopia_rl_data.locks import open_lock, wait
from sotopia_rl_data.request import Usage

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ROWS_A_GROUP = 2_000
COVERS = b"covers"  # the entry of a compacted file's metadata that names the files it took over
LOCK = ".compact.lock"
_USAGE = ("input", "cached", "written", "output")
_EXAMPLE = "SELECT model, status, count(*), sum(input), sum(cached), sum(output) FROM calls GROUP BY ALL"


def calls_schema() -> pa.Schema:
    """Columns of the table `calls`. Token counts are NULL where the provider named none."""
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
    }
    return pa.schema(list(columns.items()))


def calls_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of `calls` that a file holds, in the order written; torn lines are skipped. `sampling` is JSON text."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_A_GROUP):
                yield from batch.to_pylist()
        return
    with path.open("rb") as lines:
        for record in filter(None, map(parse_record, lines)):
            usage = record.pop("usage") or (None, None, None, None)
            record |= zip(_USAGE, usage, strict=True)
            record["sampling"] = json.dumps(record["sampling"], sort_keys=True)
            yield record


def row_attempt(row: Mapping[str, Any]) -> Attempt:
    """The Attempt that a row of `calls` holds."""
    plain = {k: v for k, v in row.items() if k not in _USAGE}
    usage = None if row["input"] is None else Usage(*(row[name] for name in _USAGE))
    plain |= {"batch": plain.get("batch") or "", "maybe_billed": bool(plain.get("maybe_billed"))}
    return Attempt(**plain | {"sampling": json.loads(row["sampling"]), "usage": usage})


def attempts_in(path: Path) -> Iterator[Attempt]:
    """The attempts that a journal or a compacted file holds, in the order written."""
    return map(row_attempt, calls_rows(path))


def row_batches(paths: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    """The rows of these files, at most `ROWS_A_GROUP` at a time."""
    import pyarrow as pa

    schema = calls_schema()
    rows = chain.from_iterable(map(calls_rows, paths))
    while some := list(islice(rows, ROWS_A_GROUP)):
        yield pa.RecordBatch.from_pylist(some, schema=schema)


def live_files(directory: Path) -> list[Path]:
    """The ledger's files without those that a compacted file covers, in the order they were begun."""
    compacted = sorted(directory.glob("calls-*.parquet"))
    covered = {name for path in compacted for name in covers(path)}
    found = [*compacted, *sorted(directory.glob("journal-*.jsonl"))]
    return [path for path in found if path.name not in covered]


def covers(path: Path) -> list[str]:
    """Names of the files whose records a compacted file took over."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(
            f"The ledger's file {path} is damaged: {error}.",
            "restore it from a copy, or move it away to ask its calls again",
        ) from error
    names: list[str] = json.loads(metadata.get(COVERS, b"[]"))
    return names


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Inside the block no compaction changes the ledger's files; one that runs is waited for."""
    try:
        handle = open_lock(directory / LOCK, os.O_RDONLY)
    except OSError:  # there is no ledger, or nobody may write there: nobody compacts it
        yield
        return
    try:
        wait(handle, shared=True)
        yield
    finally:
        os.close(handle)


def query(directory: Path, sql: str) -> pa.Table:
    """The rows of exactly one SELECT over `calls`, in memory. Raises QueryError with what is wrong with it."""
    import duckdb

    from sotopia_rl_data.connections import unlocked

    with reading(directory), unlocked() as connection:
        _make_calls(connection, live_files(directory))
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError("A query is exactly one SELECT.", _EXAMPLE)
            return connection.sql(statements[0]).to_arrow_table()
        except (duckdb.Error, UnicodeEncodeError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
            columns = ", ".join(calls_schema().names)
            raise QueryError(f"The query failed: {reason.rstrip('.')}.", f"the table is calls({columns})") from error


def _make_calls(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> None:
    """The table `calls`, then the lock. What is not compacted yet is parsed into a table of its own."""
    import pyarrow as pa

    journals = [path for path in files if path.suffix == ".jsonl"]
    compacted = [str(path.resolve()).replace("'", "''") for path in files if path.suffix == ".parquet"]
    reader = pa.RecordBatchReader.from_batches(calls_schema(), row_batches(journals))
    connection.register("journal_rows", reader)
    connection.execute("CREATE TABLE journal AS SELECT * FROM journal_rows")
    connection.unregister("journal_rows")
    paths = "[" + ", ".join(f"'{path}'" for path in compacted) + "]"
    connection.execute(f"SET allowed_paths = {paths}")
    connection.execute("SET enable_external_access = false")
    also = f" UNION ALL BY NAME SELECT * FROM read_parquet({paths}, union_by_name = true)" if compacted else ""
    connection.execute(f"CREATE VIEW calls AS SELECT * FROM journal{also}")
    connection.execute("SET lock_configuration = true")
