"""The matrix of one figure as a picture: a panel for all dimensions together, and one for each dimension."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sotopia_rl_data.agreement.measure import MEASURES, OVERALL, Agreement
from sotopia_rl_data.code import check_installed
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.outputs import aside

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
# The side of a panel is 0.72 inches for each opinion, plus a margin of 0.9 inches.
_PANEL_INCHES = 0.72, 0.9
# The colours of low to high values, which people with red-green colour blindness can tell apart.
_COLOURS = ("#c4553b", "#dda084", "#f1efea", "#76aaa3", "#1f7a74")
_LONGEST = 22


def plot(agreement: Agreement, path: Path, measure: str = "pearson") -> None:
    """Draw the matrix to a PNG, SVG or PDF file.

    Raises UsageError for an unknown measure or ending and where matplotlib is missing, StoreError where the file cannot
    be written.
    """
    if measure not in MEASURES:
        raise UsageError(f"{measure!r} is not a figure of agreement.", f"name one of: {', '.join(MEASURES)}")
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"The file name {path.name!r} does not have the ending of a picture.", f"end it in {' or '.join(ENDINGS)}"
        )
    check_installed("A plot", "matplotlib", hint="pip install matplotlib")
    from matplotlib.figure import Figure

    panels = [OVERALL, *(agreement.dimensions if len(agreement.dimensions) > 1 else ())]
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    side = _PANEL_INCHES[0] * len(agreement.opinions) + _PANEL_INCHES[1]
    figure = Figure(figsize=(max(side * columns + 0.8, 4.6), side * rows + 0.8), layout="constrained")
    figure.suptitle(f"{TITLES[measure]}  ·  {', '.join(agreement.refs)}", fontsize=11, x=0.01, ha="left", weight="bold")
    for place, dimension in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        image = _panel(axes, agreement, measure, dimension, labelled=place % columns == 0)
    # mypy cannot know that the layout "constrained" has an engine, and that this engine has a `wspace`.
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr,call-arg]
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.75, aspect=24, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0)
    with aside(path) as beside:
        figure.savefig(beside, dpi=150)


def _panel(axes: Any, agreement: Agreement, measure: str, dimension: str, labelled: bool) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    matrix = agreement.matrix(measure, dimension)
    names = [
        opinion.name if len(opinion.name) <= _LONGEST else opinion.name[: _LONGEST - 1] + "…"
        for opinion in agreement.opinions
    ]
    cells = [[math.nan if value is None else value for value in row] for row in matrix]
    known = [abs(value) for row in matrix for value in row if value is not None]
    reach = max(known, default=1.0) if measure == "mean_difference" else 1.0
    low = 0.0 if measure == "pair_accuracy" else -reach
    image = axes.imshow(cells, vmin=low, vmax=reach, cmap=LinearSegmentedColormap.from_list("ours", _COLOURS))
    axes.set_title(dimension.replace("_", " "), fontsize=10, loc="left")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=9)
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names), fontsize=9)
    axes.set_xticks([i + 0.5 for i in range(len(names) - 1)], minor=True)
    axes.set_yticks([i + 0.5 for i in range(len(names) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=3)
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if i == j:
                continue
            shade = 0.0 if value is None else abs((value - (low + reach) / 2) / ((reach - low) / 2))
            text = "–" if value is None else f"{value:.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if shade > 0.6 else "#20242a")
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image
