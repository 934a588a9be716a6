"""The version that a reference names, from the store or else from the Hub. All code that takes a dataset's name uses
it.

A version of the store needs no request; a commit is found by the notes of push and pull. A version of the Hub is pulled
into the store first, so that every version is whole and checked. No other version ever takes its place: offline, a
missing version is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sotopia_rl_data.errors import HubUnavailable, NotFound, UsageError
from sotopia_rl_data.refs import DatasetRef, parse
from sotopia_rl_data.store import Store, Version

if TYPE_CHECKING:
    from sotopia_rl_data.hub.client import Hub
    from sotopia_rl_data.hub.pull import Pulled
    from sotopia_rl_data.query import Dataset


def open_dataset(ref: str | DatasetRef, store: str | Path | Store | None = None) -> Dataset:
    """The dataset that `ref` names (`name`, `org/name`, `org/name@v1.2.0`, `./path`), read from `store`.

    `store` is a directory; by default that of SOTOPIA_RL_DATA_STORE, or `./store`. A dataset that it lacks is pulled
    from the Hub. Raises NotFound, and HubError where the Hub has it and it cannot be pulled.
    """
    from sotopia_rl_data.query import Dataset

    return Dataset(resolve(Store.of(store), ref))


def resolve(store: Store, ref: str | DatasetRef) -> Version:
    """The version that `ref` names, pinned or the latest: the store's own, else the Hub's, which is pulled.

    Raises NotFound where neither has it, or the Hub cannot be reached; HubError where the Hub has it and it cannot be
    pulled; and what else pulling raises.
    """
    ref = parse(ref) if isinstance(ref, str) else ref
    try:
        return store.resolve(ref)
    except NotFound as missing:
        if ref.path is not None or "/" not in ref.name or store.is_of_the_hub:
            raise
        try:
            return fetch(store, ref).version
        except (HubUnavailable, NotFound) as error:
            # the store's ends in a command, for pasting; of a commit it says to pull it, which is what has just failed
            hints = dict.fromkeys((error.hint,) if ref.commit else (error.hint, missing.hint))
            raise NotFound(f"{missing.message} {error.message}", "; or ".join(hints)) from error


def fetch(
    store: Store,
    ref: DatasetRef,
    hub: Hub | None = None,
    columns: Mapping[str, str] | None = None,
    pattern: str = "*",
    sentinel: float | None = None,
) -> Pulled:
    """Pull `ref`, or import it where it is another person's dataset; the store's display shows progress and the commit.

    `columns`, `pattern` and `sentinel` are for other people's datasets: see `foreign.import_foreign`.
    """
    from sotopia_rl_data.hub.client import Hub, quiet
    from sotopia_rl_data.hub.foreign import import_foreign
    from sotopia_rl_data.hub.pull import pull, revision_of
    from sotopia_rl_data.hub.release import manifest_at

    store.check_writable()
    hub = hub or Hub()
    quiet(bars=False)
    commit = revision_of(hub, ref)
    manifest = manifest_at(hub, ref.name, commit) if columns is None else None
    if manifest is not None and sentinel is not None:
        raise UsageError(
            f"{ref} is a release of this program, whose missing rewards are NULL already.", "leave --sentinel out"
        )
    with store.display.progress(f"pulling {ref}", "byte") as advance:
        if manifest is None:
            pulled = import_foreign(store, ref, hub, commit, columns or {}, advance, pattern, sentinel)
        else:
            pulled = pull(store, ref, hub, commit, manifest, advance)
    store.display.note(f"{ref} is {pulled.version.version}, commit {pulled.commit} of {hub.endpoint}")
    return pulled
