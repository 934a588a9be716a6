"""A version's figures as pictures: PNG bytes, drawn without a display. matplotlib is imported when one is drawn.

The same figures give the same bytes with the same matplotlib: no date, no program's name is written into the file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.cards.numbers import Correlations, Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _FIRST, _REST = "#1f2937", "#9ca3af", "#2563eb", "#60a5fa"
_DPI = 150


def distributions(histograms: Sequence[Histogram]) -> bytes:
    """One panel for each column, the reward first and in the stronger blue."""
    columns = min(len(histograms), 2 if len(histograms) <= 4 else 3)
    rows = math.ceil(len(histograms) / columns)
    figure = _figure(3.3 * columns, 2.1 * rows)
    for i, one in enumerate(histograms):
        axes = figure.add_subplot(rows, columns, i + 1)
        width = ((one.high - one.low) or 1.0) / len(one.counts)
        left = [one.low + width * j for j in range(len(one.counts))]
        axes.bar(left, one.counts, width=width, align="edge", color=_FIRST if one.column == "reward" else _REST)
        axes.set_title(label(one.column), fontsize=10, color=_INK, loc="left")
        axes.set_ylabel("utterances" if i % columns == 0 else "", fontsize=8, color=_INK)
        _plain(axes)
    figure.align_ylabels()
    figure.set_layout_engine("constrained", h_pad=0.1)
    return _png(figure)


def correlations(found: Correlations) -> bytes:
    """Pearson's r of every two columns as a map from blue (-1) over white to red (1), with its number."""
    count = len(found.columns)
    figure = _figure(1.5 + 0.6 * count, 0.8 + 0.6 * count)
    axes = figure.add_subplot()
    shown = [[math.nan if value is None else value for value in row] for row in found.values]
    axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1)
    names = [label(column) for column in found.columns]
    axes.set_xticks(range(count), names, rotation=35, ha="right")
    axes.set_yticks(range(count), names)
    for i, row in enumerate(found.values):
        for j, value in enumerate(row):
            dark = value is not None and abs(value) > 0.6
            text = "–" if value is None else f"{value:.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else _INK)
    _plain(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return _png(figure, bbox_inches="tight", pad_inches=0.1)


def label(column: str) -> str:
    """How a column is called in a picture: norm_social_rules -> "social rules, normalised"."""
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


def _png(figure: Figure, **how: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None}, **how)
    return data.getvalue()
