"""Values that lie as text: JSON, or the Python repr that `str` makes of lists and tuples in a CSV cell.

Nothing is evaluated. A repr is first cut into tokens, so that only strings, numbers, constants and brackets get
through, no deeper than 64 levels; `ast.literal_eval` then sees nothing that could exhaust its parser's stack.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from sotopia_rl_data.errors import InputError

MAX_DEPTH = 64
MAX_RECORD = 64 * 2**20  # bytes or characters: the longest record, and the longest cell

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
    """The value of a JSON text; NaN and Infinity, which Python's json writes, read as null. Raises InputError."""
    try:
        return whole_text(json.loads(raw, parse_constant=lambda _: None), raw)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg} at character {error.pos + 1}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: byte {error.start + 1}.") from error
    except RecursionError as error:
        raise InputError("nested too deeply.") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise InputError(f"not JSON: {error}.") from error


def whole_text(value: Any, raw: str | bytes) -> Any:
    """`value` as read from `raw`. Raises InputError where its text holds half of a surrogate pair: UTF-8 has none."""
    if _SURROGATE.search(raw if isinstance(raw, str) else raw.decode("latin-1")):
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise InputError("its text holds half of a surrogate pair, which is not Unicode.") from error
    return value


def nested(value: Any, what: str) -> Any:
    """`value`, read as JSON or as a Python repr where it is text. Blank text is None. Raises InputError."""
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
    """True where `text` is made of literals' tokens alone, no two values touch, and it is at most MAX_DEPTH deep."""
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
