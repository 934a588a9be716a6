"""Asking a judge where a model is unsure: who is asked with what chance, and means that stay right all the same.

Each row is asked with a known chance above 0, which rises with the model's uncertainty about it. A mean over all rows
is the model's, corrected by what the judge said where it was asked, each answer weighing 1 / chance (active inference:
Zrnic and Candès 2024). The model is fitted to the answers first, as g = a + b·f by weighted least squares (the
regression estimator: Särndal, Swensson and Wretman 1992, chapter 6), so that a model that knows nothing costs nothing.

    mean = Σ_i g_i / N       u_i = g_i − mean + asked_i (y_i − g_i) / chance_i       error² = Σ_c (Σ_{i in c} u_i)² / N²

Clusters c are environments, since rows of one environment are not independent: Student's t with C − 1 degrees of
freedom, the usual correction C / (C − 1), and residuals times n / (n − 2) for n answers, since two numbers are fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.statistics import student_quantile

Floats = NDArray[np.float64]
LEAST = 0.25
"""A row's chance is at least this part of an even share, whatever its uncertainty."""


@dataclass(frozen=True, slots=True)
class CorrectedMean:
    """A mean with its standard error and 95 % interval; `slope` is how much of the model was used."""

    mean: float
    error: float
    low: float
    high: float
    slope: float


def chances(uncertainty: Floats, expected: float, least: float = LEAST) -> Floats:
    """The chance of each row (N,), in (0, 1], that sums to `expected`, the number of rows to ask on average.

    A chance is an even share, of which the part `least` is everybody's and the rest goes by `uncertainty` (N,), 0 or
    more: the standard deviation that the model gives its error is best (Zrnic and Candès 2024, equation 5). Raises
    UsageError where nobody or more than all rows would be asked.
    """
    n = len(uncertainty)
    if not 0 < expected <= n:
        raise UsageError(f"{expected:g} of {n} rows cannot be asked.", f"ask more than 0 and at most {n}")
    if not (np.isfinite(uncertainty).all() and (uncertainty >= 0).all() and 0 < least <= 1):
        raise UsageError("An uncertainty is below 0 or not a number.", "give each row an uncertainty of 0 or more")
    middle = float(uncertainty.mean())
    weight = least + (1 - least) * (uncertainty / middle if middle > 0 else np.ones(n))
    low, high = 0.0, expected / float(weight.min()) + 1.0
    for _ in range(100):  # the chances rise with the factor, so it is found by halving
        factor = (low + high) / 2
        low, high = (factor, high) if np.minimum(factor * weight, 1.0).sum() < expected else (low, factor)
    found: Floats = np.minimum(high * weight, 1.0)
    return found


def corrected_mean(
    model: Floats, answers: Floats, chance: Floats, clusters: NDArray[np.generic], level: float = 0.95
) -> CorrectedMean:
    """The mean of what the judge would say of all rows. `model` (N,) is what the model says, fitted without a row's own
    answer; `answers` (N,) the judge's, NaN where it was not asked; `chance` (N,) of being asked; `clusters` (N,) names
    each row's environment. Raises UsageError where fewer than three rows were answered, or fewer than two clusters are
    there."""
    asked = ~np.isnan(answers)
    code = np.unique(clusters, return_inverse=True)[1]
    count = int(code.max()) + 1 if len(code) else 0
    if asked.sum() < 3 or count < 2:
        raise UsageError(
            f"{int(asked.sum())} answers in {count} environments give no interval.",
            "ask more rows, of more environments",
        )
    weight = np.where(asked, 1.0 / chance, 0.0)
    slope, start = _fitted(model, np.where(asked, answers, 0.0), weight)
    fitted = start + slope * model
    spare = asked.sum() / (asked.sum() - 2.0)  # two numbers are fitted, which makes residuals smaller than errors
    residual = np.where(asked, answers - fitted, 0.0) * weight * spare
    mean = float(fitted.mean())
    sums = np.bincount(code, weights=fitted - mean + residual, minlength=count)
    error = float(np.sqrt((sums**2).sum() * count / (count - 1))) / len(model)
    half = error * student_quantile((1.0 + level) / 2.0, count - 1)
    return CorrectedMean(mean, error, mean - half, mean + half, slope)


def _fitted(x: Floats, y: Floats, weight: Floats) -> tuple[float, float]:
    """Slope and start of y on x by weighted least squares; slope 0 where x is constant."""
    total = weight.sum()
    middle_x, middle_y = float(weight @ x) / total, float(weight @ y) / total
    square = float(weight @ (x - middle_x) ** 2)
    slope = float(weight @ ((x - middle_x) * (y - middle_y))) / square if square > 0 else 0.0
    return slope, middle_y - slope * middle_x
