"""What a reference stands for: the store first, then the Hub. `Store.resolve` is where everyone asks.

A version that the store has is served without a request; a commit is found by what push and pull noted. What comes
from the Hub is pulled into the store first, so that what is served is always a whole, checked version. Nothing else is
ever served in its place: offline, a missing version is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sotopia_rl_data.errors import HubUnavailable, NotFound
from sotopia_rl_data.hub import record
from sotopia_rl_data.refs import DatasetRef
from sotopia_rl_data.store import Store, Version

if TYPE_CHECKING:
    from sotopia_rl_data.hub.client import Hub
    from sotopia_rl_data.hub.pull import Pulled


def by_commit(store: Store, ref: DatasetRef) -> Version | None:
    """The version of the store that is known to be the commit that `ref` names (or its beginning)."""
    for number in store.versions(ref.name):
        version = store.version(ref.name, number)
        pin = record.read(version.dir)
        if pin and ref.commit and pin.repo == ref.name and any(c.startswith(ref.commit) for c in pin.commits):
            return version
    return None


def from_hub(store: Store, ref: DatasetRef, missing: NotFound) -> Version:
    """The version that `ref` names on the Hub, pulled into the store. `missing` is why the store does not have it.

    Raises NotFound where neither has it, or the Hub cannot be asked; else what `pull` raises.
    """
    if "/" not in ref.name:
        raise missing
    try:
        return fetch(store, ref).version
    except (HubUnavailable, NotFound) as error:
        hints = dict.fromkeys((missing.hint, error.hint))
        raise NotFound(f"{missing.message} {error.message}", "; or ".join(hints)) from error


def fetch(
    store: Store,
    ref: DatasetRef,
    hub: Hub | None = None,
    columns: Mapping[str, str] | None = None,
    pattern: str = "*",
) -> Pulled:
    """Pull `ref`, or import it where it is a dataset of others, with a bar; says on stderr which commit it is.

    `columns` and `pattern` are for a dataset of others: see `foreign.import_foreign`.
    """
    from sotopia_rl_data.hub.client import Hub, quiet
    from sotopia_rl_data.hub.foreign import import_foreign
    from sotopia_rl_data.hub.plan import manifest_at
    from sotopia_rl_data.hub.pull import pull_manifest, revision_of

    hub = hub or Hub()
    quiet(bars=False)
    commit = revision_of(hub, ref)
    manifest = manifest_at(hub, ref.name, commit) if columns is None else None
    with store.display.progress(f"pulling {ref}", "byte") as advance:
        if manifest is None:
            pulled = import_foreign(store, ref, hub, commit, columns or {}, advance, pattern)
        else:
            pulled = pull_manifest(store, ref, hub, commit, manifest, advance)
    store.display.note(f"{ref} is {pulled.version.version}, commit {pulled.commit} of {hub.endpoint}")
    return pulled
