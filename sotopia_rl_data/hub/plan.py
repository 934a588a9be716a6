"""What a push would do: the repository as it is, the release as it is to be, and the steps between.

Planning only reads (GET and HEAD). It is done anew after every fault, so that a commit whose answer was lost is found,
and another writer's commit is built upon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sotopia_rl_data.errors import HubError, VersionExists
from sotopia_rl_data.hub.client import Hub, RemoteFile
from sotopia_rl_data.hub.release import Content, Release, git_oid, owned
from sotopia_rl_data.schema import Manifest
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store import readme, versions


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository at the head of `main` (None: there is none yet, or no commit)."""

    head: str | None
    tree: Mapping[str, RemoteFile]
    tags: Mapping[str, str]
    manifest: Manifest | None
    card: str


NOTHING = Remote(None, {}, {}, None, "")


@dataclass(frozen=True, slots=True)
class Plan:
    """From `remote` to the release: paths to add, to delete, and that are there already; the card's new text.

    `published` is the commit that holds this content under a tag already: there is nothing to do. `landed` says that
    `main` holds the release but no tag does: an earlier run was stopped between the two.
    """

    remote: Remote
    adds: tuple[str, ...]
    deletes: tuple[str, ...]
    unchanged: tuple[str, ...]
    card: str
    published: str | None = None
    published_as: str = ""
    landed: bool = False

    @property
    def operations(self) -> int:
        """How many files a commit would name."""
        return len(self.adds) + len(self.deletes) + 2


def look(hub: Hub, repo: str) -> Remote:
    """The repository as it is now."""
    head = hub.head(repo)
    if head is None:
        return NOTHING
    tree = hub.tree(repo, head)
    return Remote(
        head,
        tree,
        hub.tags(repo),
        manifest_at(hub, repo, head) if manifests.FILE_NAME in tree else None,
        (hub.text(repo, readme.FILE_NAME, head) or "") if readme.FILE_NAME in tree else "",
    )


def manifest_at(hub: Hub, repo: str, commit: str) -> Manifest | None:
    """The manifest in a commit; None where it has none of ours."""
    text = hub.text(repo, manifests.FILE_NAME, commit)
    return None if text is None or '"manifest_version"' not in text else manifests.parse(text, f"{repo}@{commit[:8]}")


def plan(hub: Hub, release: Release, remote: Remote, own_card: str) -> Plan:
    """The steps from `remote` to `release`. `own_card` is the store's README: what people wrote there counts until the
    repository has one.

    Raises VersionExists where the version is published with other content, HubError where `main` is later already or
    holds data that no manifest lists.
    """
    card = readme.merge(release.card, remote.card or own_card)
    done = _published(hub, release, remote)
    if done is not None:
        return Plan(remote, (), (), tuple(release.files), card, *done)
    here = remote.manifest
    if here is not None and _same(here, release.manifest):
        return Plan(remote, (), (), tuple(release.files), card, landed=True)
    _check_order(release, remote)
    mine = owned(here, remote.card)
    _check_strays(release, remote, mine)
    adds = tuple(path for path, content in release.files.items() if not _there(remote.tree.get(path), content))
    deletes = tuple(sorted(path for path in mine - release.files.keys() if path in remote.tree))
    unchanged = tuple(path for path in release.files if path not in adds)
    return Plan(remote, adds, deletes, unchanged, card)


def _published(hub: Hub, release: Release, remote: Remote) -> tuple[str, str] | None:
    """The commit and tag that hold this content already. Raises VersionExists where the tag holds other content."""
    tagged = remote.tags.get(release.tag)
    if tagged is not None:
        theirs = manifest_at(hub, release.repo, tagged)
        if theirs is not None and _same(theirs, release.manifest):
            return tagged, release.tag
        raise _taken(release, remote)
    here = remote.manifest
    if here is not None and here.digest == release.manifest.digest and here.version in remote.tags:
        return remote.tags[here.version], here.version
    return None


def _same(a: Manifest, b: Manifest) -> bool:
    return (a.digest, a.version) == (b.digest, b.version)


def _check_order(release: Release, remote: Remote) -> None:
    """`main` is the latest release: no earlier one may follow it, and no other of the same number."""
    here, ours = remote.manifest, release.manifest
    if here is None or (versions.number(here.version) or (0, 0, 0)) < (versions.number(ours.version) or (0, 0, 0)):
        return
    if here.version == ours.version:
        raise _taken(release, remote)
    raise VersionExists(
        f"{release.repo} is at {here.version} already, and {ours.version} would be earlier.",
        f"make your version again as the next: --version {_free(release, remote)}",
    )


def _taken(release: Release, remote: Remote) -> VersionExists:
    free = _free(release, remote)
    return VersionExists(
        f"{release.repo}@{release.tag} is published with other content; a published version never changes.",
        f"the next free version is {free}: make yours again with --version {free}, and push that",
    )


def _free(release: Release, remote: Remote) -> str:
    """The number that this content would have as the repository's next version."""
    number = versions.following(remote.manifest, release.manifest)
    while versions.spelled(number) in remote.tags:
        number = (number[0], number[1] + 1, 0)
    return versions.spelled(number)


def _check_strays(release: Release, remote: Remote, mine: set[str]) -> None:
    """Parquet that no manifest lists, where `load_dataset` would read it together with ours."""
    for config, splits in release.manifest.configs.items():
        for split in splits:
            shape = re.compile(rf"{re.escape(config)}/{re.escape(split)}-.*\.parquet")
            strays = [p for p in remote.tree if shape.fullmatch(p) and p not in mine and p not in release.files]
            if strays:
                raise HubError(
                    f"{release.repo} holds {strays[0]}, which no manifest lists and load_dataset would mix with yours.",
                    "remove or rename it there, or push to another repository with --repo",
                )


def _there(remote: RemoteFile | None, content: Content) -> bool:
    """Is this content in the repository already?"""
    if remote is None or remote.size != content.size:
        return False
    return remote.sha256 == content.sha256 if remote.sha256 else remote.oid == git_oid(content.data)
