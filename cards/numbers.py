"""A version in figures, for its card: what `stats` says, and histograms, correlations and agreement; and the pictures
that are drawn of them.

Rows are counted by SQL on one thread, so that the same version gives the same digits; correlations are those of
`statistics`, over the numeric columns of `rewards` (8 bytes for each row and column). Pictures are PNG bytes, drawn
without a display; matplotlib is imported when one is drawn. The same figures give the same bytes with the same
matplotlib: neither a date nor a program's name is written into the file.
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


import io
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    """Pearson's r of every two columns; None where one is constant or no row has both."""

    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class OpinionPair:
    """How far two opinions (judge, or judge #sample) on one dimension agree, over the utterances that both judged, on
    the judges' own scale. `difference` is the mean absolute difference."""

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
    """All figures of a version; those of a config that it lacks are empty."""

    stats: Stats
    histograms: tuple[Histogram, ...]
    correlations: Correlations | None
    agreement: tuple[OpinionPair, ...]
    scores: tuple[EpisodeScores, ...]


def numbers(version: Version) -> Numbers:
    """The figures of `version`. Raises StoreError where its files cannot be read."""
    described = stats(version)
    columns = version.manifest.columns
    dimensions = [c.removeprefix("raw_") for c in columns.get("rewards", {}) if c.startswith("raw_")]
    with connect(version, threads=1) as connection:
        shown = ["reward", *(f"norm_{d}" for d in dimensions)] if "rewards" in columns else []
        histograms = [_histogram(connection, described, column) for column in shown]
        related = ["reward", *(f"raw_{d}" for d in dimensions)]
        return Numbers(
            described,
            tuple(h for h in histograms if h is not None),
            _correlations(connection, related) if len(dimensions) > 1 else None,
            tuple(_agreement(connection)) if "attributions" in columns else (),
            tuple(_scores(connection)) if "episodes" in columns else (),
        )


def _histogram(connection: DuckDBPyConnection, described: Stats, column: str) -> Histogram | None:
    everything = described.columns.get(column, {}).get("all")
    if everything is None or everything.min is None or everything.max is None:
        return None
    low, high = everything.min, everything.max
    width = (high - low) or 1.0
    if not math.isfinite(width):
        return None
    place = f"least(floor(({_quoted(column)} - {low!r}) / {width!r} * {BINS}), {BINS - 1})::INTEGER"
    query = f"SELECT {place} AS bin, count(*) FROM rewards WHERE {_quoted(column)} IS NOT NULL GROUP BY 1"
    counts = dict(connection.execute(query).fetchall())
    return Histogram(column, low, high, tuple(counts.get(i, 0) for i in range(BINS)))


def _correlations(connection: DuckDBPyConnection, columns: Sequence[str]) -> Correlations:
    rows: Any = connection.sql(f"SELECT {', '.join(map(_quoted, columns))} FROM rewards").to_arrow_table()
    values = [column.to_numpy() for column in rows.columns]  # NULL becomes NaN
    known = [~np.isnan(column) for column in values]
    r: list[list[float | None]] = [[1.0] * len(columns) for _ in columns]
    for a, b in combinations(range(len(columns)), 2):
        both = known[a] & known[b]
        r[a][b] = r[b][a] = pearson(values[a][both], values[b][both])
    return Correlations(tuple(columns), tuple(map(tuple, r)))


def _agreement(connection: DuckDBPyConnection) -> list[OpinionPair]:
    """Every two opinions on a dimension. SQL counts how often each pair of numbers occurs, and the pairs are compared
    by that weight."""
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


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


_INK, _SOFT, _FIRST, _REST = "#1f2937", "#9ca3af", "#2563eb", "#60a5fa"
_DPI = 150


def draw_distributions(histograms: Sequence[Histogram]) -> bytes:
    """One panel for each column, the reward first and in the stronger blue."""
    columns = min(len(histograms), 2 if len(histograms) <= 4 else 3)
    rows = math.ceil(len(histograms) / columns)
    figure = _figure(3.3 * columns, 2.1 * rows)
    for i, histogram in enumerate(histograms):
        axes = figure.add_subplot(rows, columns, i + 1)
        width = ((histogram.high - histogram.low) or 1.0) / len(histogram.counts)
        left = [histogram.low + width * j for j in range(len(histogram.counts))]
        color = _FIRST if histogram.column == "reward" else _REST
        axes.bar(left, histogram.counts, width=width, align="edge", color=color)
        axes.set_title(label(histogram.column), fontsize=10, color=_INK, loc="left")
        axes.set_ylabel("utterances" if i % columns == 0 else "", fontsize=8, color=_INK)
        _plain(axes)
    figure.align_ylabels()
    figure.set_layout_engine("constrained", h_pad=0.1)
    return _png(figure)


def draw_correlations(correlations: Correlations) -> bytes:
    """Pearson's r of every two columns as a map from blue (-1) over white (0) to red (1), with the number in each
    cell."""
    count = len(correlations.columns)
    figure = _figure(1.5 + 0.6 * count, 0.8 + 0.6 * count)
    axes = figure.add_subplot()
    shown = [[math.nan if value is None else value for value in row] for row in correlations.values]
    axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1)
    names = [label(column) for column in correlations.columns]
    axes.set_xticks(range(count), names, rotation=35, ha="right")
    axes.set_yticks(range(count), names)
    for i, row in enumerate(correlations.values):
        for j, value in enumerate(row):
            dark = value is not None and abs(value) > 0.6
            text = "–" if value is None else f"{value:.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else _INK)
    _plain(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return _png(figure, tight=True)


def label(column: str) -> str:
    """A column's name in a picture: norm_social_rules -> "social rules, normalised"."""
    if column.startswith("norm_"):
        return column.removeprefix("norm_").replace("_", " ") + ", normalised"
    name = column.removeprefix("raw_").replace("_", " ")
    return "financial benefits" if name == "financial and material benefits" else name


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, facecolor="white")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_SOFT)
    axes.tick_params(colors=_INK, labelsize=8, color=_SOFT)


def _png(figure: Figure, tight: bool = False) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    data = io.BytesIO()
    layout: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.1} if tight else {}
    figure.savefig(data, format="png", metadata={"Software": None}, **layout)
    return data.getvalue()
