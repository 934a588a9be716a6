"""audit: the command that probes a judge for biases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console, shared_options

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.audit import AuditReport, Finding
    from sotopia_rl_data.store import Store


@click.command()
@click.argument("ref")
@click.option("--judge", required=True, metavar="SPEC", help="As for `label`: gpt-4o, openai:MODEL@URL, lexical …")
@click.option("--episodes", type=click.IntRange(2), default=100, show_default=True, help="How many are drawn.")
@click.option("--probes", metavar="P,…", help="order, name, padded, moved.  [default: all]")
@click.option("--schema", metavar="NAME", help="[default: that of REF's labels, else direct]")
@click.option("--dimensions", metavar="D,…", help="[default: those of REF's labels, else goal,relationship,knowledge]")
@click.option("--scale", type=int, help="[default: that of REF's labels, else 3]")
@click.option("--ask", type=click.Choice(["per-dimension", "packed"]), help="[default: as REF's labels were asked for]")
@click.option("--evaluator", metavar="NAME", help="Whose episode scores, where several evaluators gave some.")
@shared_options.sampling(0)
@click.option("--max-calls", type=click.IntRange(0), help="Ask nothing where more calls than this would be needed.")
@click.option("--budget", type=float, metavar="USD", help="Ask nothing where the estimate is higher.")
@click.option("--dry-run", is_flag=True, help="Print the estimate and ask nothing.")
@click.option("--alpha", default=0.01, show_default=True, help="The chance that an unbiased judge is called biased.")
@click.option("--seed", default=0, show_default=True, help="Of the drawing.")
@click.option("--out", metavar="ORG/NAME", help="The dataset to write.  [default: REF's name + -audit]")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@shared_options.pace("Calls")
@shared_options.again
@shared_options.kept
@console.store_option
@console.json_option
def audit(
    ref: str,
    judge: str,
    probes: str | None,
    dimensions: str | None,
    temperature: float | None,
    max_tokens: int | None,
    dry_run: bool,
    ledger: Path | None,
    store: Store,
    as_json: bool,
    **options: Any,
) -> None:
    """Probe a judge for biases: does it follow who is listed first, names, length, place?

    Episodes of REF are asked about again, changed where it must not matter: the agents' order swapped, names made
    anonymous, an utterance padded with filler, two utterances' places changed; and once more unchanged, for the judge's
    own noise. Every answer goes through the ledger, so what was labelled already costs nothing. The result is a small
    dataset with the verdict in it.

    \b
    Examples:
      sotopia-rl-data audit lab/episodes-rewards --judge gpt-4o --dry-run
      sotopia-rl-data audit lab/episodes-rewards --judge gpt-4o --budget 5
      sotopia-rl-data audit lab/episodes --judge openai:qwen@http://localhost:8000/v1 --ask packed --episodes 50
    """
    from sotopia_rl_data.labelers.audit.run import audit as run
    from sotopia_rl_data.labelers.audit.run import estimated

    sampling = shared_options.sampling_of(temperature, max_tokens)
    options |= {"pacing": shared_options.pacing_from(options)}
    chosen = {
        "probes": _listed(probes),
        "dimensions": _listed(dimensions),
        "sampling": sampling,
        **{name: options.pop(name) for name in ("episodes", "seed", "schema", "scale", "ask", "evaluator")},
    }
    if dry_run:
        estimate = estimated(store, ref, judge, ledger=ledger, **chosen).as_dict()
        if as_json:
            console.emit_json(estimate)
        else:
            console.table(["the audit would take", ""], [[k.replace("_", " "), v] for k, v in estimate.items()])
        return
    with console.progress("auditing", "call") as advance:
        report = run(store, ref, judge, ledger=ledger, progress=advance, **chosen, **options)
    if as_json:
        console.emit_json(report.as_dict())
    else:
        _audited(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def _listed(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def _audited(report: AuditReport) -> None:
    found = report.verdict
    state = "made" if report.created else "unchanged: the store has this content already"
    columns = ["probe", "test", "dimension", "labels", "episodes", "levels", "95 %", "effect", "p", "adjusted", "found"]
    console.table(
        columns,
        [[*_row(one), one.found(found.alpha)] for one in found.findings],
        title=f"{report.version}  {report.digest[:12]}  {state}",
    )
    if found.by_dimension:
        console.table(columns[:-1], [_row(one) for one in found.by_dimension])
    noise = found.noise
    console.table(
        ["asked twice", "labels", "mean |difference|", "equal", "alpha"],
        [[found.judge, noise.labels, noise.moved, noise.equal, noise.alpha]],
    )
    if report.failures:
        console.table(["what has no label", "rows"], [[reason, n] for reason, n in report.failures.items()])
    console.note(f"{found.verdict}: {found.sentence}")
    console.note(f"{report.asked:,} of {report.estimate.calls:,} calls were asked, in {report.seconds:.1f} s")
    console.next_commands(f"sotopia-rl-data card {report.version.partition('@')[0]}")


def _row(one: Finding) -> list[Any]:
    between = f"{one.low:.2f} to {one.high:.2f}" if one.low is not None and one.high is not None else None
    return [
        one.probe,
        one.test,
        one.dimension or "all",
        one.labels,
        one.episodes,
        one.mean,
        between,
        one.effect,
        one.p,
        one.adjusted,
    ]
