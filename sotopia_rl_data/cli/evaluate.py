"""evaluate: the command that has judges score whole episodes."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console, shared_options
from sotopia_rl_data.cli.judging import carry_out, dry_run, elicitation_of, judges_option

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.evaluation.run import EvaluationReport
    from sotopia_rl_data.store import Store


@click.command()
@click.argument("episodes")
@judges_option()
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
@shared_options.sampling(0)
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@shared_options.pace("Calls")
@shared_options.batches
@shared_options.costs("these scores")
@shared_options.again
@shared_options.kept
@console.store_option
@console.json_option
def evaluate(
    episodes: str,
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
    from sotopia_rl_data.labelers.evaluation.run import estimate_evaluation
    from sotopia_rl_data.labelers.evaluation.run import evaluate as run

    evaluator = options.pop("evaluator")
    how, asked = shared_options.ask_options(options), elicitation_of(options)
    if options.pop("dry_run"):
        dry_run(
            how,
            "call",
            lambda how: estimate_evaluation(store, episodes, asked, evaluator=evaluator, options=how),
            as_json,
        )
        return
    version = options.pop("version")
    carry_out(
        "evaluating",
        "call",
        how,
        lambda how: run(store, episodes, asked, evaluator=evaluator, version=version, options=how),
        _evaluated,
        as_json,
    )


def _evaluated(report: EvaluationReport) -> None:
    from sotopia_rl_data.cli.judging import show_run

    name = report.version.partition("@")[0]
    show_run(
        "evaluated",
        "score",
        report,
        [("evaluators", ", ".join(report.evaluators)), ("episodes", report.episodes), ("scores", report.scores)],
        f"sotopia-rl-data compare {name}",
        f"sotopia-rl-data label {name} --evaluator {shlex.quote(report.evaluators[0])} --judge SPEC",
    )
