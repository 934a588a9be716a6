"""Statistics of two columns: how far one is from the other, and whether they go together, with ties.

Every function takes columns of equal length and a weight for each row (default: 1 each), and gives None where the
figure is not defined: no rows, or a constant column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def columns(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    """Both columns and the weights (default: 1 each) as float64. Raises ValueError where they differ in length."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (a.shape == b.shape == w.shape and a.ndim == 1):
        raise ValueError(f"columns must have one axis and the same length, not {a.shape}, {b.shape}, {w.shape}")
    return a, b, w


def mean(values: Floats, weights: Floats) -> float | None:
    """The weighted mean; None where no row has a weight."""
    total = float(np.sum(weights))
    return float(np.sum(weights * values)) / total if total > 0 else None


def is_constant(values: Floats, weights: Floats) -> bool:
    """Whether all rows with a weight have one value, or there are none."""
    present = values[weights > 0]
    return len(present) == 0 or bool(np.all(present == present[0]))


def ranks(values: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Ranks from 1, ties at their average; with integer weights, the ranks of the values repeated that often."""
    x, _, w = columns(values, values, weights)
    _, group = np.unique(x, return_inverse=True)
    mass = np.bincount(group, weights=w, minlength=int(group.max()) + 1 if len(group) else 0)
    last: Floats = np.cumsum(mass)
    average: Floats = last - (mass - 1.0) / 2.0
    return average[group]


def mean_squared_error(predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Mean of (predicted - actual)²."""
    x, y, w = columns(predicted, actual, weights)
    return mean((x - y) ** 2, w)


def mean_absolute_error(predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Mean of |predicted - actual|."""
    x, y, w = columns(predicted, actual, weights)
    return mean(np.abs(x - y), w)


def mean_difference(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Mean of x - y, in their units: the bias of a Bland-Altman plot (Bland & Altman 1986)."""
    a, b, w = columns(x, y, weights)
    return mean(a - b, w)


def r_squared(predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """1 - (sum of squared errors) / (sum of squares around the actual mean); None where `actual` is constant."""
    x, y, w = columns(predicted, actual, weights)
    middle = mean(y, w)
    if middle is None or is_constant(y, w):
        return None
    return 1.0 - float(np.sum(w * (x - y) ** 2)) / float(np.sum(w * (y - middle) ** 2))


def calibration_error(
    predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None = None, bins: int = 10
) -> float | None:
    """Expected calibration error of a regression: rows in `bins` equally heavy bins by predicted value, then the mean
    over rows of |mean predicted - mean actual| of their bin. In the units of `actual`; 0 is calibrated.

    Equal predictions share a bin. After Naeini et al. 2015 (AAAI), with bins of equal mass.
    """
    told, came, weight = calibration_bins(predicted, actual, weights, bins)
    total = float(np.sum(weight))
    return float(np.sum(np.abs(told - came) * weight) / total) if total > 0 else None


def calibration_bins(
    predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None = None, bins: int = 10
) -> tuple[Floats, Floats, Floats]:
    """What a calibration curve shows: of each bin of `calibration_error` that has rows, the mean predicted, the mean
    actual, and the weight."""
    x, y, w = columns(predicted, actual, weights)
    middle = (ranks(x, w) - 0.5) / max(float(np.sum(w)), 1e-300)
    which = np.clip((middle * bins).astype(np.intp), 0, bins - 1)
    sums: Floats = np.array([np.bincount(which, weights=each, minlength=bins) for each in (w, w * x, w * y)])
    weight, told, came = sums[:, sums[0] > 0]
    return told / weight, came / weight, weight


def pearson(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Pearson's correlation, in [-1, 1]; None where a column is constant."""
    a, b, w = columns(x, y, weights)
    if is_constant(a, w) or is_constant(b, w):
        return None
    a, b = a - np.average(a, weights=w), b - np.average(b, weights=w)
    # The columns are scaled, so that squares of tiny numbers do not vanish and squares of huge numbers do not overflow.
    a, b = a / np.max(np.abs(a[w > 0])), b / np.max(np.abs(b[w > 0]))
    r = float(np.sum(w * a * b) / np.sqrt(np.sum(w * a * a) * np.sum(w * b * b)))
    return min(1.0, max(-1.0, r))


def spearman(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Spearman's correlation with ties at their average rank, in [-1, 1]; None where a column is constant."""
    a, b, w = columns(x, y, weights)
    return pearson(ranks(a, w), ranks(b, w), w)


def kendall(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Kendall's tau-b, in [-1, 1]; None where a column is constant. O(n log n).

    (C - D) / sqrt((n0 - n1)(n0 - n2)): pairs in the same and in opposite order, over the pairs that x and that y do not
    tie (Kendall 1945, "The treatment of ties in ranking problems"). Weights repeat rows; a row and its copy are a tie.
    """
    a, b, w = columns(x, y, weights)
    a, b, w = a[w > 0], b[w > 0], w[w > 0]
    if is_constant(a, w) or is_constant(b, w):
        return None
    code_a, code_b = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    cell = code_a.astype(np.int64) * (int(code_b.max()) + 1) + code_b
    both = np.bincount(np.unique(cell, return_inverse=True)[1], weights=w)
    total, tied_a, tied_b, tied = (_pairs(m) for m in (w.sum(), np.bincount(code_a, w), np.bincount(code_b, w), both))
    opposed = _inversions(code_b[np.argsort(cell, kind="stable")], w[np.argsort(cell, kind="stable")])
    balance = total - tied_a - tied_b + tied - 2.0 * opposed
    tau = balance / np.sqrt(total - tied_a) / np.sqrt(total - tied_b)
    return min(1.0, max(-1.0, float(tau)))


def _pairs(mass: ArrayLike) -> float:
    """How many pairs the rows of each group make, over all groups."""
    m = np.asarray(mass, dtype=np.float64)
    return float(np.sum(m * (m - 1.0) / 2.0))


def _inversions(codes: NDArray[np.intp], weights: Floats) -> float:
    """The weight of pairs whose earlier row has the higher code.

    Two codes differ first in one binary digit. So, digit after digit from the highest: among rows with equal digits so
    far, in their order, count the ones before each zero. Every step is a few passes over whole columns.
    """
    found = 0.0
    for digit in reversed(range(int(codes.max()).bit_length())):
        order = np.argsort(codes >> (digit + 1), kind="stable")
        codes, weights = codes[order], weights[order]
        head = codes >> (digit + 1)
        one = (codes >> digit) & 1
        before = np.cumsum(weights * one)
        starts = np.flatnonzero(np.r_[True, head[1:] != head[:-1]])
        base = np.repeat(np.r_[0.0, before[starts[1:] - 1]], np.diff(np.r_[starts, len(codes)]))
        found += float(np.sum((weights * (before - base))[one == 0]))
    return found
