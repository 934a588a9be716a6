"""Intervals that resample whole clusters (episodes), since utterances of one episode are not independent.

A resample is a vector: how often each cluster was drawn. Percentile intervals are too narrow with few clusters; they
are expanded so that the bootstrap of a mean is as wide as Student's interval (Hesterberg 2015, "What Teachers Should
Know About the Bootstrap", the expanded percentile interval). With many clusters that changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sotopia_rl_data.statistics.columns import Floats
from sotopia_rl_data.statistics.testing import student_quantile

WeightedStatistic = Callable[[Floats], float | None]

_CELLS = 1 << 22  # numbers of weights that are held at a time


def bootstrap_interval(
    statistic: WeightedStatistic,
    clusters: Sequence[Any] | NDArray[Any],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Interval of `statistic` when whole clusters are drawn with replacement (Efron & Tibshirani 1993, chapters 8, 13).

    `clusters` names each row's cluster. `statistic` gets one weight a row, how often its cluster was drawn. Resamples
    in which it is None are left out; None where that is all of them, or there are fewer than two clusters.
    """
    code = np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(code.max()) + 1 if len(code) else 0
    drawn = (one[code].astype(np.float64) for some in draws(count, resamples, seed) for one in some)
    values = map(statistic, drawn)
    return percentile_interval(np.array([v for v in values if v is not None]), count, level)


def draws(clusters: int, resamples: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """How often each cluster is drawn in each resample, some resamples at a time: (some, clusters)."""
    rng = np.random.default_rng(seed)
    step = max(1, min(resamples, _CELLS // max(clusters, 1)))
    for start in range(0, resamples if clusters else 0, step):
        some = min(step, resamples - start)
        picked = rng.integers(0, clusters, (some, clusters)) + np.arange(some)[:, None] * clusters
        yield np.bincount(picked.ravel(), minlength=some * clusters).reshape(some, clusters).astype(np.float32)


def resampled(sums: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> Floats:
    """What sums over clusters (clusters, k) become in each resample: (resamples, k).

    Every statistic that is a function of sums over rows (means, moments, correlations) is bootstrapped by this alone.
    """
    s = np.asarray(sums, dtype=np.float64)
    found = [drawn @ s for drawn in draws(len(s), resamples, seed)]
    return np.concatenate(found) if found else np.zeros((0, *s.shape[1:]))


def percentile_interval(found: ArrayLike, clusters: int, level: float = 0.95) -> tuple[float, float] | None:
    """The expanded percentile interval of resampled values; NaN are left out.

    The share below its lower end is Φ(-t·sqrt(n/(n-1))), where n counts clusters and t is Student's quantile with n - 1
    degrees of freedom.
    None where none is left or there were fewer than two clusters to draw from.
    """
    values = np.asarray(found, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values) or clusters < 2:
        return None
    quantile = student_quantile((1.0 + level) / 2.0, clusters - 1)
    tail = NormalDist().cdf(-quantile * float(np.sqrt(clusters / (clusters - 1))))
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
