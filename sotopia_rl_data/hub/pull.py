"""A release of the Hub becomes a version of the store, if it is what it says: its manifest, its files, their rows.

Nothing of a release decides where a file is written: files of other names than a version has are never asked for. The
result is an ordinary version directory: later reads need no network, and cannot get another revision by accident.
Files that a version of the store has already are linked, not downloaded. Downloads go through huggingface_hub's cache
(an interrupted download continues where it stopped) and are linked from there.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from sotopia_rl_data.errors import HubError, NotFound, VersionExists
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.hub.client import Hub
from sotopia_rl_data.locks import LockedFolder
from sotopia_rl_data.refs import DatasetRef
from sotopia_rl_data.rewards import trajectories
from sotopia_rl_data.schema import DataFile, Manifest
from sotopia_rl_data.store import Store, Version, load, readme, versions
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.columns import odd_columns
from sotopia_rl_data.store.digest import version_digest
from sotopia_rl_data.store.disk import link_or_copy, storing, sync_file, write_text
from sotopia_rl_data.store.stage import place
from sotopia_rl_data.store.verify import contents
from sotopia_rl_data.store.versions import note_published

log = logging.getLogger(__name__)

_MOST_CARD, _MOST_PICTURE = 2_000_000, 20_000_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Pulled:
    """The version in the store, the commit it was pulled from, and whether it is new in the store.

    Of its files, `linked` were in the store already; `downloaded` came from the Hub, or from huggingface_hub's cache.
    """

    version: Version
    commit: str
    created: bool
    downloaded: int = 0
    linked: int = 0


def revision_of(hub: Hub, ref: DatasetRef) -> str:
    """The commit that `ref` names: that of its tag, a commit itself, or the newest of `main`. Raises NotFound."""
    if ref.version is None:
        return hub.commit_of(ref.name, ref.commit or "main")
    tags = hub.tags(ref.name)
    if ref.version not in tags:
        known = sorted((tag for tag in tags if versions.number(tag)), key=lambda tag: versions.number(tag) or (0, 0, 0))
        raise NotFound(
            f"{ref.name} has no {ref.version} on the Hub; it has {', '.join(known) or 'no version'}.",
            f"name one of them: {ref.name}@{known[-1]}" if known else f"sotopia-rl-data pull {ref.name}",
        )
    return tags[ref.version]


def pull(
    store: Store, ref: DatasetRef, hub: Hub, commit: str, published: Manifest, progress: Progress | None = None
) -> Pulled:
    """Bring the release in `commit` into the store. `published` is its manifest, see `release.manifest_at`.

    `progress(done, total)` is called in bytes. Raises HubError where the files are not what the manifest lists,
    VersionExists where the store has other content under this number, StoreError where the disk is full. After any
    error the store is unchanged.
    """
    manifest = replace(published, name=ref.name)
    _check(ref, commit, manifest)
    if manifest.version in store.versions(ref.name):
        return Pulled(_already(store, ref, hub, commit, manifest), commit, False)
    with storing(store.root):
        staging = LockedFolder(store.root / ".staging", ref.name.replace("/", "--"))
    try:
        fetching = _Fetching(store, hub, ref.name, commit, staging.dir, progress or (lambda done, total: None))
        with storing(store.root):
            fetching.files(manifest)
            fetching.check(manifest)
            fetching.card(manifest)
            write_text(staging.dir / manifests.FILE_NAME, manifests.dump(manifest))
            note_published(staging.dir, hub.published(ref.name, manifest.version, commit))
            placed = place(staging.dir, store.root, manifest, store.mirror)
    finally:
        staging.release()
    if placed is None:  # another process has placed this version meanwhile
        return Pulled(_already(store, ref, hub, commit, manifest), commit, False)
    return Pulled(load(placed, store.mirror), commit, True, fetching.downloaded, fetching.linked)


def _check(ref: DatasetRef, commit: str, manifest: Manifest) -> None:
    """Raises HubError where the manifest contradicts itself, or is not that of the pinned version."""
    digest = version_digest(manifests.split_digests(manifest.configs), manifest.recipe)
    whole = digest == manifest.digest
    if not whole or (ref.version and manifest.version != ref.version):
        problem = f"says {manifest.version}" if whole else "contradicts itself"
        raise HubError(
            f"{ref} on the Hub ({commit[:8]}) has a manifest that {problem}: it was overwritten by hand.",
            "pin another version, or ask its publisher",
        )


def _already(store: Store, ref: DatasetRef, hub: Hub, commit: str, manifest: Manifest) -> Version:
    """The store's version of this number. Raises VersionExists where its content differs."""
    own = store.version(ref.name, manifest.version)
    if own.digest != manifest.digest:
        raise VersionExists(
            f"The store's {own.ref} differs from the one on the Hub (commit {commit[:8]}).",
            f"pull it into another store with --store, or move {own.dir} away",
        )
    note_published(own.dir, hub.published(ref.name, manifest.version, commit))
    own.keep_notes()
    return own


class _Fetching:
    """Fills a folder with the files of one commit."""

    def __init__(self, store: Store, hub: Hub, repo: str, commit: str, into: Path, progress: Progress) -> None:
        self._store, self._hub, self._repo, self._commit = store, hub, repo, commit
        self._into, self._progress = into, progress
        self._tree = hub.tree(repo, commit)
        self.downloaded = self.linked = 0

    def files(self, manifest: Manifest) -> None:
        """Every file of the manifest, checked. Raises HubError where one is not what the manifest lists."""
        known: dict[tuple[str, int], Path] = {}  # the store's files of other versions of the same name
        for version in self._store.history(manifest.name)[0]:
            listed = manifests.listed_files(version.manifest)
            known |= {(file.sha256, file.size): version.dir / file.path for file in listed}
        files = list(manifests.listed_files(manifest))
        total, done = sum(file.size for file in files), 0
        if total > shutil.disk_usage(self._into).free:
            raise self._wrong(f"its files have {total:,} bytes, and the store's disk has less room than that")
        for file in files:
            target = self._into / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self._linked(known.get((file.sha256, file.size)), file, target):
                self._download(file, target)
            target.chmod(0o444)
            sync_file(target)
            done += file.size
            self._progress(done, total)

    def _linked(self, source: Path | None, file: DataFile, target: Path) -> bool:
        """Link the file from a version of the store, if it is undamaged there."""
        if source is None or not source.is_file() or file_sha256(source) != file.sha256:
            return False
        link_or_copy(source, target)
        self.linked += 1
        return True

    def _download(self, file: DataFile, target: Path) -> None:
        """Take the file from the cache or the Hub, and again from the Hub where the cached file is damaged."""
        there = self._tree.get(file.path)
        if there is None:
            raise self._wrong(f"{file.path} is missing")
        if there.size != file.size:  # the Hub may have more than the disk can hold
            raise self._wrong(f"{file.path} has other bytes than its manifest lists")
        for again in (False, True):
            source = self._hub.file(self._repo, file.path, self._commit, again, most=file.size).resolve()
            if source.stat().st_size == file.size and file_sha256(source) == file.sha256:
                link_or_copy(source, target)
                self.downloaded += 1
                log.info("downloaded %s of %s, %d bytes", file.path, self._repo, file.size)
                return
        raise self._wrong(f"{file.path} has other bytes than its manifest lists")

    def _check_size(self, path: str, most: int) -> None:
        if path in self._tree and self._tree[path].size > most:
            raise self._wrong(f"{path} has more than {most:,} bytes")

    def check(self, manifest: Manifest) -> None:
        """Raises HubError where the rows are not what the manifest says, or no reader could use them."""
        odd = ((config, odd_columns(config, columns)) for config, columns in manifest.columns.items())
        problems = [f"{config}: {problem}" for config, problem in odd if problem]
        version = Version(self._into, manifest)
        problems = problems or list(islice(contents(version), 3)) or list(islice(trajectories.problems(version), 3))
        if problems:
            raise self._wrong("; ".join(problems))

    def _wrong(self, problem: str) -> HubError:
        return HubError(
            f"{self._repo} at commit {self._commit[:8]}: {problem}; nothing of it was kept.",
            "try again; if the error stays, its publisher has to make a new version",
        )

    def card(self, manifest: Manifest) -> None:
        """README.md as published, with its pictures; the store's own where it would mislead `load_dataset`."""
        self._check_size(readme.FILE_NAME, _MOST_CARD)
        text = self._hub.text(self._repo, readme.FILE_NAME, self._commit) or ""
        front, _ = readme.split_front(text)
        if front.get("configs") != readme.data_files(manifest.configs):
            text = readme.render(manifest, text)
        for path in sorted(readme.pictures(text)):
            if path not in self._tree:
                continue  # a missing picture is shown as its caption
            self._check_size(path, _MOST_PICTURE)
            source = self._hub.file(self._repo, path, self._commit, most=_MOST_PICTURE)
            (self._into / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, self._into / path)
        write_text(self._into / readme.FILE_NAME, text)
