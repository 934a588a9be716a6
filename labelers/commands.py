"""Commands that ask judges, and the one that looks into the journal of what was asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data import console
from sotopia_rl_data.commands import asking
from sotopia_rl_data.commands.making import layout_of, template_option
from sotopia_rl_data.errors import UnderWay, UsageError

if TYPE_CHECKING:
    from labelers.report import LabelReport
    from sotopia_rl_data.asking.batch.run import Batching
    from sotopia_rl_data.store import Store


@click.command()
@click.argument("episodes", required=False)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="SPEC",
    help="gpt-4o, claude-…, openai:MODEL[@URL], anthropic:MODEL[@URL], transformers:PATH_OR_ID, human:FILE.csv, "
    "replay:LEDGER, lexical (offline), path/to/file.py:Name. Repeat for several.",
)
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
    help="One call an agent and dimension, as the paper asks; or one call an episode.",
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
@asking.sampling(0)
@template_option
@click.option("--out", metavar="ORG/NAME", help="The dataset to write.  [default: the episodes' name + -rewards]")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@asking.pace("Calls")
@asking.batches
@asking.costs("these labels")
@asking.again
@asking.kept
@console.store_option
@console.json_option
def label(
    episodes: str | None,
    judges: tuple[str, ...],
    dimensions: str | None,
    temperature: float | None,
    max_tokens: int | None,
    layout: str | None,
    template: Path | None,
    batch: bool,
    poll: float | None,
    no_wait: bool,
    dry_run: bool,
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
    chosen, loaded = layout_of(layout, template)
    sampling = asking.sampling_of(temperature, max_tokens)
    options |= {"judges": judges, "dimensions": dimensions.split(",") if dimensions else None}
    options |= {"sampling": sampling, "layout": chosen, "template": loaded}
    options |= {"pacing": asking.pacing_from(options)}
    batching = batching_of(batch, poll, no_wait)
    if dry_run:
        _dry_run(store, episodes, as_json, batch, options)
    else:
        _label(store, episodes, as_json, batching, options)


def _dry_run(store: Store, episodes: str | None, as_json: bool, in_batches: bool, options: dict[str, Any]) -> None:
    from labelers.estimate import estimate
    from labelers.showing import show_estimate

    for of_the_run in ("out", "version", "budget", "pacing"):
        options.pop(of_the_run)
    with console.progress("counting", "call") as advance:
        found = estimate(store, episodes, in_batches=in_batches, progress=advance, **options)
    if as_json:
        console.emit_json(found.as_dict())
    else:
        show_estimate(found, in_batches)


def _label(
    store: Store, episodes: str | None, as_json: bool, batching: Batching | None, options: dict[str, Any]
) -> None:
    from labelers.run import label as run

    try:
        with console.progress("labelling", "call") as advance:
            report = run(store, episodes, batching=batching, progress=advance, **options)
    except UnderWay as away:
        show_left(away, as_json)
        return
    if as_json:
        console.emit_json(report.as_dict())
    else:
        _labelled(report)
    if report.failures:
        click.get_current_context().exit(console.WITH_FAILURES)


def batching_of(batch: bool, poll: float | None, no_wait: bool) -> Batching | None:
    """How batches are waited for; None where none are wanted."""
    from sotopia_rl_data.asking.batch.run import Batching

    if not batch and (no_wait or poll is not None):
        raise UsageError(f"{'--no-wait' if no_wait else '--poll'} is about batches.", "add --batch, or leave it out")
    if not batch:
        return None
    return Batching(wait=not no_wait) if poll is None else Batching(poll_s=poll, wait=not no_wait)


def show_left(away: UnderWay, as_json: bool) -> None:
    """Say that nothing more was wanted for now."""
    if as_json:
        console.emit_json({"under_way": {"requests": away.requests, "batches": away.batches}})
    else:
        console.note(f"{away.message} Next: {away.mend}.")


def _labelled(report: LabelReport) -> None:
    from labelers.showing import show_bill

    state = "made" if report.created else "unchanged: the store has this content already"
    names = (
        "episodes",
        "utterances",
        "rewarded",
        "labels",
        "calls",
        "asked",
        "hits",
        "repeated",
        "unreachable",
        "repaired",
        "unusable",
    )
    rows = [[name, getattr(report, name)] for name in names if getattr(report, name) or name in names[:6]]
    rows.append(["seconds", report.seconds])
    console.table(["labelled", "count"], rows, title=f"{report.version}  {report.digest[:12]}  {state}")
    show_bill(report.bill)
    if report.failures:
        console.table(["what has no label", "rows"], [[reason, n] for reason, n in report.failures.items()])
    for warning in report.warnings:
        console.warn(warning)
    name = report.version.partition("@")[0]
    console.next_commands(
        f"sotopia-rl-data show {name}",
        f'sotopia-rl-data query {name} "SELECT agent, avg(reward) FROM rewards GROUP BY agent"',
        *(
            [f"sotopia-rl-data label … --retry-failed   ({report.unusable:,} unusable answers)"]
            if report.unusable
            else []
        ),
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
    from sotopia_rl_data.asking.ledger import Ledger
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
    from sotopia_rl_data.asking.ledger import Ledger

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
