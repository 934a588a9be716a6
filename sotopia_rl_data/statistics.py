"""Agreement, correlation, error and bootstrap: pure numpy, shared by `stats`, the trainers and `compare`.

Every statistic takes optional `weights`, one non-negative number a row (default: 1 each). A row of weight 2 counts as
if it stood there twice, so a bootstrap resample is a vector of weights and no row is ever copied.

What cannot be computed (no rows, a constant column) is None, never NaN. Missing values are the caller's to drop.
scipy and krippendorff are references in the tests, not dependencies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], float | None]


def mean_squared_error(predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Mean of (predicted - actual)²."""
    x, y, w = _columns(predicted, actual, weights)
    return _mean((x - y) ** 2, w)


def mean_absolute_error(predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Mean of |predicted - actual|."""
    x, y, w = _columns(predicted, actual, weights)
    return _mean(np.abs(x - y), w)


def r_squared(predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """1 - (sum of squared errors) / (sum of squares around the actual mean); None where `actual` is constant."""
    x, y, w = _columns(predicted, actual, weights)
    mean = _mean(y, w)
    if mean is None:
        return None
    total = float(np.sum(w * (y - mean) ** 2))
    return None if _is_constant(y, w) else 1.0 - float(np.sum(w * (x - y) ** 2)) / total


def pearson(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Pearson's correlation, in [-1, 1]; None where a column is constant."""
    a, b, w = _columns(x, y, weights)
    if _is_constant(a, w) or _is_constant(b, w):
        return None
    a, b = a - np.average(a, weights=w), b - np.average(b, weights=w)
    # Scaled before squaring, so that tiny and huge columns neither vanish nor overflow.
    a, b = a / np.max(np.abs(a)), b / np.max(np.abs(b))
    r = float(np.sum(w * a * b) / np.sqrt(np.sum(w * a * a) * np.sum(w * b * b)))
    return min(1.0, max(-1.0, r))


def spearman(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Spearman's correlation with ties at their average rank, in [-1, 1]; None where a column is constant."""
    a, b, w = _columns(x, y, weights)
    return pearson(ranks(a, w), ranks(b, w), w)


def ranks(values: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Ranks from 1, ties at their average; with integer weights, the ranks of the values repeated that often."""
    x, _, w = _columns(values, values, weights)
    _, group = np.unique(x, return_inverse=True)
    mass = np.bincount(group, weights=w, minlength=int(group.max()) + 1 if len(group) else 0)
    last: Floats = np.cumsum(mass)
    average: Floats = last - (mass - 1.0) / 2.0
    return average[group]


def pair_accuracy(
    predicted: ArrayLike, actual: ArrayLike, groups: Sequence[Any] | NDArray[Any], weights: ArrayLike | None = None
) -> float | None:
    """Of the pairs of rows in one group whose actual values differ, the share that `predicted` puts in that order.

    In [0, 1]; a predicted tie counts one half; None where there is no such pair. A pair weighs as much as its lighter
    row (in a bootstrap over groups, all rows of a group weigh the same).
    """
    x, y, w = _columns(predicted, actual, weights)
    left, right = pairs_within(groups)
    differ = y[left] != y[right]
    left, right = left[differ], right[differ]
    agree = (np.sign(x[left] - x[right]) * np.sign(y[left] - y[right]) + 1.0) / 2.0
    return _mean(agree, np.minimum(w[left], w[right]))


def pairs_within(groups: Sequence[Any] | NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers (left, right) of every unordered pair of rows that are in the same group."""
    code = np.unique(np.asarray(groups), return_inverse=True)[1]
    order = np.argsort(code, kind="stable")
    sizes = np.bincount(code) if len(code) else np.zeros(0, dtype=np.intp)
    starts = np.cumsum(sizes) - sizes
    lefts, rights = [], []
    for size in np.unique(sizes):  # all groups of one size at once
        i, j = np.triu_indices(int(size), k=1)
        members = order[starts[sizes == size][:, None] + np.arange(int(size))[None, :]]
        lefts.append(members[:, i].ravel())
        rights.append(members[:, j].ravel())
    none = np.zeros(0, dtype=np.intp)
    return (np.concatenate(lefts), np.concatenate(rights)) if lefts else (none, none)


def calibration_error(
    predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None = None, bins: int = 10
) -> float | None:
    """Expected calibration error of a regression: rows in `bins` equally heavy bins by predicted value, then the mean
    over rows of |mean predicted - mean actual| of their bin. In the units of `actual`; 0 is calibrated.

    Equal predictions share a bin.
    """
    x, y, w = _columns(predicted, actual, weights)
    if not np.sum(w) > 0:
        return None
    middle = (ranks(x, w) - 0.5) / np.sum(w)
    which = np.clip((middle * bins).astype(np.intp), 0, bins - 1)
    gap = np.abs(np.bincount(which, weights=w * (x - y), minlength=bins))
    return float(np.sum(gap) / np.sum(w))


def bootstrap_interval(
    statistic: Statistic,
    clusters: Sequence[Any] | NDArray[Any],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of `statistic` when whole clusters are drawn with replacement.

    Efron & Tibshirani 1993, chapters 8 and 13. Utterances of an episode are not independent: name the episode as the cluster. `statistic` gets one weight a row,
    how often its cluster was drawn. Resamples in which it is None are left out; None where that is all of them.
    """
    code = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if not len(code):
        return None
    count = int(code.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = (rng.multinomial(count, np.full(count, 1.0 / count)) for _ in range(resamples))
    found = [value for value in (statistic(draw[code].astype(np.float64)) for draw in drawn) if value is not None]
    if not found:
        return None
    low, high = np.quantile(np.array(found), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _columns(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (a.shape == b.shape == w.shape and a.ndim == 1):
        raise ValueError(f"columns differ in length: {a.shape}, {b.shape}, {w.shape}")
    return a, b, w


def _mean(values: Floats, weights: Floats) -> float | None:
    total = float(np.sum(weights))
    return float(np.sum(weights * values)) / total if total > 0 else None


def _is_constant(values: Floats, weights: Floats) -> bool:
    present = values[weights > 0]
    return len(present) == 0 or bool(np.all(present == present[0]))
