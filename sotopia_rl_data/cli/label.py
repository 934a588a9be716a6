"""The commands that have judges answer: `label` and `evaluate`; and `ledger`, which reads and compacts the journal of
every call."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console, replaying, unsure
from sotopia_rl_data.cli.making import layout_of, parse_weights, template_option
from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.evaluation.evaluating import EvaluationReport
    from sotopia_rl_data.labelers.report import LabelReport
    from sotopia_rl_data.ledger.ledger import Ledger
    from sotopia_rl_data.store import Store


@click.command()
@console.ref_argument("episodes", required=False)
@asking.judges_option("human:FILE.csv, ")
@click.option(
    "--schema",
    default="direct",
    show_default=True,
    metavar="NAME",
    help="What judges are asked: direct, scaled, singular, direct-online, goal-progress, utterance-quality, "
    "only-response, leave-one-out, counterfactual, shapley, conversation-behaviour, uniform, uniform-share, "
    "discounted, rubric:FILE.yaml, path/to/file.py:Name.",
)
@asking.dimensions_and_scale
@asking.packing("per-dimension", "One call for each agent and dimension, as in the paper; or one call for all of them.")
@asking.wording()
@click.option("--preset", metavar="NAME|FILE", help="The recipe of the rewards.  [default: sotopia-rl]")
@click.option("--weights", metavar="D=W,…", help="The dimensions that are weighed, as in goal=2,csat=1.")
@click.option(
    "--evaluator", metavar="NAME", help="The evaluator whose episode scores are attributed, if there are several."
)
@click.option(
    "--samples",
    default=1,
    show_default=True,
    help="How often each question is asked. At temperature 0, the default, the answers hardly differ. For shapley: "
    "random orders (8 if not given).",
)
@click.option(
    "--average", type=click.Choice(["mean", "median"]), help="How opinions are joined.  [default: the preset's]"
)
@click.option(
    "--only",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A CSV of what to ask about: episode_id[,agent[,turn[,dimension]]].",
)
@replaying.replay_options
@unsure.unsure_options
@asking.models
@asking.sampling(0)
@template_option
@console.dataset_option("--out", "The dataset to write.  [default: the episodes' name + -rewards]")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@asking.pace("Calls")
@asking.batches
@asking.costs("these labels")
@asking.again
@asking.sharded
@asking.workers
@asking.kept
@console.store_option
@console.json_option
def label(
    episodes: str | None,
    layout: str | None,
    template: Path | None,
    weights: str | None,
    store: Store,
    as_json: bool,
    **options: Any,
) -> None:
    """Have a judge attribute each agent's episode scores to its utterances, and build the rewards.

    EPISODES is a dataset's reference or a file (./episodes.jsonl); without it, the bundled samples. Before anything is
    asked, it says how many utterances can get a reward. Every raw answer is kept before it is parsed: run the same
    command again after a crash, after a Ctrl-C or with more episodes, and nothing is asked twice. What has no label is
    a row of `failures`, and the exit code is then 3.

    \b
    Examples:
      sotopia-rl-data label demo/episodes --judge lexical
      sotopia-rl-data label demo/episodes --judge gpt-4o
      sotopia-rl-data label ./episodes.jsonl --judge openai:Qwen/Qwen2.5-72B-Instruct@http://localhost:8000/v1
      sotopia-rl-data label demo/episodes --judge gpt-4o --ask packed --dimensions goal,relationship,knowledge,secret
      sotopia-rl-data label demo/episodes --judge gpt-4o --batch --no-wait
      sotopia-rl-data label demo/episodes --judge gpt-4o --dry-run
      sotopia-rl-data label demo/episodes --judge gpt-4o --budget 5
      sotopia-rl-data label lab/calls --judge gpt-4o --weights csat=1
      sotopia-rl-data label demo/episodes --schema counterfactual --policy gpt-4o-mini --judge gpt-4o --budget 5
      sotopia-rl-data label lab/more --where-unsure --reward-model runs/rm --judge gpt-4o --budget 5
    """
    from sotopia_rl_data.labelers.labelling import ask_label, estimate_label
    from sotopia_rl_data.labelers.labelling import label as run
    from sotopia_rl_data.labelers.plan import RewardSettings
    from sotopia_rl_data.labelers.schemas import schema
    from sotopia_rl_data.shards import WHOLE

    replayed = replaying.take(options)
    settings = unsure.take(options) if replayed is None else None
    if replayed is not None:
        replaying.label_by_replaying(store, episodes, replayed, options, as_json)
        return
    if asking.is_from_file("judges") and not schema(options["schema"]).needs_judge:
        options["judges"] = ()
    shard = None if settings else asking.shard_to_ask(options, options["dry_run"])
    ask_options, elicitation = asking.ask_options(options), asking.elicitation_of(options)
    layout_name, loaded_template = layout_of(layout, template)
    rewards = RewardSettings(
        preset=options.pop("preset"),
        weights=parse_weights(weights) if weights else None,
        average=options.pop("average"),
        layout=layout_name,
        template=loaded_template,
    )
    if settings is not None:
        unsure.label_where_unsure(store, episodes, settings, elicitation, rewards, options, ask_options, as_json)
        return
    if options.pop("dry_run"):
        asking.dry_run(
            ask_options,
            "call",
            lambda options: estimate_label(store, episodes, elicitation, rewards, options, shard or WHOLE),
            as_json,
        )
        return
    if shard is not None:
        ask = partial(ask_label, store, episodes, elicitation, rewards, shard=shard, announce=asking.announce)
        asking.ask_only("asking", "call", ask_options, as_json, ask)
        return
    out, version = options.pop("out"), options.pop("version")
    with asking.progress("labelling", "call", ask_options, as_json) as watched:
        report = run(
            store, episodes, elicitation, rewards, out=out, version=version, options=watched, announce=asking.announce
        )
    asking.show(report, _labelled, as_json)


def _labelled(report: LabelReport) -> None:
    name = report.version.partition("@")[0]
    asking.show_run(
        "labelled",
        "label",
        report,
        [(count, getattr(report, count)) for count in ("episodes", "utterances", "rewarded", "labels")],
        f"sotopia-rl-data show {name}",
        f'sotopia-rl-data query {name} "SELECT agent, avg(reward) FROM rewards GROUP BY agent"',
        f"sotopia-rl-data report {name} -o report.html",
        f"sotopia-rl-data train rm --dataset {name} --preset tiny   # two steps of a tiny random model: a first try",
    )


@click.command()
@console.ref_argument("episodes")
@asking.judges_option()
@click.option("--dimensions", metavar="D,…", help="SOTOPIA-EVAL dimensions.  [default: all seven]")
@click.option("--samples", default=1, show_default=True, help="How often each is asked; the score is the mean.")
@asking.packing("packed", "One call for each agent and dimension; or one for each episode.")
@asking.wording()
@click.option("--evaluator", metavar="NAME", help="The name to store the scores under.  [default: the judge's own]")
@asking.models
@asking.sampling(0)
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@asking.pace("Calls")
@asking.batches
@asking.costs("these scores")
@asking.again
@asking.sharded
@asking.workers
@asking.kept
@console.store_option
@console.json_option
def evaluate(episodes: str, store: Store, as_json: bool, **options: Any) -> None:
    """SOTOPIA-EVAL: have a judge score every agent of every episode on seven dimensions, with reasons.

    EPISODES is a dataset's reference. The scores become its next version, beside those of other evaluators. Every raw
    answer is kept before it is parsed, so nothing is asked twice. What has no score is a row of `failures`, never a 0,
    and the exit code is then 3.

    \b
    Examples:
      sotopia-rl-data evaluate demo/episodes --judge lexical
      sotopia-rl-data evaluate lab/rollouts --judge gpt-4o --judge claude-sonnet-4-5
      sotopia-rl-data evaluate lab/rollouts --judge openai:Qwen/Qwen2.5-72B@http://localhost:8000/v1 --samples 3
      sotopia-rl-data evaluate lab/rollouts --judge gpt-4o --dimensions goal --temperature 1
      sotopia-rl-data evaluate lab/rollouts --judge gpt-4o --dry-run
    """
    from sotopia_rl_data.labelers.evaluation.evaluating import ask_evaluation, estimate_evaluation
    from sotopia_rl_data.labelers.evaluation.evaluating import evaluate as run
    from sotopia_rl_data.shards import WHOLE

    evaluator, shard = options.pop("evaluator"), asking.shard_to_ask(options, options["dry_run"])
    ask_options, elicitation = asking.ask_options(options), asking.elicitation_of(options)
    if options.pop("dry_run"):
        asking.dry_run(
            ask_options,
            "call",
            lambda options: estimate_evaluation(
                store, episodes, elicitation, evaluator=evaluator, options=options, shard=shard or WHOLE
            ),
            as_json,
        )
        return
    if shard is not None:
        ask = partial(
            ask_evaluation, store, episodes, elicitation, evaluator=evaluator, shard=shard, announce=asking.announce
        )
        asking.ask_only("asking", "call", ask_options, as_json, ask)
        return
    version = options.pop("version")
    with asking.progress("evaluating", "call", ask_options, as_json) as watched:
        report = run(
            store,
            episodes,
            elicitation,
            evaluator=evaluator,
            version=version,
            options=watched,
            announce=asking.announce,
        )
    asking.show(report, partial(_evaluated, dimensions=elicitation.dimensions), as_json)


def _evaluated(report: EvaluationReport, dimensions: Sequence[str] | None) -> None:
    name = report.version.partition("@")[0]
    scored = f"{name} --evaluator {shlex.quote(report.evaluators[0])}{asking.weights_option(dimensions)}"
    using = (
        f"sotopia-rl-data compare {name}",
        f"sotopia-rl-data label {scored} --judge gpt-4o",
    )
    asking.show_run(
        "evaluated",
        "score",
        report,
        [("evaluators", ", ".join(report.evaluators)), ("episodes", report.episodes), ("scores", report.scores)],
        *(using if report.scores else ()),
    )


@click.group()
def ledger() -> None:
    """The journal of every call: raw answers, usage, errors. It is append-only and holds no API keys."""


@ledger.command("query")
@click.argument("sql")
@click.option("--ledger", "path", type=click.Path(file_okay=False, path_type=Path), help="[default: STORE/.ledger]")
@click.option("--format", "fmt", default=None, metavar="FORMAT", help="table (default), json, jsonl, csv or parquet.")
@console.time_limit_option
@console.store_option
@console.json_option
def ledger_query(sql: str, path: Path | None, fmt: str | None, timeout: float, store: Store, as_json: bool) -> None:
    """One SELECT over the table `calls`, which has one row for each attempt.

    \b
    Example:
      sotopia-rl-data ledger query "SELECT model, status, count(*) FROM calls GROUP BY ALL"
    """
    from sotopia_rl_data.results import write_result

    with _existing_ledger(path or store.ledger) as kept:
        write_result(kept.query(sql, timeout), fmt or ("json" if as_json else "table"), sys.stdout)


@ledger.command("compact")
@click.option("--ledger", "path", type=click.Path(file_okay=False, path_type=Path), help="[default: STORE/.ledger]")
@console.store_option
@console.json_option
def ledger_compact(path: Path | None, store: Store, as_json: bool) -> None:
    """Fold finished journals into Parquet, which is smaller and faster to open. Safe to interrupt at any moment.

    \b
    Example:
      sotopia-rl-data ledger compact
    """
    with _existing_ledger(path or store.ledger) as kept:
        compacted = kept.compact()
    if as_json:
        console.emit_json({"compacted": compacted})
    else:
        console.note(f"{compacted:,} attempts are in Parquet files of {kept.directory} now.")


@ledger.command("merge")
@click.argument("folders", nargs=-1, required=True, metavar="DIR…", type=click.Path(file_okay=False, path_type=Path))
@click.option("--ledger", "path", type=click.Path(file_okay=False, path_type=Path), help="[default: STORE/.ledger]")
@console.store_option
@console.json_option
def ledger_merge(folders: tuple[Path, ...], path: Path | None, store: Store, as_json: bool) -> None:
    """Copy the calls of other ledgers, such as those of a run's shards, into one. What is there already is left out.

    \b
    Example:
      sotopia-rl-data ledger merge shards/1 shards/2
    """
    from dataclasses import asdict

    from sotopia_rl_data.ledger.merge import merge
    from sotopia_rl_data.store.bucket import spelled

    merged = merge(path or store.ledger, folders)
    place = spelled(path or store.ledger)
    if as_json:
        console.emit_json({"ledger": place, **asdict(merged)})
        return
    known = merged.read - merged.added
    also = f"; {known:,} others were there already" if known else ""
    console.note(f"{merged.added:,} calls were added to {place}{also}.")
    if merged.asked_twice:
        console.note(f"{merged.asked_twice:,} equal questions were asked in more than one ledger.")
    for name in merged.unfinished:
        console.warn(f"the run that writes {name} has not ended: end it with its own command, then merge it again")


def _existing_ledger(path: Path) -> Ledger:
    """Raises UsageError where there is none."""
    from sotopia_rl_data.ledger.ledger import Ledger
    from sotopia_rl_data.ledger.segments import local_folder

    path = local_folder(path)
    if not path.is_dir():
        raise UsageError(f"There is no ledger at {path}.", "name a ledger with --ledger; labelling makes one")
    return Ledger(path)
