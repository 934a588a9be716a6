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
    for event in events:
        told = {name: value for name, value in event.items() if value and name != "choices" and event != END}
        choices = event.get("choices")
        if isinstance(choices, list):
            told["choices"] = _added_by_index(whole.get("choices", []), choices)
        whole |= told
    for choice in whole.get("choices", []):
        if isinstance(choice, dict) and not choice.get("finish_reason") and END not in events:
            choice["finish_reason"] = _NO_END
    return whole


def message_of(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that Anthropic's events make."""
    whole: dict[str, Any] = {"content": None}
    blocks: list[dict[str, Any]] = []
    for event in events:
        delta = _fields(event.get("delta"))
        if isinstance(event.get("message"), dict):
            whole |= event["message"] | {"content": blocks, "stop_reason": _NO_END}
        elif isinstance(event.get("content_block"), dict):
            blocks.append({name: value for name, value in event["content_block"].items() if name != "input"})
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
            whole["usage"] = _fields(whole.get("usage")) | _fields(event.get("usage"))
    return whole


def _fields(value: object) -> dict[str, Any]:
    """An object's fields; none where the value is not an object."""
    return dict(value) if isinstance(value, dict) else {}


def _added(whole: Any, more: Any) -> Any:
    """A value with the next part of it: texts go on, objects by their names, lists by the `index` of their objects."""
    if more is None:
        return whole
    if isinstance(more, list):
        return _added_by_index(whole if isinstance(whole, list) else [], more)
    if isinstance(whole, str) and isinstance(more, str):
        return whole + more
    if isinstance(whole, dict) and isinstance(more, dict):
        return whole | {
            name: value if name in _TOLD_ONCE and value else _added(whole.get(name), value)
            for name, value in more.items()
        }
    return more


def _added_by_index(whole: list[Any], more: list[Any]) -> list[Any]:
    whole = list(whole)
    places = {str(part.get("index")): place for place, part in enumerate(whole) if isinstance(part, dict)}
    for part in more:
        place = places.get(str(part.get("index"))) if isinstance(part, dict) else None
        if place is None:
            whole.append(part)
        else:
            whole[place] = _added(whole[place], part)
    return whole
