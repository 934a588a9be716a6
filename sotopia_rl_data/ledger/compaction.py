"""Journals become Parquet, and a kill at any moment neither loses nor doubles a record.

A compacted file names in its own metadata the files that it covers. It is written beside, synced and renamed; only
then are the covered files removed. Until they are gone every reader leaves covered files out, so the rename is the one
moment at which the ledger changes from the old files to the new one. Journals that a living process still writes are
locked by it and left alone. Who lists and reads the files does so under a shared lock, during which nobody compacts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.ledger.attempt import Attempt, parse_record
from sotopia_rl_data.locks import locked, open_lock, wait
from sotopia_rl_data.request import Usage
from sotopia_rl_data.store.disk import sync_file

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_GROUP = 2_000
MERGE_BELOW = 64 << 20  # bytes: compacted files smaller than this are merged with the next
_COVERS = b"covers"
_LOCK = ".compact.lock"
_PATIENCE_S = 5.0
_USAGE = ("input", "cached", "written", "output")
_UNKNOWN = (None, None, None, None)


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
            usage = record.pop("usage") or _UNKNOWN
            record["input"], record["cached"], record["written"], record["output"] = usage
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


def batches(paths: Iterable[Path]) -> Iterator[pa.RecordBatch]:
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
    names: list[str] = json.loads(metadata.get(_COVERS, b"[]"))
    return names


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Inside the block no compaction changes the ledger's files; one that runs is waited for."""
    try:
        handle = open_lock(directory / _LOCK, os.O_RDONLY)
    except OSError:  # there is no ledger, or nobody may write there: nobody compacts it
        yield
        return
    try:
        wait(handle, shared=True)
        yield
    finally:
        os.close(handle)


def compact(directory: Path) -> int:
    """Move the records of all journals that nobody writes into one Parquet file; returns the number of records moved.

    Does nothing where another process is compacting, or reads for seconds. Raises StoreError where the directory cannot
    be written.
    """
    try:
        with locked(directory / _LOCK, _PATIENCE_S) as ours:
            return _compact(directory) if ours else 0
    except OSError as error:
        raise StoreError(
            f"The ledger in {directory} cannot be compacted: {error.strerror or error}.",
            "free space or make the folder writable; nothing was lost",
        ) from error


def _compact(directory: Path) -> int:
    every = _all_files(directory)  # listed first: a journal that appears now is in neither list, or live
    live = live_files(directory)
    _remove(directory, [p for p in every if p not in live])
    journals = [p for p in live if p.suffix == ".jsonl" and _closed(p)]
    if not journals:
        return 0
    small = [p for p in live if p.suffix == ".parquet" and p.stat().st_size < MERGE_BELOW]
    sources = [*small, *journals]
    count = _write(directory, sources)
    _remove(directory, sources)
    return count


def _write(directory: Path, sources: list[Path]) -> int:
    import pyarrow.parquet as pq

    schema = calls_schema().with_metadata({_COVERS: json.dumps([path.name for path in sources])})
    final = directory / f"calls-{time.time_ns()}-{os.getpid()}.parquet"
    beside = final.with_suffix(".tmp")
    count = 0
    try:
        with pq.ParquetWriter(beside, schema, compression="zstd") as writer:
            for batch in batches(sources):
                writer.write_batch(batch)
                count += batch.num_rows
        sync_file(beside)
        beside.rename(final)
    finally:
        beside.unlink(missing_ok=True)  # the disk was full
    sync_file(directory)
    return count


def _all_files(directory: Path) -> list[Path]:
    return [p for pattern in ("calls-*.parquet", "journal-*.jsonl", "calls-*.tmp") for p in directory.glob(pattern)]


def _remove(directory: Path, paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        sync_file(directory)


def _closed(path: Path) -> bool:
    """Whether no living process writes this journal. A new journal is locked before its first byte: empty ones are
    left alone."""
    with locked(path) as free:
        return free and path.stat().st_size > 0
