"""What a reward server serves: a reward model, or judges (`judging.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.schema import Message

if TYPE_CHECKING:
    from sotopia_rl_data.trainers import RewardModel

Dialogue = str | tuple[str | Sequence[Message], str | Sequence[Message]]
"""A prompt and its completion; or both in one text, in the model's own chat template."""
Scores = NDArray[np.float64]


class RewardSource(Protocol):
    """What gives completions their rewards. `identity` names it; `targets` are what it rewards, one or more; `batch` is
    about how many completions it is best given together."""

    @property
    def identity(self) -> str: ...
    @property
    def targets(self) -> Sequence[str]: ...
    @property
    def batch(self) -> int: ...

    def score(self, dialogues: Sequence[Dialogue]) -> Scores:
        """[N, K] rewards of N dialogues by target; NaN where there is none. Raises InputError where a dialogue cannot
        be scored, AskingError where a judge cannot be asked."""

    def aggregate(self, scores: Scores) -> Scores:
        """[N] rewards of [N, K] rewards by target."""

    def close(self) -> None:
        """Release what it holds."""


class ModelRewards:
    """The rewards of a reward model, in the units of the data that it was trained on."""

    batch = 512  # as `score` takes them: utterances of one episode share their prompts where they are in one batch

    def __init__(self, model: RewardModel) -> None:
        self._model = model
        self.identity, self.targets = model.identity, model.head.targets

    def score(self, dialogues: Sequence[Dialogue]) -> Scores:
        """See `RewardSource.score`. Raises ValueError where a reward is not finite."""
        scores = np.zeros((len(dialogues), len(self.targets)))
        texts = [i for i, dialogue in enumerate(dialogues) if isinstance(dialogue, str)]
        pairs = [i for i, dialogue in enumerate(dialogues) if not isinstance(dialogue, str)]
        scores[texts] = self._model.score_rendered([one for one in dialogues if isinstance(one, str)])
        scores[pairs] = self._model.score_heads([one for one in dialogues if not isinstance(one, str)])
        if not np.isfinite(scores).all():
            raise ValueError("it gives a completion no finite reward")
        return scores

    def aggregate(self, scores: Scores) -> Scores:
        """See `RewardSource.aggregate`."""
        return self._model.head.aggregate(scores)

    def close(self) -> None:
        """Nothing is held."""
