"""rm and undo: versions go to the store's trash and come back from it."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

from sotopia_rl_data import errors
from sotopia_rl_data.cli import console
from sotopia_rl_data.errors import UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.store import Store

_SHOWN = 10

yes_option = click.option("--yes", is_flag=True, help="Do it without a question.")


@click.command()
@console.refs_argument(required=False)
@click.option("--empty-trash", is_flag=True, help="Instead, delete for good what is in the trash.")
@yes_option
@console.store_option
@console.json_option
def rm(refs: tuple[str, ...], empty_trash: bool, yes: bool, store: Store, as_json: bool) -> None:
    """Move datasets, or single versions of them, to the store's trash. `undo` brings them back.

    Before it asks, it names the versions that were made from them; these stay as they are. Answers stay in the ledger,
    so that making a version again costs nothing. Nothing leaves the trash by itself: --empty-trash deletes it.

    \b
    Examples:
      sotopia-rl-data rm demo/episodes-rewards@v1.0.0
      sotopia-rl-data rm demo/selfplay --yes
      sotopia-rl-data rm --empty-trash
    """
    from sotopia_rl_data.store import trash

    if empty_trash == bool(refs):
        raise UsageError("`rm` needs either datasets or --empty-trash.", "see the datasets: sotopia-rl-data list")
    if empty_trash:
        _empty(store, yes, as_json)
        return
    chosen = trash.named(store, refs)
    names = [f"{name}@{number}" for name, numbers in chosen.items() for number in numbers]
    made_from = trash.made_from(store, chosen)
    if made_from:
        console.warn(f"made from what is to be removed, and staying: {_listed(made_from)}")
    if not _agreed(f"Move {_listed(names)} to the trash?", yes):
        return
    removed = trash.remove(store, chosen)
    if as_json:
        console.emit_json({"removed": names, "made_from": made_from, "removal": removed[0].removal})
        return
    console.note(f"{_listed(names)}: in the trash.")
    console.next_commands(f"sotopia-rl-data undo {shlex.quote(removed[0].removal)}")


def _complete_removed(context: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from sotopia_rl_data.store import trash

    try:
        names = [name for one in trash.removed(console.store_of(context)) for name in (one.ref, one.removal)]
    except (errors.SotopiaDataError, OSError):  # while a word is completed there is no place for an error
        return []
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


@click.command()
@click.argument("what", required=False, metavar="[REF|REMOVAL]", shell_complete=_complete_removed)
@console.store_option
@console.json_option
def undo(what: str | None, store: Store, as_json: bool) -> None:
    """Bring back what `rm` removed: the latest removal of a dataset or version, or all of a removal. Without an
    argument: what is in the trash.

    It never writes over a version that is there.

    \b
    Examples:
      sotopia-rl-data undo
      sotopia-rl-data undo demo/episodes-rewards@v1.0.0
    """
    from sotopia_rl_data.store import trash

    found = trash.restore(store, what) if what else trash.removed(store)
    if as_json:
        console.emit_json([{"removal": one.removal, "version": one.ref, "directory": str(one.dir)} for one in found])
    elif what:
        console.note(f"{_listed([one.ref for one in found])}: back in the store.")
    elif found:
        console.table(["removal (UTC)", "version"], [[one.removal, one.ref] for one in found])
        console.next_commands(f"sotopia-rl-data undo {shlex.quote(found[0].ref)}", "sotopia-rl-data rm --empty-trash")
    else:
        console.note("The trash is empty.")


def _empty(store: Store, yes: bool, as_json: bool) -> None:
    from sotopia_rl_data.store import trash

    found = trash.removed(store)
    if found and not _agreed(f"Delete {_listed([one.ref for one in found])} for good?", yes):
        return
    deleted = trash.empty(store, found)
    if as_json:
        console.emit_json({"deleted": [one.ref for one in deleted]})
    else:
        console.note(f"{len(deleted):,} versions deleted." if deleted else "The trash is empty.")


def _agreed(question: str, yes: bool) -> bool:
    """Whether the person agrees. Raises UsageError where nobody can be asked."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to ask on.", "add --yes")
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        console.note("\nNothing was changed.")
        raise click.exceptions.Exit(errors.Interrupted.exit_code) from None
    if not agreed:
        console.note("Nothing was changed.")
    return agreed


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
