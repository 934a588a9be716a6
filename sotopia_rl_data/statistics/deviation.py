"""How far one column is from another: errors, differences, calibration, effect size."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sotopia_rl_data.statistics.columns import columns, is_constant, mean
from sotopia_rl_data.statistics.correlation import ranks


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
    x, y, w = columns(predicted, actual, weights)
    if not np.sum(w) > 0:
        return None
    middle = (ranks(x, w) - 0.5) / np.sum(w)
    which = np.clip((middle * bins).astype(np.intp), 0, bins - 1)
    gap = np.abs(np.bincount(which, weights=w * (x - y), minlength=bins))
    return float(np.sum(gap) / np.sum(w))


def standardised_shift(differences: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Cohen's d of paired differences: their mean over their sample standard deviation (d_z; Cohen 1988, section 2.3;
    Lakens 2013, equation 6). 0.2 is small, 0.5 medium, 0.8 large. None where they do not vary or are fewer than two.
    """
    d, _, w = columns(differences, differences, weights)
    middle, total = mean(d, w), float(np.sum(w))
    if middle is None or is_constant(d, w) or total <= 1:
        return None
    return middle / float(np.sqrt(np.sum(w * (d - middle) ** 2) / (total - 1.0)))
