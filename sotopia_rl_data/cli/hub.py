"""The command that reads from the Hub: pull. (`push-to-hub` and `card` are in `cards`, which is above the core.)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.refs import parse

if TYPE_CHECKING:
    from sotopia_rl_data.hub.pull import Pulled
    from sotopia_rl_data.store import Store


@click.command()
@click.argument("ref")
@click.option(
    "--map",
    "columns",
    metavar="COLUMN=prompt,…",
    help="For a dataset of others: which of its columns are prompt, completion and reward.",
)
@click.option("--file", "pattern", metavar="GLOB", default="*", help="For a dataset of others: only these files.")
@console.store_option
@console.json_option
def pull(ref: str, columns: str | None, pattern: str, store: Store, as_json: bool) -> None:
    """A dataset from the Hub into the store, checked file by file: the latest release, a version or a commit.

    What the store has already is not downloaded again. Every other command pulls by itself what its REF names and the
    store lacks; `pull` also refreshes what it has. Datasets of others are imported: the shapes of sotopia-rl's and
    sotopia-pi's training rows and of the sotopia library's exports are known, others need --map.

    \b
    Examples:
      sotopia-rl-data pull org/name
      sotopia-rl-data pull org/name@v1.2.0
      sotopia-rl-data pull ulab-ai/sotopia-rl-reward-annotation
      sotopia-rl-data pull org/other --map question=prompt,answer=completion,score=reward
    """
    from sotopia_rl_data.hub.foreign import parse_map
    from sotopia_rl_data.hub.resolve import fetch

    named = parse(ref)
    if named.path is not None or "/" not in named.name:
        raise UsageError(f"{ref!r} names nothing on the Hub.", "write ORG/NAME, ORG/NAME@v1.2.0 or ORG/NAME@COMMIT")
    pulled = fetch(store, named, columns=parse_map(columns) if columns else None, pattern=pattern)
    if as_json:
        console.emit_json(_as_dict(pulled))
        return
    version = pulled.version
    state = "pulled" if pulled.created else "unchanged: the store has this content already"
    console.table(
        ["config", "rows"],
        [[config, sum(one.rows for one in of.values())] for config, of in version.manifest.configs.items()],
        title=f"{version.ref}  {version.digest[:12]}  {state}",
    )
    console.next_commands(f"sotopia-rl-data show {version.ref}")


def _as_dict(pulled: Pulled) -> dict[str, Any]:
    version = pulled.version
    return {
        "version": version.ref,
        "digest": version.digest,
        "commit": pulled.commit,
        "created": pulled.created,
        "downloaded": pulled.downloaded,
        "linked": pulled.linked,
        "directory": str(version.dir),
    }
