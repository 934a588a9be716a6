"""The files that a person names: outputs written whole or not at all, and CSV sheets edited in a spreadsheet.

An output goes into a folder that exists: a missing one is more often misspelled than meant, so it is not made. (Where
the output is itself a folder, it is made.) A spreadsheet takes a cell that begins like a formula for one, so such text
gets an apostrophe before it, which is removed when the file is read back. The CSV of a query is for programs, and gets
no apostrophes.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sotopia_rl_data.errors import InputError, StoreError

log = logging.getLogger(__name__)

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_LONGEST = 2**31 - 1  # characters: a cell may hold a whole dialogue, and the csv module's own limit is 131,072

Row = tuple[int, dict[str, str]]
"""The number of the line that a row ends in, and its cells by column, "" where there is none."""


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A new path beside `path`, with the same ending, to write to; at the end of the block it replaces `path`.

    Raises StoreError where it cannot be written; the file at `path` is then unchanged."""
    with _beside(path) as beside:
        yield beside
        os.replace(beside, path)
        log.info("wrote %s", path)


def check_output(path: Path) -> None:
    """Raises StoreError where no file can be written beside `path`, before there is anything to write. Leaves none."""
    with _beside(path) as beside:
        beside.touch()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device that others use would be gone
            raise OSError("it is not a regular file")
        yield beside
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StoreError(
            f"The file {path} cannot be written ({reason}).",
            "name a file in a folder that exists and that you may write to, on a disk with free space",
        ) from error
    finally:
        with suppress(OSError):  # `beside` does not exist if it was never written, or if it has become `path`
            beside.unlink()


def guarded(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """The text from which `guarded` made this cell; other cells are unchanged."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_sheet(path: Path, columns: Sequence[str], needed: Sequence[str], hint: str) -> tuple[str, Iterator[Row]]:
    """The file's SHA-256, and its rows with these columns, without space around their cells.

    Raises InputError, with this hint, where the file cannot be read or lacks a needed column; reading the rows can
    raise it too."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device might never end
            raise OSError(errno.EINVAL, "it is not a regular file")
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"The file {path} cannot be read ({error.strerror}).", hint) from error
    except UnicodeDecodeError as error:
        raise InputError(f"The file {path} cannot be read as UTF-8 text: {error}.", hint) from error
    return hashlib.sha256(data).hexdigest(), _rows(path, text, columns, needed, hint)


def _rows(path: Path, text: str, columns: Sequence[str], needed: Sequence[str], hint: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST)  # the csv module has one limit for the whole process
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [column for column in needed if column not in (rows.fieldnames or ())]
        if missing:
            raise InputError(f"The CSV file {path} has no column {missing[0]!r}.", hint)
        for row in rows:
            yield rows.line_num, {column: unguarded((row.get(column) or "").strip()) for column in columns}
    except csv.Error as error:
        raise InputError(f"The file {path} cannot be read as CSV: {error}.", hint) from error
