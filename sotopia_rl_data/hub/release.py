"""What a release consists of: the version's own files, its manifest as it is published, the card.

Nothing is uploaded that is not named here. The published manifest says the repository's name and no path of this
machine; its digest is the version's, which covers neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import HubError, StoreError
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.hub import leaks
from sotopia_rl_data.schema import DataFile, Manifest
from sotopia_rl_data.store import Version, readme
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.parts import read_parquet
from sotopia_rl_data.store.readme import Card

LEDGER = "ledger"  # the folder of the calls, and their key in the provenance


@dataclass(frozen=True, slots=True)
class Content:
    """A file of the release: at `source` on this machine, or these bytes."""

    source: Path | bytes
    size: int
    sha256: str

    @property
    def data(self) -> bytes:
        """All of it: for what is small."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True, slots=True)
class Release:
    """`files` are the large ones by their path in the repository: Parquet, pictures, calls. The card's text depends on
    what people wrote in the one that is there, so it is not among them."""

    repo: str
    manifest: Manifest
    card: Card
    files: Mapping[str, Content]

    @property
    def tag(self) -> str:
        """`v1.2.0`."""
        return self.manifest.version

    @property
    def title(self) -> str:
        """Of the commit and of the pull request: what a later run finds them by."""
        return f"Release {self.tag}"

    @property
    def text(self) -> str:
        """manifest.json."""
        return manifests.dump(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of all large files."""
        return sum(file.size for file in self.files.values())


def release(version: Version, repo: str, card: Card, calls: Mapping[str, Path] | None = None) -> Release:
    """What `version` is as a release of `repo`. `calls` are the files of a redacted ledger, by path.

    Raises HubError where the recipe, which the digest covers, names a path of this machine.
    """
    if leaks.without_paths(dict(version.manifest.recipe)) != version.manifest.recipe:
        raise HubError(
            f"The recipe of {version.ref} names a path of this machine.",
            "label again with the plug-in or template named by a relative path: `label` asks nothing twice",
        )
    files = {
        file.path: Content(version.dir / file.path, file.size, file.sha256) for file in listed_files(version.manifest)
    }
    files |= {path: Content(data, len(data), hashlib.sha256(data).hexdigest()) for path, data in card.pictures.items()}
    ledger = {path: _content(source) for path, source in (calls or {}).items()}
    provenance: dict[str, Any] = leaks.without_paths(dict(version.manifest.provenance))
    provenance.pop(LEDGER, None)
    if ledger:
        provenance[LEDGER] = [{"path": path, "size": one.size, "sha256": one.sha256} for path, one in ledger.items()]
    card = replace(card, block=leaks.without_paths(card.block))
    return Release(repo, replace(version.manifest, name=repo, provenance=provenance), card, files | ledger)


def inspect(version: Version, calls: Mapping[str, Path], on_bytes: Callable[[int], None]) -> list[leaks.Leak]:
    """Check every file of the version against its manifest and search it, and the calls, for leaks.

    `on_bytes` hears how many bytes were read since the last call. Raises StoreError where a file is damaged.
    """
    for file in listed_files(version.manifest):
        path = version.dir / file.path
        if not path.is_file() or path.stat().st_size != file.size or file_sha256(path) != file.sha256:
            raise StoreError(
                f"{version.ref} is damaged: {file.path} is not what its manifest lists.",
                f"sotopia-rl-data verify {version.ref}",
            )
    provenance = json.dumps(version.manifest.provenance, ensure_ascii=False)
    recipe = json.dumps(version.manifest.recipe, ensure_ascii=False)
    found = leaks.in_text(provenance, "manifest.json, provenance") + leaks.in_text(recipe, "manifest.json, recipe")
    for name, source in calls.items():
        for rows in read_parquet(source):
            found += leaks.in_rows(rows, name, ("key",))
    return found + leaks.in_version(version, on_bytes)


def listed_files(manifest: Manifest) -> Iterator[DataFile]:
    """The Parquet files that a manifest lists."""
    for splits in manifest.configs.values():
        for one in splits.values():
            yield from one.files


def owned(manifest: Manifest | None, card: str) -> set[str]:
    """The paths that a release made in its repository, by its manifest and card: its successor removes them."""
    if manifest is None:
        return set()
    calls = manifest.provenance.get(LEDGER, [])
    return {f.path for f in listed_files(manifest)} | {str(c["path"]) for c in calls} | readme.pictures(card)


def git_oid(data: bytes) -> str:
    """What git calls a file with these bytes: how the Hub names what it does not keep as a large file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _content(path: Path) -> Content:
    return Content(path, path.stat().st_size, file_sha256(path))
