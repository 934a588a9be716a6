"""What `label` and `evaluate` share: how judges are named, and a run of them from its options to what is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sotopia_rl_data.cli import console, shared_options
from sotopia_rl_data.errors import UnderWay, UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.asking.batch.run import Batching
    from sotopia_rl_data.labelers.estimate import Estimate
    from sotopia_rl_data.labelers.report import RunReport
    from sotopia_rl_data.store import Store

F = TypeVar("F", bound=Callable[..., Any])
Report = TypeVar("Report", bound="RunReport")

_FORMS = "gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], transformers:PATH_OR_ID, "
_OTHERS = "replay:LEDGER, lexical (offline), path/to/file.py:Name. Repeat for several."
_OF_THE_RUN = ("out", "version", "budget", "pacing")  # an estimate is the same without


def judges_option(also: str = "") -> Callable[[F], F]:
    """`--judge`, repeatable; `also` are forms that this command alone takes."""
    return click.option("--judge", "judges", multiple=True, metavar="SPEC", help=_FORMS + also + _OTHERS)


def carry_out(
    doing: str,
    run: Callable[..., Report],
    estimate: Callable[..., Estimate],
    show: Callable[[Report], None],
    store: Store,
    episodes: str | None,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Run with the command's options, or with --dry-run estimate, and show what came of it; the exit code is 3 where
    some of it failed."""
    temperature, max_tokens, dimensions, only_count = (
        options.pop(name) for name in ("temperature", "max_tokens", "dimensions", "dry_run")
    )
    batching = _batching(**{name: options.pop(name) for name in ("batch", "poll", "no_wait")})
    options |= {
        "sampling": shared_options.sampling_of(temperature, max_tokens),
        "pacing": shared_options.pacing_from(options),
    }
    options |= {"dimensions": dimensions.split(",") if dimensions else None}
    if only_count:
        _count(estimate, store, episodes, as_json, batching is not None, options)
        return
    try:
        with console.progress(doing, "call") as advance:
            report = run(store, episodes, batching=batching, progress=advance, **options)
    except UnderWay as away:
        _show_left(away, as_json)
        return
    if as_json:
        console.emit_json(report.as_dict())
    else:
        show(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def _count(
    estimate: Callable[..., Estimate],
    store: Store,
    episodes: str | None,
    as_json: bool,
    in_batches: bool,
    options: dict[str, Any],
) -> None:
    from sotopia_rl_data.cli.showing import show_estimate

    asked = {name: value for name, value in options.items() if name not in _OF_THE_RUN}
    with console.progress("counting", "call") as advance:
        found = estimate(store, episodes, in_batches=in_batches, progress=advance, **asked)
    if as_json:
        console.emit_json(found.as_dict())
    else:
        show_estimate(found, in_batches)


def _batching(batch: bool, poll: float | None, no_wait: bool) -> Batching | None:
    """How batches are waited for; None where none are wanted."""
    from sotopia_rl_data.asking.batch.run import Batching

    if not batch and (no_wait or poll is not None):
        raise UsageError(f"{'--no-wait' if no_wait else '--poll'} is about batches.", "add --batch, or leave it out")
    if not batch:
        return None
    return Batching(wait=not no_wait) if poll is None else Batching(poll_s=poll, wait=not no_wait)


def _show_left(away: UnderWay, as_json: bool) -> None:
    """Say that nothing more was wanted for now."""
    if as_json:
        console.emit_json({"under_way": {"requests": away.requests, "batches": away.batches}})
    else:
        console.note(f"{away.message} Next: {away.hint}.")
