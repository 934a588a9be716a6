"""The Shapley value of each of an agent's turns (Shapley 1953), with the turns as players.

v(S) is the agent's expected score if its turns in S are as they were said and all its others are the neutral move, as
is one that has become illegal; the partner and chance are drawn anew, from the state in which the dialogue began.

    φ_k = Σ_{S without k} |S|! (n − |S| − 1)! / n!  ·  (v(S with k) − v(S))        Σ_k φ_k = v(all) − v(none)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.credit.game import NEUTRAL
from sotopia_rl_data.credit.solved import Solved, Step

Floats = NDArray[np.float64]


def coalition_values(solved: Solved, said: Sequence[Step], agent: int, length: int) -> Floats:
    """v of every set of the agent's n turns: (2^n,). Bit k of the index is the agent's k-th turn.

    It goes back from the last turn, with a column for each set of the turns that follow.
    """
    columns = solved.scores[:, [agent]]
    for t in reversed(range(length)):
        if t % 2 != agent:
            columns = solved.turn[t % 2] @ columns
        elif t >= len(said):
            columns = solved.planned[agent][NEUTRAL] @ columns
        else:
            without, within = (solved.planned[agent][move] @ columns for move in (NEUTRAL, said[t].move))
            columns = np.stack([without, within], axis=2).reshape(len(columns), -1)  # the earlier turn is the lower bit
    values: Floats = columns[solved.index[said[0].state]]
    return values


def shapley_values(coalitions: Floats) -> Floats:
    """φ of each of n players, from v of their 2^n sets."""
    n = len(coalitions).bit_length() - 1
    sets = np.arange(len(coalitions))
    sizes = np.array([int(s).bit_count() for s in sets])
    weight = np.array([factorial(size) * factorial(n - size - 1) / factorial(n) for size in range(n)])
    values = np.empty(n)
    for k in range(n):
        without = sets[(sets >> k) & 1 == 0]
        values[k] = weight[sizes[without]] @ (coalitions[without | (1 << k)] - coalitions[without])
    return values
