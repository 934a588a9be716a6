"""A study's tables as files: Markdown, LaTeX, PNG, and all figures as JSON; the same bytes for the same tables.

Everything is made in a new folder beside, and takes the place of the earlier files only when all of it is there.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from sotopia_rl_data import display
from sotopia_rl_data.cards import markdown
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.study.declared import Study
from sotopia_rl_data.study.steps import StepResult
from sotopia_rl_data.study.tables import Cell, Panel, StudyTable

PAGE, DATA = "README.md", "study.json"
_INK, _GRID = "#20242a", "#dcd9d3"
_COLOUR = "#1f7a74"
_ACROSS = 3  # panels of a picture beside each other
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_LATEX |= {"−": "$-$", "·": r"$\cdot$", "–": r"\textendash{}", "’": "'"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # other signs in TeX's own fonts


def write_study(
    study: Study, tables: Sequence[StudyTable], results: Mapping[str, StepResult], folder: Path
) -> list[Path]:
    """Write the page, the tables and the pictures into `folder`, which is made; the files that were written. Files of
    an earlier run that are not made now are removed. Raises StoreError where it cannot be written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        for name in ("tables", "figures"):
            (beside / name).mkdir()
        for table in tables:
            (beside / "tables" / f"{table.name}.md").write_text(_markdown(table, ".."), encoding="utf-8")
            (beside / "tables" / f"{table.name}.tex").write_text(_latex(table), encoding="utf-8")
            if table.panels:
                draw(table, beside / "figures" / f"{table.name}.png")
        (beside / DATA).write_text(_data(study, tables, results), encoding="utf-8")
        (beside / PAGE).write_text(_page(study, tables, results), encoding="utf-8")
        return _taken_over(beside, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Raises StoreError where the folder could not be made or written, before there is anything to write."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise _unwritable(folder, OSError(errno.EACCES if place.is_dir() else errno.ENOTDIR, ""))


def _taken_over(beside: Path, folder: Path) -> list[Path]:
    written = sorted(path.relative_to(beside) for path in beside.rglob("*") if path.is_file())
    for name in written:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(beside / name, folder / name)
    for part in ("tables", "figures"):
        (folder / part).mkdir(exist_ok=True)
        for path in (folder / part).iterdir():
            if path.suffix in (".md", ".tex", ".png") and path.relative_to(folder) not in written:
                path.unlink()
    return [folder / name for name in written]


def _unwritable(folder: Path, error: OSError) -> StoreError:
    reason = error.strerror or os.strerror(error.errno or errno.EIO)
    return StoreError(f"The folder {folder} cannot be written ({reason}).", "name another: --output DIR")


# --- texts ------------------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A value of a table as text: 7.81 [7.20, 8.40]*."""
    if not isinstance(value, Cell):
        return display.cell(value)
    if value.value is None:
        return display.MISSING
    text = _number(value.value)
    if value.low is not None and value.high is not None:
        text += f" [{_number(value.low)}, {_number(value.high)}]"
    return text + value.mark


def _number(value: float) -> str:
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return text.replace("-", "−")


def _numeric(table: StudyTable) -> list[bool]:
    """Of each column, whether it has only figures."""
    return [
        all(row[place] is None or isinstance(row[place], Cell | int | float) for row in table.rows)
        for place in range(len(table.columns))
    ]


def _markdown(table: StudyTable, root: str) -> str:
    columns = list(map(markdown.plain, table.columns))
    grid = markdown.table(columns, [list(map(shown, row)) for row in table.rows], _numeric(table))
    parts = [f"## {markdown.plain(table.title)}", grid]
    parts += [markdown.plain(note) for note in table.notes]
    if table.panels:
        parts.append(f"![{markdown.plain(table.title)}]({root}/figures/{table.name}.png)")
    return "\n\n".join(parts) + "\n"


def _latex(table: StudyTable) -> str:
    """A `table` of booktabs, as small as its column is narrow; the preamble must load booktabs and graphicx."""
    rows = [" & ".join(_escaped(shown(value)) for value in row) + r" \\" for row in table.rows]
    head = " & ".join(map(_escaped, table.columns)) + r" \\"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(' '.join([table.title + '.', *table.notes]))}}}",
        rf"\label{{tab:{table.name}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('r' if each else 'l' for each in _numeric(table))}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return re.sub("-(?=-)", "-{}", "".join(_LATEX.get(c, c) for c in display.printable(text)))  # two would be a dash


def _versions(results: Mapping[str, StepResult]) -> list[tuple[str, str, str]]:
    """Each step with the version that it made, and the digest; of a model the digest alone, wherever it lies."""
    return [(step, "" if made.run else made.ref, made.digest) for step, made in results.items()]


def _data(study: Study, tables: Sequence[StudyTable], results: Mapping[str, StepResult]) -> str:
    steps = [{"step": step, "version": ref or None, "digest": digest} for step, ref, digest in _versions(results)]
    data = {"study": study.name, "steps": steps, "tables": [asdict(table) for table in tables]}
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _page(study: Study, tables: Sequence[StudyTable], results: Mapping[str, StepResult]) -> str:
    made = markdown.table(
        ("step", "version", "digest"),
        [(step, ref or None, markdown.code(digest[:12])) for step, ref, digest in _versions(results)],
    )
    parts = [f"# {markdown.plain(study.name)}", *(_markdown(table, ".").rstrip() for table in tables)]
    return "\n\n".join([*parts, "## What it was made of", made]) + "\n"


# --- pictures ---------------------------------------------------------------------------------------------------------


def draw(table: StudyTable, path: Path) -> None:
    """The panels of a table as a PNG; one without a value is left out."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [each for each in table.panels if each.bars or any(one and one.value is not None for one in each.cells)]
    across = min(len(panels), 2 if len(panels) == 4 else _ACROSS) or 1
    down = math.ceil(len(panels) / across)
    is_named = table.kind == "dots"
    tall = 0.9 + 0.28 * max((len(panel.labels) for panel in panels), default=0) if is_named else 2.3
    names = max((len(label) for panel in panels for label in panel.labels), default=0) if is_named else 0
    # else the last number of an axis meets the first of the next one
    apart = ConstrainedLayoutEngine(wspace=0.06, hspace=0.06)
    figure = Figure(figsize=(max(across * 2.9, 3.8) + 0.075 * names + 0.4, down * tall + 0.5), layout=apart)
    figure.suptitle(table.title, fontsize=11, x=0.01, ha="left", weight="bold", color=_INK)
    drawn = {"dots": _dots, "bars": _bars, "steps": _steps}[table.kind]
    first: Any = None
    for place, panel in enumerate(panels):
        shared = {("sharex" if is_named else "sharey"): first} if table.is_alike else {}
        axes = figure.add_subplot(down, across, place + 1, **shared)
        first = first or axes
        axes.set_title(panel.title, fontsize=9, loc="left", color=_INK)
        axes.tick_params(labelsize=8, length=0, colors=_INK)
        axes.spines[:].set_visible(False)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        drawn(axes, panel, place % across == 0)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _dots(axes: Any, panel: Panel, is_named: bool) -> None:
    """A row for each label, its value with a line from low to high; the first at the top."""
    for place, cell in enumerate(panel.cells):
        if cell is not None and cell.value is not None:
            if cell.low is not None and cell.high is not None:
                axes.plot([cell.low, cell.high], [place, place], color=_COLOUR, linewidth=1.6, solid_capstyle="round")
            axes.plot([cell.value], [place], "o", color=_COLOUR, markersize=5)
    axes.set_yticks(range(len(panel.labels)), panel.labels if is_named else [""] * len(panel.labels))
    axes.set_ylim(len(panel.labels) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=4)


def _steps(axes: Any, panel: Panel, is_named: bool) -> None:
    """The values over their numbers."""
    points = [(at, cell) for at, cell in zip(panel.at, panel.cells, strict=True) if cell.value is not None]
    axes.plot(
        [at for at, _ in points], [cell.value for _, cell in points], "o-", color=_COLOUR, linewidth=1.4, markersize=5
    )
    for at, cell in points:
        if cell.low is not None and cell.high is not None:
            axes.plot([at, at], [cell.low, cell.high], color=_COLOUR, linewidth=1.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks(panel.at, [f"{at:g}" for at in panel.at])
    axes.set_xlabel("drafts", fontsize=8, color=_INK)


def _bars(axes: Any, panel: Panel, is_named: bool) -> None:
    """Shares by bin."""
    widths = [high - low for low, high in zip(panel.edges, panel.edges[1:], strict=False)]
    axes.bar(panel.edges[:-1], panel.bars, widths, align="edge", color=_COLOUR, edgecolor="white", linewidth=0.6)
    axes.set_xlim(panel.edges[0], panel.edges[-1])
    axes.set_ylabel("share of utterances" if is_named else "", fontsize=8, color=_INK)
    axes.grid(visible=False, axis="x")
