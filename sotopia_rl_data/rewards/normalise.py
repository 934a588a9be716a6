"""After the rule: opinions are averaged, dimensions normalised, and the dimensions summed to one reward.

Arrays are float64 with NaN for NULL. Sums are taken one term after the other, in the order given. Normalisers are
fitted on the train split once, and applied unchanged to every split:

    minmax  (r − min)/(max − min): the paper's; train lies in [0, 1]
    zscore  (r − mean)/deviation (of the population: divided by n)
    rank    the train split's distribution function at r: values below plus half of those equal, over n
    none    r

Statistics come from the train split's values and how often each occurs, taken in ascending order: they do not depend
on the order of rows, on chunks or on threads. Values outside the fitted range are counted, not clipped (`rank` stays at
its end there). A dimension that is constant in train, or has no value there, is taken as uniform over its declared
range, with a warning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.rewards.recipe import Average, Fit, Normaliser
from sotopia_rl_data.rewards.rules import Floats, declared_range

# `rank` keeps this many points of the distribution function, so that its ranks are exact to 1/1024.
KNOTS = 1025
# Values that differ by less than this share of the declared range are equal but for rounding errors.
CONSTANT = 1e-12
# When more distinct values than this have been gathered, they are merged.
_PENDING = 1 << 20


def average(kind: Average, opinions: Floats) -> Floats:
    """The mean or median over those of (opinions, utterances) that have a value; NaN where none has."""
    if len(opinions) == 1:
        only: Floats = opinions[0]
        return only
    count = np.count_nonzero(~np.isnan(opinions), axis=0)
    if kind == "mean":
        return _divide(_sum(opinions), count)
    ascending = np.sort(opinions, axis=0)  # NaN comes last
    row = np.arange(opinions.shape[1])
    low: Floats = ascending[np.maximum(count - 1, 0) // 2, row]
    high: Floats = ascending[np.minimum(count // 2, len(opinions) - 1), row]
    return np.where(count % 2 == 1, low, (low + high) / 2)


@dataclass(frozen=True, slots=True)
class Statistic:
    """What was fitted for one dimension: everything that `apply` needs, and its source.

    `low` and `high` are the range of the `count` values it was fitted on, or the declared one where `source` says so.
    """

    normaliser: Normaliser
    low: float
    high: float
    count: int
    source: Literal["train", "all", "declared"] = "train"
    mean: float | None = None
    deviation: float | None = None
    knots: tuple[float, ...] = ()
    ranks: tuple[float, ...] = ()

    def apply(self, raw: Floats) -> Floats:
        """The normalised values; NaN stays NaN."""
        if self.normaliser == "minmax":
            return (raw - self.low) / (self.high - self.low)
        if self.mean is not None and self.deviation is not None:
            return (raw - self.mean) / self.deviation
        return _interpolate(raw, np.array(self.knots), np.array(self.ranks)) if self.knots else raw.copy()

    def outside(self, raw: Floats) -> int:
        """How many values lie outside [low, high]."""
        return int(np.count_nonzero((raw < self.low) | (raw > self.high)))

    def as_dict(self) -> dict[str, Any]:
        """For the manifest: without what this normaliser does not use."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v not in (None, ())}


class TrainValues:
    """The values of one dimension in the train split, as they stream by.

    Min-max needs only the ends. The others keep the distinct values and their counts: judged values on a rubric times
    scores are few; for values that never repeat, 16 bytes each.
    """

    def __init__(self, normaliser: Normaliser) -> None:
        self._keep = normaliser in ("zscore", "rank")
        self._pending: list[tuple[Floats, Any]] = []
        self._size = 0
        self.count, self.low, self.high = 0, math.inf, -math.inf

    def add(self, raw: Floats) -> None:
        """Count these values, without NaN."""
        known = ~np.isnan(raw)
        self.count += int(np.count_nonzero(known))
        self.low = float(np.fmin.reduce(raw, initial=self.low))  # fmin and fmax ignore NaN
        self.high = float(np.fmax.reduce(raw, initial=self.high))
        if self._keep:
            self._pending.append(np.unique(raw[known], return_counts=True))
            self._size += len(self._pending[-1][0])
            if self._size > _PENDING:
                self._pending = [self.histogram()]
                self._size = 0

    def histogram(self) -> tuple[Floats, Any]:
        """The distinct values in ascending order, and how often each occurs."""
        values, where = np.unique(np.concatenate([v for v, _ in self._pending]), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, where, np.concatenate([c for _, c in self._pending]))
        return values, counts


def fit(
    normaliser: Normaliser,
    train: Mapping[str, TrainValues],
    by: str = "direct",
    ranges: Mapping[str, tuple[float, float]] | None = None,
    on: Fit = "train",
) -> tuple[dict[str, Statistic], list[str]]:
    """A statistic for each dimension's values by the rule `by`, and a warning for each that had to be taken from its
    declared range (`ranges` has those of dimensions of the source's own). `on` says which splits the values are of."""
    fitted, warnings = {}, []
    where = "train" if on == "train" else "all splits"
    for name, values in train.items():
        low, high = declared_range(name, by, ranges)
        if values.count and (values.high - values.low > CONSTANT * (high - low) or normaliser == "none"):
            fitted[name] = replace(_fit(normaliser, name, values), source=on)
            continue
        reason = f"is {values.low:g} everywhere in {where}" if values.count else f"has no value in {where}"
        if normaliser != "none":
            warnings.append(f"{name} {reason}: normalised by its declared range {low:g} to {high:g}")
        fitted[name] = _declared(normaliser, low, high, values.count)
    return fitted, warnings


def _fit(normaliser: Normaliser, name: str, train: TrainValues) -> Statistic:
    ends = (normaliser, train.low, train.high, train.count)
    if not math.isfinite(train.high - train.low):
        raise InputError(
            f"The values of {name} go from {train.low:g} to {train.high:g}, which is too wide a range to compute with.",
            "check the episodes' scores on this dimension",
        )
    if normaliser == "zscore":
        values, counts = (column.tolist() for column in train.histogram())
        mean = math.fsum(v * c for v, c in zip(values, counts, strict=True)) / train.count
        squares = math.fsum((v - mean) ** 2 * c for v, c in zip(values, counts, strict=True))
        return Statistic(*ends, mean=mean, deviation=math.sqrt(squares / train.count))
    if normaliser == "rank":
        distinct, occurs = train.histogram()
        ranks = (np.cumsum(occurs) - occurs / 2) / train.count
        kept = np.unique(np.linspace(0, len(distinct) - 1, min(len(distinct), KNOTS)).round().astype(int))
        return Statistic(*ends, knots=tuple(distinct[kept].tolist()), ranks=tuple(ranks[kept].tolist()))
    return Statistic(*ends)


def _declared(normaliser: Normaliser, low: float, high: float, count: int) -> Statistic:
    """A uniform distribution over [low, high], for a dimension whose train values give no range."""
    if normaliser == "zscore":
        return Statistic(normaliser, low, high, count, "declared", (low + high) / 2, (high - low) / math.sqrt(12))
    if normaliser == "rank":
        return Statistic(normaliser, low, high, count, "declared", knots=(low, high), ranks=(0.0, 1.0))
    return Statistic(normaliser, low, high, count, "declared")


def _interpolate(x: Floats, knots: Floats, ranks: Floats) -> Floats:
    """Linear between knots, constant beyond. One operation at a time: np.interp may fuse two on some machines."""
    inside = np.clip(x, knots[0], knots[-1])
    left = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, len(knots) - 2)
    run = (inside - knots[left]) / (knots[left + 1] - knots[left])
    return ranks[left] + run * (ranks[left + 1] - ranks[left])


def reward(weights: Mapping[str, float], norm: Mapping[str, Floats]) -> Floats:
    """Σ γ_d·r̃_d / Σ γ_d over the dimensions with a weight above 0; NaN where one of them is NaN (arXiv 2508.03905)."""
    weighted = [(weight, norm[d]) for d, weight in weights.items() if weight > 0]
    total = np.zeros_like(weighted[0][1])
    for weight, values in weighted:
        total += weight * values
    total /= sum(weight for weight, _ in weighted)
    return total


def spread(rewards: Floats) -> Floats:
    """The sample standard deviation (n − 1) over those of (opinions, utterances) with a value; NaN below two."""
    count = np.count_nonzero(~np.isnan(rewards), axis=0)
    if len(rewards) < 2:
        return np.full(rewards.shape[1], np.nan)
    squares = _sum((rewards - _divide(_sum(rewards), count)) ** 2)
    return np.sqrt(_divide(squares, np.where(count < 2, 0, count - 1)))


def _sum(rows: Floats) -> Floats:
    """The sum over the first axis, row after row, NaN left out."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += np.where(np.isnan(row), 0.0, row)
    return total


def _divide(total: Floats, count: np.ndarray) -> Floats:
    means = np.full(len(total), np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means
