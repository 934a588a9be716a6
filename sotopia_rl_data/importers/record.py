"""One record of a file: the wrapping around it, the typed way to look into it, and values that are written as text.

A database exports a record under its key, as text, in a list of one, or in a {key, value} object. A key of the sotopia
library ends in the collection and the id, ":sotopia.database.logs.EpisodeLog:01HX…". It gives the record its id where
the record names none, and tells which records of a dump are episodes.

In a CSV cell a value is JSON, or the Python repr that `str` makes of lists and tuples. Nothing is evaluated: a repr is
first cut into tokens, so that only strings, numbers, constants and brackets get through, at most 64 levels deep;
`ast.literal_eval` then sees nothing that could exhaust its parser's stack.

Whatever is wrong with a record is an InputError whose message is the reason; `read` turns it into a Failure.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.json_objects import is_deep
from sotopia_rl_data.schema import Failure

EXCERPT = 10_000
INT32 = 2**31
UNNAMED = "unknown"
"""Stands for an evaluator, or an agent's model, that the source does not name."""

_KEY = re.compile(r":?(?:[\w.]*\.)?(?P<collection>[A-Za-z]\w*):(?P<id>[^:]+)")
_SERVED_AT = re.compile(r"@[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Record:
    """A parsed JSON value and where it was read.

    `source` is "file.jsonl:17" (line 17), "file.json[16]" (the 17th of an array) or "file.json[key]". `raw` is the
    text of a record that has a line of its own; `key` is the record's key in a dump of a database, and `within` the
    keys above the list or object that it is in. `cells`: it is a row of a table of text, whose cells are all text.
    `repeated`: all that it says was read before.
    """

    value: Any
    source: str
    raw: bytes | None = None
    key: str = ""
    within: str = ""
    cells: bool = False
    repeated: bool = False

    def excerpt(self) -> str:
        """The record's first 10,000 characters, exactly as in the file where its text is known."""
        if self.raw is not None:
            return self.raw[: 4 * EXCERPT].decode("utf-8", "replace")[:EXCERPT]
        try:
            return json.dumps(self.value, ensure_ascii=False, default=str)[:EXCERPT]
        except (ValueError, RecursionError):
            return "(too deeply nested to show)"

    def failure(self, reason: str) -> Failure:
        """The row of `failures` for this record, with an excerpt of it."""
        return Failure(reason=clean(reason), source=clean(self.source), record=clean(self.excerpt()))

    def unwrapped(self) -> Record:
        """The record without the wrapping around its value; the wrapping's key, if any, becomes its key."""
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
        """The collection that the key names ("EpisodeLog"), or ""."""
        match = _KEY.fullmatch(self.key)
        return match["collection"] if match else ""

    @property
    def identity(self) -> str:
        """The id in the key: what follows the last colon."""
        return self.key.rpartition(":")[2]


def rows_across(value: Any) -> list[dict[str, Any]]:
    """The rows of an object of columns, which are lists, or objects with the rows' names as keys; [] for anything
    else."""
    columns = list(value.values()) if isinstance(value, dict) else []
    if not columns or not all(isinstance(one, (list, dict)) and len(one) == len(columns[0]) for one in columns):
        return []
    if all(isinstance(one, dict) and one.keys() == columns[0].keys() for one in columns):
        columns = [list(one.values()) for one in columns]
    elif not all(isinstance(one, list) for one in columns):
        return []
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]


def clean(text: str) -> str:
    """`text` as valid UTF-8: halves of surrogate pairs become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """`value`, which must be a JSON object. Raises InputError where it is not."""
    if not isinstance(value, Mapping):
        raise InputError(f"{what} is {kind(value)}, not an object.")
    return value


def items(record: Mapping[str, Any], key: str, *, default: bool = False) -> list[Any]:
    """The list (or tuple) under `key`. If it is absent or null: [] with `default`, else InputError."""
    value = record.get(key)
    if value is None and default:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    raise InputError(f"`{key}` is {'missing' if key not in record else kind(value)}, not a list.")


def text(record: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """The string under `key`, or `default` if it is absent or null.

    Raises InputError where there is no string and no default, or where the value is not text.
    """
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
    """`ids`, where the second and third of the same become "id#2" and "id#3". Raises InputError if that collides."""
    counts: Counter[str] = Counter()
    result: list[str] = []
    for name in ids:
        counts[name] += 1
        result.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    if len(set(result)) != len(result):
        raise InputError(f"its agents' ids collide: {', '.join(ids)}.")
    return result


def finite(value: Any, what: str) -> float:
    """`value` as a finite float. Raises InputError where it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{what} is {kind(value)}, not a number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{what} is not a finite number.")
    return number


def number(record: Record, key: str) -> float | None:
    """The number under `key` of a record, which is text where all cells are; None where it is absent, null or NaN.

    Raises InputError where it is not a finite number.
    """
    value = record.value.get(key)
    if record.cells and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise InputError(f"`{key}` is {value[:40]!r}, not a number.") from None
        if math.isnan(value):
            return None
    return None if value is None else finite(value, f"`{key}`")


def model_name(logged: Any) -> str | None:
    """A model's name without the address where it was served; None where `logged` names no model.

    The library writes a custom model as "custom/NAME@http://HOST/v1". The address is private (it may hold a password)
    and never reaches a dataset: "custom/sim-judge@http://…" becomes "sim-judge".
    """
    if not isinstance(logged, str):
        return None
    name = _SERVED_AT.sub("", logged).strip().removeprefix("custom/")
    return _ADDRESS.sub("", name).strip("/ ") or None


def model_names(logged: Any) -> tuple[str, ...]:
    """The names of a list of models, [evaluator, first agent, second agent …]; () where there is no list."""
    return tuple(model_name(one) or UNNAMED for one in logged) if isinstance(logged, (list, tuple)) else ()


def kind(value: Any) -> str:
    """What a JSON value is called in a sentence: "null", "text", "a list" …"""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    names = {bool: "true or false", str: "text", int: "a number", float: "a number", list: "a list", tuple: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")


MAX_DEPTH = 64
_DEEPEST_JSON = 256  # levels: what is read is walked through by functions that call themselves
MAX_RECORD = 64 * 2**20  # the longest record in bytes, and the longest CSV cell in characters

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = r"""\\(?:[\\'"abfnrtv0]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"""
_TOKEN = re.compile(
    rf"""(?P<comma>\s*+[,:]\s*+) | \s++ | (?P<open>[\[({{]++) | (?P<close>[\])}}]++)
    | (?P<value>'(?:[^'\\\n]++|{_ESCAPE})*+' | "(?:[^"\\\n]++|{_ESCAPE})*+"
        | -?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)? | None | True | False)
    """,
    re.VERBOSE,
)


def json_value(raw: str | bytes) -> Any:
    """The value of a JSON text. NaN and Infinity, which Python's json writes, become null. Raises InputError."""
    try:
        return whole_text(json.loads(raw, parse_constant=lambda _: None), raw)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg} at character {error.pos + 1}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: byte {error.start + 1}.") from error
    except RecursionError as error:
        raise InputError("nested too deeply.") from error
    except ValueError as error:  # Python refuses to convert an integer of more than 4,300 digits
        raise InputError(f"not JSON: {error}.") from error


def whole_text(value: Any, raw: str | bytes) -> Any:
    """`value`, as read from `raw`. Raises InputError where it holds half of a surrogate pair, which UTF-8 cannot, or
    more than 256 levels of lists and objects."""
    marks = ("[", "{") if isinstance(raw, str) else (b"[", b"{")
    if sum(map(raw.count, marks)) > _DEEPEST_JSON and is_deep(value, _DEEPEST_JSON):  # type: ignore[arg-type]
        raise InputError("nested too deeply.")
    if _SURROGATE.search(raw if isinstance(raw, str) else raw.decode("latin-1")):
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise InputError("its text holds half of a surrogate pair, which is not Unicode.") from error
    return value


def nested(value: Any, what: str) -> Any:
    """`value`; if it is text, what it says as JSON or as a Python repr (None for blank text). Raises InputError."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    if len(value) > MAX_RECORD:
        raise InputError(f"{what} is longer than {MAX_RECORD:,} characters.")
    try:
        return json_value(value)
    except InputError:
        return _literal(value, what)


def _literal(text: str, what: str) -> Any:
    if not _is_literal(text):
        raise InputError(f"{what} is neither JSON nor a Python list, tuple or dictionary.")
    try:
        return whole_text(ast.literal_eval(text.strip()), text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"{what} is neither JSON nor a Python list, tuple or dictionary.") from error


def _is_literal(text: str) -> bool:
    """True where `text` consists of the tokens of literals, no two values touch, and it is at most MAX_DEPTH deep."""
    position = depth = 0
    last: str | None = None
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if token.start() != position or (kind == "value" and last == "value"):
            return False
        if kind in ("open", "close"):
            depth += len(token[0]) if kind == "open" else -len(token[0])
            if not 0 <= depth <= MAX_DEPTH:
                return False
        last, position = kind or last, token.end()
    return position == len(text) and depth == 0
