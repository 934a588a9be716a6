"""agreement(): every figure between any two opinions, by dimension and overall, with intervals over episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sotopia_rl_data import statistics
from sotopia_rl_data.agreement.opinions import Of, Opinions, opinions_of
from sotopia_rl_data.agreement.paired import MEASURES, Paired, intervals, paired
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.statistics import Floats
from sotopia_rl_data.statistics.reliability import alpha_of, alpha_sums
from sotopia_rl_data.store import Version

OVERALL = "overall"
_BLOCK = 1 << 17  # units
__all__ = ["MEASURES", "OVERALL", "Agreement", "Figure", "Pair", "Together", "agreement", "agreement_of"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and its interval. None: it is not defined (a constant column), or the interval was not affordable."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Who:
    """One opinion: its name in this report, what it is made of, and its values (mean and sample sd over all units)."""

    name: str
    ref: str
    judge: str
    sample: int
    schema: str
    units: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two opinions on one dimension (or "overall"): the units that both judged, in how many episodes, the figures."""

    a: str
    b: str
    dimension: str
    units: int
    episodes: int
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Together:
    """All opinions at once: Krippendorff's alpha over the units that at least two of them judged."""

    dimension: str
    units: int
    alpha: Figure


@dataclass(frozen=True, slots=True)
class Agreement:
    """What opinions have in common. `scale` is (low, high) of the values, or None where they are shares of their own
    scales (or plain rewards); differences on the dimensions in `ranges` are in levels all the same. `level` is that of
    the intervals, from `resamples` draws of whole episodes.
    """

    refs: tuple[str, ...]
    opinions: tuple[Who, ...]
    dimensions: tuple[str, ...]
    pairs: tuple[Pair, ...]
    together: tuple[Together, ...]
    scale: tuple[float, float] | None
    ranges: Mapping[str, tuple[float, float]]
    resamples: int
    level: float
    seed: int

    def pair(self, a: str, b: str, dimension: str = OVERALL) -> Pair | None:
        """The pair of these two names, in either order; None where they judged nothing in common."""
        return next((p for p in self.pairs if {p.a, p.b} == {a, b} and p.dimension == dimension), None)

    def matrix(self, measure: str, dimension: str = OVERALL) -> list[list[float | None]]:
        """One figure between all opinions, in their order. The diagonal is None; the difference is row minus column."""
        names = [one.name for one in self.opinions]
        return [[self._cell(a, b, measure, dimension) for b in names] for a in names]

    def _cell(self, a: str, b: str, measure: str, dimension: str) -> float | None:
        found = None if a == b else self.pair(a, b, dimension)
        value = found.figures[measure].value if found else None
        turned = found is not None and found.a != a and measure == "mean_difference"
        return -value if turned and value is not None else value

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def agreement(
    versions: Sequence[Version],
    *,
    dimensions: Sequence[str] | None = None,
    of: Of = "attributions",
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """The agreement of all opinions that these versions hold.

    `of` is "attributions" (every judge, sample and schema of every version) or "rewards" (each version's rewards are
    one opinion, on the aggregate and on every normalised dimension; so are the scores of each reward model).
    `dimensions` are names (None: all). `resamples` draws of whole episodes make the intervals; 0 makes none.

    Raises UsageError where there is one opinion only, where no two have a unit in common, where a dimension is absent.
    """
    return agreement_of(opinions_of(versions, dimensions, of), resamples=resamples, level=level, seed=seed)


def agreement_of(made: Opinions, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Agreement:
    """The same, of opinions that were read already."""
    refs = tuple(dict.fromkeys(one.ref for one in made.opinions))
    if len(made.names) < 2:
        raise UsageError(
            f"There is {'one opinion only' if made.names else 'no opinion'} ({', '.join(made.names) or 'no labels'}).",
            "label with a second --judge or with --samples 2, or name a second REF",
        )
    sides: dict[tuple[int, int], list[Paired]] = {}
    for a, b in combinations(range(len(made.names)), 2):
        both = ~np.isnan(made.values[a]) & ~np.isnan(made.values[b])
        if both.any():
            x, y = made.values[a, both], made.values[b, both]
            where = made.episode[both], made.dimension[both]
            sides[a, b] = paired(x, y, *where, len(made.dimensions), len(made.episodes))
    if not sides:
        raise UsageError(
            f"{' and '.join(made.names[:2])} have no utterance in common.",
            "name versions of the same episodes and dimensions; a reward model's scores are compared by --of rewards",
        )
    all_at_once = _alphas(made)
    drawn: dict[tuple[int, int, int], list[Mapping[str, Floats]]] = {}
    for weights in statistics.draws(len(made.episodes), resamples, seed):
        for (a, b), parts in sides.items():
            for d, one in enumerate(parts):
                if one.units:
                    drawn.setdefault((a, b, d), []).append(one.drawn(weights))
        for d, sums in enumerate(all_at_once):
            drawn.setdefault((-1, -1, d), []).append({"alpha": alpha_of(weights @ sums[:, :4])})
    where_to = (*made.dimensions, OVERALL)
    pairs = []
    for (a, b), parts in sides.items():
        for d, one in enumerate(parts):
            if one.units:
                figures = _figures(one, drawn.get((a, b, d), []), level, made.width(where_to[d]))
                pairs.append(Pair(made.names[a], made.names[b], where_to[d], one.units, one.episodes, figures))
    together = [_together(where_to[d], sums, drawn.get((-1, -1, d), []), level) for d, sums in enumerate(all_at_once)]
    scales = made.scale, made.ranges
    return Agreement(refs, _who(made), made.dimensions, tuple(pairs), tuple(together), *scales, resamples, level, seed)


def _figures(one: Paired, drawn: Sequence[Mapping[str, Floats]], level: float, width: float) -> dict[str, Figure]:
    """The figures with their intervals; the difference, of which alone the unit matters, times `width`."""
    limits = intervals(drawn, one.episodes, level)
    figures = {
        name: Figure(value, *(limits.get(name) or (None, None))) if value is not None else Figure(None)
        for name, value in one.point().items()
    }
    differs = figures["mean_difference"]
    wide = (None if v is None else v * width for v in (differs.value, differs.low, differs.high))
    return figures | {"mean_difference": Figure(*wide)}


def _alphas(made: Opinions) -> list[Floats]:
    """What each episode contributes to alpha over all opinions, and its units: (episodes, 5); the last is overall."""
    parts, episodes = len(made.dimensions), len(made.episodes)
    middle = float(np.nanmean(made.values)) if not np.isnan(made.values).all() else 0.0
    total = np.zeros((5, parts * episodes))
    for start in range(0, len(made), _BLOCK):
        some = slice(start, start + _BLOCK)
        where = made.dimension[some].astype(np.int64) * episodes + made.episode[some]
        sums = alpha_sums(made.values[:, some] - middle)
        columns = [*sums.T, (sums[:, 0] > 0).astype(np.float64)]
        total += np.stack([np.bincount(where, column, parts * episodes) for column in columns])
    each = [total[:, d * episodes : (d + 1) * episodes].T for d in range(parts)]
    return [*each, np.sum(each, axis=0)]


def _together(dimension: str, sums: Floats, drawn: Sequence[Mapping[str, Floats]], level: float) -> Together:
    whole = sums.sum(axis=0)
    units, value = int(whole[4]), float(alpha_of(whole[:4]))
    if np.isnan(value):
        return Together(dimension, units, Figure(None))
    limits = intervals(drawn, int(np.count_nonzero(sums[:, 0])), level).get("alpha") or (None, None)
    return Together(dimension, units, Figure(value, *limits))


def _who(made: Opinions) -> tuple[Who, ...]:
    found = []
    for one, name, row in zip(made.opinions, made.names, made.values, strict=True):
        own = row[~np.isnan(row)]
        mean, sd = (float(own.mean()) if len(own) else None), (float(own.std(ddof=1)) if len(own) > 1 else None)
        found.append(Who(name, one.ref, one.judge, one.sample, one.schema, len(own), mean, sd))
    return tuple(found)
