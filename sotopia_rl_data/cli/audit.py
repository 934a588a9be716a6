"""audit: the command that probes a judge for biases."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.audit import AuditReport, Finding
    from sotopia_rl_data.store import Store


@click.command()
@console.ref_argument("ref")
@click.option("--judge", required=True, metavar="SPEC", help="As for `label`: gpt-4o, openai:MODEL@URL, lexical …")
@click.option("--episodes", type=click.IntRange(2), default=100, show_default=True, help="How many episodes are drawn.")
@click.option("--probes", metavar="P,…", help="order, name, padded, moved.  [default: all]")
@click.option("--schema", metavar="NAME", help="[default: that of REF's labels, else direct]")
@click.option("--dimensions", metavar="D,…", help="[default: those of REF's labels, else goal,relationship,knowledge]")
@click.option("--scale", type=int, help="[default: that of REF's labels, else 3]")
@asking.packing(None, "[default: as REF's labels were asked for]")
@asking.wording("that of REF's labels, else v2")
@click.option("--evaluator", metavar="NAME", help="The evaluator whose episode scores are attributed.")
@asking.models
@asking.sampling(0)
@click.option("--max-calls", type=click.IntRange(0), help="Stop before asking where more calls than this are needed.")
@click.option("--alpha", default=0.01, show_default=True, help="The chance that an unbiased judge is called biased.")
@click.option("--seed", default=0, show_default=True, help="Seed of the drawing.")
@console.dataset_option("--out", "The dataset to write.  [default: REF's name + -audit]")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@asking.pace("Calls")
@asking.batches
@asking.costs("these answers")
@asking.again
@asking.kept
@console.wide_option
@console.store_option
@console.json_option
def audit(ref: str, judge: str, probes: str | None, wide: bool, store: Store, as_json: bool, **options: Any) -> None:
    """Probe a judge for biases: do its labels follow the agents' order, their names, an utterance's length or place?

    The judge is asked about episodes of REF once more, with a change that must not matter: the agents listed in the
    opposite order, names made anonymous, an utterance padded with filler, two utterances swapped. It is also asked
    twice about the unchanged episodes, which shows its own noise. Answers that the ledger already has cost nothing. The
    result is a small dataset with the verdict in it.

    \b
    Examples:
      sotopia-rl-data audit lab/episodes-rewards --judge gpt-4o --dry-run
      sotopia-rl-data audit lab/episodes-rewards --judge gpt-4o --budget 5
      sotopia-rl-data audit lab/episodes --judge openai:qwen@http://localhost:8000/v1 --ask packed --episodes 50
    """
    from sotopia_rl_data.labelers.audit.auditing import AuditSettings, estimate_audit
    from sotopia_rl_data.labelers.audit.auditing import audit as run

    ask_options, elicitation = asking.ask_options(options), asking.elicitation_of(options | {"judges": [judge]})
    settings = AuditSettings(
        episodes=options["episodes"],
        seed=options["seed"],
        probes=asking.listed(probes),
        max_calls=options["max_calls"],
        alpha=options["alpha"],
    )
    if options["dry_run"]:
        asking.dry_run(
            ask_options, "call", lambda options: estimate_audit(store, ref, elicitation, settings, options), as_json
        )
        return
    out, version = options["out"], options["version"]
    with asking.progress("auditing", "call", ask_options, as_json) as watched:
        report = run(
            store, ref, elicitation, settings, out=out, version=version, options=watched, announce=asking.announce
        )
    asking.show(report, partial(_audited, wide=wide), as_json)


_SPARE = ("episodes", "p", "effect", "labels", "95 %")
"""What a narrow screen can do without, the first to go first."""
_MEANINGS = {
    "levels": "levels: by how much a probe changes labels",
    "effect": "effect: Cohen's d_z",
    "adjusted": "adjusted: p after Holm",
}


def _audited(report: AuditReport, wide: bool) -> None:
    verdict, noise = report.verdict, report.verdict.noise
    columns = ["probe", "test", "dimension", "labels", "episodes", "levels", "95 %", "effect", "p", "adjusted", "found"]
    spare = () if wide else _SPARE
    found = [[*_row(finding), finding.found(verdict.alpha)] for finding in verdict.findings]
    shown = console.table(columns, found, spare=spare and (*spare, "dimension"))
    if verdict.by_dimension:
        rows = [_row(finding) for finding in verdict.by_dimension]
        console.table(columns[:-1], rows, spare=spare and (*spare, "test"))
    console.table(
        ["asked twice", "labels", "mean |difference|", "equal", "alpha"],
        [[verdict.judge, noise.labels, noise.moved, noise.equal, noise.alpha]],
    )
    console.note("; ".join(meaning for column, meaning in _MEANINGS.items() if column in shown))
    console.note(f"{verdict.verdict}: {verdict.sentence}")
    asking.show_run(
        "audited",
        "label",
        report,
        [("episodes", report.episodes), ("labels", report.labels)],
        f"sotopia-rl-data card {report.version.partition('@')[0]}",
    )


def _row(finding: Finding) -> list[Any]:
    has_interval = finding.low is not None and finding.high is not None
    return [
        finding.probe,
        finding.test,
        finding.dimension or "all",
        finding.labels,
        finding.episodes,
        finding.mean,
        f"{finding.low:.2f} to {finding.high:.2f}" if has_interval else None,
        finding.effect,
        finding.p,
        finding.adjusted,
    ]
