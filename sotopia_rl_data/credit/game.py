"""A dialogue game: two agents speak in turn, each says one of a few moves, chance and the partner answer.

A game is small enough that everything about it can be computed: its states are tuples of small integers, its moves have
names, and how agents choose is written down. The kinds of games (`haggling.py`, `errands.py`) are tables of such rules;
`solved.py` computes values from them, `playing.py` draws dialogues, and neither knows the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

State = tuple[int, ...]
NEUTRAL = "wait"
"""The move that changes nothing, and that is legal in every state in which the game is not over."""
AGENTS = (0, 1)
"""Agent 0 speaks first; then they alternate."""


@dataclass(frozen=True, slots=True)
class Consequence:
    """What may come of a move: with this `probability` the game is in `state`, and the partner answers as `heard`."""

    probability: float
    state: State
    heard: str = ""


class Game(Protocol):
    """The rules. All methods are pure; `agent` is 0 or 1; scores are in [0, 10]."""

    def __hash__(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def moves(self) -> Sequence[str]: ...

    def starts(self) -> Sequence[Consequence]:
        """Where the game may begin; chance decides."""
        ...

    def over(self, state: State) -> bool:
        """Whether nobody speaks any more."""
        ...

    def legal(self, state: State, agent: int) -> Sequence[str]:
        """The moves that `agent` may make here, NEUTRAL among them."""
        ...

    def outcomes(self, state: State, agent: int, move: str) -> Sequence[Consequence]:
        """What may come of a legal move."""
        ...

    def policy(self, state: State, agent: int) -> Mapping[str, float]:
        """How probable the agent's legal moves are. It depends on `knows(state, agent)` alone."""
        ...

    def knows(self, state: State, agent: int) -> Hashable:
        """What the agent knows of the state: two states that are equal in this are the same to it."""
        ...

    def score(self, state: State, agent: int) -> float:
        """The agent's score, in [0, 10], if the dialogue ends here."""
        ...

    def secret(self, state: State, agent: int) -> str:
        """What the agent knows and its partner does not, as a sentence."""
        ...


def mixed(good: Mapping[str, float], mistakes: Mapping[str, float], rate: float) -> dict[str, float]:
    """A policy that makes mistakes at this rate: each table's weights as shares, mixed. Where one table is empty, the
    other counts alone."""
    tables = [(1.0 - rate, good), (rate, mistakes)] if good and mistakes else [(1.0, good or mistakes)]
    chosen: dict[str, float] = {}
    for share, weights in tables:
        total = sum(weights.values())
        for move, weight in weights.items():
            chosen[move] = chosen.get(move, 0.0) + share * weight / total
    return chosen


def among(weights: Mapping[str, float], legal: Sequence[str]) -> dict[str, float]:
    """The weights of the legal moves that have one."""
    return {move: weights[move] for move in legal if weights.get(move, 0.0) > 0}


def with_chance(probability: float, then: Consequence, otherwise: Consequence) -> list[Consequence]:
    """`then` with this probability, else `otherwise`."""
    return [
        Consequence(probability, then.state, then.heard),
        Consequence(1.0 - probability, otherwise.state, otherwise.heard),
    ]
