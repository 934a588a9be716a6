"""Commands that read a store: list, log, show, stats, query, diff, verify."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.display import MISSING
from sotopia_rl_data.errors import NotFound, StoreError, UsageError
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.refs import DatasetRef, parse

if TYPE_CHECKING:
    from sotopia_rl_data.diff import Changes
    from sotopia_rl_data.stats import Stats
    from sotopia_rl_data.store import Store, Version


_TURNS = 2  # of the first episode, in `show`
_MEASURES = ("values", "NULL", "mean", "sd", "min", "25 %", "median", "75 %", "max")


@click.command("list")
@console.wide_option
@console.store_option
@console.json_option
def list_(wide: bool, store: Store, as_json: bool) -> None:
    """The datasets of a store, each with its latest version.

    The splits are the episodes of train / validation / test.

    \b
    Example:
      sotopia-rl-data list --store ./store
    """
    histories = store.histories()
    if as_json:
        console.emit_json([_listed(name, *history) for name, history in histories.items()])
    elif not histories:
        console.note(f"The store {store.address!r} is empty.")
        console.next_commands("sotopia-rl-data import --name demo/episodes")
    else:
        console.table(
            ["dataset", "latest", "versions", *_TOLD, "made"],
            [_line(name, *history) for name, history in histories.items()],
            spare=() if wide else _SPARE_FACTS,
        )
        newest = max(
            (name for name, (versions, _) in histories.items() if versions),
            key=lambda name: histories[name][0][0].manifest.created,
            default=None,
        )
        if newest:
            console.next_commands(f"sotopia-rl-data show {newest}")
    for name, (_, damaged) in histories.items():
        _tell_damaged(name, damaged)


def _line(name: str, readable: list[Version], damaged: Mapping[str, StoreError]) -> list[Any]:
    """A dataset's line of the list; only its name and count where none of its versions can be read."""
    count = len(readable) + len(damaged)
    if not readable:
        return [name, None, count, *[None] * len(_TOLD), None]
    return [name, readable[0].version, count, *_told(readable[0]), _made(readable[0])]


_SPARE_FACTS = (
    *("digest", "recipe", "models", "splits", "versions"),
    *("from", "made", "judges", "utterances", "episodes", "by"),
)
"""What a narrow screen can do without, the first to go first."""
_TOLD = ("by", "judges", "models", "episodes", "utterances", "splits", "from", "recipe")


def _told(version: Version) -> list[Any]:
    """The cells of `_TOLD`."""
    from sotopia_rl_data.cli.origin import origin_of

    told = origin_of(version)
    counts = [told.episodes, told.utterances, told.splits]
    return [told.command, told.judges, told.models, *counts, told.parents, told.recipe]


def _listed(name: str, readable: list[Version], damaged: Mapping[str, StoreError]) -> dict[str, Any]:
    numbers = [version.version for version in readable]
    known = _summary(readable[0]) if readable else {"name": name, "version": None}
    return known | {
        "versions": numbers[::-1],
        "damaged": {number: error.message for number, error in damaged.items()},
    }


def _tell_damaged(name: str, damaged: Mapping[str, StoreError]) -> None:
    """Name every version that cannot be read, at every volume."""
    for number, error in damaged.items():
        console.say("error: ", "red", f"{name}@{number}: {error.message}")
        console.say(" hint: ", "green", error.hint)


def _made(version: Version) -> str:
    """When a version was made, in UTC, as 2026-11-24 13:31."""
    return version.manifest.created[:16].replace("T", " ")


def _summary(version: Version) -> dict[str, Any]:
    configs = version.manifest.configs
    return {
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "created": version.manifest.created,
        "directory": str(version.dir),
        "rows": {config: {split: one.rows for split, one in splits.items()} for config, splits in configs.items()},
    }


@click.command()
@console.ref_argument("ref")
@console.wide_option
@console.store_option
@console.json_option
def log(ref: str, wide: bool, store: Store, as_json: bool) -> None:
    """The versions of a dataset, newest first, and how each was made.

    The splits are the episodes of train / validation / test.

    \b
    Example:
      sotopia-rl-data log demo/episodes-rewards
    """
    named = parse(ref)
    here = named == DatasetRef(named.name) and store.versions(
        named.name
    )  # then a damaged latest version hides no other
    name = named.name if here else resolve(store, named).name
    versions, damaged = store.history(name)
    if as_json:
        console.emit_json(
            [_summary(v) | {"recipe": v.manifest.recipe, "provenance": v.manifest.provenance} for v in versions]
        )
    else:
        console.table(
            ["version", "made", *_TOLD, "digest"],
            [[v.version, _made(v), *_told(v), v.digest[:12]] for v in versions],
            spare=() if wide else _SPARE_FACTS,
        )
        if len(versions) > 1:
            console.next_commands(f"sotopia-rl-data diff {versions[1].ref} {versions[0].ref}")
        elif versions:
            console.next_commands(f"sotopia-rl-data show {name}")
    _tell_damaged(name, damaged)


@click.command()
@console.ref_argument("ref")
@click.argument("episode", required=False)
@console.wide_option
@console.store_option
@console.json_option
def show(ref: str, episode: str | None, wide: bool, store: Store, as_json: bool) -> None:
    """A version at a glance; with EPISODE, the dialogue with each utterance's reward beside it.

    EPISODE is an episode's id, or a beginning of it that only one episode has.

    \b
    Examples:
      sotopia-rl-data show demo/episodes-rewards
      sotopia-rl-data show demo/episodes-rewards sample-last-tram-1
    """
    version = resolve(store, ref)
    if episode is None:
        _glance(version, ref, wide, as_json)
    else:
        _dialogue(version, episode, as_json)


def _glance(version: Version, ref: str, wide: bool, as_json: bool) -> None:
    from sotopia_rl_data.cli.origin import origin_of
    from sotopia_rl_data.query import sql
    from sotopia_rl_data.stats import stats

    numbers = stats(version)
    manifest = version.manifest
    if as_json:
        console.emit_json(
            _summary(version)
            | {"recipe": manifest.recipe, "provenance": manifest.provenance, "stats": numbers.as_dict()}
        )
        return
    told = origin_of(version)
    facts = {
        "made": _made(version),
        "by the command": told.command,
        "from": told.parents,
        "recipe": told.recipe,
        "judges": told.judges,
        "models": told.models,
        **{name: None if name in manifest.configs else n for name, n in numbers.episodes.items()},
    }
    console.table(
        ["", ""],
        [[name, fact] for name, fact in facts.items() if fact is not None],
        title=f"{version.ref}  {version.digest[:12]}  {version.address}",
    )
    _rows(numbers)
    shown = {name: of["all"] for name, of in numbers.columns.items() if not name.startswith("norm_")}
    if shown:
        columns = ["column", *_MEASURES]
        console.table(columns, [[name, *asdict(whole).values()] for name, whole in shown.items()], spare=_spare(wide))
    _labels(numbers, wide)
    if "episodes" in manifest.configs:
        for first in sql(version, "SELECT episode_id FROM episodes ORDER BY 1 LIMIT 1").column(0).to_pylist():
            if "rewards" not in manifest.configs:
                _show_beginning(version, first)
            console.next_commands(f"sotopia-rl-data show {shlex.join([ref, first])}")


def _show_beginning(version: Version, episode_id: str) -> None:
    """An episode's first turns, and its scores."""
    from sotopia_rl_data.cli.dialogue import show_dialogue
    from sotopia_rl_data.query import sql
    from sotopia_rl_data.tables import row_episode

    identity = episode_id.replace("'", "''")
    (row,) = sql(version, f"SELECT * EXCLUDE split FROM episodes WHERE episode_id = '{identity}'").to_pylist()
    show_dialogue(row_episode(row), {}, turns=_TURNS)


def _rows(numbers: Stats) -> None:
    """A table of the rows of each config and split."""
    splits = list(dict.fromkeys(split for of in numbers.rows.values() for split in of))
    console.table(["rows", *splits], [[config, *map(of.get, splits)] for config, of in numbers.rows.items()])


def _spare(wide: bool) -> tuple[str, ...]:
    """The measures that a narrow screen can do without, the first to go first; none with --wide."""
    return () if wide else ("25 %", "75 %", "NULL", "median", "min", "max", "values")


def _labels(numbers: Stats, wide: bool) -> None:
    """Tables of each judge's labels and of the reasons why labels are missing, if there are any."""
    if numbers.judges:
        names = ["judge", "schema", "dimension", "labels", "mean", "sd", "min", "max"]
        console.table(
            names,
            [list(asdict(judge).values()) for judge in numbers.judges],
            spare=() if wide else ("schema", *_spare(False)),
        )
    if numbers.failures:
        console.table(["what has no label", "rows"], [[reason, n] for reason, n in numbers.failures.items()])


def _dialogue(version: Version, prefix: str, as_json: bool) -> None:
    from sotopia_rl_data.cli.dialogue import show_dialogue
    from sotopia_rl_data.query import sql
    from sotopia_rl_data.screen import Screen
    from sotopia_rl_data.tables import episode_row, row_episode

    quoted = prefix.replace("'", "''")
    if "episodes" not in version.manifest.configs:
        raise UsageError(
            f"{version.ref} has no episodes, so no dialogue of it can be shown.",
            f"see what it has: sotopia-rl-data show {version.ref}",
        )
    condition = f"starts_with(episode_id, '{quoted}')"
    order = "length(episode_id), episode_id"  # an id that equals the prefix is the shortest, and so comes first
    rows = sql(version, f"SELECT * EXCLUDE split FROM episodes WHERE {condition} ORDER BY {order} LIMIT 4").to_pylist()
    if not rows:
        hint = f'list the ids: sotopia-rl-data query {version.ref} "SELECT episode_id FROM episodes"'
        raise NotFound(f"{version.ref} has no episode whose id begins with {prefix!r}.", hint)
    if len(rows) > 1 and rows[0]["episode_id"] != prefix:
        ids = ", ".join(row["episode_id"] for row in rows[:3])
        raise NotFound(
            f"Several episodes of {version.ref} have an id that begins with {prefix!r}.",
            f"give the whole id of one episode: {ids} …",
        )
    episode = row_episode(rows[0])
    rewards: dict[tuple[str, int], dict[str, Any]] = {}
    if "rewards" in version.manifest.configs:
        identity = episode.episode_id.replace("'", "''")
        columns = f"SELECT * EXCLUDE (prompt, completion, split) FROM rewards WHERE episode_id = '{identity}'"
        rewards = {(row["agent"], row["turn"]): row for row in sql(version, columns).to_pylist()}
    if as_json:
        console.emit_json({"episode": episode_row(episode), "rewards": list(rewards.values())})
    else:
        Screen().say(version.ref, "dim")
        show_dialogue(episode, rewards)


@click.command()
@console.ref_argument("ref")
@console.wide_option
@console.store_option
@console.json_option
def stats(ref: str, wide: bool, store: Store, as_json: bool) -> None:
    """Rows, reward and dimension distributions, opinions, each judge's labels, failures by reason.

    The reward is shown by split; with --wide, so is every dimension.

    \b
    Example:
      sotopia-rl-data stats demo/episodes-rewards
    """
    from sotopia_rl_data.stats import stats as numbers_of

    numbers = numbers_of(resolve(store, ref))
    if as_json:
        console.emit_json(numbers.as_dict())
        return
    _rows(numbers)
    if numbers.episodes:
        console.table(["of the episodes", "count"], [[name, n] for name, n in numbers.episodes.items()])
    if numbers.columns:
        console.table(
            ["column, split", *_MEASURES],
            [
                [name if split == "all" else f"  {split}", *asdict(d).values()]
                for name, of in numbers.columns.items()
                for split, d in of.items()
                if wide or name == "reward" or split == "all"
            ],
            spare=_spare(wide),
        )
    if numbers.opinions:
        console.table(["opinions", "utterances"], [[n, rows] for n, rows in numbers.opinions.items()])
    _labels(numbers, wide)
    if "reward" in numbers.columns and numbers.columns["reward"]["all"].count:
        console.next_commands(f"sotopia-rl-data report {shlex.quote(ref)} -o report.html")
    elif numbers.episodes:
        console.next_commands(f"sotopia-rl-data show {shlex.quote(ref)}")


@click.command()
@console.ref_argument("ref")
@click.argument("sql")
@click.option(
    "--format", "fmt", default=None, metavar="FORMAT", help="table (default on a screen), json, jsonl, csv or parquet."
)
@console.output_option("Write to a file; its ending names the format.", required=False)
@console.time_limit_option
@console.store_option
@console.json_option
def query(
    ref: str, sql: str, fmt: str | None, output: Path | None, timeout: float, store: Store, as_json: bool
) -> None:
    """One SELECT over a version: its configs are the tables, each with a `split` column.

    The connection is locked: it reads the version's own files and nothing else, and writes nothing.

    \b
    Examples:
      sotopia-rl-data query demo/episodes-rewards \\
        "SELECT agent, avg(reward) FROM rewards GROUP BY agent ORDER BY 2 DESC"
      sotopia-rl-data query demo/episodes-rewards "SELECT * FROM rewards" -o rewards.parquet
      sotopia-rl-data query demo/episodes-rewards "SELECT reason, count(*) FROM failures GROUP BY 1" --json
    """
    from sotopia_rl_data.query import stream
    from sotopia_rl_data.results import FORMATS, write_result

    ending = output.suffix[1:].lower() if output else ""
    if output and fmt is None and ending not in FORMATS:
        raise UsageError(
            f"The format to write cannot be told from the ending of the file name {output.name!r}.",
            f"let the name end in {', '.join(f'.{f}' for f in FORMATS[1:])}, or add --format",
        )
    chosen = fmt or (ending or ("json" if as_json else "table"))
    if chosen == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("Parquet is binary and cannot be shown on a terminal.", "add -o FILE.parquet")
    with stream(resolve(store, ref), sql, timeout) as rows:
        write_result(rows, chosen, output or sys.stdout)
    if output:
        console.note(f"written: {output}")


@click.command()
@console.ref_argument("a")
@console.ref_argument("b")
@console.store_option
@console.json_option
def diff(a: str, b: str, store: Store, as_json: bool) -> None:
    """Rows added, removed and changed from A to B, config by config, and what differs in the recipe.

    \b
    Example:
      sotopia-rl-data diff demo/episodes-rewards@v1.0.0 demo/episodes-rewards
    """
    from sotopia_rl_data.diff import diff as compare

    difference = compare(resolve(store, a), resolve(store, b))
    if as_json:
        console.emit_json(difference.as_dict())
        return
    console.table(
        ["config", "added", "removed", "changed", "same", "changed columns"],
        [
            [config, c.added, c.removed, c.changed, c.same, ", ".join(_columns(c))]
            for config, c in difference.configs.items()
        ],
        title=f"{difference.a} -> {difference.b}",
    )
    if difference.recipe:
        leaves = (row for name, (old, new) in difference.recipe.items() for row in _leaves(name, old, new))
        # a column of missing values alone would be left out
        shown = ([MISSING if value is None else value for value in row] for row in leaves)
        console.table(["recipe", "before", "after"], shown)


def _leaves(name: str, before: Any, after: Any) -> Iterator[list[Any]]:
    """A row for each key that differs: name.key, before, after (None where the key is absent)."""
    if all(value is None or isinstance(value, Mapping) for value in (before, after)) and (before or after):
        old, new = before or {}, after or {}
        for key in dict.fromkeys((*old, *new)):
            yield from _leaves(f"{name}.{key}", old.get(key), new.get(key))
    elif before != after:
        yield [name, *(json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in (before, after))]


def _columns(changes: Changes) -> list[str]:
    new, dropped = (f"+{name}" for name in changes.new_columns), (f"-{name}" for name in changes.dropped_columns)
    return [*changes.columns, *new, *dropped]


@click.command()
@console.refs_argument()
@console.store_option
@console.json_option
def verify(refs: tuple[str, ...], store: Store, as_json: bool) -> None:
    """Read every file of a version and compare it with its manifest: size, SHA-256, rows, order, digest.

    Exit code 1 where anything differs.

    \b
    Example:
      sotopia-rl-data verify demo/episodes demo/episodes-rewards@v1.0.0
    """
    from sotopia_rl_data.rewards import trajectories
    from sotopia_rl_data.store.verify import verify as check

    results = [check(resolve(store, ref), derived=trajectories.problems) for ref in refs]
    if as_json:
        console.emit_json([result.as_dict() for result in results])
    else:
        console.table(
            ["version", "files", "bytes", "rows", "state"],
            [[r.ref, r.files, r.bytes, r.rows, "whole" if r.ok else "damaged"] for r in results],
        )
        for result in results:
            for problem in result.problems:
                console.say("error: ", "red", f"{result.ref}: {problem}")
    if not all(result.ok for result in results):
        console.note("hint: remove what is damaged with `sotopia-rl-data rm`, and pull it or make it again")
        click.get_current_context().exit(console.FAILED)
