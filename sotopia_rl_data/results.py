"""How the rows of a query are written: as a table to read, JSON, JSON lines, CSV or Parquet, batch by batch.

A file is written under another name and renamed, so that a failure leaves the old file unchanged.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from sotopia_rl_data.display import printable, write_utf8
from sotopia_rl_data.errors import QueryError, UsageError
from sotopia_rl_data.outputs import aside
from sotopia_rl_data.store.columns import first_line

FORMATS = ("table", "json", "jsonl", "csv", "parquet")
TABLE_ROWS = 50
_CELL = 80


def write_result(result: pa.Table | pa.RecordBatchReader, fmt: str, target: Path | IO[Any]) -> None:
    """Write every row of `result` to a file or an open text stream (Parquet: its bytes); "table" shows the first 50.

    Data is UTF-8, also on a stream; a table is in the stream's own encoding. In JSON and CSV a NaN is as empty as a
    NULL; in CSV a nested value is its JSON. Raises UsageError for an unknown format, QueryError for a value that the
    format cannot hold, StoreError where the file cannot be written.
    """
    if fmt not in FORMATS:
        raise UsageError(f"A result cannot be written in the format {fmt!r}.", f"name one of: {', '.join(FORMATS)}")
    if not isinstance(target, Path):
        if fmt != "table":
            write_utf8(target)
        _WRITERS[fmt](result, target)
        return
    with aside(target) as beside:
        if fmt == "parquet":
            with beside.open("wb") as file:
                _write_parquet(result, file)
        else:
            with beside.open("w", encoding="utf-8", newline="") as text:
                _WRITERS[fmt](result, text)


def _rows(result: pa.Table | pa.RecordBatchReader) -> Iterator[list[Any]]:
    """The rows as lists, by position: SQL may name two columns alike."""
    for batch in result.to_batches() if isinstance(result, pa.Table) else result:
        for part in (batch.slice(start, 1024) for start in range(0, batch.num_rows, 1024)):
            try:
                columns = [column.to_pylist() for column in part.columns]
            except OverflowError as error:  # DuckDB's dates go on where Python's end
                raise QueryError(
                    "The result has a date before the year 1 or after 9999, or an infinite one, and only Parquet holds "
                    "these.",
                    "write CAST(column AS VARCHAR) in place of that column",
                ) from error
            yield from map(list, zip(*columns, strict=True))


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(_without_nan(value), ensure_ascii=False, default=str)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value


def _write_jsonl(result: pa.Table | pa.RecordBatchReader, stream: IO[str]) -> None:
    names = result.schema.names
    for row in _rows(result):
        stream.write(_json(dict(zip(names, row, strict=True))) + "\n")


def _write_json(result: pa.Table | pa.RecordBatchReader, stream: IO[str]) -> None:
    names, separator = result.schema.names, "[\n"
    for row in _rows(result):
        stream.write(separator + _json(dict(zip(names, row, strict=True))))
        separator = ",\n"
    stream.write("[]\n" if separator == "[\n" else "\n]\n")


def _write_csv(result: pa.Table | pa.RecordBatchReader, stream: IO[str]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(result.schema.names)
    for row in _rows(result):
        writer.writerow([_csv(value) for value in row])


def _csv(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _json(value) if isinstance(value, dict | list) else value


def _write_parquet(result: pa.Table | pa.RecordBatchReader, stream: IO[Any]) -> None:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetWriter(getattr(stream, "buffer", stream), result.schema, compression="zstd") as writer:
            for batch in result.to_batches() if isinstance(result, pa.Table) else result:
                writer.write_batch(batch)
    except pa.ArrowNotImplementedError as error:
        raise QueryError(
            f"The result cannot be written to Parquet: {first_line(error).rstrip('.')}.",
            "write CAST(column AS VARCHAR) in place of that column, or choose another format",
        ) from error


def _write_table(result: pa.Table | pa.RecordBatchReader, stream: IO[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from sotopia_rl_data.screen import Screen

    screen = Screen(stream)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for field in result.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(Text(screen.plain(field.name)), justify="right" if number else "left", overflow="fold")
    rows = _rows(result)
    first = list(islice(rows, TABLE_ROWS))
    for row in first:
        table.add_row(*(Text(screen.plain(_cell(value))) for value in row))
    _, shown = screen.show(table, most_lines=TABLE_ROWS)
    if not first:
        screen.say("no rows", "dim")
    if shown < len(first) or next(rows, None) is not None:
        screen.say(f"… the first {shown} rows; --format csv, json or parquet has all", "dim")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.15g}"  # of a time in seconds each counts
    text = printable(" ".join((value if isinstance(value, str) else _json(value)).split()))
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


_WRITERS = {
    "table": _write_table,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
