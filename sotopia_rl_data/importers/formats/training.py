"""Training rows: a prompt, a completion, a reward. They name no episode, so they become a dataset of rewards alone.

    {input, output, value}         sotopia-rl's training JSON
    {instruction, input, output}   sotopia-pi's; no reward (also with system, and history as pairs)

In some files of sotopia-rl a value of -1.0 stands for "no label", in others it is a reward like any other: a row cannot
tell. So it is a reward, and `import` counts such rows, unless the user says that it is a sentinel (`batches.py`).

For the splits they are grouped by the scenario in the prompt, or by the whole prompt where it names no scenario.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.formats.format import Format, TrainingRow, one_by_one
from sotopia_rl_data.importers.record import Record, items, mapping, number, text
from sotopia_rl_data.schema import Message

_SCENARIO, _AFTER = "Scenario: ", "\nParticipants: "


def read_training_row(record: Record) -> TrainingRow:
    """The prompt, completion and reward of a training row. Raises InputError."""
    row = mapping(record.value, "the record")
    prompt = _prompt(row)
    return TrainingRow(prompt, text(row, "output"), number(record, "value"), scenario_of(prompt))


FORMAT = Format(
    "training",
    keys=(frozenset({"output"}), frozenset({"input", "instruction"})),
    reader=one_by_one(lambda record, _: [read_training_row(record)]),
    without_objects=("messages", "conversations", "conversation"),
)


def _prompt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    question = "\n".join(part for part in (text(row, "instruction", ""), text(row, "input", "")) if part)
    if not question:
        raise InputError("`input` and `instruction` are both missing or empty.")
    system = text(row, "system", "")
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for pair in items(row, "history", default=True):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(p, str) for p in pair):
            raise InputError("`history` is not a list of [asked, answered] pairs.")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return (*messages, {"role": "user", "content": question})


def scenario_of(prompt: tuple[Message, ...]) -> str:
    """The scenario that a prompt names, or the whole prompt."""
    whole = "\n".join(m["content"] for m in prompt)
    rest = whole.partition(_SCENARIO)[2]
    end = _AFTER if _AFTER in rest else "\n"
    return rest.partition(end)[0].strip() or whole
