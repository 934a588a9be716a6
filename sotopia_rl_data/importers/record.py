"""One record as it lay in a file, and the typed way to look into it.

Everything that is wrong with a record is an InputError whose message is the reason; `read` turns it into a Failure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.schema import Failure

EXCERPT = 10_000
INT32 = 2**31


@dataclass(frozen=True, slots=True)
class Record:
    """A parsed JSON value and where it lay.

    `source` is "file.jsonl:17" (line 17), "file.json[16]" (the 17th of an array) or "file.json[key]". `raw` is its
    text where it was a line of its own; `key` is the key that it was kept under, in a dump of a database.
    """

    value: Any
    source: str
    raw: bytes | None = None
    key: str = ""

    def excerpt(self) -> str:
        """The record's first 10,000 characters, as they lay in the file where that is known."""
        text = self.raw[: 4 * EXCERPT].decode("utf-8", "replace") if self.raw is not None else _dump(self.value)
        return text[:EXCERPT]

    def failure(self, reason: str) -> Failure:
        """The row of `failures` that keeps this record."""
        return Failure(reason=clean(reason), source=clean(self.source), record=clean(self.excerpt()))


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "(too deeply nested to show)"


def clean(text: str) -> str:
    """`text` as valid UTF-8: halves of surrogate pairs become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """`value` where it is a JSON object. Raises InputError."""
    if not isinstance(value, Mapping):
        raise InputError(f"{what} is {kind(value)}, not an object.")
    return value


def items(record: Mapping[str, Any], key: str, *, default: bool = False) -> list[Any]:
    """The list under `key` (tuples count). Absent or null: [] where `default`, else InputError."""
    value = record.get(key)
    if value is None and default:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    raise InputError(f"`{key}` is {'missing' if key not in record else kind(value)}, not a list.")


def text(record: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """The string under `key`. Absent or null: `default`; InputError where there is none, or where it is no string."""
    value = record.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, str):
        return value
    raise InputError(f"`{key}` is {'missing' if key not in record else kind(value)}, not text.")


def identifier(record: Mapping[str, Any], key: str) -> str:
    """The id under `key`: text that is not blank, or a whole number, which is written as text. Raises InputError."""
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return str(value)
    found = text(record, key)
    if not found.strip():
        raise InputError(f"`{key}` is blank.")
    return found


def finite(value: Any, what: str) -> float:
    """`value` as a float. Raises InputError where it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{what} is {kind(value)}, not a number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{what} is not a finite number.")
    return number


def kind(value: Any) -> str:
    """How a JSON value is called in a sentence: "null", "text", "a list" …"""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "text", int: "a number", float: "a number", list: "a list", tuple: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}")
