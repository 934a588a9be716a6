"""The episode's scores: which are real, which are missing, which cannot be true.

The library writes, for each agent, [overall, {dimension: score}] or, where the evaluator failed, a bare number (always
0.0). A bare number scores no dimension: all are missing. `overall_score` is an average, not a dimension. A score
outside its dimension's range is never clamped: it is left out, and its refusal is recorded.
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
    """A score that was there and cannot be used."""

    reason: str
    agent: str | None = None
    dimension: str | None = None


@dataclass(slots=True)
class LoggedScores:
    """The scores of one episode, and those that had to be refused."""

    scores: list[Score] = field(default_factory=list)
    refused: list[RefusedScore] = field(default_factory=list)

    def add(self, agent: str, dimension: str, value: Any, evaluator: str) -> None:
        """Take in one score where it can be one, else its refusal."""
        try:
            self.scores.append(Score(agent, dimension, check_score(dimension, value), evaluator))
        except InputError as error:
            self.refused.append(RefusedScore(f"{error.message.rstrip('.')}, and was left out.", agent, dimension))

    def add_rewards(self, rewards: Any, agents: Sequence[str], names: Sequence[str], evaluator: str) -> None:
        """Take in a log's rewards: a list in speaking order, or an object keyed by agent_1 …, ids or names.

        `agents` are the ids, and `names` the names, in speaking order.
        """
        try:
            by_agent = list(zip(agents, _by_place(rewards, agents, names), strict=True))
        except InputError as error:
            self.refused.append(RefusedScore(error.message))
            return
        for agent, reward in by_agent:
            try:
                for dimension, value in _dimensions(reward):
                    self.add(agent, dimension, value, evaluator)
            except InputError as error:
                self.refused.append(RefusedScore(error.message, agent))


def check_score(dimension: str, value: Any) -> float:
    """`value` where it can be a score on `dimension` (unknown names have no range). Raises InputError."""
    number = finite(value, f"the {dimension} score")
    low, high = _RANGES.get(dimension, (number, number))
    if not low <= number <= high:
        raise InputError(f"the {dimension} score {number:g} lies outside {low:g} to {high:g}.")
    return number


def _by_place(rewards: Any, agents: Sequence[str], names: Sequence[str]) -> list[Any]:
    if rewards is None:
        return [None] * len(agents)
    if isinstance(rewards, Mapping):
        keys = [(f"agent_{i + 1}", agent, name) for i, (agent, name) in enumerate(zip(agents, names, strict=True))]
        unknown = set(rewards) - {key for trio in keys for key in trio}
        if unknown:
            raise InputError(f"the rewards name {', '.join(sorted(map(str, unknown)))}, who is not among the agents.")
        return [next((rewards[key] for key in trio if key in rewards), None) for trio in keys]
    if not isinstance(rewards, (list, tuple)):
        raise InputError(f"the rewards are {kind(rewards)}, not a list.")
    if len(rewards) != len(agents):
        raise InputError(f"there are {len(rewards)} rewards for {len(agents)} agents: whose they are is not known.")
    return list(rewards)


def _dimensions(reward: Any) -> Iterator[tuple[str, Any]]:
    """(dimension, value) of one agent. Raises InputError where the reward has none of the shapes."""
    if reward is None or (isinstance(reward, (int, float)) and not isinstance(reward, bool)):
        return  # the evaluator failed
    scores = reward[1] if isinstance(reward, (list, tuple)) and len(reward) == 2 else reward
    if scores is None:
        return
    if not isinstance(scores, Mapping):
        raise InputError(f"a reward is {kind(reward)}, not [overall, {{dimension: score}}].")
    yield from ((str(d), v) for d, v in scores.items() if d != OVERALL and v is not None)
