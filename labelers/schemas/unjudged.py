"""A schema that is arithmetic alone: its rule needs the episode's score and the turns, and nobody's opinion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.schema import Episode, Measure


@dataclass(frozen=True, slots=True)
class Unjudged:
    """Asks nothing, so it has no attributions, no wording and no calls."""

    id: str
    rule: str
    version: int = 1
    measure: Measure = "importance"
    needs_judge: bool = False

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """There are no raw attributions; 0 to 1 by convention."""
        return 0.0, 1.0

    def wording_sha256(self, scale: int = 3) -> str:
        """The hash of no wording at all."""
        return sha256_of([])

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """None."""
        return iter(())

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """Raises BadAnswer: nothing was asked."""
        raise BadAnswer(f"{self.id} asks nothing, so there is nothing to read")
