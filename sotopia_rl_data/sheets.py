"""The CSV files that people open in a spreadsheet: their text is shown there, never computed, and read back as it was.

A spreadsheet takes a cell that begins like a formula for one. Such text gets an apostrophe before it, which goes again
when the file is read. What a query writes is for programs, and stays as it is.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sotopia_rl_data.errors import InputError

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_LONGEST = 2**31 - 1  # characters of a cell: some hold a whole dialogue

Row = tuple[int, dict[str, str]]
"""The number of the line that a row ends in, and its cells by column, "" where there is none."""


def guarded(text: str) -> str:
    """`text` as a cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """The text that `guarded` made this cell of; a cell that was never guarded is itself."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_sheet(path: Path, columns: Sequence[str], needed: Sequence[str], hint: str) -> tuple[str, Iterator[Row]]:
    """The file's SHA-256, and its rows with these columns, without space around their cells.

    Raises InputError, with this hint, where it cannot be read or lacks a column that is needed; the rows do too, on
    the way."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", hint) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: {error}.", hint) from error
    return hashlib.sha256(data).hexdigest(), _rows(path, text, columns, needed, hint)


def _rows(path: Path, text: str, columns: Sequence[str], needed: Sequence[str], hint: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST)  # of the process, as the module has it
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [column for column in needed if column not in (rows.fieldnames or ())]
        if missing:
            raise InputError(f"{path} has no column {missing[0]}.", hint)
        for row in rows:
            yield rows.line_num, {column: unguarded((row.get(column) or "").strip()) for column in columns}
    except csv.Error as error:
        raise InputError(f"{path} cannot be read: {error}.", hint) from error
