"""A version in figures, for its card: what `stats` says, and histograms, correlations and agreement besides.

Rows are counted by SQL on one thread, so that the same version gives the same digits; correlations are those of
`statistics`, over the numeric columns of `rewards` (8 bytes a row and column).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from sotopia_rl_data.query import connect
from sotopia_rl_data.statistics import mean_absolute_error, pearson, spearman
from sotopia_rl_data.stats import Stats, stats
from sotopia_rl_data.store import Version

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BINS = 30


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a column's values fall into equal bins from `low` to `high`; NULLs are not counted."""

    column: str
    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Correlations:
    """Pearson's r of every two columns; None where one is constant or they never meet."""

    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class OpinionPair:
    """Two opinions (judge, or judge #sample) on one dimension, over the utterances that both judged, raw."""

    dimension: str
    a: str
    b: str
    utterances: int
    pearson: float | None
    spearman: float | None
    difference: float | None


@dataclass(frozen=True, slots=True)
class EpisodeScores:
    """The episode scores on one dimension by one evaluator."""

    dimension: str
    evaluator: str
    count: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Numbers:
    """All figures of a version; empty where it has no such config."""

    stats: Stats
    histograms: tuple[Histogram, ...]
    correlations: Correlations | None
    agreement: tuple[OpinionPair, ...]
    scores: tuple[EpisodeScores, ...]


def numbers(version: Version) -> Numbers:
    """The figures of `version`. Raises StoreError where its files cannot be read."""
    known = stats(version)
    columns = version.manifest.columns
    dimensions = [c.removeprefix("raw_") for c in columns.get("rewards", {}) if c.startswith("raw_")]
    with connect(version, threads=1) as connection:
        shown = ["reward", *(f"norm_{d}" for d in dimensions)] if "rewards" in columns else []
        found = [_histogram(connection, known, column) for column in shown]
        related = ["reward", *(f"raw_{d}" for d in dimensions)]
        return Numbers(
            known,
            tuple(h for h in found if h is not None),
            _correlations(connection, related) if len(dimensions) > 1 else None,
            tuple(_agreement(connection)) if "attributions" in columns else (),
            tuple(_scores(connection)) if "episodes" in columns else (),
        )


def _histogram(connection: DuckDBPyConnection, known: Stats, column: str) -> Histogram | None:
    everything = known.columns.get(column, {}).get("all")
    if everything is None or everything.min is None or everything.max is None:
        return None
    low, high = everything.min, everything.max
    width = (high - low) or 1.0
    place = f"least(floor(({_name(column)} - {low!r}) / {width!r} * {BINS}), {BINS - 1})::INTEGER"
    query = f"SELECT {place} AS bin, count(*) FROM rewards WHERE {_name(column)} IS NOT NULL GROUP BY 1"
    counts = dict(connection.execute(query).fetchall())
    return Histogram(column, low, high, tuple(counts.get(i, 0) for i in range(BINS)))


def _correlations(connection: DuckDBPyConnection, columns: Sequence[str]) -> Correlations:
    rows: Any = connection.sql(f"SELECT {', '.join(map(_name, columns))} FROM rewards").to_arrow_table()
    values = [column.to_numpy() for column in rows.columns]  # NULL as NaN
    known = [~np.isnan(column) for column in values]
    r: list[list[float | None]] = [[1.0] * len(columns) for _ in columns]
    for a, b in combinations(range(len(columns)), 2):
        both = known[a] & known[b]
        r[a][b] = r[b][a] = pearson(values[a][both], values[b][both])
    return Correlations(tuple(columns), tuple(map(tuple, r)))


def _agreement(connection: DuckDBPyConnection) -> list[OpinionPair]:
    """Every two opinions on a dimension: counted by SQL as pairs of numbers, compared as weighted pairs."""
    query = """
        WITH said AS (
            SELECT episode_id, agent, turn, dimension, schema, measure, raw,
                   judge || CASE WHEN sample = 0 THEN '' ELSE ' #' || sample END AS opinion
            FROM attributions)
        SELECT a.dimension, a.opinion, b.opinion, a.raw, b.raw, count(*)
        FROM said a JOIN said b USING (episode_id, agent, turn, dimension, schema, measure)
        WHERE a.opinion < b.opinion GROUP BY ALL ORDER BY ALL
    """
    groups: dict[tuple[str, str, str], list[tuple[float, float, int]]] = {}
    for dimension, a, b, x, y, count in connection.execute(query).fetchall():
        groups.setdefault((dimension, a, b), []).append((x, y, count))
    pairs = []
    for (dimension, a, b), rows in groups.items():
        x, y, weights = np.array(rows, dtype=np.float64).T
        pairs.append(
            OpinionPair(
                dimension=dimension,
                a=a,
                b=b,
                utterances=int(weights.sum()),
                pearson=pearson(x, y, weights),
                spearman=spearman(x, y, weights),
                difference=mean_absolute_error(x, y, weights),
            )
        )
    return pairs


def _scores(connection: DuckDBPyConnection) -> list[EpisodeScores]:
    query = """
        SELECT s.dimension, s.evaluator, count(*), avg(s.score), min(s.score), max(s.score)
        FROM (SELECT unnest(scores) AS s FROM episodes) GROUP BY 1, 2 ORDER BY 2, 1
    """
    rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()
    return [EpisodeScores(*row) for row in rows]


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
