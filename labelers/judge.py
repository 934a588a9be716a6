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
    """One number that a question asks for: how much `turn` of `agent` mattered for `dimension`; or how things stand
    after this turn (goal-progress), or without it (leave-one-out). Turn -1 is the baseline: before the first turn, or
    with all turns."""

    agent: str
    turn: int
    dimension: str


@dataclass(frozen=True, slots=True)
class Question:
    """What one call asks. In `messages` the constant parts come first (rubric, then episode), what varies comes last.

    `slots` says for each path into the answer which number stands there. A path is the tuple of object keys that leads
    to the number; keys are enumerated here, such as agent_1, and are never people's names. `measure` is the kind of
    number. The first `cache_until` messages are worth caching.
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
    """Answers questions. `id` stands in the `judge` column.

    `answer` returns the text (or a Reply, where tokens and the returned model id are known). A judge may also have
    `target: Target` (what determines its answers, for the ledger's key; default: its id, with the hash of its file
    where it was named by a path), `concurrency: int` (default 1 for plug-ins), `remark: str` (what readers of its
    labels must know), `paid = False` (asking it costs nothing), and `close()`.
    """

    id: str

    async def answer(self, question: Question) -> str | Reply: ...
