"""The records of one file, one at a time, whatever its size: JSON Lines, a JSON document, CSV.

Nothing here knows what a record means. A record that cannot be read yields an InputError in its place. Reading goes on
at the next line; after a mistake in a JSON document nothing more can be read.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.record import MAX_DEPTH, MAX_RECORD, Record, json_value

BUFFER = 1 << 20
_BOM = b"\xef\xbb\xbf"
_OPENING, _CLOSING = ("start_map", "start_array"), ("end_map", "end_array")

Entry = tuple[Record, InputError | None]  # a record, and the reason if it cannot be read


class Metered(io.RawIOBase):
    """A file that counts and hashes the bytes read from it. `tick` is called with the number of each read."""

    def __init__(self, path: Path, tick: Callable[[int], None] | None = None) -> None:
        self._file = path.open("rb", buffering=0)
        self._tick = tick
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self.sha256.update(memoryview(buffer)[:count])
        if self._tick is not None:
            self._tick(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def buffered(self) -> io.BufferedReader[Any]:
        """The same file, read in blocks of a megabyte, after the byte-order mark if it has one."""
        stream: io.BufferedReader[Any] = io.BufferedReader(self, BUFFER)
        if stream.peek(3)[:3] == _BOM:
            stream.read(3)
        return stream


def json_lines(stream: io.BufferedReader, name: str) -> Iterator[Entry]:
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


def csv_rows(stream: io.BufferedReader, name: str) -> Iterator[Entry]:
    """One record from each row, keyed by the header; an empty cell is left out."""
    csv.field_size_limit(MAX_RECORD)  # the csv module has one limit for the whole process
    lines = csv.reader(io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline=""))
    header: list[str] | None = None
    while True:
        source = f"{name}:{lines.line_num + 1}"
        try:
            cells = next(lines, None)
        except csv.Error as error:
            yield Record(None, source), InputError(f"not CSV: {error}.")
            continue
        if cells is None:
            return
        if header is None:
            header = cells or None
        elif cells:
            yield _row(header, cells, source)


def _row(header: list[str], cells: list[str], source: str) -> Entry:
    record = Record({column: cell for column, cell in zip(header, cells, strict=False) if cell != ""}, source)
    if len(cells) != len(header):
        return record, InputError(f"it has {len(cells)} cells where the header has {len(header)}.")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return record, InputError("not UTF-8 text.")
    return record, None


def json_document(stream: IO[bytes], name: str, depth: int) -> Iterator[Entry]:
    """The values that are `depth` containers below the root of a JSON document (0: the document itself; several
    documents may follow each other). Raises InputError where the file does not even begin as JSON."""
    import ijson
    from ijson.common import ObjectBuilder

    level, deepest, count, key = 0, 0, 0, ""
    builder: Any = None
    try:
        for event, value in ijson.basic_parse(stream, use_float=True, multiple_values=True, buf_size=BUFFER):
            if event in _CLOSING:
                level -= 1
            if event == "map_key" and level == depth:
                key = value
            elif builder is None and level == depth and event not in _CLOSING:
                builder = ObjectBuilder()
            if builder is not None:
                deepest = max(deepest, level - depth)
                if level - depth <= MAX_DEPTH:
                    builder.event(event, value)
                if level == depth and event not in _OPENING:
                    wrong = InputError("nested too deeply.") if deepest > MAX_DEPTH else None
                    yield Record(builder.value, _place(name, depth, key, count), key=key), wrong
                    builder, deepest, count, key = None, 0, count + 1, ""
            if event in _OPENING:
                level += 1
    except (ijson.JSONError, UnicodeDecodeError, ValueError, OverflowError) as error:
        broken = InputError(f"not JSON from here on: {first_line(error)}.")
        if count == 0 and builder is None:
            raise broken from error
        yield Record(None, _place(name, depth, key, count)), broken


def _place(name: str, depth: int, key: str, count: int) -> str:
    if depth == 0 and count == 0:
        return f"{name}:1"
    return f"{name}[{key or count}]"


def first_line(error: Exception) -> str:
    """The first line of a JSON parser's message, without its full stop; the error's name if there is no message."""
    line = str(error).removeprefix("b'").split("\\n")[0].split("\n")[0]
    return " ".join(line.split()).rstrip(".") or type(error).__name__
