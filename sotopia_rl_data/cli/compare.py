"""compare: the command that compares agents by their episodes' scores."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.yaml_nodes import text_of

if TYPE_CHECKING:
    from sotopia_rl_data.comparing import Comparison
    from sotopia_rl_data.store import Store


@click.command()
@console.refs_argument()
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="WHO",
    help="Whose agent counts: first, second, all, or a model's name; once, or once for each REF.  "
    "[default: the model that not every REF has]",
)
@click.option("--partner", "partners", multiple=True, metavar="MODEL", help="A model that is a partner, not a method.")
@click.option("--any-partner", is_flag=True, help="Take all partners as one.")
@click.option(
    "--evaluator",
    "evaluators",
    multiple=True,
    metavar="NAME",
    help="Whose scores.  [default: all who scored every REF]",
)
@click.option(
    "--subset",
    "subsets",
    multiple=True,
    metavar="hard|NAME=FILE",
    help="Compare these scenarios by themselves too: SOTOPIA-hard, or the environment ids in a file.",
)
@click.option("--dimensions", metavar="D,…", help="Only these (average: the mean of the seven).  [default: all]")
@click.option(
    "--resample",
    type=click.Choice(["pair", "scenario"]),
    default="pair",
    show_default=True,
    help="What is independent: each pair, or only scenarios.",
)
@click.option(
    "--alpha", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="What counts as significant."
)
@click.option("--resamples", type=click.IntRange(0), default=1000, show_default=True, help="0: no intervals.")
@click.option("--seed", default=0, show_default=True, help="Of the resampling.")
@click.option("--by-scenario", metavar="D", help="Print a table of scenarios on this dimension too.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots and dialogues.")
@console.wide_option
@console.store_option
@console.json_option
def compare(
    refs: tuple[str, ...],
    agents: tuple[str, ...],
    partners: tuple[str, ...],
    any_partner: bool,
    evaluators: tuple[str, ...],
    subsets: tuple[str, ...],
    dimensions: str | None,
    resample: Any,
    alpha: float,
    resamples: int,
    seed: int,
    by_scenario: str | None,
    html: Path | None,
    wide: bool,
    store: Store,
    as_json: bool,
) -> None:
    """Compare agents by their episodes' scores: the papers' tables, paired tests, intervals. Calls no model.

    A REF is a run: episodes of one method's agent with a partner (`rollout`), scored (`evaluate`). Every method is
    compared with the first REF's, paired by environment, agents and position. Models that all REFs share are the
    partner; a REF by itself is about each of its models. A star: p below alpha, after Holm over the dimensions.

    \b
    Examples:
      sotopia-rl-data compare lab/bc lab/rl
      sotopia-rl-data compare lab/bc lab/rl --subset hard --html comparison.html
      sotopia-rl-data compare lab/bc lab/rl lab/bc-vs-gpt lab/rl-vs-gpt --partner gpt-4o --partner bc-partner
      sotopia-rl-data compare lab/tournament --agent first --evaluator gpt-4o --evaluator human
    """
    from sotopia_rl_data.comparing import ComparisonOptions
    from sotopia_rl_data.comparing import compare as compared

    versions = [resolve(store, ref) for ref in dict.fromkeys(refs)]
    comparison = compared(
        versions,
        agents=agents,
        partners=partners,
        any_partner=any_partner,
        evaluators=evaluators,
        sets=dict(_subset(text) for text in subsets),
        dimensions=_names(dimensions),
        options=ComparisonOptions(resamples=resamples, resample=resample, alpha=alpha, seed=seed),
    )
    scenario_dimensions = _names(by_scenario)
    if html is not None:
        from sotopia_rl_data.comparing.page import write_comparison

        write_comparison(comparison, versions, html, agents=agents, partners=partners, any_partner=any_partner)
    if as_json:
        console.emit_json(comparison.as_dict())
    else:
        _show_comparison(comparison, scenario_dimensions[0] if scenario_dimensions else None, wide)
    if html is not None:
        console.note(f"written: {html}")


def _names(text: str | None) -> list[str] | None:
    """Full names of dimensions, or "average"; None if the option was not used. Raises UsageError."""
    from sotopia_rl_data.comparing.methods import AVERAGE
    from sotopia_rl_data.dimensions import dimension

    if text is None:
        return None
    words = [part.strip() for part in text.split(",") if part.strip()]
    return [AVERAGE if word.lower() in (AVERAGE, "avg") else dimension(word).name for word in words]


def _subset(text: str) -> tuple[str, list[str]]:
    """A named set of environments. Raises UsageError, InputError."""
    from sotopia_rl_data.errors import InputError, UsageError

    name, equals, file = text.partition("=")
    if not equals:
        if name != "hard":
            raise UsageError(
                f"There is no built-in set of environments {name!r}.",
                f"write --subset hard, or --subset {shlex.quote(name)}=FILE with a file that lists environment ids",
            )
        from sotopia_rl_data.rollouts import HARD

        return name, list(HARD)
    if not name:
        raise UsageError(f"{text!r} gives the subset no name.", f"write --subset NAME={file}")
    try:
        text = text_of(Path(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The file {file!r} cannot be read: {getattr(error, 'strerror', error)}.",
            "name a text file that lists environment ids, one a line",
        ) from error
    try:
        ids = json.loads(text)
    except ValueError:
        ids = text.split()
    if not isinstance(ids, list) or not ids or not all(isinstance(one, str) for one in ids):
        raise InputError(
            f"The file {file!r} does not list environment ids.", "write one id a line into it, or a JSON array of ids"
        )
    return name, ids


def _show_comparison(comparison: Comparison, by_scenario: str | None, wide: bool) -> None:
    from sotopia_rl_data.comparing import tables

    grids: list[tables.Grid | None] = [
        *tables.conditions(comparison),
        tables.ablation(comparison),
        *tables.effects(comparison),
    ]
    if by_scenario is not None:
        for condition in comparison.conditions:
            grids += [tables.scenarios(condition, contrast, by_scenario) for contrast in condition.contrasts]
    grids += [tables.talk(comparison), tables.agreement(comparison)]
    shown = {
        column
        for grid in grids
        if grid is not None
        for column in console.table(grid.columns, grid.rows, title=grid.title, spare=() if wide else grid.spare)
    }
    for remark in comparison.remarks:
        console.warn(remark)
    signs = list(tables.signs(comparison, shown))
    if signs:
        console.note("; ".join(signs))
    legend = tables.legend(comparison.dimensions)
    if legend:
        console.note(legend)
