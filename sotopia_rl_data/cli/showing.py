"""How a run, an estimate and a bill look on the screen: counts; a row a judge, tokens and USD, the prices' date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console

if TYPE_CHECKING:
    from sotopia_rl_data.costs.bill import Bill
    from sotopia_rl_data.costs.bill import Line as Paid
    from sotopia_rl_data.labelers.estimate import Estimate
    from sotopia_rl_data.labelers.report import RunReport


def show_run(did: str, made: str, report: RunReport, counts: Sequence[tuple[str, Any]], *following: str) -> None:
    """What a command `did` and how many of what it `made` ("label"), what it cost, what failed, and what may follow."""
    state = "made" if report.created else "unchanged: the store has this content already"
    rows = [*counts, *((name, getattr(report, name)) for name in ("calls", "asked", "hits"))]
    seldom = ((name, getattr(report, name)) for name in ("repeated", "unreachable", "repaired", "unusable"))
    rows += [(name, count) for name, count in seldom if count] + [("seconds", report.seconds)]
    console.table([did, ""], rows, title=f"{report.version}  {report.digest[:12]}  {state}")
    show_bill(report.bill)
    if report.failures:
        console.table([f"what has no {made}", "rows"], list(report.failures.items()))
    for warning in report.warnings:
        console.warn(warning)
    command = click.get_current_context().command_path.rpartition(" ")[2]
    again = f"sotopia-rl-data {command} … --retry-failed   # {report.unusable:,} unusable answers"
    console.next_commands(*following, *[again] * bool(report.unusable))


def show_estimate(found: Estimate, in_batches: bool) -> None:
    """What a run would ask and cost. Nothing was asked and nothing written."""
    rows = []
    counts = {"calls": "calls", "free": "in the ledger", "in_batches": "in batches", "asked": "to ask"}
    if not any(line.in_batches for line in found.lines):
        del counts["in_batches"]
    for line in found.lines:
        usage = line.usage
        tokens = [None] * 3 if usage is None else [usage.input, _share(usage.cached, usage.input), usage.output]
        rows.append([line.judge, *(getattr(line, name) for name in counts), *tokens, _usd(line.cost), _usd(line.most)])
    sums = [sum(getattr(line, name) for line in found.lines) for name in counts]
    rows.append(["total", *sums, None, None, None, _usd(found.total), _usd(found.most)])
    columns = ["judge", *counts.values(), "tokens in", "of these cached", "tokens out", "USD", "at most"]
    by = " in batches" if in_batches else ""
    console.table(columns, rows, title=f"What this run would cost, at the prices of {found.as_of}{by}")
    console.note("Nothing was asked, and no version written. Second tries at unusable answers are not in it.")
    if in_batches and found.most:
        console.note(
            f"Where a --budget leaves less than {_usd(found.most)} USD for them, beside what is spent and under way, "
            "they go in several rounds of batches; --max-tokens, near to what an answer takes, lets more go at once."
        )
    if any(line.asked and line.cost is None for line in found.lines):
        console.note("A model without a known price: give its prices with --prices FILE.")
    if any(line.asked and line.usage is not None and not line.measured for line in found.lines):
        console.note(
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
    return line.maybe_calls if line.maybe != 0 else 0


def _usd(value: float | None) -> str | None:
    """Money to a hundredth of a cent, or to three digits where it is less."""
    if value is None:
        return None
    return f"{value:,.4f}" if value >= 0.01 or value == 0 else f"{value:.3g}"


def _share(part: int, whole: int) -> str | None:
    return f"{part / whole:.0%}" if whole else None
