"""audit: the command that probes a judge for biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console, shared_options
from sotopia_rl_data.cli.judging import carry_out, dry_run, elicitation_of

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
@click.option("--alpha", default=0.01, show_default=True, help="The chance that an unbiased judge is called biased.")
@click.option("--seed", default=0, show_default=True, help="Of the drawing.")
@click.option("--out", metavar="ORG/NAME", help="The dataset to write.  [default: REF's name + -audit]")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@shared_options.pace("Calls")
@shared_options.batches
@shared_options.costs("these answers")
@shared_options.again
@shared_options.kept
@console.store_option
@console.json_option
def audit(ref: str, judge: str, probes: str | None, store: Store, as_json: bool, **options: Any) -> None:
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
    from sotopia_rl_data.labelers.audit.plan import AuditSettings
    from sotopia_rl_data.labelers.audit.run import audit as run
    from sotopia_rl_data.labelers.audit.run import estimate_audit

    how, asked = shared_options.ask_options(options), elicitation_of(options | {"judges": [judge]})
    named = [part.strip() for part in probes.split(",") if part.strip()] if probes else None
    settings = AuditSettings(
        episodes=options["episodes"],
        seed=options["seed"],
        probes=named,
        max_calls=options["max_calls"],
        alpha=options["alpha"],
    )
    if options["dry_run"]:
        dry_run(how, "call", lambda how: estimate_audit(store, ref, asked, settings, how), as_json)
        return
    out, version = options["out"], options["version"]
    carry_out(
        "auditing",
        "call",
        how,
        lambda how: run(store, ref, asked, settings, out=out, version=version, options=how),
        _audited,
        as_json,
    )


def _audited(report: AuditReport) -> None:
    found = report.verdict
    from sotopia_rl_data.cli.judging import show_run

    columns = ["probe", "test", "dimension", "labels", "episodes", "levels", "95 %", "effect", "p", "adjusted", "found"]
    console.table(
        columns,
        [[*_row(one), one.found(found.alpha)] for one in found.findings],
    )
    if found.by_dimension:
        console.table(columns[:-1], [_row(one) for one in found.by_dimension])
    noise = found.noise
    console.table(
        ["asked twice", "labels", "mean |difference|", "equal", "alpha"],
        [[found.judge, noise.labels, noise.moved, noise.equal, noise.alpha]],
    )
    console.note(f"{found.verdict}: {found.sentence}")
    show_run(
        "audited",
        "label",
        report,
        [("episodes", report.episodes), ("labels", report.labels)],
        f"sotopia-rl-data card {report.version.partition('@')[0]}",
    )


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
