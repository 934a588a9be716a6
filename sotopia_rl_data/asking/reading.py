"""What a response holds, read from whatever shape a server gives it: the text, the thought beside it, JSON that is
deep, large or not quite UTF-8. No odd shape raises here: an answer that was paid for is never lost to one."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from sotopia_rl_data.asking.refusals import is_refusal
from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.json_objects import is_deep, objects_in
from sotopia_rl_data.request import Finish, Usage

MOST_BYTES = 8 << 20  # of a response or a line of results, also unpacked: 64 in flight stay below 1 GB
# keys under which a part of a message has its text
_TEXTS = ("text", "content", "thinking", "reasoning", "summary", "value")
_PARSED = ("parsed", "json")  # keys under which a message, or a part of one, has an answer that its server has parsed
_ARGUMENTS = ("arguments", "input", "parameters")  # keys under which a call of a tool has its arguments
_ANSWERS = ("text", "output_text")  # the types of parts that belong to the answer
_DEEPEST = 5
_DIGITS = 300  # longer whole numbers are not read as numbers


def json_or_none(raw: bytes) -> Any:
    """The value that these bytes hold; None where they are not JSON, or nested too deeply."""
    try:
        try:
            value = json.loads(raw, parse_int=_whole)
        except UnicodeDecodeError:
            value = json.loads(raw.decode(errors="replace"), parse_int=_whole)
    except (ValueError, RecursionError):
        return None
    return None if is_deep(value) else value


def texts_of(content: object) -> tuple[str, str]:
    """The text of a message's content (a string, null, or a list of parts), and that of the thoughts among its
    parts: those of another type, and those with a mark (`"thought": true`) that the last one with a text lacks."""
    if isinstance(content, dict):  # some servers parse the answer
        return _text_in(content) or json.dumps(content), ""
    if not isinstance(content, list):
        return content if isinstance(content, str) else "", ""
    said: list[str] = []
    thought: list[str] = []
    parts = [part if isinstance(part, dict) else {"text": part} for part in content]
    last: dict[str, Any] = next((part for part in reversed(parts) if _is_said(part) and _text_in(part).strip()), {})
    marks = _marks(last)
    for part in parts:
        (said if _is_said(part) and _marks(part) <= marks else thought).append(_text_in(part))
    return "".join(said) or next(filter(None, map(parsed_in, parts)), ""), "".join(thought)


def parsed_in(told: dict[str, Any]) -> str:
    """The JSON of an answer that a server has parsed; empty where a message, or a part of one, has none."""
    return next((json.dumps(told[name]) for name in _PARSED if isinstance(told.get(name), dict)), "")


def _marks(part: dict[str, Any]) -> set[str]:
    return {name for name, value in part.items() if value is True}


def _is_said(part: dict[str, Any]) -> bool:
    return part.get("type", "text") in _ANSWERS


def finish_of(reason: object, known: Mapping[str, Finish]) -> Finish | None:
    """Why an answer ended; None where nobody knows the word for it."""
    word = str(reason or "stop").lower()
    return "refusal" if is_refusal(word) else known.get(word)


def plausible(usage: Usage, said: str) -> Usage:
    """The tokens of an answer that says this: unknown where its prompt or its text would have none."""
    return usage if usage.input and (usage.output or not said.strip()) else Usage()


def unwrapped(data: object, member: str) -> Any:
    """The response that has this member, where a server wraps it in a list, an object or a text; else the value
    itself."""
    data = json_or_none(data.encode(errors="replace")) if isinstance(data, str) else data
    data = data[0] if isinstance(data, list) and len(data) == 1 else data
    if isinstance(data, dict) and member not in data:
        inner = [value for value in data.values() if isinstance(value, dict) and member in value]
        return inner[0] if len(inner) == 1 else data
    return data


def unpacked(raw: bytes) -> bytes:
    """The bytes of a response, unpacked where its server has packed them and does not say so."""
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    with suppress(zlib.error):
        return zlib.decompressobj(31).decompress(raw, MOST_BYTES)
    return raw


def with_call(said: str, thought: str, calls: object) -> tuple[str, str]:
    """Text and thought, where the answer may be in a tool call instead: then the words beside it are a thought."""
    left = _arguments_in(said)
    called = arguments_of(calls) or left
    if called and (called == left or not _has_object(said)):
        return called, thought or said
    return said, thought


def _arguments_in(text: str) -> str:
    """The arguments of a call that a server has left in the text: its only object, a name and arguments."""
    try:
        objects = [found.value for found in objects_in(text)] if '"name"' in text else []
    except BadAnswer:
        return ""
    return arguments_of(objects) if len(objects) == 1 and objects[0].keys() <= {"name", *_ARGUMENTS} else ""


def _has_object(text: str) -> bool:
    """Whether there is a JSON object among the words of a text, or what cannot be read as one."""
    try:
        return bool(objects_in(text))
    except BadAnswer:
        return True


def arguments_of(calls: object) -> str:
    """The arguments of the only call in a list of tool calls, or blocks that are one: some servers have a model give
    the JSON that is asked for in this form. Empty where there is none, or where several differ."""
    called = [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    functions = [function for function in called if isinstance(function, dict)]
    every = [next((function[name] for name in _ARGUMENTS if name in function), "") for function in functions]
    given = every[0] if every and all(one == every[0] for one in every) else ""
    return given if isinstance(given, str) else json.dumps(given)


def thought_of(message: dict[str, Any], said: Collection[str]) -> str:
    """The text of the fields of a message that have neither part in what it says nor in its form (`said`): servers call
    the field of the thought what they like, and some give it twice. A text without a space is a signature."""
    texts = [_text_in(value) for name, value in message.items() if name not in said]
    return max((text for text in texts if " " in text or "{" in text), key=len, default="")


def name_of(data: dict[str, Any]) -> str:
    """The model that a response names."""
    return str(data.get("model") or "")


def _text_in(value: object, depth: int = 0) -> str:
    """The text of a part, or of a list of them."""
    if isinstance(value, str):
        return value
    if depth < _DEEPEST and isinstance(value, list):
        return "".join(_text_in(part, depth + 1) for part in value)
    if depth < _DEEPEST and isinstance(value, dict):
        return "".join(_text_in(value[name], depth + 1) for name in _TEXTS if name in value)
    return ""


def _whole(digits: str) -> float:
    return int(digits) if len(digits) <= _DIGITS else math.inf
