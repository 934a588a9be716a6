"""How good a reward model is, beside two models that need no language: the train mean, and the train mean by turn.

Every number is in the reward's own units, over the utterances of one split; what cannot be computed is left out.
Intervals resample whole episodes, since utterances of one episode are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sotopia_rl_data import statistics as stats

Floats = NDArray[np.float64]

# Not the calibration error: resampling makes it larger, and its interval would lie beside it.
WITH_INTERVAL = ("mse", "mae", "r2", "pearson", "spearman", "pair_accuracy")


def statistics_of(episodes: Sequence[Any]) -> dict[str, Callable[..., float | None]]:
    """The metrics by name: functions of (predicted, actual, weights). Pairs are compared within an episode."""
    names = np.array([repr(one) for one in episodes], dtype=object)
    code = np.unique(names, return_inverse=True)[1] if len(names) else []
    return {
        "mse": stats.mean_squared_error,
        "mae": stats.mean_absolute_error,
        "r2": stats.r_squared,
        "pearson": stats.pearson,
        "spearman": stats.spearman,
        "pair_accuracy": lambda predicted, actual, weights=None: stats.pair_accuracy(predicted, actual, code, weights),
        "calibration_error": stats.calibration_error,
    }


def reward_metrics(
    predicted: ArrayLike,
    actual: ArrayLike,
    episodes: Sequence[Any],
    baselines: Mapping[str, ArrayLike],
    *,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """All metrics of `predicted` against `actual`; `<metric>_low`, `<metric>_high` (95 %) of WITH_INTERVAL; and
    each metric of every baseline as `<baseline>_<metric>`. What is resampled is whole `episodes`."""
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    functions = statistics_of(episodes)
    found: dict[str, float | None] = {name: f(x, y) for name, f in functions.items()}
    for name in WITH_INTERVAL if resamples else ():
        function = functions[name]
        interval = stats.bootstrap_interval(
            lambda w, f=function: f(x, y, w), [repr(e) for e in episodes], resamples=resamples, seed=seed
        )
        found[f"{name}_low"], found[f"{name}_high"] = interval or (None, None)
    for baseline, guess in baselines.items():
        found |= {f"{baseline}_{name}": f(guess, y) for name, f in functions.items()}
    return {name: value for name, value in found.items() if value is not None}


class Baselines:
    """What the train split's mean, and its mean at each turn, would predict."""

    def __init__(self, rewards: ArrayLike, turns: Sequence[int | None]) -> None:
        values, at = np.asarray(rewards, dtype=np.float64), np.array(turns, dtype=object)
        self.mean = float(values.mean())
        self.by_turn = {t: float(values[at == t].mean()) for t in set(turns) if t is not None}

    def of(self, turns: Sequence[int | None]) -> dict[str, Floats]:
        """`mean` and `turn` for utterances at these turns; one unknown, or that train never saw, gets the mean."""
        by_turn = [self.mean if t is None else self.by_turn.get(t, self.mean) for t in turns]
        return {"mean": np.full(len(by_turn), self.mean), "turn": np.array(by_turn, dtype=np.float64)}
