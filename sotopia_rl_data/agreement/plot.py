"""The matrix of one figure as a picture: a panel for everything together, and one for each dimension."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sotopia_rl_data.agreement.measure import MEASURES, OVERALL, Agreement
from sotopia_rl_data.errors import StoreError, UsageError

TITLES = {
    "pearson": "Pearson's r",
    "spearman": "Spearman's ρ",
    "kendall": "Kendall's τ-b",
    "kappa": "quadratic-weighted κ",
    "alpha": "Krippendorff's α",
    "pair_accuracy": "pair accuracy within an episode",
    "mean_difference": "mean difference, row − column",
}
ENDINGS = (".png", ".svg", ".pdf")
_PANEL_INCHES = 1.15, 1.5  # for each opinion, and besides
_LONGEST = 22


def plot(found: Agreement, path: Path, measure: str = "pearson") -> None:
    """Draw the matrix to a PNG, SVG or PDF file.

    Raises UsageError for an unknown measure or ending and where matplotlib is missing, StoreError where the file cannot
    be written.
    """
    if measure not in MEASURES:
        raise UsageError(f"{measure!r} is no figure of agreement.", f"name one of: {', '.join(MEASURES)}")
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path.name} has no ending of a picture.", f"end it in {', '.join(ENDINGS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise UsageError("Plots need matplotlib, which is not installed.", "pip install matplotlib") from missing
    panels = [OVERALL, *(found.dimensions if len(found.dimensions) > 1 else ())]
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    side = _PANEL_INCHES[0] * len(found.opinions) + _PANEL_INCHES[1]
    figure = Figure(figsize=(max(side * columns, 5.0), max(side * rows, 3.6) + 0.6), layout="constrained")
    figure.suptitle(f"{TITLES[measure]}  ·  {', '.join(found.refs)}", fontsize=11)
    for place, dimension in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        image = _panel(axes, found, measure, dimension, labelled=place % columns == 0)
    figure.colorbar(image, ax=figure.axes, shrink=0.7, aspect=30)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror or error}).", "name a file in a folder that can be"
        ) from error


def _panel(axes: Any, found: Agreement, measure: str, dimension: str, labelled: bool) -> Any:
    matrix = found.matrix(measure, dimension)
    names = [_short(one.name) for one in found.opinions]
    cells = [[math.nan if value is None else value for value in row] for row in matrix]
    known = [abs(value) for row in matrix for value in row if value is not None]
    reach = max(known, default=1.0) if measure == "mean_difference" else 1.0
    low, palette = (0.0, "PuOr") if measure == "pair_accuracy" else (-reach, "PuOr")
    image = axes.imshow(cells, vmin=low, vmax=reach, cmap=palette)
    axes.set_title(dimension.replace("_", " "), fontsize=10)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names), fontsize=8)
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if i == j:
                continue
            shade = 0.0 if value is None else abs((value - (low + reach) / 2) / ((reach - low) / 2))
            text = "–" if value is None else f"{value:.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if shade > 0.7 else "black")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
