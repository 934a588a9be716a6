"""Journals become Parquet, and a kill at any moment neither loses nor doubles a record.

A compacted file names in its own metadata the files that it covers. It is written beside, synced and renamed; only
then are the covered files removed. Until they are gone every reader leaves covered files out, so the rename is the one
moment at which the ledger changes from the old files to the new one. Journals that a living process still writes are
locked by it and left alone. What the files hold is read by `calls.py`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.ledger.calls import COVERS, LOCK, calls_schema, live_files, row_batches
from sotopia_rl_data.locks import locked
from sotopia_rl_data.store.disk import sync_file

MERGE_BELOW = 64 << 20  # bytes: compacted files smaller than this are merged with the next
_PATIENCE_S = 5.0


def compact(directory: Path) -> int:
    """Move the records of all journals that nobody writes into one Parquet file; returns the number of records moved.

    Does nothing where another process is compacting, or reads for seconds. Raises StoreError where the directory cannot
    be written.
    """
    try:
        with locked(directory / LOCK, _PATIENCE_S) as ours:
            return _compact(directory) if ours else 0
    except OSError as error:
        raise StoreError(
            f"The ledger in {directory} cannot be compacted: {error.strerror or error}.",
            "free space or make the folder writable; nothing was lost",
        ) from error


def _compact(directory: Path) -> int:
    patterns = ("calls-*.parquet", "journal-*.jsonl", "calls-*.tmp")
    every = [path for pattern in patterns for path in directory.glob(pattern)]
    # listed before the live ones: a journal that appears now is in neither list, or live
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

    schema = calls_schema().with_metadata({COVERS: json.dumps([path.name for path in sources])})
    final = directory / f"calls-{time.time_ns()}-{os.getpid()}.parquet"
    beside = final.with_suffix(".tmp")
    count = 0
    try:
        with pq.ParquetWriter(beside, schema, compression="zstd") as writer:
            for batch in row_batches(sources):
                writer.write_batch(batch)
                count += batch.num_rows
        sync_file(beside)
        beside.rename(final)
    finally:
        beside.unlink(missing_ok=True)  # the disk was full
    sync_file(directory)
    return count


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
