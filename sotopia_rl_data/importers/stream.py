"""The records of one file, one at a time, whatever its size: JSON Lines, CSV and TSV, Parquet and Arrow. (JSON
documents have a file of their own.)

Nothing here knows what a record means. A record that cannot be read yields an InputError in its place, and reading goes
on at the next line or row.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.documents import Entry
from sotopia_rl_data.importers.opened import BUFFER, MOST_TIMES
from sotopia_rl_data.importers.record import MAX_RECORD, Record, json_value

PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
"""The first bytes of the files that `arrow_rows` reads."""
_ROWS = 256
# A file of some kilobytes can claim a billion rows, or a long text in each of them, and keep everybody busy for days.
# Real tables have a byte or more a row, and pack to a tenth or a hundredth of their size.
_MOST_ROWS_A_BYTE = 10  # of a Parquet file with more than …
_FEW_ROWS = 1_000_000
_FEW_BYTES = 1 << 30  # that a file may unpack to whatever its size
_AT_ONCE = 64 << 20  # bytes of a column that are unpacked at once, since every row may repeat its longest value
_COPY = 30  # times as cheap as unpacking a dictionary is the copy of it that the next batch has


def json_lines(stream: io.BufferedReader[Any], name: str) -> Iterator[Entry]:
    """One record from each line; blank lines are passed over."""
    for number, line in enumerate(iter(lambda: stream.readline(MAX_RECORD), b""), start=1):
        source = f"{name}:{number}"
        if not line.endswith(b"\n") and len(line) == MAX_RECORD:
            rest = stream.readline(BUFFER)
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(BUFFER)
            yield Record(None, source, line[:BUFFER]), InputError(f"longer than {MAX_RECORD:,} bytes.")
        elif line.strip():
            try:
                yield Record(json_value(line), source, line.strip()), None
            except InputError as error:
                yield Record(None, source, line.strip()), error


def csv_rows(stream: io.BufferedReader[Any], name: str) -> Iterator[Entry]:
    """One record from each row, keyed by the header; an empty cell is left out, and so are the first columns where they
    have no name and a number in the first row (the row's own, as pandas writes it). The cells are parted by whatever
    parts the header most often: a comma, a semicolon, a tab or a bar, or by what a first line `sep=;` names. Raises
    InputError where two columns have one name, or one that is not UTF-8."""
    csv.field_size_limit(MAX_RECORD)  # the csv module has one limit for the whole process
    header_line = stream.peek(BUFFER).lstrip(b"\r\n").partition(b"\n")[0]
    delimiter, named = max((b",", b";", b"\t", b"|"), key=header_line.count).decode(), _SEPARATOR.match(header_line)
    if named:
        delimiter = named[1].decode()
    text = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
    lines = csv.reader(text, delimiter=delimiter)
    header: list[str] | None = None
    numbers: int | None = None  # how many columns at the beginning number the rows
    while True:
        source = f"{name}:{lines.line_num + 1}"
        try:
            cells = next(lines, None)
        except csv.Error as error:
            yield Record(None, source), InputError(f"not CSV: {error}.")
            continue
        if cells is None:
            return
        if header is not None and cells:
            numbers = _numbering(header, cells) if numbers is None else numbers
            yield _row(header, cells, source, numbers)
        elif cells and named:
            named = None  # that line names the separator
        elif cells:
            header = _header(cells)


_SEPARATOR = re.compile(rb"(?i)sep=([^\w\s]|\t)\r?$")
_UNNAMED = re.compile(r"(?:Unnamed: \d+)?")


def _header(cells: Sequence[str]) -> list[str]:
    """The names of the columns. Raises InputError where two have one name, so that what is in one of them would be
    lost, and where they are not UTF-8."""
    header = [cell.strip() for cell in cells]
    twice = next((cell for cell, count in Counter(header).items() if cell and count > 1), None)
    if twice is not None:
        raise InputError(f"its header names the column {twice!r} twice; give one of them another name.")
    if not _is_text(cells):
        raise InputError("its header is not UTF-8 text.")
    return header


def _numbering(header: Sequence[str], cells: Sequence[str]) -> int:
    """How many columns at the beginning have no name, and a number in the first row."""
    own = (bool(_UNNAMED.fullmatch(name)) and cell.isdecimal() for name, cell in zip(header, cells, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, own))


def _row(header: list[str], cells: list[str], source: str, numbers: int) -> Entry:
    """The record of a row, without the first columns, `numbers` many, which number the rows."""
    record = Record(
        {column: cell for column, cell in list(zip(header, cells, strict=False))[numbers:] if cell != ""},
        source,
        cells=True,
    )
    if len(cells) != len(header):
        return record, InputError(f"it has {len(cells)} cells where the header has {len(header)}.")
    return record, None if _is_text(cells) else InputError("not UTF-8 text.")


def _is_text(cells: Sequence[str]) -> bool:
    """Whether all bytes of the cells were UTF-8."""
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def arrow_rows(path: Path, name: str, only: Container[str] | None = None) -> Iterator[Entry]:
    """One record from each row of a Parquet file, or of an Arrow file or stream, with all columns or `only` these.
    Raises InputError where it is damaged, or claims more rows or larger ones than a file of its size has."""
    import pyarrow as pa

    count = unpacked = made = 0  # rows, and bytes as Arrow and as we have them: Arrow keeps what rows share once
    most = max(_FEW_BYTES, MOST_TIMES * path.stat().st_size)
    before: list[Any] = []
    try:
        for batch in _batches(path):
            dictionaries = [column.dictionary for column in batch.columns if isinstance(column, pa.DictionaryArray)]
            copied = sum(one.nbytes for one, last in zip(dictionaries, before, strict=False) if one.equals(last))
            unpacked += batch.nbytes - copied + copied // _COPY
            before = dictionaries
            read = [i for i, column in enumerate(batch.schema.names) if only is None or column in only]
            texts = [batch.schema.names[i] for i in read if _has_text(batch.schema.field(i).type)]
            for part in _parts(batch.select(read)):
                if max(unpacked, made) > most:
                    raise InputError(f"it unpacks to more than {MOST_TIMES:,} times its size from row {count:,} on.")
                for row, wrong in _values(part):
                    yield Record(row, f"{name}[{count}]"), wrong
                    count += 1
                    made += _size([row[column] for column in texts]) if row else 0
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"it cannot be read from row {count} on: {str(error).splitlines()[0].rstrip('.')}.") from error


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        head = file.read(6)
    if head.startswith(PARQUET):
        with pq.ParquetFile(path, pre_buffer=False) as table:
            rows, size = table.metadata.num_rows, path.stat().st_size
            if rows > max(_FEW_ROWS, _MOST_ROWS_A_BYTE * size):
                raise InputError(f"its {size:,} bytes claim {rows:,} rows, more than a real table of that size has.")
            yield from _packed_batches(table)
        return
    with pa.memory_map(str(path)) as mapped:
        if head.startswith(ARROW_FILE):
            reader = pa.ipc.open_file(mapped)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            yield from pa.ipc.open_stream(mapped)


def _packed_batches(table: Any) -> Iterator[Any]:
    """The batches of a Parquet file, the smaller the longer a value may be that its rows share. A dictionary stays one
    however many rows of a batch share its values, and is copied for each batch: it makes them smaller only by the rows'
    part of it."""
    import pyarrow as pa

    footer = table.metadata
    shared = {field.name for field in table.schema_arrow if pa.types.is_dictionary(field.type)}
    for i in range(footer.num_row_groups):
        columns = [footer.row_group(i).column(j) for j in range(footer.num_columns)]
        named = Counter(column.path_in_schema for column in columns)  # "a.b" may be a column, and b within a
        longest = 0
        for column in columns:
            one = column.path_in_schema in shared and named[column.path_in_schema] == 1
            longest = max(longest, column.total_uncompressed_size // (_ROWS if one else 1))
        rows = min(_ROWS, max(1, _AT_ONCE // max(1, longest)))
        yield from table.iter_batches(rows, [i], use_threads=False)


def _parts(batch: Any) -> Iterator[Any]:
    """The rows of a batch, the fewer at once the longer a value may be that they share."""
    for start in range(0, batch.num_rows, _ROWS):
        part = batch.slice(start, _ROWS)
        rows = min(_ROWS, max(1, _AT_ONCE // max(1, part.nbytes)))
        yield from (part.slice(i, rows) for i in range(0, part.num_rows, rows))


def _has_text(kind: Any) -> bool:
    """Whether a type of Arrow is more than numbers, and lists and the like of them."""
    import pyarrow as pa

    if kind.num_fields:
        return any(_has_text(kind.field(i).type) for i in range(kind.num_fields))
    return not pa.types.is_primitive(kind)


def _size(value: Any) -> int:
    """How long the texts of a value are together, in characters."""
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str) else 0


def _values(rows: Any) -> Iterator[tuple[Any, InputError | None]]:
    """The rows as JSON has them, each with the reason if it has a value that Python cannot have (half a character, a
    time of another era)."""
    try:
        values = rows.to_pylist()
    except (ValueError, OverflowError, KeyError) as error:
        if rows.num_rows > 1:
            for i in range(rows.num_rows):
                yield from _values(rows.slice(i, 1))
        else:
            told = f"no time zone {error}" if isinstance(error, KeyError) else str(error).splitlines()[0].rstrip(".")
            yield None, InputError(f"it has a value that cannot be read: {told}.")
        return
    yield from ((_plain(value), None) for value in values)


def _plain(value: Any) -> Any:
    """A value of Arrow as JSON has it: NaN is null, and so are bytes that are not text; a time, a duration or an id is
    text, a map a list of pairs."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None  # a picture, or an id: no reader could take it, and one that needs it says so
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return value if value is None or isinstance(value, (str, int)) else str(value)
