"""One record as it lay in a file: the wrapping around it, and the typed way to look into it.

Databases hand a record out under its key, as text, in a list of one, in a {key, value} object. A key of the sotopia
library ends in the collection and the id, ":sotopia.database.logs.EpisodeLog:01HX…"; it gives a record its id where it
names none, and tells which of a dump's records are episodes.

Everything that is wrong with a record is an InputError whose message is the reason; `read` turns it into a Failure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.literals import json_value
from sotopia_rl_data.schema import Failure

EXCERPT = 10_000
INT32 = 2**31
UNNAMED = "unknown"
"""The evaluator, or the model of an agent, that the source does not name."""

_KEY = re.compile(r":?(?:[\w.]*\.)?(?P<collection>[A-Za-z]\w*):(?P<id>[^:]+)")
_SERVED_AT = re.compile(r"@[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)


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
        if self.raw is not None:
            return self.raw[: 4 * EXCERPT].decode("utf-8", "replace")[:EXCERPT]
        try:
            return json.dumps(self.value, ensure_ascii=False, default=str)[:EXCERPT]
        except (ValueError, RecursionError):
            return "(too deeply nested to show)"

    def failure(self, reason: str) -> Failure:
        """The row of `failures` that keeps this record."""
        return Failure(reason=clean(reason), source=clean(self.source), record=clean(self.excerpt()))

    def unwrapped(self) -> Record:
        """The record with the wrapping taken off its value, and its key from the wrapping where there was one."""
        value, key = self.value, self.key
        if isinstance(value, dict) and isinstance(value.get("key"), str) and "value" in value and len(value) <= 8:
            value, key = value["value"], value["key"]
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            try:
                value = json_value(value)
            except InputError:
                return self
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
            value = value[0]
        return self if value is self.value else replace(self, value=value, key=key)

    @property
    def collection(self) -> str:
        """The collection in its key ("EpisodeLog"), "" where it names none."""
        match = _KEY.fullmatch(self.key)
        return match["collection"] if match else ""

    @property
    def identity(self) -> str:
        """The id in its key: what follows the last colon."""
        return self.key.rpartition(":")[2]


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
    """The string under `key`. Absent or null: `default`; InputError where there is none, or where it is not text."""
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
    name = text(record, key)
    if not name.strip():
        raise InputError(f"`{key}` is blank.")
    return name


def unique(ids: Sequence[str]) -> list[str]:
    """`ids` with "#2", "#3" … after each that occurs again. Raises InputError where the result is an id already."""
    seen: dict[str, int] = {}
    result: list[str] = []
    for one in ids:
        seen[one] = seen.get(one, 0) + 1
        result.append(one if seen[one] == 1 else f"{one}#{seen[one]}")
    if len(set(result)) != len(result):
        raise InputError(f"its agents' ids collide: {', '.join(ids)}.")
    return result


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


def model_name(logged: Any) -> str | None:
    """A model's name without the address where it was served; None where `logged` names no model.

    The library writes a custom model as "custom/NAME@http://HOST/v1". The address (which may hold a password) belongs
    to somebody's machine and never reaches a dataset: "custom/sim-judge@http://…" is "sim-judge".
    """
    if not isinstance(logged, str):
        return None
    name = _SERVED_AT.sub("", logged).strip().removeprefix("custom/")
    return _ADDRESS.sub("", name).strip("/ ") or None


def model_names(logged: Any) -> tuple[str, ...]:
    """The names of a list of models, [evaluator, first agent, second agent …]; () where there is no list."""
    return tuple(model_name(one) or UNNAMED for one in logged) if isinstance(logged, (list, tuple)) else ()


def kind(value: Any) -> str:
    """How a JSON value is called in a sentence: "null", "text", "a list" …"""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "text", int: "a number", float: "a number", list: "a list", tuple: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}")
