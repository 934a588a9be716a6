"""Two opinions side by side, reduced to sums by episode, so that a resample of episodes is one matrix product.

Where both answer on a few levels, an episode contributes a table of how often each pair of levels occurs, and every
figure follows exactly from the sum of tables. Otherwise (a reward model, rewards) it contributes moments; figures of
ranks are then computed from the rows, for as many resamples as time allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data import statistics
from sotopia_rl_data.statistics import Floats, joint
from sotopia_rl_data.statistics.reliability import alpha_of, alpha_sums

MEASURES = ("pearson", "spearman", "kendall", "kappa", "alpha", "pair_accuracy", "mean_difference")

# Pairs of levels are counted in tables if each has at most _CELLS cells, and all of them at most _TABLES cells.
_CELLS, _TABLES = 256, 1 << 26
# The resamples of one pair of opinions may go through at most this many rows for Spearman and for Kendall, which takes
# some seconds.
_SPEARMAN_ROWS, _KENDALL_ROWS = 50_000_000, 3_000_000
_BLOCK = 1 << 18
# A figure gets an interval where more resamples than this have a value.
_FEWEST = 99


class Paired(Protocol):
    """Two opinions on the same units. `point` is the figures themselves, `drawn` the figures of resamples: `weights`
    are (resamples, episodes), the arrays (resamples,), NaN where a figure is not defined or was not affordable."""

    @property
    def units(self) -> int:
        """The number of units that both judged."""
        ...

    @property
    def episodes(self) -> int:
        """The number of episodes with such units."""
        ...

    def point(self) -> Mapping[str, float | None]:
        """The figures over all units; None where one is not defined."""
        ...

    def drawn(self, weights: NDArray[np.float32]) -> Mapping[str, Floats]:
        """The figures of resamples, `weights` saying how often each drew each episode."""
        ...


def paired(
    x: Floats, y: Floats, episode: NDArray[np.int32], part: NDArray[np.int32], parts: int, episodes: int
) -> list[Paired]:
    """Both opinions in each of `parts` (dimensions), and in all of them together as the last.

    `x` and `y` (units,) have no gaps. Pairs of utterances are compared within an episode and a part.
    """
    levels_x, levels_y = np.unique(x), np.unique(y)
    cells = len(levels_x) * len(levels_y)
    if cells <= _CELLS and parts * episodes * cells <= _TABLES:
        cell = np.searchsorted(levels_x, x) * len(levels_y) + np.searchsorted(levels_y, y)
        where = (part.astype(np.int64) * episodes + episode) * cells + cell
        counts = np.bincount(where, minlength=parts * episodes * cells).astype(np.float32)
        tables = counts.reshape(parts, episodes, len(levels_x), len(levels_y))
        flat = counts.reshape(parts, episodes, cells)
        sums = [
            np.concatenate([f, joint.ordered_pairs(t)], 1, dtype=np.float32) for f, t in zip(flat, tables, strict=True)
        ]
        return [Counted(levels_x, levels_y, of_part) for of_part in (*sums, np.sum(sums, axis=0))]
    paired_parts: list[Paired] = []
    pairs = np.zeros((episodes, 2))
    for number in range(parts):
        rows = part == number
        own = _ordered_pairs(x[rows], y[rows], episode[rows], episodes)
        paired_parts.append(Listed(x[rows], y[rows], episode[rows], own))
        pairs += own
    return [*paired_parts, Listed(x, y, episode, pairs)]


@dataclass(frozen=True, slots=True)
class Counted:
    """Opinions on a few levels. `sums` is (episodes, levels of a × levels of b + 2): how often each pair of levels
    occurs, and what `joint.ordered_pairs` says. They are exact in 32 bits; those of a resample need not be."""

    a: Floats
    b: Floats
    sums: NDArray[np.float32]

    @property
    def units(self) -> int:
        return int(self.sums[:, :-2].sum(dtype=np.float64))

    @property
    def episodes(self) -> int:
        return int(np.count_nonzero(self.sums[:, :-2].sum(axis=1)))

    def point(self) -> dict[str, float | None]:
        return _numbers(self._figures(self.sums.sum(axis=0, dtype=np.float64)[None]))

    def drawn(self, weights: NDArray[np.float32]) -> dict[str, Floats]:
        return self._figures((weights @ self.sums).astype(np.float64))

    def _figures(self, sums: Floats) -> dict[str, Floats]:
        tables, pairs = sums[:, :-2].reshape(-1, len(self.a), len(self.b)), sums[:, -2:]
        return {
            "pearson": joint.pearson(tables, self.a, self.b),
            "spearman": joint.spearman(tables),
            "kendall": joint.kendall(tables),
            "kappa": joint.quadratic_kappa(tables, self.a, self.b),
            "alpha": joint.alpha(tables, self.a, self.b),
            "pair_accuracy": _share(pairs),
            "mean_difference": joint.mean_difference(tables, self.a, self.b),
        }


class Listed:
    """Opinions that are any numbers: `x` and `y` (units,), the `episode` of each, and each episode's ordered `pairs`.

    Episodes contribute moments, from which Pearson, kappa, alpha and the difference of a resample follow; Spearman and
    Kendall go through the rows, as long as that is affordable.
    """

    def __init__(self, x: Floats, y: Floats, episode: NDArray[np.int32], pairs: Floats) -> None:
        self._x, self._y, self._episode, self._pairs = x, y, episode, pairs
        self.units = len(x)
        self.episodes = len(np.unique(episode))
        self._code_x, self._code_y = (np.unique(v, return_inverse=True)[1] for v in (x, y))
        self._left = {"spearman": _SPEARMAN_ROWS, "kendall": _KENDALL_ROWS}
        # The columns are centred and scaled, because small differences get lost in sums of squares of large numbers.
        middle, width = (np.r_[x, y].mean(), np.ptp(np.r_[x, y]) or 1.0) if len(x) else (0.0, 1.0)
        self._width = float(width)
        a, b = (x - middle) / width, (y - middle) / width
        moments = np.stack([np.ones(len(x)), a, b, a * a, b * b, a * b], axis=1)
        rows = np.concatenate([moments, alpha_sums(np.stack([a, b]))], axis=1)
        self._sums = np.stack([np.bincount(episode, column, len(pairs)) for column in rows.T], axis=1)

    def point(self) -> dict[str, float | None]:
        x, y = self._x, self._y
        return {
            "pearson": statistics.pearson(x, y),
            "spearman": statistics.spearman(x, y),
            "kendall": statistics.kendall(x, y),
            "kappa": statistics.quadratic_kappa(x, y),
            "alpha": statistics.krippendorff_alpha(np.stack([x, y])),
            "pair_accuracy": _numbers({"share": _share(self._pairs.sum(axis=0)[None])})["share"],
            "mean_difference": statistics.mean_difference(x, y),
        }

    def drawn(self, weights: NDArray[np.float32]) -> dict[str, Floats]:
        n, a, b, aa, bb, ab = (weights @ self._sums[:, :6]).T
        with np.errstate(divide="ignore", invalid="ignore"):
            var_a, var_b = (np.maximum(v, 0.0) for v in (aa - a * a / n, bb - b * b / n))
            pearson = np.clip((ab - a * b / n) / np.sqrt(var_a * var_b), -1.0, 1.0)
            kappa = 1.0 - (aa + bb - 2 * ab) / (var_a + var_b + n * ((a - b) / n) ** 2)
            difference = (a - b) / n * self._width
        return {
            "pearson": np.where((var_a > 1e-12 * n) & (var_b > 1e-12 * n), pearson, np.nan),
            "spearman": self._by_rank("spearman", weights),
            "kendall": self._by_rank("kendall", weights),
            "kappa": kappa,
            "alpha": alpha_of((weights @ self._sums[:, 6:]).astype(np.float64)),
            "pair_accuracy": _share(weights @ self._pairs),
            "mean_difference": difference,
        }

    def _by_rank(self, name: str, weights: NDArray[np.float32]) -> Floats:
        """A figure of ranks, computed from the rows for as many resamples as time allows."""
        values = np.full(len(weights), np.nan)
        for i, drawn in enumerate(weights):
            if self._left[name] < self.units:
                break
            self._left[name] -= self.units
            w = drawn[self._episode].astype(np.float64)
            value = (
                statistics.pearson(_ranks(self._code_x, w), _ranks(self._code_y, w), w)
                if name == "spearman"
                else statistics.kendall(self._code_x, self._code_y, w)
            )
            values[i] = np.nan if value is None else value
        return values


def _ranks(code: NDArray[np.intp], weights: Floats) -> Floats:
    """`statistics.ranks` of values whose order is known already."""
    mass = np.bincount(code, weights)
    ranks: Floats = (np.cumsum(mass) - (mass - 1.0) / 2.0)[code]
    return ranks


def _ordered_pairs(x: Floats, y: Floats, episode: NDArray[np.int32], episodes: int) -> Floats:
    """`joint.ordered_pairs` of every episode, from the rows."""
    pairs = np.zeros((episodes, 2))
    order = np.argsort(episode, kind="stable")
    for block in _blocks(episode[order]):
        rows = order[block]
        left, right = statistics.pairs_within(episode[rows])
        left, right = rows[left], rows[right]
        sign_x, sign_y = np.sign(x[left] - x[right]), np.sign(y[left] - y[right])
        ordered = (sign_x != 0) | (sign_y != 0)
        alike = (sign_x * sign_y + 1.0)[ordered] / 2.0
        pairs[:, 0] += np.bincount(episode[left[ordered]], alike, episodes)
        pairs[:, 1] += np.bincount(episode[left[ordered]], minlength=episodes)
    return pairs


def _blocks(episode: NDArray[np.int32]) -> list[slice]:
    """Slices of some rows that do not cut an episode."""
    starts = np.flatnonzero(np.r_[True, episode[1:] != episode[:-1]]) if len(episode) else np.zeros(0, np.intp)
    cuts = [int(starts[np.searchsorted(starts, at)]) for at in range(_BLOCK, len(episode), _BLOCK) if at <= starts[-1]]
    ends = [0, *dict.fromkeys(cuts), len(episode)]
    return [slice(low, high) for low, high in pairwise(ends) if high > low]


def _share(pairs: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pairs[:, 1] > 0, pairs[:, 0] / pairs[:, 1], np.nan)


def _numbers(figures: Mapping[str, Floats]) -> dict[str, float | None]:
    return {name: None if np.isnan(values[0]) else float(values[0]) for name, values in figures.items()}


def intervals(
    blocks: Sequence[Mapping[str, Floats]], episodes: int, level: float
) -> dict[str, tuple[float, float] | None]:
    """The interval of each figure, from blocks of resamples; None where fewer than 100 have a value."""
    limits: dict[str, tuple[float, float] | None] = {}
    for name in blocks[0] if blocks else ():
        values = np.concatenate([block[name] for block in blocks])
        enough = np.count_nonzero(~np.isnan(values)) > _FEWEST
        limits[name] = statistics.percentile_interval(values, episodes, level) if enough else None
    return limits
