"""A dataset of the Hub, to be read as a store in a bucket is: its releases, each pinned to the commit of its tag.

    hf://datasets/ORG/NAME               every release: what the tags vX.Y.Z stand for
    hf://datasets/ORG/NAME@v1.2.0        one of them, and so is @COMMIT

    ORG/NAME/v1.2.0/manifest.json  README.md  .hub.json        as they are in that commit
                  /rewards/train-00000-of-00001.parquet  …     and a file that its manifest lists

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

from sotopia_rl_data.errors import NotFound, StoreError, UsageError
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

    @property
    def manifest_hint(self) -> str:
        """What to do about a release whose manifest is damaged."""
        return f"ask its publisher; the others: sotopia-rl-data log {self._repo} --store hf://datasets/{self._repo}"

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
        """A small object and its mark, the commit. Raises FileNotFoundError, also for one that has more than `most`
        bytes."""
        version, _, beside = key.removeprefix(f"{self._repo}/").partition("/")
        commit = self._commits[version]
        if beside == manifests.FILE_NAME:
            try:
                return manifests.dump(replace(self._manifest(commit), name=self._repo)).encode(), commit
            except StoreError:  # it is shown as it is, so that whoever reads this release is told
                return self._manifest_text(commit), commit
        if beside == HUB_FILE:
            published = Published(self._repo, version, (commit,), self.endpoint)
            return (json.dumps(asdict(published), indent=1) + "\n").encode(), commit
        data = self._beginning(commit, beside, most + 1)
        if len(data) > most:
            raise FileNotFoundError(key)
        return data, commit

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
                commit = self._ref.commit
                sha = str(api.dataset_info(self._repo, revision=commit, timeout=_TIMEOUT_S, expand=["sha"]).sha)
                try:
                    return {self._manifest(sha).version: sha}
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
            f"`sotopia-rl-data pull {self._repo} --store ./store`",
        )

    def contradicts(self, manifest: Manifest) -> bool:
        """Whether a manifest has another digest than follows from it: on the Hub, files may be overwritten by hand."""
        return version_digest(manifests.split_digests(manifest.configs), manifest.recipe) != manifest.digest

    def _manifest(self, commit: str) -> Manifest:
        """The manifest in a commit. Raises FileNotFoundError, and StoreError where it is damaged."""
        with self._one_reads:
            if commit not in self._manifests:
                text = self._manifest_text(commit)
                where = f"{self.address_of(self._repo, commit[:8])}/{manifests.FILE_NAME}"
                self._manifests[commit] = manifests.parse(text, where, self.manifest_hint)
            return self._manifests[commit]

    def _manifest_text(self, commit: str) -> bytes:
        from sotopia_rl_data.store.fields import MOST_BYTES

        return self._beginning(commit, manifests.FILE_NAME, MOST_BYTES + 1)

    def _place(self, key: str) -> str:
        """Where HfFileSystem finds an object."""
        version, _, path = key.removeprefix(f"{self._repo}/").partition("/")
        return self._path(self._commits[version], path)

    def _path(self, commit: str, path: str) -> str:
        return f"datasets/{self._repo}@{commit}/{path}"

    def _beginning(self, commit: str, path: str, most: int) -> bytes:
        """The first `most` bytes of a file. Raises FileNotFoundError."""
        with self._calling() as files:
            size = int(files.info(self._path(commit, path))["size"])
        return self._range(self._path(commit, path), 0, min(size, most))

    def _range(self, path: str, start: int, length: int) -> bytes:
        if not length:
            return b""
        with self._calling() as files:
            return bytes(files.cat_file(path, start, start + length, cache_type="none"))
