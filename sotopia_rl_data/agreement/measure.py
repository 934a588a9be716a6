"""agreement(): every figure between any two opinions, by dimension and overall, with intervals over episodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sotopia_rl_data import statistics
from sotopia_rl_data.agreement.opinions import Of, Opinions, opinions_of
from sotopia_rl_data.agreement.outside import with_column
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
    """A value and its interval; None where not defined (a constant column), or where an interval costs too much."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class OpinionSummary:
    """One opinion: its name in this report, its source, and the mean and sample sd of its values over all units."""

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
    """How far opinions agree. `scale` is (low, high) of the values, or None where they are shares of their own scales
    (or plain rewards); differences on the dimensions in `ranges` are in levels even then. `level` is the level of the
    intervals, which come from `resamples` draws of whole episodes."""

    refs: tuple[str, ...]
    opinions: tuple[OpinionSummary, ...]
    dimensions: tuple[str, ...]
    pairs: tuple[Pair, ...]
    together: tuple[Together, ...]
    scale: tuple[float, float] | None
    ranges: Mapping[str, tuple[float, float]]
    resamples: int
    level: float
    seed: int

    def pair(self, a: str, b: str, dimension: str = OVERALL) -> Pair | None:
        """The pair of these two names, in either order; None where they have no unit in common."""
        return next((pair for pair in self.pairs if {pair.a, pair.b} == {a, b} and pair.dimension == dimension), None)

    def matrix(self, measure: str, dimension: str = OVERALL) -> list[list[float | None]]:
        """One figure between all opinions, in their order. The diagonal is None; the difference is row minus column."""
        names = [opinion.name for opinion in self.opinions]
        return [[self._cell(a, b, measure, dimension) for b in names] for a in names]

    def _cell(self, a: str, b: str, measure: str, dimension: str) -> float | None:
        pair = None if a == b else self.pair(a, b, dimension)
        value = None if pair is None else pair.figures[measure].value
        if pair is None or value is None:
            return None
        return -value if pair.a != a and measure == "mean_difference" else value

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
    outcome: str | None = None,
    annotation: str | None = None,
) -> Agreement:
    """The agreement of all opinions that these versions hold.

    `of` is "attributions" (every judge, sample and schema of every version) or "rewards" (each version's rewards are
    one opinion, on the aggregate and on every normalised dimension; so are the scores of each reward model).
    `dimensions` are names (None: all). `outcome` or `annotation` names a column that is kept with the episodes, which
    is one more opinion (`outside.py`). `resamples` draws of whole episodes make the intervals; 0 makes none.

    Raises UsageError where there is one opinion only, where no two have a unit in common, where a dimension is absent.
    """
    opinions = opinions_of(versions, dimensions, of)
    if outcome is not None and annotation is not None:
        raise UsageError("An outcome and an annotation cannot be compared with at once.", "name one of the two")
    if annotation is not None:
        opinions = with_column(opinions, versions, "annotation", annotation)
    if outcome is not None:
        opinions = with_column(opinions, versions, "outcome", outcome)
    return agreement_of(opinions, resamples=resamples, level=level, seed=seed)


def agreement_of(opinions: Opinions, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Agreement:
    """The agreement of opinions that were read already."""
    sides = _side_by_side(opinions)
    alphas = _alpha_sums(opinions)
    pair_draws: dict[tuple[int, int, int], list[Mapping[str, Floats]]] = defaultdict(list)
    alpha_draws: dict[int, list[Mapping[str, Floats]]] = defaultdict(list)
    for weights in statistics.draws(len(opinions.episodes), resamples, seed):
        for (a, b), parts in sides.items():
            for part, pair in enumerate(parts):
                if pair.units:
                    pair_draws[a, b, part].append(pair.drawn(weights))
        for part, sums in enumerate(alphas):
            alpha_draws[part].append({"alpha": alpha_of(weights @ sums[:, :4])})
    names = (*opinions.dimensions, OVERALL)
    pairs = []
    for (a, b), parts in sides.items():
        for part, pair in enumerate(parts):
            if pair.units:
                figures = _figures(pair, pair_draws[a, b, part], level, opinions.width(names[part]))
                of_names = opinions.names[a], opinions.names[b], names[part]
                pairs.append(Pair(*of_names, pair.units, pair.episodes, figures))
    return Agreement(
        refs=tuple(dict.fromkeys(opinion.ref for opinion in opinions.opinions)),
        opinions=_summaries(opinions),
        dimensions=opinions.dimensions,
        pairs=tuple(pairs),
        together=tuple(_together(names[part], sums, alpha_draws[part], level) for part, sums in enumerate(alphas)),
        scale=opinions.scale,
        ranges=opinions.ranges,
        resamples=resamples,
        level=level,
        seed=seed,
    )


def _side_by_side(opinions: Opinions) -> dict[tuple[int, int], list[Paired]]:
    """Every two opinions that have a unit in common, in each dimension and overall. Raises UsageError where none do."""
    names = opinions.names
    if len(names) < 2:
        present = f"one opinion only ({names[0]})" if names else "no opinion"
        raise UsageError(
            f"Agreement needs two opinions, but there is {present}.",
            "label with a second --judge or with --samples 2, or name a second dataset of these episodes",
        )
    sides = {}
    for a, b in combinations(range(len(names)), 2):
        both = ~np.isnan(opinions.values[a]) & ~np.isnan(opinions.values[b])
        if both.any():
            x, y = opinions.values[a, both], opinions.values[b, both]
            where = opinions.episode[both], opinions.dimension[both]
            sides[a, b] = paired(x, y, *where, len(opinions.dimensions), len(opinions.episodes))
    if not sides:
        raise UsageError(
            f"No two of these opinions judge the same utterance on the same dimension: {', '.join(names)}.",
            "name versions that share episodes and dimensions; to compare a reward model's scores, add --of rewards",
        )
    return sides


def _figures(pair: Paired, drawn: Sequence[Mapping[str, Floats]], level: float, width: float) -> dict[str, Figure]:
    """The figures with their intervals. The difference, the only figure with a unit, is multiplied by `width`."""
    limits = intervals(drawn, pair.episodes, level)
    figures = {
        name: Figure(value, *(limits.get(name) or (None, None))) if value is not None else Figure(None)
        for name, value in pair.point().items()
    }
    differs = figures["mean_difference"]
    wide = (None if v is None else v * width for v in (differs.value, differs.low, differs.high))
    return figures | {"mean_difference": Figure(*wide)}


def _alpha_sums(opinions: Opinions) -> list[Floats]:
    """What each episode contributes to alpha over all opinions, and its units: (episodes, 5); the last is overall."""
    parts, episodes = len(opinions.dimensions), len(opinions.episodes)
    middle = float(np.nanmean(opinions.values)) if not np.isnan(opinions.values).all() else 0.0
    total = np.zeros((5, parts * episodes))
    for start in range(0, len(opinions), _BLOCK):
        some = slice(start, start + _BLOCK)
        where = opinions.dimension[some].astype(np.int64) * episodes + opinions.episode[some]
        sums = alpha_sums(opinions.values[:, some] - middle)
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


def _summaries(opinions: Opinions) -> tuple[OpinionSummary, ...]:
    summaries = []
    for opinion, name, row in zip(opinions.opinions, opinions.names, opinions.values, strict=True):
        own = row[~np.isnan(row)]
        summaries.append(
            OpinionSummary(
                name=name,
                ref=opinion.ref,
                judge=opinion.judge,
                sample=opinion.sample,
                schema=opinion.schema,
                units=len(own),
                mean=float(own.mean()) if len(own) else None,
                sd=float(own.std(ddof=1)) if len(own) > 1 else None,
            )
        )
    return tuple(summaries)
