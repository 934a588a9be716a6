"""direct: each utterance's importance A on the levels 0..scale; the reward is G·A/scale.

The whole episode is shown (the paper's offline context). Source: Sotopia-RL (arXiv 2508.03905), section 3: importance
0 to 3, reward = episode score × importance / 3. `scaled.py` asks the same and differs in its rule alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers, offline, phrasing
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.schema import Episode, Measure

_TASK, _QUESTION = "importance.v1", "importance.question.v1"


@dataclass(frozen=True, slots=True)
class Importance:
    """A schema that asks for a level of importance for every utterance. Schemas that share it share its answers."""

    id: str = "direct"
    rule: str = "direct"
    version: int = 2
    measure: Measure = "importance"
    needs_judge: bool = True

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """The range of a raw attribution: 0 to `scale`."""
        return 0.0, float(scale)

    def wording_sha256(self, scale: int = 3) -> str:
        """The hash of every wording file that goes into a question on this scale."""
        return phrasing.wordings_sha256([_TASK, _QUESTION, phrasing.levels_wording(scale), *phrasing.SHARED])

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """See `Schema.questions`. Raises UsageError where the scale has no wording."""
        levels = phrasing.wording(phrasing.levels_wording(scale))
        words = offline.Words(_TASK, _QUESTION, {"levels": levels}, {"scale": scale})
        return offline.questions(
            self.id, self.measure, episode, dimensions, evaluator, packing, scale, words, _form(scale)
        )

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The level of every slot. Raises BadAnswer where the text is not exactly what was asked for."""
        leaves = answers.check(question.answer_schema, answers.parse(text))
        return {slot: float(leaves[path]) for path, slot in question.slots.items()}


def _form(scale: int) -> offline.Form:
    """An object with a level for each turn."""
    return offline.Form(
        shown=lambda turns: "{" + ", ".join(f'"{turn}": LEVEL' for turn in turns) + "}",
        schema=lambda turns: answers.of_keys(dict.fromkeys(turns, answers.ref("level"))),
        defs={"level": answers.one_of(range(scale + 1))},
    )


DIRECT = Importance()
