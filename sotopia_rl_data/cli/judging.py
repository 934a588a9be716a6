"""What the commands share that ask models: `label`, `evaluate`, `audit` and `rollout`, from their options to what is
shown: counts, a row a judge with tokens and USD, the date of the prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sotopia_rl_data.cli import console, shared_options
from sotopia_rl_data.errors import UnderWay

if TYPE_CHECKING:
    from sotopia_rl_data.asking.estimate import Estimate
    from sotopia_rl_data.asking.plan import AskOptions
    from sotopia_rl_data.asking.report import RunReport
    from sotopia_rl_data.labelers.plan import Elicitation


from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sotopia_rl_data.asking.estimate import Estimate
    from sotopia_rl_data.asking.report import RunReport
    from sotopia_rl_data.costs.bill import Bill
    from sotopia_rl_data.costs.bill import Line as Paid

F = TypeVar("F", bound=Callable[..., Any])
Report = TypeVar("Report", bound="RunReport")

_FORMS = "gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], transformers:PATH_OR_ID, "
_OTHERS = "replay:LEDGER, lexical (offline), path/to/file.py:Name. Repeat for several."


def judges_option(also: str = "") -> Callable[[F], F]:
    """`--judge`, repeatable; `also` are forms that this command alone takes."""
    return click.option("--judge", "judges", multiple=True, metavar="SPEC", help=_FORMS + also + _OTHERS)


def elicitation_of(options: dict[str, Any]) -> Elicitation:
    """What a command's options say is asked, taken out of them. Raises UsageError."""
    from sotopia_rl_data.labelers.plan import Elicitation

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


def show_run(did: str, wanted: str, report: RunReport, counts: Sequence[tuple[str, Any]], *following: str) -> None:
    """What a command `did`, what failed to become what was `wanted` ("label"), what it cost, and what may follow."""
    state = "made" if report.created else "unchanged: the store has this content already"
    rows = [*counts, ("calls", report.calls), ("asked", report.asked), ("hits", report.hits)]
    unusable: int = getattr(report, "unusable", 0)
    seldom = {
        "repeated": report.repeated,
        "unreachable": report.unreachable,
        "repaired": getattr(report, "repaired", 0),
        "unusable": unusable,
    }
    rows += [(name, count) for name, count in seldom.items() if count] + [("seconds", report.seconds)]
    console.table([did, ""], rows, title=f"{report.version}  {report.digest[:12]}  {state}")
    show_bill(report.bill)
    if report.failures:
        console.table([f"what has no {wanted}", "rows"], list(report.failures.items()))
    for warning in report.warnings:
        console.warn(warning)
    again = []
    if unusable:
        command = click.get_current_context().command_path.rpartition(" ")[2]
        again = [f"sotopia-rl-data {command} … --retry-failed   # {unusable:,} unusable answers"]
    console.next_commands(*following, *again)


def show_estimate(found: Estimate, in_batches: bool) -> None:
    """What a run would ask and cost. Nothing was asked and nothing written."""
    names = ["calls", "hits", "in_batches", "asked"]
    if not any(line.in_batches for line in found.lines):
        names.remove("in_batches")
    rows = []
    for line in found.lines:
        tokens: list[int | str | None] = [None, None, None]
        if line.usage is not None:
            tokens = [line.usage.input, _share(line.usage.cached, line.usage.input), line.usage.output]
        rows.append([line.judge, *(getattr(line, name) for name in names), *tokens, _usd(line.cost), _usd(line.most)])
    sums = [sum(getattr(line, name) for line in found.lines) for name in names]
    rows.append(["total", *sums, None, None, None, _usd(found.total), _usd(found.most)])
    columns = ["judge or policy", *(name.replace("_", " ") for name in names)]
    columns += ["tokens in", "of these cached", "tokens out", "USD", "at most"]
    by = " in batches" if in_batches else ""
    console.table(columns, rows, title=f"What this run would cost, at the prices of {found.as_of}{by}")
    for note in _notes(found, in_batches):
        console.note(note)


def _notes(found: Estimate, in_batches: bool) -> Iterator[str]:
    yield "Nothing was asked, and no version written. Second tries at unusable answers are not in it."
    most_calls, episodes = getattr(found, "most_calls", 0), getattr(found, "episodes", 0)
    if most_calls:
        yield (
            f"How long a dialogue gets is a guess: {most_calls:,} calls if each of the {episodes:,} episodes "
            "goes to the turn limit."
        )
    if in_batches and found.most:
        yield (
            f"Where a --budget leaves less than {_usd(found.most)} USD for them, beside what is spent and under way, "
            "they go in several rounds of batches; --max-tokens, near to what an answer takes, lets more go at once."
        )
    if any(line.asked and line.cost is None for line in found.lines):
        yield "A model without a known price: give its prices with --prices FILE."
    if not most_calls and any(line.asked and line.usage is not None and not line.measured for line in found.lines):
        yield (
            "Tokens are counted roughly (4 bytes in, 2 out), without what a model thinks before it answers: after the "
            "first answers (--only) they are scaled by what those took."
        )


def show_bill(bill: Bill) -> None:
    """What the labels cost, all runs together. Nothing where no judge used tokens."""
    used = [line for line in bill.lines if line.usage.input or line.usage.output or _doubtful(line)]
    if not used:
        return
    rows = [
        [
            line.judge,
            line.calls,
            line.usage.input,
            line.usage.cached,
            line.usage.output,
            *map(_usd, (line.input, line.cached, line.written, line.output, line.failed, line.repaired, line.total)),
        ]
        for line in used
    ]
    columns = ["judge", "calls", "tokens in", "cached", "out", "USD in", "USD cached", "USD written", "USD out"]
    columns += ["USD of failed", "USD of repaired", "USD in all"]
    total = "" if bill.total is None else f": {_usd(bill.total)} USD"
    console.table(columns, rows, title=f"the bill, all runs together, at the prices of {bill.as_of}{total}")
    maybe = sum(_doubtful(line) for line in used)
    if maybe:
        console.note(
            f"{maybe:,} calls brought no tokens (timeouts, lost connections): up to {_usd(bill.maybe)} USD more."
        )


def _doubtful(line: Paid) -> int:
    """Calls that may have cost something without an answer: who is paid nothing tells no tokens either."""
    return line.maybe_calls if line.maybe else 0


def _usd(value: float | None) -> str | None:
    """Money to a hundredth of a cent, or to three digits where it is less."""
    if value is None:
        return None
    return f"{value:,.4f}" if value >= 0.01 or value == 0 else f"{value:.3g}"


def _share(part: int, whole: int) -> str | None:
    return f"{part / whole:.0%}" if whole else None
