"""singular: the one key utterance of each score gets all of it, every other utterance 0.

The raw attribution is 1 at the key and 0 elsewhere. Source: Sotopia-RL (arXiv 2508.03905), the singular baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers, offline, phrasing
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.schema import Episode, Measure

_TASK, _QUESTION = "key.v1", "key.question.v1"
_FORM = offline.Form(shown=lambda turns: "TURN", schema=answers.one_of)


@dataclass(frozen=True, slots=True)
class KeyUtterance:
    """A schema that asks which one turn did most to make a score what it is."""

    id: str = "singular"
    rule: str = "singular"
    version: int = 2
    measure: Measure = "key"
    needs_judge: bool = True

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """The range of a raw attribution: 0 or 1, whatever the scale."""
        return 0.0, 1.0

    def wording_sha256(self, scale: int = 3) -> str:
        """The hash of every wording file that goes into a question."""
        return phrasing.wordings_sha256([_TASK, _QUESTION, *phrasing.SHARED])

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """See `Schema.questions`."""
        words = offline.Words(_TASK, _QUESTION)
        return offline.questions(self.id, self.measure, episode, dimensions, evaluator, packing, scale, words, _FORM)

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """1.0 for the turn that was named, 0.0 for the agent's others. Raises BadAnswer."""
        leaves = answers.check(question.answer_schema, answers.parse(text))
        return {slot: float(leaves[path[:-1]] == path[-1]) for path, slot in question.slots.items()}


SINGULAR = KeyUtterance()
