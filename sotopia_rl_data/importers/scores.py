"""An episode's scores: which are real, which are missing, which cannot be true.

For each agent the library writes [overall, {dimension: score}] or, where the evaluator failed, a bare number (always
0.0). A bare number means that all dimensions are missing. `overall_score` is an average, not a dimension. A score
outside the range of its dimension is never clamped: it is refused, and the refusal is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.record import finite, kind
from sotopia_rl_data.schema import Score

OVERALL = "overall_score"
_RANGES = {d.name: (d.low, d.high) for d in SOTOPIA_EVAL}


@dataclass(frozen=True, slots=True)
class RefusedScore:
    """A score that the source has and that cannot be used."""

    reason: str
    agent: str | None = None
    dimension: str | None = None


@dataclass(slots=True)
class LoggedScores:
    """The scores of one episode, and the refused ones."""

    scores: list[Score] = field(default_factory=list)
    refused: list[RefusedScore] = field(default_factory=list)

    def add(
        self, agent: str, dimension: str, value: Any, evaluator: str, ends: tuple[float, float] | None = None
    ) -> None:
        """Add one score, or its refusal where it is not a valid score; `ends` are the range of a dimension of one's
        own."""
        try:
            self.scores.append(Score(agent, dimension, check_score(dimension, value, ends), evaluator, *(ends or ())))
        except InputError as error:
            self.refused.append(RefusedScore(f"{error.message.rstrip('.')}, and was left out.", agent, dimension))

    def add_rewards(self, rewards: Any, agents: Sequence[str], names: Sequence[str], evaluator: str) -> None:
        """Add a log's rewards: a list in speaking order, or an object keyed by agent_1 …, ids or names.

        `agents` and `names` are the agents' ids and names in speaking order.
        """
        try:
            ordered = _in_speaking_order(rewards, agents, names)
        except InputError as error:
            self.refused.append(RefusedScore(error.message))
            return
        for agent, reward in zip(agents, ordered, strict=True):
            try:
                for dimension, value in _dimensions(reward):
                    self.add(agent, dimension, value, evaluator)
            except InputError as error:
                self.refused.append(RefusedScore(error.message, agent))


def check_score(dimension: str, value: Any, ends: tuple[float, float] | None = None) -> float:
    """`value` as a score on `dimension` (a dimension of unknown name, and without `ends`, has no range). Raises
    InputError."""
    number = finite(value, f"the {dimension} score")
    low, high = ends or _RANGES.get(dimension, (number, number))
    if not low <= number <= high:
        raise InputError(f"the {dimension} score {number:g} lies outside {low:g} to {high:g}.")
    return number


def _in_speaking_order(rewards: Any, agents: Sequence[str], names: Sequence[str]) -> list[Any]:
    if rewards is None:
        return [None] * len(agents)
    if isinstance(rewards, Mapping):
        labels = [(f"agent_{number}", *label) for number, label in enumerate(zip(agents, names, strict=True), 1)]
        unknown = set(rewards).difference(*labels)
        if unknown:
            raise InputError(f"the rewards name {', '.join(sorted(map(str, unknown)))}, who is not among the agents.")
        return [next((rewards[label] for label in of_agent if label in rewards), None) for of_agent in labels]
    if not isinstance(rewards, (list, tuple)):
        raise InputError(f"the rewards are {kind(rewards)}, not a list.")
    if len(rewards) != len(agents):
        raise InputError(f"there are {len(rewards)} rewards for {len(agents)} agents: whose they are is not known.")
    return list(rewards)


def _dimensions(reward: Any) -> Iterator[tuple[str, Any]]:
    """The (dimension, value) pairs of one agent's reward. Raises InputError where it has neither shape."""
    if reward is None or (isinstance(reward, (int, float)) and not isinstance(reward, bool)):
        return  # the evaluator failed
    scores = reward[1] if isinstance(reward, (list, tuple)) and len(reward) == 2 else reward
    if scores is None:
        return
    if not isinstance(scores, Mapping):
        raise InputError(f"a reward is {kind(reward)}, not [overall, {{dimension: score}}].")
    yield from ((str(d), v) for d, v in scores.items() if d != OVERALL and v is not None)
