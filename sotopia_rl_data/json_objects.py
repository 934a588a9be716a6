"""The JSON objects in a text that may also have words, code fences or stray bytes around them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.errors import BadAnswer

BLANK = " \t\r\n\ufeff\u200b\x00"  # white space, byte order marks and other invisible characters
_MOST_BROKEN = 5_000
_MOST_TRIED = 20_000_000  # characters that may be read behind braces that begin no object
_DEEPEST = 100  # levels of a value; what reads it may take several calls a level
_BRACKET = re.compile(r"[{}\[\]]")
_FENCE = re.compile(r"[`~]+[^\s`~]*")  # the line that opens a code block


@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object, and its place: `text[start:end]`."""

    value: dict[str, Any]
    start: int
    end: int


def decoder(pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> json.JSONDecoder:
    """A decoder that takes line breaks inside strings as they are; `pairs` makes an object of its pairs."""
    return json.JSONDecoder(strict=False, object_pairs_hook=pairs, parse_constant=_no_constant)


def is_deep(value: Any, most: int = _DEEPEST) -> bool:
    """Whether a value has more than `most` levels of lists and objects: what walks through it calls itself, and Python
    ends such calls at a thousand."""
    level = [value]
    for _ in range(most):
        parts = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [inner for part in parts for inner in part if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


class Tries:
    """How much was read behind braces of a text that begin no object. An object that is open at the end of a text, and
    all that begin inside it, are each read to that end."""

    def __init__(self) -> None:
        self._left = _MOST_TRIED

    def failed(self, text: str, start: int, error: ValueError) -> None:
        """Count the try at `start`. Raises BadAnswer where it is one too many."""
        # a text that does not end was read to the end, though its beginning is the place of the error
        told = isinstance(error, json.JSONDecodeError) and not error.msg.startswith("Unterminated")
        end = error.pos if isinstance(error, json.JSONDecodeError) and told else len(text)
        self._left -= end - start
        if self._left < 0:
            raise BadAnswer("the answer is not JSON")


def objects_in(text: str, decode: json.JSONDecoder | None = None) -> list[JsonObject]:
    """Every object that is not part of another, in order. Raises BadAnswer where one is nested too deeply, or where
    thousands of braces begin none."""
    decode, found, start, tries = decode or decoder(), [], text.find("{"), Tries()
    broken = 0
    while start >= 0:
        try:
            value, end = decode.raw_decode(text, start)
            if is_deep(value):
                raise RecursionError
            found.append(JsonObject(value, start, end))
        except RecursionError:
            raise BadAnswer("the answer is nested too deeply") from None
        except ValueError as error:
            tries.failed(text, start, error)
            end, broken = start + 1, broken + 1
            if broken > _MOST_BROKEN:
                raise BadAnswer("the answer is not JSON") from None
        start = text.find("{", end)
    return found


def is_part(text: str, found: JsonObject) -> bool:
    """Whether an object seems to be a part of something that is broken or goes on: a list or an object is open before
    it, or another begins or ends after it."""
    return bool(_unbalanced(text[: found.start]) or {"{", "}"} & set(_unbalanced(text[found.end :])))


def is_bare(text: str) -> bool:
    """Whether a text is one object with nothing but a code fence and blanks around it."""
    try:
        found = objects_in(text)
    except BadAnswer:
        return False
    return len(found) == 1 and begins_with_object(text) and not text[found[0].end :].strip(BLANK + "`~")


def unquoted(text: str) -> str:
    """The object inside a text that is one JSON string, since some servers encode an answer twice; else the text."""
    inner = text.strip(BLANK)
    if inner[:1] != '"' or inner[-1:] != '"':
        return text
    try:
        value = json.loads(inner, strict=False)
    except ValueError:
        return text
    return value if isinstance(value, str) and is_bare(value) else text


def begins_with_object(text: str) -> bool:
    """Whether no words stand before the first brace of a text."""
    before = text.partition("{")[0].strip(BLANK)
    return not before or bool(_FENCE.fullmatch(before))


def _unbalanced(text: str) -> list[str]:
    """The brackets that have no partner in a text."""
    left: list[str] = []
    for bracket in _BRACKET.findall(text):
        if left and left[-1] + bracket in ("{}", "[]"):
            left.pop()
        elif bracket != "]":
            left.append(bracket)
    return left


def _no_constant(name: str) -> Any:
    raise BadAnswer(f"{name} is not a number of JSON")


def storable(text: str) -> str:
    """Lone surrogates (legal in JSON, not in UTF-8) become U+FFFD, so that files, hashes and tokenizers can take it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
