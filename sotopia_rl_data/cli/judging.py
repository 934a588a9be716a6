"""What the commands share that ask models: `label`, `evaluate`, `audit` and `rollout`, from their options to what is
shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sotopia_rl_data.cli import console, shared_options
from sotopia_rl_data.errors import UnderWay

if TYPE_CHECKING:
    from sotopia_rl_data.asking.estimate import Estimate
    from sotopia_rl_data.asking.options import AskOptions
    from sotopia_rl_data.asking.report import RunReport
    from sotopia_rl_data.labelers.settings import Elicitation

F = TypeVar("F", bound=Callable[..., Any])
Report = TypeVar("Report", bound="RunReport")

_FORMS = "gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], transformers:PATH_OR_ID, "
_OTHERS = "replay:LEDGER, lexical (offline), path/to/file.py:Name. Repeat for several."


def judges_option(also: str = "") -> Callable[[F], F]:
    """`--judge`, repeatable; `also` are forms that this command alone takes."""
    return click.option("--judge", "judges", multiple=True, metavar="SPEC", help=_FORMS + also + _OTHERS)


def elicitation_of(options: dict[str, Any]) -> Elicitation:
    """What a command's options say is asked, taken out of them. Raises UsageError."""
    from sotopia_rl_data.labelers.settings import Elicitation

    dimensions = options.pop("dimensions")
    return Elicitation(
        judges=options.pop("judges"),
        schema=options.pop("schema", None),
        scale=options.pop("scale", None),
        evaluator=options.pop("evaluator", None),
        samples=options.pop("samples", 1),
        only=options.pop("only", None),
        dimensions=[part.strip() for part in dimensions.split(",") if part.strip()] if dimensions else None,
        packing=options.pop("ask"),
        sampling=shared_options.sampling_of(options.pop("temperature"), options.pop("max_tokens")),
    )


def carry_out(
    doing: str,
    unit: str,
    options: AskOptions,
    run: Callable[[AskOptions], Report],
    show: Callable[[Report], None],
    as_json: bool,
) -> None:
    """Run and show what came of it; the exit code is 3 where some of it failed."""
    try:
        with console.progress(doing, unit) as advance:
            report = run(replace(options, progress=advance))
    except UnderWay as away:
        _show_under_way(away, as_json)
        return
    if as_json:
        console.emit_json(report.as_dict())
    else:
        show(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def dry_run(options: AskOptions, unit: str, estimate: Callable[[AskOptions], Estimate], as_json: bool) -> None:
    """Say what a run would ask and cost."""
    from sotopia_rl_data.cli.showing import show_estimate

    with console.progress("counting", unit) as advance:
        found = estimate(replace(options, progress=advance))
    if as_json:
        console.emit_json(found.as_dict())
    else:
        show_estimate(found, options.batching is not None)


def _show_under_way(away: UnderWay, as_json: bool) -> None:
    """Say that nothing more was wanted for now."""
    if as_json:
        console.emit_json({"under_way": {"requests": away.requests, "batches": away.batches}})
    else:
        console.note(f"{away.message} Next: {away.hint}.")
