"""How near credit comes to the truth: figures of one method over known games, each with an interval over episodes.

A method gives each utterance a number, in whatever units; NaN where it gave none. Turns are compared within a group (an
agent in an episode). A group in which all turns are worth the same has no order to find, and is left out and counted.

    tau          Kendall's tau-b of the method and the truth (Kendall 1945), the mean over groups
    hit          how often the method's largest credit, for better or worse, is the pivotal turn's; k that tie count 1/k
    sign         the share of turns whose credit has the right sign; 0 for a turn that has one is wrong
    calibration  how far sizes are off, in points, once they are brought to the truth's units by least squares: the
                 expected calibration error of |credit|
    leans        what the errors go with: the correlation, within groups, of the error (both standardised) with the
                 place, the length and the politeness of the utterance. A judge that reads has 0
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sotopia_rl_data.credit.making import TINY
from sotopia_rl_data.credit.truth import Flags, Floats, Ints, Truth
from sotopia_rl_data.statistics import calibration_bins, percentile_interval, resampled

LEANS = ("position", "length", "politeness")
LEANING = 0.2
"""A method is said to lean on what its errors go with at least so much."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A number with its 95 % interval over resampled episodes; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Nearness:
    """The figures of a method. `groups` were compared; `constant` were left out, since all their turns are worth the
    same; in `silent` ones the method gives every turn the same, so that they have no tau. `answered` counts turns.
    `sizes` are the bins of the calibration: the mean size of the credit in points, the mean true size, the turns."""

    tau: Measured
    hit: Measured
    sign: Measured
    calibration: float | None
    leans: dict[str, Measured]
    answered: int
    groups: int
    constant: int
    silent: int
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: tuple[tuple[float, float, int], ...] = ()

    @property
    def leans_on(self) -> str:
        """What its errors go with most; "" where with nothing that stands out."""
        sizes = {name: abs(one.value or 0.0) for name, one in self.leans.items() if _sure(one)}
        name = max(sizes, key=lambda name: sizes[name], default="")
        return name if name and sizes[name] >= LEANING else ""


def _sure(figure: Measured) -> bool:
    return figure.low is None or figure.high is None or figure.low > 0 or figure.high < 0


def nearness(truth: Truth, credit: Floats, *, resamples: int = 1000, seed: int = 0) -> Nearness:
    """The figures of a method's credit: (n,), one number for each utterance of the truth, NaN where it has none."""
    told = ~np.isnan(credit)
    spread = _spread(truth.credit, truth.group, told)
    counted = told & (spread > TINY)[truth.group]
    rows = np.flatnonzero(counted)
    group, episode = np.unique(truth.group[rows], return_inverse=True)[1], truth.episode[rows]
    count = int(group.max()) + 1 if len(rows) else 0
    mine, true = credit[rows], truth.credit[rows]
    of_group = np.zeros(count, np.int64)
    of_group[group] = episode
    taus = tau_b(mine, true, group)
    hits = _hits(mine, truth.pivotal[rows], group, count)
    signed = np.abs(true) > TINY
    right = (np.sign(np.where(np.abs(mine) > TINY, mine, 0.0)) == np.sign(true)).astype(float)
    interval = _Intervals(int(truth.episode.max()) + 1, resamples, seed)
    z_mine, z_true = _standardised(mine, group), _standardised(true, group)
    error, sizes = z_mine - z_true, _sizes(mine, true)
    features = {
        "position": _position(group),
        "length": truth.words[rows],
        "politeness": truth.polite[rows].astype(float),
    }
    return Nearness(
        tau=interval.mean(taus, of_group, ~np.isnan(taus)),
        hit=interval.mean(hits, of_group, np.isfinite(hits)),
        sign=interval.mean(right, episode, signed),
        calibration=sum(abs(told - came) * n for told, came, n in sizes) / len(rows) if sizes else None,
        leans={name: interval.correlation(error, _standardised(of, group), episode) for name, of in features.items()},
        answered=int(told.sum()),
        groups=count,
        constant=int(len(np.unique(truth.group[told])) - count),
        silent=int(np.isnan(taus).sum()),
        errors=_errors(np.abs(error), features, [truth.wording[row] for row in rows]),
        sizes=sizes,
    )


def tau_b(x: Floats, y: Floats, group: Ints) -> Floats:
    """Kendall's tau-b of x and y within each group; NaN where one of them is constant. All groups at once, since there
    are thousands with a few rows each."""
    count = int(group.max()) + 1 if len(group) else 0
    sizes = np.bincount(group, minlength=count)
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wide = np.full((2, count, int(sizes.max(initial=0))), np.nan)
    wide[:, group, place] = (x, y)
    sign = np.sign(wide[:, :, :, None] - wide[:, :, None, :])
    both = np.nan_to_num(sign)
    concordant = (both[0] * both[1]).sum(axis=(1, 2))
    pairs = np.sqrt((both[0] != 0).sum(axis=(1, 2)).astype(float) * (both[1] != 0).sum(axis=(1, 2)))
    taus: Floats = np.divide(concordant, pairs, out=np.full(count, np.nan), where=pairs > 0)
    return taus


def _spread(values: Floats, group: Ints, told: Flags) -> Floats:
    """How far apart the values of each group are, among the rows that were told."""
    count = int(group.max()) + 1 if len(group) else 0
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, group[told], values[told])
    np.maximum.at(high, group[told], values[told])
    return np.where(high >= low, high - low, 0.0)


def _hits(mine: Floats, pivotal: Flags, group: Ints, count: int) -> Floats:
    """For each group, 1 where the largest credit is the pivotal turn's, a share where several tie; NaN where the
    pivotal turn is not among the rows."""
    size, largest = np.abs(mine), np.zeros(count)
    np.maximum.at(largest, group, size)
    tied = size >= largest[group] - TINY
    chosen = np.bincount(group, weights=tied, minlength=count)
    hit = np.bincount(group, weights=tied & pivotal, minlength=count)
    known = np.bincount(group, weights=pivotal, minlength=count) > 0
    return np.where(known, hit / np.maximum(chosen, 1), np.nan)


def _sizes(mine: Floats, true: Floats) -> tuple[tuple[float, float, int], ...]:
    size, square = np.abs(mine), float((mine**2).sum())
    scale = float((size * np.abs(true)).sum()) / square if square > 0 else 0.0
    bins = calibration_bins(scale * size, np.abs(true))
    return tuple((float(told), float(came), int(n)) for told, came, n in zip(*bins, strict=True))


def _standardised(values: Floats, group: Ints) -> Floats:
    """Within each group: less the mean, by the standard deviation; 0 where it is constant."""
    count = np.bincount(group)
    centred = values - (np.bincount(group, weights=values) / count)[group]
    deviation = np.sqrt(np.bincount(group, weights=centred**2) / count)[group]
    return np.divide(centred, deviation, out=np.zeros(len(values)), where=deviation > TINY)


def _position(group: Ints) -> Floats:
    """The place of each row in its group, from 0 to 1."""
    sizes = np.bincount(group)
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place / np.maximum(sizes[group] - 1, 1)


def _errors(error: Floats, features: dict[str, Floats], wording: list[str]) -> dict[str, dict[str, float]]:
    """The mean size of the error, in standard deviations: by thirds of the place and of the length, and by wording."""
    found: dict[str, dict[str, float]] = {}
    for name, ends in (("position", ("first", "middle", "last")), ("length", ("short", "middling", "long"))):
        values = features[name]
        if len(values):
            cuts = (1 / 3, 2 / 3) if name == "position" else np.quantile(values, [1 / 3, 2 / 3])
            third = np.searchsorted(cuts, values, side="left")
            found[name] = {end: float(error[third == i].mean()) for i, end in enumerate(ends) if (third == i).any()}
    kinds = np.array(wording)
    found["wording"] = {kind: float(error[kinds == kind].mean()) for kind in sorted(set(wording))}
    return found


@dataclass(frozen=True, slots=True)
class _Intervals:
    """Means and correlations over rows, whose intervals are of resampled episodes."""

    episodes: int
    resamples: int
    seed: int

    def mean(self, values: Floats, episode: Ints, kept: Flags) -> Measured:
        """The mean of the kept values."""
        sums = self._sums(episode[kept], values[kept], np.ones(int(kept.sum())))
        return self._figure(sums, lambda s: s[..., 0] / s[..., 1])

    def correlation(self, x: Floats, y: Floats, episode: Ints) -> Measured:
        """The correlation of two columns whose means are 0 in each group."""
        sums = self._sums(episode, x * y, x * x, y * y)
        return self._figure(sums, lambda s: s[..., 0] / np.sqrt(s[..., 1] * s[..., 2]))

    def _sums(self, episode: Ints, *columns: Floats) -> Floats:
        return np.stack([np.bincount(episode, weights=one, minlength=self.episodes) for one in columns], axis=1)

    def _figure(self, sums: Floats, statistic: Any) -> Measured:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(sums.sum(axis=0)))
            if np.isnan(value):
                return Measured(None)
            drawn = statistic(resampled(sums, resamples=self.resamples, seed=self.seed)) if self.resamples else []
        interval = percentile_interval(drawn, int((sums[:, -1] > 0).sum()))
        return Measured(value, *interval) if interval else Measured(value)
