"""A game solved: the values of its states by dynamic programming, and the credit of what was said in one dialogue.

    V_t(s) = Σ_m π(m | s) Q_t(s, m)        Q_t(s, m) = Σ_s' P(s' | s, m) V_{t+1}(s')        V_T = the score

The advantage of an utterance is Q − V (Baird 1993; Sutton and Barto, *Reinforcement Learning*, 2nd edition, chapters 3
and 4). With all that is true, s is the state. With what the agent knows, V and Q are means over the states that it
cannot tell from the true one, weighted by what it has heard (Kaelbling, Littman and Cassandra 1998, the belief state).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.credit.game import AGENTS, NEUTRAL, Game, State

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Step:
    """One utterance: in `state` the agent whose turn it was made `move`."""

    state: State
    move: str


@dataclass(frozen=True, slots=True)
class TurnCredit:
    """The truth about one utterance, in points of a score (0 to 10).

    `v`, `q` and `advantage` (q − v) are with what the agent knows, `…_true` with all that is true. `chance_true` is
    what chance did after it: V of what came − `q_true`. The `partner_…` are the same utterance for the partner's score.
    """

    v: float
    q: float
    v_true: float
    q_true: float
    chance_true: float
    partner_v_true: float
    partner_q_true: float
    partner_chance_true: float

    @property
    def advantage(self) -> float:
        """What saying it changed, as far as the agent could know."""
        return self.q - self.v

    @property
    def advantage_true(self) -> float:
        """What saying it changed."""
        return self.q_true - self.v_true

    @property
    def partner_advantage_true(self) -> float:
        """What saying it changed for the partner."""
        return self.partner_q_true - self.partner_v_true


class Solved:
    """The matrices of a game over its reachable states, S of them in `states`.

    `step[agent][move]` is (S, S), sparse: the chance of each next state, a row of zeros where the move is illegal.
    `turn[agent]` is the same under the agent's policy, and stays where the game is over. `planned[agent][move]` makes
    `move` wherever it is legal, else the neutral move. `scores` is (S, 2).
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.states = _reachable(game)
        self.index = {state: i for i, state in enumerate(self.states)}
        self.scores: Floats = np.array([[game.score(state, agent) for agent in AGENTS] for state in self.states])
        self.over = np.array([game.over(state) for state in self.states])
        self.step = [{move: self._matrix(agent, move) for move in game.moves} for agent in AGENTS]
        self.policy = [self._policy(agent) for agent in AGENTS]
        self.turn = [self._turn(agent) for agent in AGENTS]
        self.planned = [{move: self._planned(agent, move) for move in game.moves} for agent in AGENTS]
        self._same = [_numbered([game.knows(state, agent) for state in self.states]) for agent in AGENTS]

    def values(self, length: int) -> Floats:
        """V of every state before each turn, and after the last of `length` turns: (length + 1, S, 2), for both agents'
        scores."""
        v = np.empty((length + 1, *self.scores.shape))
        v[length] = self.scores
        for t in reversed(range(length)):
            v[t] = self.turn[t % 2] @ v[t + 1]
        return v

    def credit(self, said: Sequence[Step], end: State, length: int) -> list[TurnCredit]:
        """The truth about every utterance of a dialogue of at most `length` turns that ended in `end`."""
        v = self.values(length)
        rows = [self.index[state] for state in (*(step.state for step in said), end)]
        beliefs = [self._heard(self._start(), agent, rows[0]) for agent in AGENTS]
        credits = []
        for t, (step, here, there) in enumerate(zip(said, rows, rows[1:], strict=False)):
            me, partner = t % 2, 1 - t % 2
            q = self.step[me][step.move] @ v[t + 1]
            credits.append(
                TurnCredit(
                    v=float(beliefs[me] @ v[t][:, me]),
                    q=float(beliefs[me] @ q[:, me]),
                    v_true=float(v[t][here, me]),
                    q_true=float(q[here, me]),
                    chance_true=float(v[t + 1][there, me] - q[here, me]),
                    partner_v_true=float(v[t][here, partner]),
                    partner_q_true=float(q[here, partner]),
                    partner_chance_true=float(v[t + 1][there, partner] - q[here, partner]),
                )
            )
            beliefs[partner] = beliefs[partner] * self.policy[me][step.move]  # the partner learns from what was said
            beliefs = [self._heard(beliefs[a] @ self.step[me][step.move], a, there) for a in AGENTS]
        return credits

    def _start(self) -> Floats:
        belief = np.zeros(len(self.states))
        for outcome in self.game.starts():
            belief[self.index[outcome.state]] += outcome.probability
        return belief

    def _heard(self, belief: Floats, agent: int, row: int) -> Floats:
        """The belief of an agent that sees what it sees in the state of `row`."""
        kept: Floats = np.where(self._same[agent] == self._same[agent][row], belief, 0.0)
        kept /= kept.sum()
        return kept

    def _matrix(self, agent: int, move: str) -> Any:
        from scipy.sparse import csr_array

        cells: list[tuple[float, int, int]] = []
        for i, state in enumerate(self.states):
            if not self.over[i] and move in self.game.legal(state, agent):
                for outcome in self.game.outcomes(state, agent, move):
                    cells.append((outcome.probability, i, self.index[outcome.state]))
        chances, here, there = zip(*cells, strict=True) if cells else ((), (), ())
        shape = (len(self.states), len(self.states))
        return csr_array((np.array(chances, dtype=float), (np.array(here, int), np.array(there, int))), shape=shape)

    def _policy(self, agent: int) -> dict[str, Floats]:
        """π of each move in every state, 0 where the game is over."""
        policy = {move: np.zeros(len(self.states)) for move in self.game.moves}
        for i in np.flatnonzero(~self.over):
            for move, probability in self.game.policy(self.states[i], agent).items():
                policy[move][i] = probability
        return policy

    def _turn(self, agent: int) -> Any:
        from scipy.sparse import diags_array

        turn: Any = diags_array(self.over.astype(float))
        for move, matrix in self.step[agent].items():
            turn = turn + diags_array(self.policy[agent][move]) @ matrix
        return turn.tocsr()

    def _planned(self, agent: int, move: str) -> Any:
        from scipy.sparse import diags_array

        matrix, neutral = self.step[agent][move], self.step[agent][NEUTRAL]
        illegal = 1.0 - np.asarray(matrix.sum(axis=1)).ravel().round() - self.over
        return (matrix + diags_array(illegal) @ neutral + diags_array(self.over.astype(float))).tocsr()


@lru_cache(maxsize=64)
def solved(game: Game) -> Solved:
    """The game solved; the same rules are solved once."""
    return Solved(game)


def _reachable(game: Game) -> list[State]:
    """Every state that any moves can lead to, whoever speaks."""
    found = dict.fromkeys(outcome.state for outcome in game.starts())
    new = list(found)
    while new:
        state = new.pop()
        if game.over(state):
            continue
        for agent in AGENTS:
            for move in game.legal(state, agent):
                for outcome in game.outcomes(state, agent, move):
                    if outcome.state not in found:
                        found[outcome.state] = None
                        new.append(outcome.state)
    return list(found)


def _numbered(keys: Sequence[Any]) -> NDArray[np.int64]:
    """A number for each key, equal where keys are."""
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])
