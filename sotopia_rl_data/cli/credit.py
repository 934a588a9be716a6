"""Commands about credit whose truth is known: games to measure by, and the bench."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console
from sotopia_rl_data.hub.resolve import resolve

if TYPE_CHECKING:
    from sotopia_rl_data.credit.bench import Bench
    from sotopia_rl_data.labelers.wordings import JudgedEstimate
    from sotopia_rl_data.store import Store, Version


@click.group()
def credit() -> None:
    """Credit measured against the truth: games whose every turn has a known worth."""


@credit.command("games")
@click.option(
    "--make", "count", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="How many dialogues."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the games and their words.")
@console.dataset_option("--out", "The dataset to write.  [default: credit/games]")
@click.option("--version", metavar="vX.Y.Z", help="Override the version's number.")
@console.store_option
@console.json_option
def credit_games(count: int, seed: int, out: str | None, version: str | None, store: Store, as_json: bool) -> None:
    """Play scripted dialogue games: ordinary episodes with the games' own scores, and the true credit of each turn.

    The credit is the config `truth`, which no judge sees: V before, Q of what was said, Q − V, the pivotal turn, the
    Shapley value. Calls no model.

    \b
    Examples:
      sotopia-rl-data credit games --make 100 --seed 0
      sotopia-rl-data query credit/games "SELECT move, avg(advantage) FROM truth GROUP BY move"
      sotopia-rl-data label credit/games --judge lexical --preset goal-only
    """
    from sotopia_rl_data.credit.making import make_games

    with console.progress("playing", "game") as advance:
        made = make_games(store, out or "credit/games", count, seed, version=version, progress=advance)
    games = made.version
    rows = {split: of_split.rows for split, of_split in games.manifest.configs["truth"].items()}
    if as_json:
        result = {"version": games.ref, "digest": games.digest, "created": made.created, "directory": str(games.dir)}
        console.emit_json(result | {"episodes": count, "utterances": rows})
        return
    state = "made" if made.created else "unchanged: the store has this content already"
    console.table(
        ["split", "episodes", "utterances"],
        [[split, games.manifest.configs["episodes"][split].rows, n] for split, n in rows.items()],
        title=f"{games.ref}  {games.digest[:12]}  {state}",
    )
    console.next_commands(f"sotopia-rl-data label {games.name} --judge lexical --preset goal-only")


@credit.command("bench")
@console.ref_argument("games", required=False)
@click.option("--labels", multiple=True, metavar="REF", help="A version that was labelled or scored from the games.")
@asking.judges_option()
@click.option("--schema", "schemas", multiple=True, metavar="NAME", help="What judges are asked.  [default: all]")
@click.option("--loopback", is_flag=True, help="A made-up model on this machine, asked as any model is.")
@click.option("--planted", multiple=True, metavar="NAME|all", help="A judge that knows the truth, or errs on purpose.")
@click.option("--make", "count", type=click.IntRange(1), default=100, show_default=True, help="If none is named.")
@click.option("--resamples", type=click.IntRange(0), default=1000, show_default=True, help="Of episodes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of games and draws.")
@asking.models
@asking.sampling(0)
@asking.pace("Calls")
@asking.costs("these labels")
@asking.again
@asking.kept
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots.")
@click.option("--checklist", is_flag=True, help="Print what a report should say, filled in, as Markdown.")
@console.wide_option
@console.store_option
@console.json_option
def credit_bench(games: str | None, count: int, wide: bool, store: Store, as_json: bool, **options: Any) -> None:
    """Measure judges, schemas and rules, and reward models, against the true credit of known games.

    GAMES is a dataset that `credit games` made; without it, --make games are made as credit/games. Every schema × rule
    × judge gets a line: tau-b with the truth over an agent's turns, how often its largest credit is the pivotal turn's,
    signs, sizes, and what its errors go with. The ceiling is what an oracle reaches that answers the same schema.

    \b
    Examples:
      sotopia-rl-data credit bench --judge lexical --loopback
      sotopia-rl-data credit bench --planted all --schema direct --schema utterance-quality
      sotopia-rl-data credit bench credit/games --judge gpt-4o --schema direct --budget 2
      sotopia-rl-data credit bench credit/games --labels credit/games-scored --json
      sotopia-rl-data credit bench credit/games --labels credit/games-direct --html bench.html --checklist
    """
    from sotopia_rl_data.asking.keys import without_api_keys
    from sotopia_rl_data.credit.bench import bench, check_bench, check_named, default_schemas
    from sotopia_rl_data.credit.bench_page import write_bench
    from sotopia_rl_data.credit.checklist import checklist, markdown
    from sotopia_rl_data.credit.labelling import check_asked, estimate_games, label_games, loopback_labels
    from sotopia_rl_data.credit.planted import PLANTED
    from sotopia_rl_data.outputs import check_output
    from sotopia_rl_data.store import Store

    if games is not None:
        asking.check_unread(("count",), f"makes games, and {games} is named")
    if not options["judges"]:
        asking.check_unread(asking.OF_CALLS, "is about calls of judges, and no --judge is named")
    ask_options = asking.ask_options(options)
    seed, loopback, dry = options["seed"], options["loopback"], options["dry_run"]
    planted = [kind for name in options["planted"] for kind in (PLANTED if name == "all" else (name,))]
    judges = [asking.model_of(spec, options) for spec in options["judges"]]
    schemas, sampling = list(options["schemas"]) or None, asking.sampling_of(options)
    asked = schemas or default_schemas()
    html: Path | None = options["html"]
    check_named(planted, asked)  # before games are made
    if html is not None:
        check_output(html)
    labels = [resolve(store, ref) for ref in options["labels"]]
    if judges:
        with without_api_keys() if dry else nullcontext():
            check_asked(judges, asked, sampling)
    with TemporaryDirectory(prefix="sotopia-rl-data-") as scratch:  # a dry run keeps no games
        version = _games(Store(Path(scratch)) if dry and games is None else store, games, count, seed)
        check_bench(version, labels)
        if dry:
            with console.progress("counting", "call") as advance:
                told = replace(ask_options, progress=advance)
                estimates = estimate_games(store, version, judges, asked, told, sampling)
            _show_estimates(estimates, as_json)
            return
    if judges:
        with asking.progress("labelling", "call", ask_options, as_json) as watched:
            labels += label_games(store, version, judges, asked, watched, sampling)
    with ExitStack() as stack:
        made_up = stack.enter_context(loopback_labels(version, asked)) if loopback else []
        labels += made_up
        measured = bench(version, labels, planted, schemas, resamples=options["resamples"], seed=seed)
        points = checklist(measured, version, labels)
    if html is not None:
        write_bench(measured, points, html)
    if as_json:
        console.emit_json(measured.as_dict() | {"checklist": [point._asdict() for point in points]})
        return
    _show_bench(measured, wide)
    if options["checklist"]:
        click.echo(f"\n{markdown(points)}")
    if html is not None:
        console.note(f"written: {html}")


def _games(store: Store, games: str | None, count: int, seed: int) -> Version:
    """The games that are named, or as many as are made."""
    from sotopia_rl_data.credit.making import make_games

    if games is not None:
        return resolve(store, games)
    with console.progress("playing", "game") as advance:
        return make_games(store, "credit/games", count, seed, progress=advance).version


def _show_estimates(estimates: Mapping[str, JudgedEstimate], as_json: bool) -> None:
    if as_json:
        console.emit_json({name: estimate.as_dict() for name, estimate in estimates.items()})
        return
    for name, estimate in estimates.items():
        console.note(f"{name}:")
        asking.show_estimate(estimate, in_batches=False)


_MOST_LINES = 40
_MOST_CARDS = 6  # where the screen is too narrow for a table
_MEANINGS = {
    "tau": "tau: Kendall's tau-b of an agent's turns with their true credit",
    "from": "from, to: its 95% interval",
    "of tau": "of tau: what an oracle reaches that answers the same schema",
    "hit": "hit: how often the largest credit is the pivotal turn's",
    "sign": "sign: how often a turn's credit has the right one",
    "calibration": "calibration: how far sizes are off, in points",
    "leans on": "leans on: what the errors go with",
    "silent": "silent: agents whose turns all get the same",
    "calls each": "each: for a pivotal turn that was found",
}
_SPARE = ("usd each", "calls each", "silent", "calibration", "sign", "of hit", "hit", "to", "from")
"""What a narrow screen can do without, the first to go first."""


def _show_bench(measured: Bench, wide: bool) -> None:
    columns = ["schema", "rule", "judge", "tau", "from", "to", "of tau", "hit", "of hit", "sign", "calibration"]
    columns += ["leans on", "silent", "calls each", "usd each", *(["labels"] if wide else [])]
    rows = []
    most = _MOST_LINES if shutil.get_terminal_size().columns >= 60 else _MOST_CARDS
    for line in measured.lines if wide else measured.lines[:most]:
        near, method = line.nearness, line.method
        figures = [near.tau.value, near.tau.low, near.tau.high, line.ceiling_tau, near.hit.value, line.ceiling_hit]
        sizes = [near.sign.value, near.calibration]
        each = [line.per_found(method.calls), line.per_found(method.usd)]
        row = [method.schema, method.rule, method.judge or None, *map(_rounded, [*figures, *sizes])]
        rows.append(
            [*row, near.leans_on or None, near.silent, *map(_rounded, each), *([method.labels or None] if wide else [])]
        )
    title = f"{measured.games}: {measured.episodes} episodes, {measured.utterances} utterances"
    shown = console.table(columns, rows, title, spare=() if wide else _SPARE)
    console.note("; ".join(meaning for column, meaning in _MEANINGS.items() if column in shown))
    hidden = len(measured.lines) - len(rows)
    if hidden:
        console.note(f"{hidden:,} more {'line' if hidden == 1 else 'lines'}: with --wide")
    constant = max((line.nearness.constant for line in measured.lines), default=0)
    if constant:
        console.note(f"{constant} agents' turns are all worth the same, and are left out")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
