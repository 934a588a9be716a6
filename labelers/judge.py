"""Judge, Question, Answer: what every attribution schema and every judge agree on.

A schema phrases Questions about an episode and reads the text that comes back. A judge answers Questions. A plug-in
judge is one method and an id:

    class Coin:
        id = "coin"
        async def answer(self, question: Question) -> str:
            return json.dumps({...})   # text that obeys question.answer_schema
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sotopia_rl_data.request import Reply
from sotopia_rl_data.schema import Episode, Measure, Message


@dataclass(frozen=True, slots=True)
class Slot:
    """One number that a question asks for: how much `turn` of `agent` mattered for `dimension`, or how things stand
    after it (goal-progress) or without it (leave-one-out). Turn -1 is a baseline: before the first turn, or with all
    of them."""

    agent: str
    turn: int
    dimension: str


@dataclass(frozen=True, slots=True)
class Question:
    """What one call asks: in `messages` the constant parts first (rubric, then episode), what varies last.

    `slots` maps every key of the answer to the one number it stands for: keys are enumerated by us, never names.
    `path` of a nested answer is the tuple of object keys that leads to the number. `measure` says what kind it is.
    """

    schema: str
    episode: Episode
    messages: Sequence[Message]
    answer_schema: Mapping[str, Any]
    slots: Mapping[tuple[str, ...], Slot]
    scale: int = 3
    cache_until: int = 0
    measure: Measure = "importance"


class Judge(Protocol):
    """Who answers. `id` names it in the `judge` column.

    `answer` returns the text (or a Reply, where tokens and the returned model id are known). It may carry
    `target: Target` (what determines its answers, for the ledger's key; default: its id, with the hash of its file
    where it was named by a path), `concurrency: int` (default 1 for plug-ins), `remark: str` (what readers of its
    labels must know), and `close()`.
    """

    id: str

    async def answer(self, question: Question) -> str | Reply: ...


def is_paid(judge: Judge) -> bool:
    """Whether asking the judge costs anything: one that replays a ledger says `paid = False`."""
    return bool(getattr(judge, "paid", True))
