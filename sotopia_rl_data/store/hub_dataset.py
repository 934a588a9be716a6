"""A dataset of the Hub, to be read as a store in a bucket is: its releases, each pinned to the commit of its tag.

    hf://datasets/ORG/NAME               every release: what the tags vX.Y.Z stand for
    hf://datasets/ORG/NAME@v1.2.0        one of them, and so is @COMMIT

    ORG/NAME/v1.2.0/manifest.json  README.md  .hub.json        as they are in that commit
    .files/SHA256                                              a file that one of these manifests lists

Files are read by ranges through huggingface_hub's HfFileSystem; address, token and their settings are its own. Leaves
out writing: what the Hub has is released there by `push-to-hub`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sotopia_rl_data.errors import HubError, NotFound, StoreError, UsageError
from sotopia_rl_data.refs import DatasetRef, parse
from sotopia_rl_data.schema import Manifest
from sotopia_rl_data.secrets import without_credentials
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.bucket import Object, write_ranges
from sotopia_rl_data.store.digest import version_digest
from sotopia_rl_data.store.versions import HUB_FILE, Published, number

if TYPE_CHECKING:
    from huggingface_hub import HfFileSystem

_ADDRESS = re.compile(r"hf:/+datasets/(.*)", re.DOTALL | re.IGNORECASE)
_README, _MOST_README = "README.md", 2_000_000
_TIMEOUT_S = 20.0


class HubDataset:
    """The releases of one dataset. Every call raises HubError where the Hub refuses, HubUnavailable where it is
    away."""

    def __init__(self, address: str) -> None:
        """Reads the address only. Raises UsageError where it names no dataset."""
        found = _ADDRESS.fullmatch(address)
        try:
            ref = parse(found[1].rstrip("/")) if found else DatasetRef()
        except UsageError:
            ref = DatasetRef()
        if "/" not in ref.name:
            raise UsageError(
                "What follows hf:// is not a dataset of the Hub.",
                "write hf://datasets/ORG/NAME, or one release of it: hf://datasets/ORG/NAME@v1.0.0",
            )
        self._ref, self._repo = ref, ref.name
        self.address = f"hf://datasets/{ref}"
        self._commits: dict[str, str] = {}  # version -> commit, the newest version first
        self._manifests: dict[str, Manifest] = {}  # by commit
        self._one_reads = threading.Lock()

    def __repr__(self) -> str:
        return f"HubDataset({self.address!r})"

    @property
    def endpoint(self) -> str:
        """The Hub's address."""
        from huggingface_hub import constants

        return without_credentials(constants.ENDPOINT)

    @property
    def folder_name(self) -> str:
        """The name of a folder on this machine for what is there: another for each Hub, dataset and pin."""
        mark = hashlib.sha256(f"{self.endpoint} {self.address}".encode()).hexdigest()[:16]
        return f"{self._repo.replace('/', '--')}-{mark}"

    def address_of(self, name: str, version: str) -> str:
        """Where a version is."""
        return f"hf://datasets/{name}@{version}"

    def list(self, below: str = "", after: str = "") -> Iterator[Object]:
        """What lies beside the rows of each release. Raises NotFound where there is no such dataset or release."""
        self._commits = self._releases()
        for version, commit in self._commits.items():
            for beside in (manifests.FILE_NAME, _README, HUB_FILE):
                yield Object(f"{self._repo}/{version}/{beside}", 0, commit)

    def read(self, key: str, most: int = _MOST_README) -> tuple[bytes, str]:
        """A small object and its mark, the commit. Raises FileNotFoundError."""
        version, _, beside = key.removeprefix(f"{self._repo}/").partition("/")
        commit = self._commits[version]
        if beside == manifests.FILE_NAME:
            return manifests.dump(self._manifest(version)).encode(), commit
        if beside == HUB_FILE:
            published = Published(self._repo, version, (commit,), self.endpoint)
            return (json.dumps(asdict(published), indent=1) + "\n").encode(), commit
        return self._small(commit, beside, most), commit

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes of a file. Raises FileNotFoundError."""
        return self._range(self._place(key), start, length)

    def size(self, key: str) -> int | None:
        """How many bytes a file has; None where it is missing."""
        try:
            with self._calling() as files:
                return int(files.info(self._place(key))["size"])
        except FileNotFoundError:
            return None

    def download(self, key: str, size: int, path: Path) -> str:
        """Write a file's first `size` bytes to a new file; returns their SHA-256. Raises FileNotFoundError."""
        return write_ranges(partial(self.read_range, key), size, path)

    @contextmanager
    def _calling(self) -> Iterator[HfFileSystem]:
        """huggingface_hub's file system; its errors become ours, but for that of a missing file."""
        from huggingface_hub import HfFileSystem

        from sotopia_rl_data.store.hub_errors import hub_errors

        missing = None
        with hub_errors(self._repo, "dataset", f"{self.endpoint}/datasets/{self._repo}", self.endpoint):
            try:
                yield HfFileSystem()  # one for each thread, which remembers what a commit has
            except FileNotFoundError as error:
                missing = error
        if missing is not None:
            raise missing

    def _releases(self) -> dict[str, str]:
        """The commit of each release that the address names, by version."""
        from huggingface_hub import HfApi

        api = HfApi(library_name="sotopia-rl-data")
        with self._calling():
            if self._ref.commit:
                kind, commit = "dataset", self._ref.commit
                sha = str(api.repo_info(self._repo, repo_type=kind, revision=commit, timeout=_TIMEOUT_S).sha)
                try:
                    return {self._parsed(sha).version: sha}
                except FileNotFoundError:
                    raise self._no_release(commit) from None
            refs = api.list_repo_refs(self._repo, repo_type="dataset")
        tags = {tag.name: tag.target_commit for tag in refs.tags if number(tag.name)}
        tags = {name: commit for name, commit in tags.items() if self._ref.version in (None, name)}
        if not tags:
            raise self._no_release(self._ref.version or "vX.Y.Z")
        return {name: tags[name] for name in sorted(tags, key=lambda name: number(name) or (0, 0, 0), reverse=True)}

    def _no_release(self, which: str) -> NotFound:
        return NotFound(
            f"{self._repo} has no release {which} on the Hub.",
            f"see {self.endpoint}/datasets/{self._repo}; a dataset that this program did not release is imported by "
            f"`sotopia-rl-data pull {self._repo}`",
        )

    def _manifest(self, version: str) -> Manifest:
        """The manifest of a release, under the dataset's name. Raises FileNotFoundError, StoreError, and HubError where
        it contradicts itself or its tag."""
        commit = self._commits[version]
        manifest = self._parsed(commit)
        digest = version_digest(manifests.split_digests(manifest.configs), manifest.recipe)
        if digest != manifest.digest or manifest.version != version:
            raise HubError(
                f"{self._repo}@{version} on the Hub ({commit[:8]}) has a manifest that contradicts itself or its tag: "
                "it was overwritten by hand.",
                f"name another release, as in hf://datasets/{self._repo}@v1.0.0, or ask its publisher",
            )
        return replace(manifest, name=self._repo)

    def _parsed(self, commit: str) -> Manifest:
        from sotopia_rl_data.store.fields import MOST_BYTES

        with self._one_reads:
            if commit not in self._manifests:
                text = self._small(commit, manifests.FILE_NAME, MOST_BYTES)
                self._manifests[commit] = manifests.parse(text, f"{self._repo}@{commit[:8]}")
            return self._manifests[commit]

    def _place(self, key: str) -> str:
        """Where HfFileSystem finds the file of this SHA-256: in the newest release that lists it. Raises
        FileNotFoundError."""
        sha256 = key.rpartition("/")[2]
        for version, commit in self._commits.items():
            for file in manifests.listed_files(self._manifest(version)):
                if file.sha256 == sha256:
                    return self._path(commit, file.path)
        raise FileNotFoundError(key)

    def _path(self, commit: str, path: str) -> str:
        return f"datasets/{self._repo}@{commit}/{path}"

    def _small(self, commit: str, path: str, most: int) -> bytes:
        with self._calling() as files:
            size = int(files.info(self._path(commit, path))["size"])
        if size > most:
            raise StoreError(
                f"{path} of {self._repo} has more than {most:,} bytes.", "name another release, or ask its publisher"
            )
        return self._range(self._path(commit, path), 0, size)

    def _range(self, path: str, start: int, length: int) -> bytes:
        if not length:
            return b""
        with self._calling() as files:
            return bytes(files.cat_file(path, start, start + length, cache_type="none"))
