"""evaluate: the command that has judges score whole episodes."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from labelers.commands import batching_of, show_left
from sotopia_rl_data import console
from sotopia_rl_data.commands import asking
from sotopia_rl_data.errors import UnderWay

if TYPE_CHECKING:
    from labelers.evaluation.run import EvaluationReport
    from sotopia_rl_data.store import Store


@click.command()
@click.argument("episodes")
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="SPEC",
    help="As for `label`: gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], transformers:PATH_OR_ID, "
    "replay:LEDGER, lexical (offline), path/to/file.py:Name. Repeat for several.",
)
@click.option("--dimensions", metavar="D,…", help="SOTOPIA-EVAL dimensions.  [default: all seven]")
@click.option("--samples", default=1, show_default=True, help="How often each is asked; the score is the mean.")
@click.option(
    "--ask",
    type=click.Choice(["packed", "per-dimension"]),
    default="packed",
    show_default=True,
    help="One call an episode; or one for each agent and dimension.",
)
@click.option("--evaluator", metavar="NAME", help="What the scores are said to be by.  [default: the judge's own name]")
@asking.sampling(0)
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@asking.pace("Calls")
@asking.batches
@asking.costs("these scores")
@asking.again
@asking.kept
@console.store_option
@console.json_option
def evaluate(
    episodes: str,
    judges: tuple[str, ...],
    dimensions: str | None,
    temperature: float | None,
    max_tokens: int | None,
    batch: bool,
    poll: float | None,
    no_wait: bool,
    dry_run: bool,
    store: Store,
    as_json: bool,
    **options: Any,
) -> None:
    """SOTOPIA-EVAL: have a judge score every agent of every episode on seven dimensions, with reasons.

    EPISODES is a dataset's reference. The scores become its next version, beside those of other evaluators. Every raw
    answer is kept before it is parsed, so nothing is asked twice. What has no score is a row of `failures`, never a 0,
    and the exit code is 3.

    \b
    Examples:
      sotopia-rl-data evaluate demo/episodes --judge lexical
      sotopia-rl-data evaluate lab/rollouts --judge gpt-4o --judge claude-sonnet-4-5
      sotopia-rl-data evaluate lab/rollouts --judge openai:Qwen/Qwen2.5-72B@http://localhost:8000/v1 --samples 3
      sotopia-rl-data evaluate lab/rollouts --judge gpt-4o --dimensions goal --temperature 1
      sotopia-rl-data evaluate lab/rollouts --judge gpt-4o --dry-run
    """
    sampling = asking.sampling_of(temperature, max_tokens)
    options |= {"judges": judges, "dimensions": dimensions.split(",") if dimensions else None}
    options |= {"sampling": sampling, "pacing": asking.pacing_from(options)}
    batching = batching_of(batch, poll, no_wait)
    if dry_run:
        _dry_run(store, episodes, as_json, batch, options)
        return
    from labelers.evaluation.run import evaluate as run

    try:
        with console.progress("evaluating", "call") as advance:
            report = run(store, episodes, batching=batching, progress=advance, **options)
    except UnderWay as away:
        show_left(away, as_json)
        return
    if as_json:
        console.emit_json(report.as_dict())
    else:
        _evaluated(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def _dry_run(store: Store, episodes: str, as_json: bool, in_batches: bool, options: dict[str, Any]) -> None:
    from labelers.evaluation.run import estimate_evaluation
    from labelers.showing import show_estimate

    for of_the_run in ("version", "budget", "pacing"):
        options.pop(of_the_run)
    found = estimate_evaluation(store, episodes, in_batches=in_batches, **options)
    if as_json:
        console.emit_json(found.as_dict())
    else:
        show_estimate(found, in_batches)


def _evaluated(report: EvaluationReport) -> None:
    from labelers.showing import show_bill

    state = "made" if report.created else "unchanged: the store has this content already"
    always = ("episodes", "scores", "calls", "asked", "hits")
    rows: list[list[Any]] = [["evaluators", ", ".join(report.evaluators)]]
    rows += [
        [name, getattr(report, name)]
        for name in (*always, "repeated", "unreachable", "repaired", "unusable")
        if getattr(report, name) or name in always
    ]
    rows.append(["seconds", report.seconds])
    console.table(["evaluated", ""], rows, title=f"{report.version}  {report.digest[:12]}  {state}")
    show_bill(report.bill)
    if report.failures:
        console.table(["what has no score", "rows"], [[reason, n] for reason, n in report.failures.items()])
    for warning in report.warnings:
        console.warn(warning)
    name = report.version.partition("@")[0]
    console.next_commands(
        f"sotopia-rl-data compare {name}",
        f"sotopia-rl-data label {name} --evaluator {shlex.quote(report.evaluators[0])} --judge SPEC",
        *(
            [f"sotopia-rl-data evaluate … --retry-failed   ({report.unusable:,} unusable answers)"]
            if report.unusable
            else []
        ),
    )
