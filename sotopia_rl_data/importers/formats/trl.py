"""TRL's rows, as text or as messages, and the rows that `query` writes of our own rewards.

    {"prompt": …, "completion": …, "reward": 0.7}          perhaps with `label`, true or false, in place of the reward
    {"prompt": …, "chosen": …, "rejected": …}              two examples: the chosen one has the reward 1, the other 0

A conversation of several messages may stand for a text; its last message is the completion, and one alone under
`completion` is the assistant's, whatever its role. Where `chosen` and `rejected` hold the prompt too, it is what they
have in common.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.formats.chat import content
from sotopia_rl_data.importers.formats.format import Format, TrainingRow, one_by_one
from sotopia_rl_data.importers.formats.training import scenario_of
from sotopia_rl_data.importers.record import Record, identifier, kind, mapping, nested, number
from sotopia_rl_data.schema import Message

Messages = tuple[Message, ...]
_LIST = re.compile(r"\s*\[\s*\{")  # a text may begin with "[INST]"
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']""")


def read_completion(record: Record) -> list[TrainingRow]:
    """The example of a row with a completion. Raises InputError."""
    row = mapping(record.value, "the record")
    reward = number(record, "reward")
    if reward is None:
        reward = _label(row.get("label"))
    prompt = _messages(record, "prompt", "user")
    return [_example(row, prompt, _only(_messages(record, "completion", "assistant"), "completion"), reward)]


def read_preference(record: Record) -> list[TrainingRow]:
    """The two examples of a preference. Raises InputError."""
    row = mapping(record.value, "the record")
    chosen, rejected = (_messages(record, key, "assistant") for key in ("chosen", "rejected"))
    if row.get("prompt") is not None:
        prompt = _messages(record, "prompt", "user")
        shared = len(prompt) if chosen[: len(prompt)] == prompt == rejected[: len(prompt)] else 0
    else:
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt = chosen[:shared]
        if not prompt:
            raise InputError("`prompt` is missing, and `chosen` and `rejected` do not begin alike.")
    return [
        _example(row, prompt, _only(answer[shared:], key), reward)
        for key, answer, reward in (("chosen", chosen, 1.0), ("rejected", rejected, 0.0))
    ]


def _label(value: Any) -> float | None:
    """The reward that a label stands for: true or false, also as text or as 1 or 0. Raises InputError."""
    if value is None:
        return None
    known = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
    reward = known.get(str(value).strip().lower())
    if reward is None:
        raise InputError(
            f"`label` is {repr(value[:40]) if isinstance(value, str) else kind(value)}, not true or false."
        )
    return reward


COMPLETIONS = Format(
    "completion",
    keys=(frozenset({"prompt"}), frozenset({"completion"})),
    reader=one_by_one(lambda record, _: [*read_completion(record)]),
)
PREFERENCES = Format(
    "preference",
    keys=(frozenset({"chosen"}), frozenset({"rejected"})),
    reader=one_by_one(lambda record, _: [*read_preference(record)]),
)


def _example(row: Mapping[str, Any], prompt: Messages, completion: str, reward: float | None) -> TrainingRow:
    own = identifier(row, "environment_id") if row.get("environment_id") is not None else None
    return TrainingRow(prompt, completion, reward, scenario_of(prompt), own)


def _messages(record: Record, key: str, role: str) -> Messages:
    """The messages under `key`; a text is one message of this role. Raises InputError."""
    value = record.value.get(key)
    if record.cells and isinstance(value, str) and _LIST.match(value):
        value = _cell(value, key)
    if isinstance(value, str):
        if not value and role == "user":
            raise InputError(f"`{key}` is empty.")
        return ({"role": "user", "content": value},) if role == "user" else ({"role": "assistant", "content": value},)
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"`{key}` is {'missing' if value is None else kind(value)}, neither text nor messages.")
    if key == "completion" and len(value) == 1:  # what it is called says nothing: the assistant answers here
        one = {"content": value[0]} if isinstance(value[0], str) else mapping(value[0], f"{key}[0]")
        value = [{**one, "role": "assistant"}]
    return tuple(_message(one, f"{key}[{i}]") for i, one in enumerate(value))


def _cell(value: str, key: str) -> Any:
    """What a cell of a table says: messages where it lists objects with roles, else its text. Raises InputError for
    what begins as messages do and is not whole."""
    try:
        listed = nested(value, f"`{key}`")
    except InputError:
        if _MESSAGES.match(value):
            raise
        return value
    roles = isinstance(listed, list) and all(isinstance(one, Mapping) and "role" in one for one in listed)
    return listed if roles else value


def _message(value: Any, place: str) -> Message:
    message = mapping(value, place)
    if message.get("tool_calls") or message.get("function_call"):
        raise InputError(f"{place} calls a tool, which a row of text cannot hold.")
    role, words = message.get("role"), content(message, place)
    if role == "system":
        return {"role": "system", "content": words}
    if role == "user":
        return {"role": "user", "content": words}
    if role == "assistant":
        return {"role": "assistant", "content": words}
    raise InputError(f"the role of {place} is {role!r}, not system, user or assistant.")


def _only(answer: Messages, key: str) -> str:
    """The text of the one message that answers. Raises InputError."""
    if len(answer) != 1 or answer[0]["role"] != "assistant":
        raise InputError(f"`{key}` has {len(answer)} messages after the prompt, not one of the assistant.")
    return answer[0]["content"]
