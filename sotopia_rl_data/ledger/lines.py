"""The records of a compacted file once more, as journal lines, 64 in a block: a lookup decodes a block of them, where
Parquet would decode 20 columns of a row group.

The file (`calls-….arrow`, an Arrow file of one column) stands beside the Parquet file and is made from it. Whoever
finds none, or one that is damaged, reads the Parquet file: the lines may be deleted, and compaction makes them again.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sotopia_rl_data.ledger.attempt import Attempt, parse_line
from sotopia_rl_data.store.disk import private_file, sync_file

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)
SUFFIX = ".arrow"
BLOCK = 64  # lines
_BLOCKS_KEPT = 64
_OF, _COUNT = b"of", b"lines"  # metadata: the name of the Parquet file, and the number of its rows


def lines_of(parquet: Path) -> Path:
    """Where the lines of a compacted file are."""
    return parquet.with_suffix(SUFFIX)


def write_lines(parquet: Path, attempts: Iterable[Attempt], count: int) -> None:
    """Write the `count` attempts of a compacted file, in its order, beside it. Raises OSError."""
    import pyarrow as pa

    schema = pa.schema([("line", pa.binary())]).with_metadata({_OF: parquet.name, _COUNT: str(count)})
    beside = parquet.with_suffix(".tmp")
    try:
        options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
        with (
            pa.OSFile(str(private_file(beside)), "wb") as file,
            pa.ipc.new_file(file, schema, options=options) as writer,
        ):
            lines = (attempt.line() for attempt in attempts)
            for block in iter(lambda: list(islice(lines, BLOCK)), []):
                writer.write_batch(pa.record_batch([pa.array(block, pa.binary())], schema=schema))
        sync_file(beside)
        beside.rename(lines_of(parquet))
    finally:
        beside.unlink(missing_ok=True)
    sync_file(parquet.parent)


class Lines:
    """The lines of a ledger's compacted files, opened when they are first looked at."""

    def __init__(self) -> None:
        self._opened: dict[Path, pa.ipc.RecordBatchFileReader | None] = {}
        self._blocks: OrderedDict[tuple[Path, int], pa.Array] = OrderedDict()

    def attempt(self, parquet: Path, row: int) -> Attempt | None:
        """The attempt in a row of a compacted file; None where its lines cannot be read."""
        import pyarrow as pa

        if parquet not in self._opened:
            self._opened[parquet] = _opened(parquet)
        reader = self._opened[parquet]
        if reader is None:
            return None
        number, within = divmod(row, BLOCK)
        block = self._blocks.get((parquet, number))
        if block is None:
            try:
                block = reader.get_batch(number).column(0)
            except (OSError, pa.ArrowException) as error:
                log.info("%s cannot be read: %s", lines_of(parquet), error)
                self._opened[parquet] = None
                return None
            self._blocks[parquet, number] = block
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return parse_line(block[within].as_py(), parquet)


def _opened(parquet: Path) -> pa.ipc.RecordBatchFileReader | None:
    """The lines of a compacted file; None where there are none that are certainly its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with suppress(OSError, pa.ArrowException):
        options = pa.ipc.IpcReadOptions(use_threads=False)
        reader = pa.ipc.open_file(pa.memory_map(str(lines_of(parquet))), options=options)
        rows = pq.read_metadata(parquet).num_rows
        whole = reader.num_record_batches == math.ceil(rows / BLOCK)
        if whole and reader.schema.metadata == {_OF: parquet.name.encode(), _COUNT: str(rows).encode()}:
            return reader
    return None
