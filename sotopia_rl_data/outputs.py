"""The files that a person names with -o: written whole or not at all, into a folder that is there.

A folder that is itself what is written is made. One that a file is to lie in is not: it is more often misspelled than
meant.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sotopia_rl_data.errors import StoreError


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, of the same ending; at the end of the block it takes the place of `path`.

    Raises StoreError where the operating system does not let it be written; what was at `path` is then as it was."""
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StoreError(
            f"{path} cannot be written ({reason}).", "name a file in an existing folder that you may write to"
        ) from error
    finally:
        with suppress(OSError):  # what could not be written is not there
            beside.unlink()
