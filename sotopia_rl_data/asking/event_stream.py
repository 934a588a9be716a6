"""A response that a server streams though nobody asked for a stream, put together to the one that was due.

Server-sent events: `data: {JSON}`; or a JSON object in each line. Where neither a reason why it stopped nor the last of
the events says that the stream is whole, its end counts as a fault.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from sotopia_rl_data.asking.reading import json_or_none

_TOLD_ONCE = ("role", "id", "type", "name", "index", "finish_reason", "model")  # fields that a later event replaces
_NO_END = "the stream broke off"
END = {"type": "message_stop"}  # the last event of Anthropic's, which stands for OpenAI's "[DONE]" too


def without_comments(raw: bytes) -> bytes:
    """A body without the lines of comments that a server sends while the other side waits."""
    return b"\n".join(line for line in raw.removeprefix(BOM_UTF8).splitlines() if not line.startswith(b":"))


def events_of(raw: bytes) -> list[dict[str, Any]]:
    """The JSON objects among the events of a body, `END` where it says that they are all; or those in its lines, where
    each holds one. None where it is not a stream."""
    lines = [line.strip() for line in without_comments(raw).splitlines()]
    told = [line.partition(b":")[2].strip() for line in lines if line.startswith(b"data:") or not line]
    if any(told):
        return list(_objects_in(told))
    values = [json_or_none(line) for line in lines if line]
    return values if all(isinstance(value, dict) for value in values) else []


def _objects_in(told: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The objects in the lines of data: each in one line, or in all the lines between two blank ones."""
    for _, lines in groupby(told, key=bool):
        parts = list(lines)
        whole = json_or_none(b"\n".join(parts))
        values = map(_value_of, parts) if whole is None else [whole]
        yield from (value for value in values if isinstance(value, dict))


def _value_of(line: bytes) -> Any:
    return END if line == b"[DONE]" else json_or_none(line)


def completion_of(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The chat completion that OpenAI's chunks make."""
    whole: dict[str, Any] = {}
    choices = _Parts()
    for event in events:
        whole |= {name: value for name, value in event.items() if value and name != "choices" and event != END}
        if isinstance(event.get("choices"), list):
            whole["choices"] = choices.add(event["choices"])
    whole, is_whole = _plain(whole), END in events
    for choice in whole.get("choices", []):
        if isinstance(choice, dict) and not choice.get("finish_reason") and not is_whole:
            choice["finish_reason"] = _NO_END
    return whole


def message_of(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that Anthropic's events make."""
    whole: dict[str, Any] = {"content": None}
    blocks: list[Any] = []
    usage: dict[str, Any] = {}
    for event in events:
        delta = _fields(event.get("delta"))
        if isinstance(event.get("message"), dict):
            whole |= event["message"] | {"content": blocks, "stop_reason": _NO_END}
        elif isinstance(event.get("content_block"), dict):
            blocks.append(
                _added({}, {name: value for name, value in event["content_block"].items() if name != "input"})
            )
        elif event.get("type") == "content_block_delta" and blocks:
            delta = {"input" if name == "partial_json" else name: value for name, value in delta.items()}
            blocks[-1] = _added(blocks[-1], delta | {"type": None})
        elif event.get("error"):
            whole["error"] = event["error"]
        elif isinstance(event.get("content"), list):
            whole |= event
        elif event == END and whole.get("stop_reason") == _NO_END:
            whole["stop_reason"] = None
        else:
            whole |= delta
            if whole.get("usage") is not usage:
                usage = dict(_fields(whole.get("usage")))
            usage |= _fields(event.get("usage"))
            whole["usage"] = usage
    message: dict[str, Any] = _plain(whole)
    return message


def _fields(value: object) -> dict[str, Any]:
    """An object's fields; none where the value is not an object."""
    return value if isinstance(value, dict) else {}


class _Pieces(list[str]):
    """The pieces of a text that comes in many events: each is added in no time."""


class _Parts(list[Any]):
    """A list that comes in many events, with the place of each `index` in it."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def add(self, more: list[Any]) -> _Parts:
        """The list with these parts: objects go on by their index, others come behind."""
        new: dict[str, int] = {}
        for part in more:
            index = str(part.get("index")) if isinstance(part, dict) else None
            place = None if index is None else self._places.get(index)
            if place is not None:
                self[place] = _added(self[place], part)
                continue
            if index is not None:
                new[index] = len(self)
            self.append(_added(None, part))
        self._places |= new
        return self


def _added(whole: Any, more: Any) -> Any:
    """A value with the next part of it, added in place: texts go on, objects by their names, lists by the `index` of
    their objects."""
    if more is None:
        return whole
    if isinstance(more, list):
        return (whole if isinstance(whole, _Parts) else _Parts()).add(more)
    if isinstance(more, str):
        if not isinstance(whole, _Pieces):
            whole = _Pieces([whole] if isinstance(whole, str) else [])
        whole.append(more)
        return whole
    if isinstance(more, dict):
        whole = whole if isinstance(whole, dict) else {}
        for name, value in more.items():
            whole[name] = value if name in _TOLD_ONCE and value else _added(whole.get(name), value)
        return whole
    return more


def _plain(value: Any) -> Any:
    """A value with each text in one piece."""
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return list(map(_plain, value)) if isinstance(value, list) else value
