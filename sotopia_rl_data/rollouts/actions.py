"""One action of an agent, and how it is read out of what a model wrote.

What stands in a model's thought is not read. The rest is read tolerantly where the library does so, or would ask once
more to repair it: a code fence or words around the object, the object inside "properties", a value inside {"value": …},
blanks around the type. What is still unreadable is not an action: the caller makes it a flagged no-op (`FAILED`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.importers.record import clean
from sotopia_rl_data.schema import ACTION_TYPES, ActionType
from sotopia_rl_data.thoughts import without_thought

_WORDLESS = ("none", "leave")


@dataclass(frozen=True, slots=True)
class Action:
    """What an agent does in its turn. `to` holds the ids of the only others who see it (empty: everybody does).

    `failed`: a no-op that stands for a generation that could not be read.
    """

    action_type: ActionType
    text: str = ""
    to: tuple[str, ...] = ()
    failed: bool = False


NOTHING = Action("none")
FAILED = Action("none", failed=True)


def read_action(completion: str, partners: Mapping[str, str] | None = None) -> Action:
    """The action that `completion` holds as JSON.

    `partners` are the ids of the others by name where an action may be private: `to` is then required, and names some
    of them. None: nothing is private, `to` is not looked at. Raises BadAnswer with what is wrong.
    """
    fields = _fields(completion)
    written_type = _unwrapped(fields.get("action_type"))
    name = written_type.strip() if isinstance(written_type, str) else None
    action_type = next((known for known in ACTION_TYPES if known == name), None)
    if action_type is None:
        raise BadAnswer(f"The action type is {written_type!r}; there are {', '.join(ACTION_TYPES)}.")
    argument = _unwrapped(fields.get("argument", "" if action_type in _WORDLESS else None))
    if not isinstance(argument, str):
        raise BadAnswer(f"The argument of {action_type!r} is {argument!r}, not text.")
    to = () if partners is None else _recipients(_unwrapped(fields.get("to")), partners)
    return Action(action_type, "" if action_type in _WORDLESS else clean(argument), to)


def _recipients(listed: Any, partners: Mapping[str, str]) -> tuple[str, ...]:
    if not isinstance(listed, list):
        raise BadAnswer(f"`to` is {listed!r}, not a list of names.")
    names = [_unwrapped(name) for name in listed]
    unknown = [name for name in names if not isinstance(name, str) or name not in partners]
    if unknown:
        raise BadAnswer(f"`to` names {unknown[0]!r}; the others are {', '.join(partners)}.")
    return tuple(dict.fromkeys(partners[name] for name in names))


def _fields(completion: str) -> Mapping[str, Any]:
    """The first JSON object in it that has an action_type, itself or under "properties". Raises BadAnswer."""
    text = without_thought(completion)
    decoder, position = json.JSONDecoder(strict=False), text.find("{")
    while position >= 0:
        try:
            record, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            record, end = {}, position + 1
        inner = record.get("properties")
        fields: Mapping[str, Any] = inner if isinstance(inner, dict) else record
        if "action_type" in fields:
            return fields
        position = text.find("{", end)
    raise BadAnswer("There is no JSON object with an action_type in it.")


def _unwrapped(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) and "value" in value else value
