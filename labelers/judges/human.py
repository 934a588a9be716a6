"""human: people's annotations from a CSV, `human:FILE.csv[#NAME]`. `annotate template` writes the file to fill in.

A row is about one utterance and dimension, and its number stands in the column `raw`; an empty cell is not an answer.
People get the same questions, keys and rules as any judge, so their answers can be compared with those of models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sotopia_rl_data.dimensions import full_name
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.outputs import Row, read_sheet
from sotopia_rl_data.request import Target

COLUMNS = ("episode_id", "agent", "turn", "dimension", "raw")
_HINT = "check the path; what writes such a file: sotopia-rl-data annotate template --help"

Annotations = Mapping[tuple[str, str, int, str], int]


class Human:
    """Answers from the file. Where the file has no number for a turn, the answer lacks it and the question fails: a
    score is attributed to all of an agent's utterances or to none."""

    concurrency = 1

    def __init__(self, path: Path, name: str = "human", dimensions: Sequence[str] = ()) -> None:
        """`dimensions` are those that the file may name (empty: SOTOPIA-EVAL's). Raises InputError where the
        file cannot be used."""
        self.id = name
        sha256, rows = read_sheet(path, COLUMNS, COLUMNS, _HINT)
        self._annotations = _annotations(path, rows, dimensions)
        self.target = Target("human", name, "", {"sha256": sha256})

    async def answer(self, question: Question) -> str:
        """The annotations of the question's slots, in the form of its answer schema."""
        episode = question.episode.episode_id
        annotated = {
            path: self._annotations[episode, slot.agent, slot.turn, slot.dimension]
            for path, slot in question.slots.items()
            if (episode, slot.agent, slot.turn, slot.dimension) in self._annotations
        }
        return json.dumps(answers.compose(question.answer_schema, partial(_leaf, annotated)))


def slot_key(question: Question, slot: Slot) -> tuple[str, str, int, str]:
    """What stands in the columns that identify a slot."""
    return question.episode.episode_id, slot.agent, slot.turn, slot.dimension


def _annotations(path: Path, rows: Iterable[Row], dimensions: Sequence[str]) -> Annotations:
    annotations: dict[tuple[str, str, int, str], int] = {}
    for line, row in rows:
        if not row["raw"]:
            continue
        try:
            name = full_name(row["dimension"], dimensions)
            key = (row["episode_id"], row["agent"], _whole(row["turn"]), name)
            raw = _whole(row["raw"])
        except UsageError as wrong:
            raise InputError(f"{path}:{line}: {wrong.message}", wrong.hint) from wrong
        known = annotations.setdefault(key, raw)
        if known != raw:
            raise InputError(
                f"{path}:{line} says {raw} and contradicts an earlier row about the same turn, which says {known}.",
                "keep one of the two rows",
            )
    if not annotations:
        raise InputError(f"{path} holds no annotation yet: its column raw is empty.", "fill in the column raw")
    return annotations


def _whole(cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        raise UsageError(f"{cell!r} is not a whole number.", "write turns and levels as whole numbers") from None


def _leaf(annotated: Mapping[answers.Path, int], schema: answers.Json, path: answers.Path) -> int | str | None:
    """The value at this path of an answer; None where there is no annotation, or where several turns are marked as the
    key one."""
    if "enum" not in schema:
        return ""  # this leaf is a reason, for which the file has no column
    if schema["type"] != "string":
        return annotated.get(path)
    chosen = [key for key in schema["enum"] if annotated.get((*path, key)) == 1]
    return chosen[0] if len(chosen) == 1 else None
