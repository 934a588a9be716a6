"""Asking a judge where a model is unsure: who is asked with what chance, and means that stay right all the same.

Each unit, which is what has to be asked together (an utterance, an agent's part of a dialogue, a dialogue), is asked
with a known chance above 0 that rises with the model's uncertainty about it. A mean over all rows is the model's,
corrected by what the judge said where it was asked, each answer weighing w = 1 / chance (active inference: Zrnic and
Candès 2024). The model is fitted to all answers first, as g = a + b·f by least squares with the weights w (the
regression estimator: Särndal, Swensson and Wretman 1992, chapter 6), so that a model that knows nothing costs nothing.

    mean = (Σ_i g_i + Σ_{i asked} w_i (y_i − g_i)) / N       error² = (C − 1) / C · Σ_c (mean without c − mean)²

Clusters c are environments, since rows of one environment are not independent. Each is left out in turn and all is
fitted anew (the jackknife: Efron and Stein 1981), since residuals of a line that was fitted to few answers with unequal
weights are too small. Student's t has one degree of freedom less than there are clusters with an answer. So an
interval is for the mean over all environments such as these, and not over these alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.statistics import student_quantile

Floats = NDArray[np.float64]
LEAST = 0.25
"""A unit's chance is at least this part of an even share, whatever its uncertainty."""

FEWEST = 10
"""Answers that a line from the model to them needs."""

_BINS, _IN_BIN = 10, 40  # of units by prediction: at most so many bins, of at least so many units


@dataclass(frozen=True, slots=True)
class CorrectedMean:
    """A mean with its standard error and 95 % interval. `slope` is how much of the model was used."""

    mean: float
    error: float
    low: float
    high: float
    slope: float


def chances(
    uncertainty: Floats,
    expected: float,
    *,
    cost: Floats | None = None,
    amounts: Floats | None = None,
    least: float = LEAST,
) -> Floats:
    """The chance of each unit (N,), in (0, 1], with Σ chance · amount = `expected`. `amounts` (N,), by default 1 for
    each, say what is counted: units, rows, or USD.

    A chance goes by uncertainty / √cost, which is best where `uncertainty` (N,), 0 or more, is the standard deviation
    of the model's error, and asking costs `cost` (N,), above 0 (Zrnic and Candès 2024, equation 5; Särndal, Swensson
    and Wretman 1992, section 12.2); the part `least` of the uncertainty is everybody's. So a lower `expected` lowers
    every chance. Raises UsageError where nobody or more than all would be asked.
    """
    n = len(uncertainty)
    counted = np.ones(n) if amounts is None else amounts
    if not 0 < expected <= counted.sum() * (1 + 1e-9):
        raise UsageError(f"{expected:g} of {counted.sum():g} cannot be asked.", "ask more than nothing and at most all")
    if not (np.isfinite(uncertainty).all() and (uncertainty >= 0).all() and 0 < least <= 1):
        raise UsageError("An uncertainty is below 0 or not a number.", "give each an uncertainty of 0 or more")
    middle = float(uncertainty.mean())
    weight = least + (1 - least) * (uncertainty / middle if middle > 0 else np.ones(n))
    if cost is not None:
        weight = weight / np.sqrt(cost)
    low, high = 0.0, 1.0 / float(weight.min())
    for _ in range(100):  # what is counted rises with the factor, so it is found by halving
        factor = (low + high) / 2
        low, high = (factor, high) if np.minimum(factor * weight, 1.0) @ counted < expected else (low, factor)
    found: Floats = np.minimum(high * weight, 1.0)
    return found


def errors_by_prediction(said: Floats, truth: Floats, code: NDArray[np.int64], at: Floats) -> Floats:
    """(U,) how far off a model is that says `at` (U,) of a unit: the standard deviation of its error about the unit's
    sum, over the root of the unit's rows. It is measured where the truth is known: `said` and `truth` (M,) are the
    model's word and the judge's about rows that taught it nothing, `code` (M,) numbers their units. Units whose
    predictions are alike are measured together. An error that a line from prediction to truth undoes does not count."""
    sizes = np.bincount(code)
    slope, start = np.polyfit(said, truth, 1) if np.ptp(said) > 0 else (0.0, truth.mean())
    errors = np.bincount(code, weights=truth - start - slope * said) / np.sqrt(sizes)
    middle = np.bincount(code, weights=said) / sizes
    bins = max(1, min(_BINS, len(sizes) // _IN_BIN))
    # each edge is a prediction that there is, so that no bin is empty where many predictions are the same
    edges = np.unique(np.quantile(middle, np.linspace(0, 1, bins + 1)[:-1], method="lower"))
    place = np.searchsorted(edges, middle, side="right")
    counts = np.bincount(place, minlength=len(edges) + 1)[1:]
    spread: Floats = np.sqrt(np.bincount(place, weights=errors**2, minlength=len(edges) + 1)[1:] / counts)
    return spread[np.maximum(np.searchsorted(edges, at, side="right") - 1, 0)]


@dataclass(frozen=True, slots=True)
class AskedRows:
    """N rows of which some were asked. `model` (N,) is what the model says, fitted without a row's own answer;
    `answers` (N,) the judge's, NaN where there is none; `chance` (N,) of being asked; `units` (N,) names what was asked
    together (default: each row alone)."""

    model: Floats
    answers: Floats
    chance: Floats
    units: NDArray[np.generic] | None = None

    @property
    def asked(self) -> NDArray[np.bool_]:
        """(N,) which rows have an answer."""
        return ~np.isnan(self.answers)

    @property
    def weight(self) -> Floats:
        """(N,) 1 / chance of each answer; 0 where there is none."""
        return np.where(self.asked, 1.0 / self.chance, 0.0)

    @property
    def has_line(self) -> bool:
        """Whether there are answers enough to bring the model nearest to them."""
        return int(self.asked.sum()) >= FEWEST

    def line(self) -> tuple[float, float]:
        """a and b of the line from the model to the answers."""
        a, b = _line(self._sums(np.zeros(len(self.model), dtype=np.int64), 1)[:, 0])
        return float(a), float(b)

    def mean(
        self, clusters: NDArray[np.generic], among: NDArray[np.bool_] | None = None, level: float = 0.95
    ) -> CorrectedMean:
        """The mean of what the judge would say of rows in environments such as these, or of those `among` (N,) them.
        The line is fitted to all. `clusters` (N,) names each row's environment. Raises UsageError where fewer than
        three answers, or answers in fewer than two clusters, are among them; where there are fewer than ten in all; and
        where all are equal, which says nothing of others."""
        if not self.has_line or np.ptp(self.answers[self.asked]) == 0:
            raise UsageError(
                f"{int(self.asked.sum())} answers, or answers that are all equal, give no interval.", "ask more rows"
            )
        chosen = np.ones(len(self.model), dtype=bool) if among is None else among
        code = np.unique(clusters, return_inverse=True)[1]
        answered = chosen & self.asked
        with_answer = len(np.unique(code[answered]))
        if answered.sum() < 3 or with_answer < 2:
            raise UsageError(
                f"{int(answered.sum())} answers in {with_answer} environments give no interval.",
                "ask more rows, of more environments",
            )
        count = int(code.max()) + 1
        sums, parts = self._sums(code, count), self._sums(code, count, chosen)
        sum_, part = sums.sum(axis=1), parts.sum(axis=1)
        mean = float(_mean(sum_, part))
        inside = int((parts[_ROWS] > 0).sum())
        left = parts[_ROWS] < part[_ROWS]  # all rows of a group can be in one cluster
        gaps = np.where(left, _mean(sum_[:, None] - sums, part[:, None] - parts) - mean, 0.0)
        error = float(np.sqrt((gaps**2).sum() * (inside - 1) / inside))
        half = error * student_quantile((1.0 + level) / 2.0, with_answer - 1)
        return CorrectedMean(mean, error, mean - half, mean + half, self.line()[1])

    def _sums(self, code: NDArray[np.int64], count: int, among: NDArray[np.bool_] | None = None) -> Floats:
        """(7, count) sums over each cluster: of rows, f, w, w f, w y, w f², w f y."""
        one = np.ones(len(code)) if among is None else among.astype(np.float64)
        f, w, y = self.model, self.weight * one, np.where(self.asked, self.answers, 0.0)
        columns = (one, one * f, w, w * f, w * y, w * f * f, w * f * y)
        return np.stack([np.bincount(code, weights=column, minlength=count) for column in columns])

    def gain(self, among: NDArray[np.bool_] | None = None) -> float:
        """How many times as many rows would have to be asked for a mean as near to that of all rows by even chances and
        without a model, as far as the answers tell."""
        chosen = np.ones(len(self.model), dtype=bool) if among is None else among
        a, b = self.line()
        units = np.arange(len(self.model)) if self.units is None else self.units
        code, weight = np.unique(units, return_inverse=True)[1], np.where(chosen, self.weight, 0.0)
        y = np.where(self.asked, self.answers, 0.0)
        middle = float(weight @ y / weight.sum())

        def squares(differences: Floats) -> Floats:
            """Of each unit's sum, at its rows: once for each unit."""
            sums = np.bincount(code, weights=np.where(weight > 0, differences, 0.0))
            sizes = np.bincount(code, weights=weight > 0)
            return (sums**2 / np.maximum(sizes, 1))[code]

        ours = float((weight * (1.0 / self.chance - 1.0)) @ squares(y - a - b * self.model))
        whole = float(weight @ squares(y - middle))  # an even chance p leaves a variance of (1 / p - 1) times this
        even = whole / (whole + ours) if whole > 0 else 1.0  # the even chance that leaves as much as ours
        return even / float(self.chance[chosen].mean()) if whole > 0 else 1.0


_ROWS = 0  # the place of the number of rows among the sums


def _line(sums: Floats) -> tuple[Floats, Floats]:
    """a and b by least squares, of sums as `_sums` gives them; b is 0 where the model is constant."""
    _, _, w, wf, wy, wff, wfy = sums
    w = np.where(w > 0, w, np.nan)  # no answer is left: no line
    spread = wff - wf * wf / w
    is_line = spread > 1e-9 * np.abs(wff)
    b = np.where(is_line, (wfy - wf * wy / w) / np.where(is_line, spread, 1.0), 0.0)
    return (wy - b * wf) / w, b


def _mean(sums: Floats, parts: Floats) -> Floats:
    """The mean of `parts` of the rows by the line that all of them give."""
    a, b = _line(sums)
    rows, f, w, wf, wy, _, _ = parts
    mean: Floats = a + (b * f + wy - a * w - b * wf) / np.where(rows > 0, rows, 1.0)
    return mean
