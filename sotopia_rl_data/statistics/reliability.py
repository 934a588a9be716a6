"""Whether one opinion can replace another: kappa, alpha, and the order within groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sotopia_rl_data.statistics.columns import Floats, columns, is_constant, mean


def quadratic_kappa(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Cohen's kappa with quadratic weights (Cohen 1968): 1 - observed/expected squared disagreement.

    The values themselves are the distances (0, 1 and 3 are not equally far apart), so it is defined for any numbers; it
    is then Lin's concordance with n in the denominators: 1 - mean (x-y)² / (var x + var y + (mean x - mean y)²). 1 is
    equality, 0 chance. None where both columns are one and the same constant.
    """
    a, b, w = columns(x, y, weights)
    mean_a, mean_b, observed = mean(a, w), mean(b, w), mean((a - b) ** 2, w)
    if mean_a is None or mean_b is None or observed is None or is_constant(np.r_[a, b], np.r_[w, w]):
        return None
    spread = float(np.sum(w * (a - mean_a) ** 2) + np.sum(w * (b - mean_b) ** 2)) / float(np.sum(w))
    return 1.0 - observed / (spread + (mean_a - mean_b) ** 2)


def krippendorff_alpha(values: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Krippendorff's alpha with interval distance: 1 - observed/expected disagreement over all pairable values.

    `values` has a row for each opinion and a column for each unit; NaN is missing, and a unit with fewer than two
    values does not count. `weights` are by unit. With D_o and D_e written through sums of squares (Krippendorff 2019,
    "Content Analysis", chapter 12; Hayes & Krippendorff 2007):

        D_o = 1/N Σ_u 2·m_u/(m_u - 1)·SS_u        D_e = 2·SS/(N - 1)

    m_u values in unit u, SS_u their squares around their mean, N and SS those of all pairable values. None where
    nothing is pairable or all values are equal.
    """
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 2:
        raise ValueError(f"values must have two axes (opinions, units), not {v.ndim}")
    w = np.ones(v.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    sums = alpha_sums(v)
    pairable = v[:, (sums[:, 0] > 0) & (w > 0)]
    pairable = pairable[~np.isnan(pairable)]
    if not len(pairable) or bool(np.all(pairable == pairable[0])):
        return None
    # The values are centred, because small differences get lost in the squares of large numbers.
    middle = float(pairable.mean())
    return float(alpha_of(w @ alpha_sums(v - middle)))


def alpha_sums(values: Floats) -> Floats:
    """What alpha needs of each unit: (units, 4) with m, weighted SS_u, Σv, Σv²; all 0 where m < 2."""
    there = ~np.isnan(values)
    m = there.sum(axis=0).astype(np.float64)
    v = np.where(there, values, 0.0)
    total = v.sum(axis=0)
    middle = total / np.maximum(m, 1.0)
    within = (np.where(there, v - middle, 0.0) ** 2).sum(axis=0)
    sums = np.stack([m, 2.0 * m / np.maximum(m - 1.0, 1.0) * within, total, (v**2).sum(axis=0)], axis=1)
    return np.where(m[:, None] >= 2, sums, 0.0)


def alpha_of(sums: Floats) -> Floats:
    """Alpha from sums (…, 4) of `alpha_sums`; NaN where it is not defined."""
    n, observed, total, squares = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = 2.0 * (squares - total**2 / n) / (n - 1.0)
        alpha = 1.0 - observed / n / expected
    return np.where((n > 1) & (expected > 1e-12 * np.maximum(squares / np.maximum(n, 1.0), 1e-300)), alpha, np.nan)


def pair_accuracy(
    predicted: ArrayLike, actual: ArrayLike, groups: Sequence[Any] | NDArray[Any], weights: ArrayLike | None = None
) -> float | None:
    """Of the pairs of rows in one group whose actual values differ, the share that `predicted` puts in that order.

    In [0, 1]; a predicted tie counts one half; None where there is no such pair. A pair weighs as much as its lighter
    row (in a bootstrap over groups, all rows of a group weigh the same).
    """
    x, y, w = columns(predicted, actual, weights)
    left, right = pairs_within(groups)
    differ = y[left] != y[right]
    left, right = left[differ], right[differ]
    agree = (np.sign(x[left] - x[right]) * np.sign(y[left] - y[right]) + 1.0) / 2.0
    return mean(agree, np.minimum(w[left], w[right]))


def pairs_within(groups: Sequence[Any] | NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers (left, right) of every unordered pair of rows that are in the same group."""
    code = np.unique(np.asarray(groups), return_inverse=True)[1]
    order = np.argsort(code, kind="stable")
    sizes = np.bincount(code) if len(code) else np.zeros(0, dtype=np.intp)
    starts = np.cumsum(sizes) - sizes
    lefts, rights = [], []
    for size in np.unique(sizes):  # all groups of one size are handled at once
        i, j = np.triu_indices(int(size), k=1)
        members = order[starts[sizes == size][:, None] + np.arange(int(size))[None, :]]
        lefts.append(members[:, i].ravel())
        rights.append(members[:, j].ravel())
    none = np.zeros(0, dtype=np.intp)
    return (np.concatenate(lefts), np.concatenate(rights)) if lefts else (none, none)
