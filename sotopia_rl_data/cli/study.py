"""study: the command that makes a declared study and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console
from sotopia_rl_data.trainers import api

if TYPE_CHECKING:
    from sotopia_rl_data.store import Store
    from sotopia_rl_data.study.run import StepPreview
    from sotopia_rl_data.study.steps import StepResult


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@console.output_option("The folder of the tables and figures.  [default: studies/NAME]", required=False, folder=True)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder of trained models, and of what is done already.  [default: runs/NAME]",
)
@asking.pace("Calls")
@asking.costs("the whole study")
@asking.again
@asking.kept
@console.store_option
@console.json_option
def study(
    file: Path, output: Path | None, runs: Path | None, dry_run: bool, store: Store, as_json: bool, **options: Any
) -> None:
    """A declared study, from episodes to the paper's tables and figures: what is missing is made, in order.

    FILE says which datasets, labels, reward models, policies, partners and evaluators there are, and which tables. What
    is there is not made again: run the same command after a crash, a Ctrl-C or a change of the file. The tables are
    written as Markdown, LaTeX and PNG. Where some answers failed the exit code is 3. Training needs the extra `train`.

    \b
    A small study.yaml:
      name: small
      datasets:
        episodes: samples
      labels:
        direct: {judges: [lexical]}
      tables:
        rewards:
          show: distributions
          of: [direct]

    \b
    Examples:
      sotopia-rl-data study study.yaml --dry-run
      sotopia-rl-data study study.yaml --budget 200
    """
    from sotopia_rl_data.study.declared import read_study
    from sotopia_rl_data.study.planning import steps_of
    from sotopia_rl_data.study.run import preview, run_steps
    from sotopia_rl_data.study.steps import Workshop
    from sotopia_rl_data.study.tables import tables_of
    from sotopia_rl_data.study.writing import check_folder, write_study

    declared = read_study(file)
    ask = asking.ask_options(options | {"named": declared.models})
    steps = steps_of(declared)
    work = Workshop(declared.name, store, runs or Path("runs") / declared.name, ask, console.progress)
    if dry_run:
        _show_preview(preview(steps, work), as_json)
        return
    output = output or Path("studies") / declared.name
    check_folder(output)
    if declared.reward_models or any(policy.trainer for policy in declared.policies.values()):
        api.quiet_libraries(console.has_bars())
    results = run_steps(steps, work, lambda step: console.note(f"{step} …"))
    tables = tables_of(declared, results, store)
    written = write_study(declared, tables, results, output)
    _show(results, written, as_json)
    if any(made.failures for made in results.values()):
        click.get_current_context().exit(console.WITH_FAILURES)


def _show_preview(found: Sequence[StepPreview], as_json: bool) -> None:
    costs = [one.usd for one in found]
    known = sum(usd for usd in costs if usd is not None)
    if as_json:
        console.emit_json({"steps": [one.as_dict() for one in found], "known_usd": known, "whole": None not in costs})
        return
    rows = [[one.step, one.state, one.ref or None, one.asked, one.usd, one.most] for one in found]
    console.table(["step", "state", "version or folder", "asked", "USD", "at most"], rows, spare=["version or folder"])
    console.note("Nothing was asked, trained or written.")
    later = [one.step for one in found if one.usd is None]
    if later:
        console.note(
            f"{known:.4g} USD are known. The cost of {len(later)} of {len(found)} steps is not: what earlier steps "
            "make is missing, or a price."
        )


def _show(results: Mapping[str, StepResult], written: Sequence[Path], as_json: bool) -> None:
    if as_json:
        steps = [
            {"step": step, "ref": one.ref, "digest": one.digest, "failures": one.failures, "usd": one.usd}
            for step, one in results.items()
        ]
        console.emit_json({"steps": steps, "files": [str(path) for path in written]})
        return
    rows = [[step, one.ref, one.digest[:12], one.failures or None, one.usd or None] for step, one in results.items()]
    console.table(
        ["step", "version or folder", "digest", "failures", "USD"], rows, spare=["digest", "version or folder"]
    )
    page = next(path for path in written if path.name == "README.md")
    console.note(f"written: {page} and {len(written) - 1} files beside it")
