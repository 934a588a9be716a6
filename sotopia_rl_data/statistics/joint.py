"""The figures of two columns from the table of how often each pair of values occurs, for many tables at once.

Judges answer on a few levels, so a table of levels × levels has all the information about two of them, exactly and
however many rows were counted. A resample of episodes is another table: a million rows are read once, and a thousand
resamples cost a thousand small tables. `tables` are (…, A, B) counts, `a` (A,) and `b` (B,) the ascending values that
they count; every function gives an array (…), NaN where the figure is not defined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sotopia_rl_data.statistics.columns import Floats


def pearson(tables: ArrayLike, a: Floats, b: Floats) -> Floats:
    """Pearson's correlation."""
    t, rows, cols, n = _margins(tables)
    return _correlation(t, rows, cols, n, *np.broadcast_arrays(a, rows), *np.broadcast_arrays(b, cols))


def spearman(tables: ArrayLike) -> Floats:
    """Spearman's correlation, ties at their average rank. The values do not matter, only their order."""
    t, rows, cols, n = _margins(tables)
    ranks_a, ranks_b = (np.cumsum(m, axis=-1) - (m - 1.0) / 2.0 for m in (rows, cols))
    return _correlation(t, rows, cols, n, ranks_a, rows, ranks_b, cols)


def kendall(tables: ArrayLike) -> Floats:
    """Kendall's tau-b. The values do not matter, only their order."""
    t, rows, cols, n = _margins(tables)
    balance = np.sum(t * order_balance(t), axis=(-1, -2)) / 2.0
    free_a, free_b = ((n**2 - np.sum(m**2, axis=-1)) / 2.0 for m in (rows, cols))
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = balance / np.sqrt(free_a) / np.sqrt(free_b)
    return np.where(_varies(rows) & _varies(cols), np.clip(tau, -1.0, 1.0), np.nan)


def quadratic_kappa(tables: ArrayLike, a: Floats, b: Floats) -> Floats:
    """Cohen's kappa with the values' squared distances as weights: see `reliability.quadratic_kappa`."""
    t, rows, cols, n = _margins(tables)
    apart = (a[:, None] - b[None, :]) ** 2
    observed = np.sum(t * apart, axis=(-1, -2)) * n
    expected = np.einsum("...i,ij,...j->...", rows, apart, cols)
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = 1.0 - observed / expected
    return np.where(expected > 0, kappa, np.nan)


def alpha(tables: ArrayLike, a: Floats, b: Floats) -> Floats:
    """Krippendorff's alpha, interval distance, of two opinions: see `reliability.krippendorff_alpha`."""
    t, rows, cols, n = _margins(tables)
    apart = (a[:, None] - b[None, :]) ** 2
    observed = np.sum(t * apart, axis=(-1, -2)) / np.maximum(n, 1.0)
    values = np.r_[a, b]
    mass = np.concatenate([rows, cols], axis=-1)
    expected = np.einsum("...i,ij,...j->...", mass, (values[:, None] - values[None, :]) ** 2, mass)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = 1.0 - observed * (2.0 * n) * (2.0 * n - 1.0) / expected
    return np.where(expected > 0, value, np.nan)


def mean_difference(tables: ArrayLike, a: Floats, b: Floats) -> Floats:
    """Mean of a - b."""
    t, _, _, n = _margins(tables)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 0, np.sum(t * (a[:, None] - b[None, :]), axis=(-1, -2)) / n, np.nan)


def ordered_pairs(tables: ArrayLike) -> Floats:
    """(…, 2): of the pairs of rows that at least one column orders, how many are ordered alike (a tie in one column
    counts one half), and how many such pairs there are."""
    t, _, _, n = _margins(tables)
    balance = np.sum(t * order_balance(t), axis=(-1, -2)) / 2.0
    untied = (n**2 - np.sum(t**2, axis=(-1, -2))) / 2.0
    return np.stack([(untied + balance) / 2.0, untied], axis=-1)


def order_balance(tables: Floats) -> Floats:
    """For each cell, the rows in cells that are ordered alike minus those that are ordered oppositely. Same shape."""
    # For each cell, the counts above it and to its left, minus the counts above it and to its right.
    from_above = np.zeros_like(tables)
    whole = np.cumsum(tables, axis=-2)[..., :-1, :]
    left = np.cumsum(whole, axis=-1)
    total = left[..., -1:]
    from_above[..., 1:, :] = (left - whole) - (total - left)
    # For each cell, the counts below it and to its right, minus the counts below it and to its left.
    from_below = np.zeros_like(tables)
    rest = np.cumsum(tables[..., ::-1, :], axis=-2)[..., ::-1, :][..., 1:, :]
    left = np.cumsum(rest, axis=-1)
    total = left[..., -1:]
    from_below[..., :-1, :] = (total - left) - (left - rest)
    return from_above + from_below


def _margins(tables: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    t = np.asarray(tables, dtype=np.float64)
    return t, t.sum(axis=-1), t.sum(axis=-2), t.sum(axis=(-1, -2))


def _varies(mass: Floats) -> np.ndarray:
    return np.asarray(np.count_nonzero(mass, axis=-1) > 1)


def _correlation(
    t: Floats, rows: Floats, cols: Floats, n: Floats, a: Floats, mass_a: Floats, b: Floats, mass_b: Floats
) -> Floats:
    """The correlation of values (…, A) and (…, B) that occur `t` times together."""
    many = np.maximum(n, 1.0)[..., None]
    a = a - np.sum(mass_a * a, axis=-1, keepdims=True) / many
    b = b - np.sum(mass_b * b, axis=-1, keepdims=True) / many
    together = np.einsum("...ij,...i,...j->...", t, a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = together / np.sqrt(np.sum(mass_a * a**2, axis=-1) * np.sum(mass_b * b**2, axis=-1))
    return np.where(_varies(rows) & _varies(cols), np.clip(r, -1.0, 1.0), np.nan)
