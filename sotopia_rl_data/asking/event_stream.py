"""A response that a server streams though nobody asked for a stream, put together to the one that was due.

Server-sent events: lines of `data: {JSON}`. Where the last of them is missing, the end of the stream counts as a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sotopia_rl_data.asking.reading import json_or_none

_TOLD_ONCE = ("role", "id", "type", "name", "index", "finish_reason", "model")  # fields that a later event replaces
_NO_END = "the stream broke off"


def events_of(raw: bytes) -> list[dict[str, Any]]:
    """The JSON objects among the events of a body; none where it is not a stream."""
    if not raw.lstrip().startswith((b"data:", b"event:", b":", b"id:", b"retry:")):
        return []
    found = (json_or_none(line[5:].strip()) for line in raw.splitlines() if line.startswith(b"data:"))
    return [event for event in found if isinstance(event, dict)]


def completion_of(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The chat completion that OpenAI's chunks make."""
    whole: dict[str, Any] = {}
    for event in events:
        told = {name: value for name, value in event.items() if value and name != "choices"}
        choices = event.get("choices")
        if isinstance(choices, list):
            told["choices"] = _added_by_index(whole.get("choices", []), choices)
        whole |= told
    for choice in whole.get("choices", []):
        if isinstance(choice, dict) and not choice.get("finish_reason"):
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
