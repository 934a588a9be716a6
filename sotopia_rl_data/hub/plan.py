"""What a push would do: the repository as it is, the release, and the steps from one to the other.

Planning only reads (GET and HEAD). It is repeated after every fault, so that a commit whose response was lost is found,
and another writer's commit is taken into account.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sotopia_rl_data.errors import HubError, VersionExists
from sotopia_rl_data.hub.client import Hub, RemoteFile
from sotopia_rl_data.hub.release import Claim, Release, claim_at, manifest_at, owned
from sotopia_rl_data.schema import Manifest
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store import readme, versions

_GIT_OWN = frozenset({".gitattributes"})  # the Hub's list of large files
_RESULTS = ".eval_results/"  # of a model: figures on benchmarks, which anybody may add
EVAL_RESULTS = f"{_RESULTS}sotopia-rl-data.yaml"


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository at the `head` of `main` (None: the repository or its first commit does not exist).

    `claim` is what its record says; `owned` are the paths that a release made and the next release may remove.
    `manifest` is None except for a dataset.
    """

    head: str | None
    tree: Mapping[str, RemoteFile]
    tags: Mapping[str, str]
    claim: Claim | None
    card: str
    owned: frozenset[str] = frozenset()
    manifest: Manifest | None = None


NOTHING = Remote(None, {}, {}, None, "")


@dataclass(frozen=True, slots=True)
class ReleasePlan:
    """The steps from `remote` to the release: paths to add, to delete, and unchanged ones; and the card's new text.

    `published` is the commit that has this content and a tag already, so that nothing is left to do. `untagged` says
    that `main` has the release without a tag: an earlier run was stopped between the two.
    """

    remote: Remote
    adds: tuple[str, ...]
    deletes: tuple[str, ...]
    unchanged: tuple[str, ...]
    card: str
    published: str | None = None
    published_as: str = ""
    untagged: bool = False

    @property
    def operations(self) -> int:
        """How many files a commit would name."""
        return len(self.adds) + len(self.deletes) + 2


def look(hub: Hub, repo: str, record: str) -> Remote:
    """The repository as it is now. `record` is the file in which a release of its kind says what it is."""
    head = hub.head(repo)
    if head is None:
        return NOTHING
    tree = hub.tree(repo, head)
    card = (hub.text(repo, readme.FILE_NAME, head) or "") if readme.FILE_NAME in tree else ""
    if record != manifests.FILE_NAME:
        claim = claim_at(hub, repo, head, record) if record in tree else None
        others = {path for path in tree if path.startswith(_RESULTS) and path != EVAL_RESULTS}
        return Remote(
            head, tree, hub.tags(repo), claim, card, frozenset(tree) - {record, readme.FILE_NAME} - _GIT_OWN - others
        )
    manifest = manifest_at(hub, repo, head) if record in tree else None
    claim = Claim(manifest.version, manifest.digest) if manifest else None
    return Remote(head, tree, hub.tags(repo), claim, card, owned(manifest, card), manifest)


def plan(hub: Hub, release: Release, remote: Remote, own_card: str) -> ReleasePlan:
    """The steps from `remote` to `release`. `own_card` is the store's README: its text by people is used until the
    repository has a README.

    Raises VersionExists where the version is published with other content or a later one is, HubError where `main` has
    data that no manifest lists.
    """
    card = readme.merge(release.card, remote.card or own_card)
    published = _published(hub, release, remote)
    if published is not None:
        return ReleasePlan(remote, (), (), tuple(release.files), card, *published)
    if remote.claim == release.claim:
        return ReleasePlan(remote, (), (), tuple(release.files), card, untagged=True)
    _check_order(release, remote)
    _check_strays(release, remote)
    adds = tuple(path for path, content in release.files.items() if not content.is_in(remote.tree.get(path)))
    deletes = tuple(sorted(path for path in remote.owned - release.files.keys() if path in remote.tree))
    unchanged = tuple(path for path in release.files if path not in adds)
    return ReleasePlan(remote, adds, deletes, unchanged, card)


def next_number(tags: Iterable[str]) -> str:
    """The version that follows the newest of these tags: v1.0.0 where none is a version, else the next minor."""
    newest = max((number for number in map(versions.number, tags) if number), default=None)
    return versions.spelled((newest[0], newest[1] + 1, 0) if newest else versions.FIRST)


def _published(hub: Hub, release: Release, remote: Remote) -> tuple[str, str] | None:
    """The commit and tag that have this content already. Raises VersionExists where the tag has other content."""
    tagged = remote.tags.get(release.version)
    if tagged is not None:
        if claim_at(hub, release.repo, tagged, release.record) == release.claim:
            return tagged, release.version
        raise _taken(release, remote)
    here = remote.claim
    if here is not None and here.digest == release.digest and here.version in remote.tags:
        return remote.tags[here.version], here.version
    return None


def _check_order(release: Release, remote: Remote) -> None:
    """Raises VersionExists where `main` has a later release, or another one of the same number."""
    here, own = remote.claim, release.version
    if here is None or (versions.number(here.version) or (0, 0, 0)) < (versions.number(own) or (0, 0, 0)):
        return
    if here.version == own:
        raise _taken(release, remote)
    raise VersionExists(
        f"{release.repo} already has {here.version}, which is later than {own}.",
        f"make your version again as the next: --version {_free(release, remote)}",
    )


def _taken(release: Release, remote: Remote) -> VersionExists:
    free = _free(release, remote)
    hint = f"the next free version is {free}"
    if release.manifest is not None:
        hint += f": make yours again with --version {free}, and push that"
    return VersionExists(
        f"{release.repo}@{release.version} is published with other content; a published version never changes.", hint
    )


def _free(release: Release, remote: Remote) -> str:
    """The number that this content would have as the repository's next version."""
    if release.manifest is None:
        return next_number(remote.tags)
    number = versions.following(remote.manifest, release.manifest)
    while versions.spelled(number) in remote.tags:
        number = (number[0], number[1] + 1, 0)
    return versions.spelled(number)


def _check_strays(release: Release, remote: Remote) -> None:
    """Raises HubError where Parquet that no manifest lists would be loaded together with the release's."""
    configs = release.manifest.configs if release.manifest else {}
    for config, splits in configs.items():
        for split in splits:
            shape = re.compile(rf"{re.escape(config)}/{re.escape(split)}-.*\.parquet")
            known = remote.owned | release.files.keys()
            strays = [path for path in remote.tree if shape.fullmatch(path) and path not in known]
            if strays:
                raise HubError(
                    f"{release.repo} has {strays[0]}, which no manifest lists; load_dataset would mix its rows with "
                    "yours.",
                    "remove or rename it there, or push to another repository with --repo",
                )
