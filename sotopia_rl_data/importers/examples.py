"""Training rows: a prompt, a completion, a reward. No identity, so they become a dataset of rewards alone.

    {input, output, value}         sotopia-rl's training JSON; a value of -1.0 stands for "no label"
    {instruction, input, output}   sotopia-pi's; no reward (also with system, and history as pairs)

They are grouped for splits by the scenario in the prompt; where the prompt names none, by the whole prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.record import finite, items, mapping, text
from sotopia_rl_data.schema import Message

SENTINEL = -1.0
_SCENARIO, _AFTER = "Scenario: ", "\nParticipants: "


@dataclass(frozen=True, slots=True)
class Example:
    """One training row. `reward` is None where it has no label; `scenario` is what it is grouped by."""

    prompt: tuple[Message, ...]
    completion: str
    reward: float | None
    scenario: str


def read_example(value: Any) -> Example:
    """The example of a training row. Raises InputError."""
    row = mapping(value, "the record")
    prompt = _prompt(row)
    return Example(prompt, text(row, "output"), _reward(row), _scenario(prompt))


def _prompt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    parts = [text(row, "instruction", ""), text(row, "input", "")]
    asked = "\n".join(part for part in parts if part)
    if not asked:
        raise InputError("`input` and `instruction` are both missing or empty.")
    system = text(row, "system", "")
    said: list[Message] = [_message("system", system)] if system else []
    for pair in items(row, "history", default=True):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(p, str) for p in pair):
            raise InputError("`history` is not a list of [asked, answered] pairs.")
        said += [_message("user", pair[0]), _message("assistant", pair[1])]
    return (*said, _message("user", asked))


def _message(role: Literal["system", "user", "assistant"], content: str) -> Message:
    return {"role": role, "content": content}


def _reward(row: Mapping[str, Any]) -> float | None:
    if row.get("value") is None:
        return None
    value = finite(row["value"], "`value`")
    return None if value == SENTINEL else value


def _scenario(prompt: tuple[Message, ...]) -> str:
    whole = "\n".join(m["content"] for m in prompt)
    _, found, rest = whole.partition(_SCENARIO)
    scenario, ended, _ = rest.partition(_AFTER)
    if not ended:
        scenario = rest.partition("\n")[0]
    return scenario.strip() if found and scenario.strip() else whole
