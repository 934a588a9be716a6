"""A game played on from any turn, many times at once: what estimates of credit are made from.

It shares the rules with `solved.py` and no code: what is estimated here and computed there can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.credit.game import AGENTS, NEUTRAL, Game, State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Simulator:
    """The rules as tables, filled for the states that are met. Every chance is decided by a number in [0, 1) that is
    handed in, so that two plays can have the same luck."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self.moves = list(game.moves)
        self._states: list[State] = []
        self._numbers: dict[State, int] = {}
        for start in game.starts():
            self._add(start.state)
        met = 0
        tables: list[tuple[Floats, Floats, Ints, Ints]] = []
        while met < len(self._states):
            tables.append(self._tables(self._states[met]))
            met += 1
        policy, first, then, plan = (np.stack(column) for column in zip(*tables, strict=True))
        self._policy, self._first, self._then, self._plan = np.cumsum(policy, axis=2), first, then, plan
        self._scores = np.array([[game.score(state, agent) for agent in AGENTS] for state in self._states])

    def number(self, state: State) -> int:
        """The number of a state, by which the tables know it."""
        return self._numbers[state]

    def draws(self, state: State, agent: int, luck: Floats) -> Ints:
        """The moves that the agent's policy makes here, as numbers into `moves`: one for each number of `luck`."""
        return self._choose(np.full(len(luck), self.number(state)), agent, luck)

    def ends(self, state: State, turn: int, length: int, first: Ints, luck: Floats) -> Floats:
        """Final scores of the agent of `turn` in R plays that begin in `state` with the moves `first` (R,) and go on by
        the policies. `luck` is (R, at least length − turn, 2): for the choice and for what comes of it."""
        agent = turn % 2
        at = self._after(np.full(len(first), self.number(state)), agent, first, luck[:, 0, 1])
        for t in range(turn + 1, length):
            chance = luck[:, t - turn]
            at = self._after(at, t % 2, self._choose(at, t % 2, chance[:, 0]), chance[:, 1])
        scores: Floats = self._scores[at, agent]
        return scores

    def planned_ends(
        self, state: State, agent: int, length: int, plans: Sequence[Sequence[str]], luck: Floats
    ) -> Floats:
        """Final scores of `agent` in a play from the start for each of its plans: the moves of its turns, neutral where
        one is illegal and once the plan is at its end. `luck` is (length, 2), the same for all."""
        at = np.full(len(plans), self.number(state))
        for t in range(length):
            place = t // 2
            if t % 2 == agent:
                wanted = [self.moves.index(plan[place] if place < len(plan) else NEUTRAL) for plan in plans]
                moves = self._plan[at, agent, np.array(wanted)]
            else:
                moves = self._choose(at, t % 2, np.full(len(plans), luck[t, 0]))
            at = self._after(at, t % 2, moves, np.full(len(plans), luck[t, 1]))
        scores: Floats = self._scores[at, agent]
        return scores

    def _choose(self, at: Ints, agent: int, luck: Floats) -> Ints:
        chosen: Ints = np.minimum((luck[:, None] >= self._policy[at, agent]).sum(axis=1), len(self.moves) - 1)
        return chosen

    def _after(self, at: Ints, agent: int, moves: Ints, luck: Floats) -> Ints:
        other = (luck >= self._first[at, agent, moves]).astype(np.int64)
        after: Ints = self._then[at, agent, moves, other]
        return after

    def _add(self, state: State) -> int:
        if state not in self._numbers:
            self._numbers[state] = len(self._states)
            self._states.append(state)
        return self._numbers[state]

    def _tables(self, state: State) -> tuple[Floats, Floats, Ints, Ints]:
        """Of one state, by agent and move: the policy; the chance of the first of two consequences; the states of both;
        and the move that is made where this one is planned."""
        shape, here = (len(AGENTS), len(self.moves)), self.number(state)
        policy, first = np.zeros(shape), np.ones(shape)
        then, plan = np.full((*shape, 2), here), np.full(shape, self.moves.index(NEUTRAL))
        for agent in () if self.game.over(state) else AGENTS:
            for move in self.game.legal(state, agent):
                number, came = self.moves.index(move), self.game.outcomes(state, agent, move)
                policy[agent, number] = self.game.policy(state, agent).get(move, 0.0)
                first[agent, number] = came[0].probability
                then[agent, number] = self._add(came[0].state), self._add(came[-1].state)
                plan[agent, number] = number
        return policy, first, then, plan


@lru_cache(maxsize=64)
def simulator(game: Game) -> Simulator:
    """The game's simulator; the same rules are read once."""
    return Simulator(game)
