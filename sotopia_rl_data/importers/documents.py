"""Where the records lie in a JSON document: alone, in a list, under the keys of a dump, inside wrappers.

Only the head of the document is looked at, up to the first object (or text that holds one) with the keys of a format.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.importers.shapes import Format, format_of
from sotopia_rl_data.importers.streams import BUFFER, first_line
from sotopia_rl_data.importers.wrapped import unwrap

_FIRST_EVENTS = 2_000_000


@dataclass(frozen=True, slots=True)
class Layout:
    """The records' `format`, how many containers lie above them, and whether they lie under keys as in a dump."""

    format: Format
    depth: int
    keyed: bool


@dataclass(slots=True)
class _Open:
    """A container that is open: its kind, the keys it had so far, and the key that is being read."""

    map: bool
    keys: set[str] = field(default_factory=set)
    key: str = ""


def layout(stream: IO[bytes]) -> Layout | None:
    """Where the records lie; None where the document has none. Raises InputError where it is not JSON."""
    import ijson

    try:
        events = ijson.basic_parse(stream, use_float=True, multiple_values=True, buf_size=BUFFER)
        return next(_found(itertools.islice(events, _FIRST_EVENTS)), None)
    except (ijson.JSONError, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise InputError(f"it is not JSON: {first_line(error)}.") from error


def _found(events: Iterator[tuple[str, Any]]) -> Iterator[Layout]:
    above: list[_Open] = []
    for event, value in events:
        if event == "map_key":
            above[-1].key = value
            above[-1].keys.add(value)
            form = format_of(above[-1].keys)
            if form is not None:
                yield _layout(form, above[:-1])
        elif event == "string" and value.lstrip()[:1] in ("{", "["):
            inner = unwrap(Record(value, "")).value
            form = format_of(inner) if isinstance(inner, dict) else None
            if form is not None:
                yield _layout(form, above)
        elif event in ("start_map", "start_array"):
            above.append(_Open(event == "start_map"))
        elif event in ("end_map", "end_array"):
            above.pop()


def _layout(form: Format, above: list[_Open]) -> Layout:
    """The layout of a record below `above`, whose wrapping ({key, value}, a list of one under a key) belongs to it."""
    depth = len(above)
    holder = above[-1] if above else _Open(False)
    wrapped = holder.map and holder.key == "value"
    alone = depth > 1 and not holder.map and ":" in above[-2].key
    depth -= wrapped or alone
    return Layout(form, depth, any(one.map for one in above))
