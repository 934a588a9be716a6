"""Counterfactual credit by re-playing: what an utterance changed, estimated by playing other utterances on to the end.

At a turn, K utterances are drawn from the agent's policy (they may repeat what was said); each is played on M times,
and beside it what was said is played on M times with the same luck. The K differences of the mean scores are
independent, and their mean estimates Q(said) − V under the policy. Drawing only from what was *not* said would estimate
another number, (Q − V) / (1 − π(said)).

    gap_k = mean_m score(said, luck_km) − mean_m score(drawn_k, luck_km)      Q − V ≈ mean gap ± t_{K−1} · s / √K

The same luck for both is the method of common random numbers (Glasserman and Yao 1992). Shapley values are estimated
over random orders of the turns (Castro, Gómez and Tejada 2009) and the same backwards, all sets of both with the same
luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.credit.game import NEUTRAL
from sotopia_rl_data.credit.simulating import Simulator
from sotopia_rl_data.credit.solved import Step
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.statistics import student_quantile

Floats = NDArray[np.float64]
SPAN = 10.0
"""How far apart two scores of a game can be."""
_LEAST = 0.04


@dataclass(frozen=True, slots=True)
class CreditEstimate:
    """An estimated credit in points, its standard error, and its 95 % interval, which is never of width 0."""

    credit: float
    error: float
    low: float
    high: float


def mean_of(gaps: Floats, span: float = SPAN) -> CreditEstimate:
    """The mean of two or more independent differences with its t interval.

    Differences that happen to be equal do not prove that all others would be. So the sum of squares has one difference
    more, of a twenty-fifth of `span` (how far apart two scores can be): of sixteen draws it hardly matters.
    """
    k = len(gaps)
    if k < 2:
        raise UsageError(f"{k} draws give no interval.", "draw 2 utterances or more")
    credit = float(gaps.mean())
    squares = float(((gaps - credit) ** 2).sum()) + (_LEAST * span) ** 2
    error = float(np.sqrt(squares / (k - 1) / k))
    half = error * student_quantile(0.975, k - 1)
    return CreditEstimate(credit, error, credit - half, credit + half)


def replayed(
    simulator: Simulator, step: Step, turn: int, length: int, draws: int, plays: int, rng: np.random.Generator
) -> CreditEstimate:
    """Q − V of what was said at `turn` of a game of at most `length` turns, from `draws` (K) utterances of the policy,
    each played on `plays` (M) times, with all that is true."""
    drawn = simulator.draws(step.state, turn % 2, rng.random(draws))
    luck = rng.random((draws * plays, length - turn, 2))
    said = np.full(draws * plays, simulator.moves.index(step.move))
    scores = [simulator.ends(step.state, turn, length, moves, luck) for moves in (said, np.repeat(drawn, plays))]
    return mean_of((scores[0] - scores[1]).reshape(draws, plays).mean(axis=1))


def replayed_shapley(
    simulator: Simulator, said: Sequence[Step], agent: int, length: int, samples: int, rng: np.random.Generator
) -> list[CreditEstimate]:
    """The Shapley value of each of the agent's turns, from `samples` random orders, each also taken backwards."""
    moves = [step.move for step in said[agent::2]]
    added = np.zeros((samples, len(moves)))
    for sample in range(samples):
        order, luck = rng.permutation(len(moves)), rng.random((length, 2))
        for turns in (order, order[::-1]):
            rank = np.argsort(turns)
            plans = [
                [move if rank[k] < size else NEUTRAL for k, move in enumerate(moves)] for size in range(len(moves) + 1)
            ]
            added[sample, turns] += np.diff(simulator.planned_ends(said[0].state, agent, length, plans, luck)) / 2
    return [mean_of(added[:, k]) for k in range(len(moves))]
