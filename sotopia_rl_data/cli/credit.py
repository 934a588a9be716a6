"""Commands about credit whose truth is known: games."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sotopia_rl_data.cli import console

if TYPE_CHECKING:
    from sotopia_rl_data.store import Store


@click.group()
def credit() -> None:
    """Credit measured against the truth: games whose every turn has a known worth."""


@credit.command("games")
@click.option("--make", "count", type=click.IntRange(1, 1_000_000), required=True, help="How many dialogues.")
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
