"""How sure a figure is: bootstrap intervals, tests of a difference, its size, and corrections for many tests.

Intervals and sign-flip tests resample whole clusters (episodes), since utterances of one episode are not independent.
A resample is a vector: how often each cluster was drawn. Percentile intervals are too narrow with few clusters; they
are expanded so that the bootstrap of a mean is as wide as Student's interval (Hesterberg 2015, "What Teachers Should
Know About the Bootstrap", the expanded percentile interval). With many clusters that changes nothing.

Student's t and the correction after Benjamini & Hochberg are scipy's; the sign-flip test is our own, because it flips
whole clusters and its sums fit in memory however many rows there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sotopia_rl_data.statistics.columns import Floats, columns, is_constant, mean

WeightedStatistic = Callable[[Floats], float | None]

FLIPS = 9_999
# A sign-flip test over at most this many clusters tries every pattern of signs.
_EXACT = 12
# At most this many weights or signs are held in memory at a time.
_CELLS = 1 << 22


@dataclass(frozen=True, slots=True)
class TTest:
    """`n` differences with mean `difference`; t with n - 1 degrees of freedom, its two-sided p, and the interval of the
    mean. With fewer than two differences, or all equal, these are None."""

    n: int
    difference: float | None = None
    t: float | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None


def paired_t_test(differences: ArrayLike, level: float = 0.95) -> TTest:
    """Is the mean of paired differences 0? t = mean / (sd / √n) (Student 1908). The caller drops NaN."""
    d = np.asarray(differences, dtype=np.float64)
    n = len(d)
    if n < 2 or bool(np.all(d == d[0])):
        return TTest(n, float(d.mean()) if n else None)
    middle, error = float(d.mean()), float(d.std(ddof=1)) / math.sqrt(n)
    t, half = middle / error, error * student_quantile((1.0 + level) / 2.0, n - 1)
    return TTest(n, middle, t, student_p(t, n - 1), middle - half, middle + half)


def student_p(t: float, freedom: float) -> float:
    """P(|T| ≥ |t|) with `freedom` degrees of freedom."""
    from scipy.special import stdtr  # importing scipy.stats would take half a second more

    return float(2.0 * stdtr(freedom, -abs(t)))


def student_quantile(share: float, freedom: float) -> float:
    """The t that T stays below with probability `share`, in (0, 1)."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def standardised_shift(differences: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Cohen's d of paired differences: their mean over their sample standard deviation (d_z; Cohen 1988, section 2.3;
    Lakens 2013, equation 6). 0.2 is small, 0.5 medium, 0.8 large. None where they do not vary or are fewer than two.
    """
    d, _, w = columns(differences, differences, weights)
    middle, total = mean(d, w), float(np.sum(w))
    if middle is None or is_constant(d, w) or total <= 1:
        return None
    return middle / float(np.sqrt(np.sum(w * (d - middle) ** 2) / (total - 1.0)))


def sign_flip_test(
    shifts: ArrayLike, clusters: Sequence[Any] | NDArray[Any], *, flips: int = FLIPS, seed: int = 0
) -> float:
    """Two-sided p-value of "the shifts are symmetric about 0", flipping the sign of whole clusters at once.

    A randomisation test (Fisher 1935; Lehmann & Romano 2005, section 15.2): exact in level whatever the distribution
    and whatever the dependence within a cluster, as long as flipping a cluster changes nothing under the hypothesis. Up
    to 12 clusters that are not 0 go through every pattern; more through `flips` random ones, of which the observed
    counts as one, so p is never 0. 1.0 where nothing shifts.
    """
    d = np.asarray(shifts, dtype=np.float64)
    if not len(d):
        return 1.0
    code = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = np.bincount(code, weights=d)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    # A bit below the observed sum, since an equal sum that is added up in another order may differ in its last digit.
    bar = abs(float(sums.sum())) * (1.0 - 1e-12)
    if len(sums) <= _EXACT:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ sums) >= bar))
    rng, beyond, step = np.random.default_rng(seed), 0, max(1, _CELLS // len(sums))
    for start in range(0, flips, step):
        signs = rng.integers(0, 2, (min(step, flips - start), len(sums)), dtype=np.int8) * 2 - 1
        beyond += int(np.count_nonzero(np.abs(signs @ sums) >= bar))
    return (beyond + 1) / (flips + 1)


def smallest_p(clusters: int, *, flips: int = FLIPS) -> float:
    """The smallest p that `sign_flip_test` can give over so many clusters: below it, nothing can be found."""
    return min(1.0, 2.0 ** (1 - clusters)) if clusters <= _EXACT else 1 / (flips + 1)


def holm(p_values: ArrayLike) -> Floats:
    """Adjusted p-values (Holm 1979). Where those below α count as found, the chance of any false alarm is at most α."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]), 1.0)
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Adjusted p-values (Benjamini & Hochberg 1995). Where those below α count as found, the expected share of false
    alarms among them is at most α."""
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p_values), dtype=np.float64)


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
    values: list[float] = []
    for block in draws(count, resamples, seed):
        for drawn in block:
            value = statistic(drawn[code].astype(np.float64))
            if value is not None:
                values.append(value)
    return percentile_interval(np.array(values), count, level)


def jackknife_interval(value: float | None, without: ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval around `value`, whose error is that of the jackknife (Efron & Tibshirani 1993, chapter 11):
    `without` has the statistic with each cluster left out. For statistics that repeats of a cluster would change, as
    those of a bootstrap do. None where there are fewer than two clusters."""
    left = np.asarray(without, dtype=np.float64)
    n = len(left)
    if value is None or n < 2:
        return None
    error = math.sqrt((n - 1) / n * float(np.sum((left - left.mean()) ** 2)))
    half = error * student_quantile((1.0 + level) / 2.0, n - 1)
    return value - half, value + half


def draws(clusters: int, resamples: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """How often each cluster is drawn in each resample, in blocks of resamples: (resamples of the block, clusters)."""
    rng = np.random.default_rng(seed)
    step = max(1, min(resamples, _CELLS // max(clusters, 1)))
    for start in range(0, resamples if clusters else 0, step):
        count = min(step, resamples - start)
        picked = rng.integers(0, clusters, (count, clusters)) + np.arange(count)[:, None] * clusters
        yield np.bincount(picked.ravel(), minlength=count * clusters).reshape(count, clusters).astype(np.float32)


def resampled(sums: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> Floats:
    """What sums over clusters (clusters, k) become in each resample: (resamples, k).

    Every statistic that is a function of sums over rows (means, moments, correlations) is bootstrapped by this alone.
    """
    s = np.asarray(sums, dtype=np.float64)
    blocks = [drawn @ s for drawn in draws(len(s), resamples, seed)]
    return np.concatenate(blocks) if blocks else np.zeros((0, *s.shape[1:]))


def mean_interval(values: ArrayLike, cluster: ArrayLike, *, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of the mean of `values` when whole clusters are drawn, as `bootstrap_interval` has it, by sums.
    `cluster` numbers each value's cluster, from 0 on without a gap. None where there are fewer than two clusters."""
    sums = np.stack([np.bincount(np.asarray(cluster), values), np.bincount(np.asarray(cluster))], axis=1)
    drawn = resampled(sums, seed=seed)
    return percentile_interval(drawn[:, 0] / drawn[:, 1], len(sums))


def percentile_interval(resampled_values: ArrayLike, clusters: int, level: float = 0.95) -> tuple[float, float] | None:
    """The expanded percentile interval of resampled values; NaN are left out.

    The share below its lower end is Φ(-t·sqrt(n/(n-1))), where n counts clusters and t is Student's quantile with n - 1
    degrees of freedom. None where no value is left or there were fewer than two clusters to draw from.
    """
    values = np.asarray(resampled_values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values) or clusters < 2:
        return None
    quantile = student_quantile((1.0 + level) / 2.0, clusters - 1)
    tail = NormalDist().cdf(-quantile * float(np.sqrt(clusters / (clusters - 1))))
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
