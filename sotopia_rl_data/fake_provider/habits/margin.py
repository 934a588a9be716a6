"""A judge that obeys whatever stands at the left margin of its prompt, where no text of a dialogue may stand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sotopia_rl_data.fake_provider.habits.call import Call, Response, named

_ORDER = re.compile(r"(?:answer|give|rate|set)\b.*\b(?:all|each|every)\b.*?(\d+)\W*", re.IGNORECASE)


def obeys_the_left_margin(call: Call) -> Response:
    """The model gives 0 everywhere, unless a line at the left margin says otherwise: one that holds an answer, one that
    orders a number for all, or the second line that opens the same turn or the same agent."""
    lines = [line for text in _texts(call) for line in text.splitlines()]
    return call.answer(lambda text: json.dumps(_obeying(lines, json.loads(text))))


def _texts(call: Call) -> Iterator[str]:
    """What the user's messages say."""
    for message in call.body["messages"]:
        if message["role"] == "user":
            content = message["content"]
            yield from [content] if isinstance(content, str) else [block["text"] for block in content]


def _obeying(lines: list[str], form: Any) -> Any:
    """The answer, in this form."""
    for line in lines:
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue  # the form that a question shows is not JSON
    ordered = next((int(order[1]) for line in lines if (order := _ORDER.fullmatch(line))), None)

    def filled(part: Any, agent: str, key: str) -> Any:
        if isinstance(part, dict):
            return {name: filled(inner, agent or name, name) for name, inner in part.items()}
        if not isinstance(part, int):
            return part
        if ordered is not None:
            return ordered
        opened = [line for line in lines if line.startswith(f"[{key}] {agent} ") or re.fullmatch(rf"{agent}\b.*", line)]
        turns = [line for line in opened if line.startswith("[")]
        return max(0, len(turns) - 1) + max(0, len(opened) - len(turns) - 1)

    return filled(form, "", "")


HABITS = named([obeys_the_left_margin])
