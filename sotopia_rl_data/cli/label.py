"""label: the command that has judges attribute scores; and the one that looks into the journal of what was asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console, shared_options
from sotopia_rl_data.cli.judging import carry_out, dry_run, elicitation_of, judges_option
from sotopia_rl_data.cli.making import layout_of, template_option
from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.report import LabelReport
    from sotopia_rl_data.store import Store


@click.command()
@click.argument("episodes", required=False)
@judges_option("human:FILE.csv, ")
@click.option(
    "--schema",
    default="direct",
    show_default=True,
    metavar="NAME",
    help="How credit is asked for: direct, scaled, singular, direct-online, goal-progress, utterance-quality, "
    "only-response, leave-one-out, conversation-behaviour, uniform, uniform-share, discounted, rubric:FILE.yaml, "
    "path/to/file.py:Name.",
)
@click.option(
    "--dimensions",
    metavar="D,…",
    help="SOTOPIA-EVAL's, or some of the rubric's.  [default: goal,relationship,knowledge; all of a rubric's]",
)
@click.option("--scale", default=3, show_default=True, help="The top of the levels: 3, 5 or 10.")
@click.option(
    "--ask",
    type=click.Choice(["per-dimension", "packed"]),
    default="per-dimension",
    show_default=True,
    help="One call an agent and dimension, as the paper asks; or one call for all of them.",
)
@click.option("--preset", metavar="NAME|FILE", help="How the rewards are made.  [default: sotopia-rl]")
@click.option(
    "--evaluator", metavar="NAME", help="Whose episode scores are attributed, where several evaluators gave some."
)
@click.option(
    "--samples",
    default=1,
    show_default=True,
    help="How often each question is asked. At temperature 0, the default, answers are much alike.",
)
@click.option("--average", type=click.Choice(["mean", "median"]), help="Of several opinions.  [default: the preset's]")
@click.option(
    "--only",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="LIST",
    help="A CSV that names what to ask about: episode_id[,agent[,turn[,dimension]]].",
)
@shared_options.sampling(0)
@template_option
@click.option("--out", metavar="ORG/NAME", help="The dataset to write.  [default: the episodes' name + -rewards]")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@shared_options.pace("Calls")
@shared_options.batches
@shared_options.costs("these labels")
@shared_options.again
@shared_options.kept
@console.store_option
@console.json_option
def label(
    episodes: str | None,
    layout: str | None,
    template: Path | None,
    store: Store,
    as_json: bool,
    **options: Any,
) -> None:
    """Have a judge attribute each agent's episode scores to its utterances, and build the rewards.

    EPISODES is a dataset's reference or a file (./episodes.jsonl); without it, the bundled samples. Every raw answer is
    kept before it is parsed: run the same command again after a crash, a Ctrl-C or with more episodes, and nothing is
    asked twice. What has no label is a row of `failures`, and the exit code is 3.

    \b
    Examples:
      sotopia-rl-data label demo/episodes --judge lexical
      sotopia-rl-data label demo/episodes --judge gpt-4o
      sotopia-rl-data label ./episodes.jsonl --judge openai:Qwen/Qwen2.5-72B-Instruct@http://localhost:8000/v1
      sotopia-rl-data label demo/episodes --judge gpt-4o --ask packed --dimensions goal,relationship,knowledge,secret
      sotopia-rl-data label demo/episodes --judge gpt-4o --batch --no-wait
      sotopia-rl-data label demo/episodes --judge gpt-4o --dry-run
      sotopia-rl-data label demo/episodes --judge gpt-4o --budget 5
    """
    from sotopia_rl_data.labelers.plan import RewardSettings
    from sotopia_rl_data.labelers.run import estimate_label
    from sotopia_rl_data.labelers.run import label as run

    how, asked = shared_options.ask_options(options), elicitation_of(options)
    chosen, loaded = layout_of(layout, template)
    rewards = RewardSettings(
        preset=options.pop("preset"), average=options.pop("average"), layout=chosen, template=loaded
    )
    if options.pop("dry_run"):
        dry_run(how, "call", lambda how: estimate_label(store, episodes, asked, rewards, how), as_json)
        return
    out, version = options.pop("out"), options.pop("version")
    carry_out(
        "labelling",
        "call",
        how,
        lambda how: run(store, episodes, asked, rewards, out=out, version=version, options=how),
        _labelled,
        as_json,
    )


def _labelled(report: LabelReport) -> None:
    from sotopia_rl_data.cli.judging import show_run

    name = report.version.partition("@")[0]
    show_run(
        "labelled",
        "label",
        report,
        [(count, getattr(report, count)) for count in ("episodes", "utterances", "rewarded", "labels")],
        f"sotopia-rl-data show {name}",
        f'sotopia-rl-data query {name} "SELECT agent, avg(reward) FROM rewards GROUP BY agent"',
    )


@click.group()
def ledger() -> None:
    """The journal of every call: raw answers, usage, errors. It is append-only and holds no keys."""


@ledger.command("query")
@click.argument("sql")
@click.option("--ledger", "path", type=click.Path(file_okay=False, path_type=Path), help="[default: STORE/.ledger]")
@click.option("--format", "fmt", default=None, metavar="FORMAT", help="table (default), json, jsonl, csv or parquet.")
@console.store_option
@console.json_option
def ledger_query(sql: str, path: Path | None, fmt: str | None, store: Store, as_json: bool) -> None:
    """One SELECT over the table `calls`: one row an attempt.

    \b
    Example:
      sotopia-rl-data ledger query "SELECT model, status, count(*) FROM calls GROUP BY ALL"
    """
    from sotopia_rl_data.ledger.ledger import Ledger
    from sotopia_rl_data.results import write_result

    with Ledger(_existing(path or store.root / ".ledger")) as kept:
        write_result(kept.query(sql), fmt or ("json" if as_json else "table"), sys.stdout)


@ledger.command("compact")
@click.option("--ledger", "path", type=click.Path(file_okay=False, path_type=Path), help="[default: STORE/.ledger]")
@console.store_option
@console.json_option
def ledger_compact(path: Path | None, store: Store, as_json: bool) -> None:
    """Fold finished journals into Parquet: smaller, faster to open. Safe to interrupt at any moment.

    \b
    Example:
      sotopia-rl-data ledger compact
    """
    from sotopia_rl_data.ledger.ledger import Ledger

    with Ledger(_existing(path or store.root / ".ledger")) as kept:
        done = kept.compact()
    if as_json:
        console.emit_json({"compacted": done})
    else:
        console.note(f"{done:,} attempts are in Parquet now.")


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"There is no ledger {path}.", "label something first, or name one with --ledger DIR")
    return path
