"""A store in a bucket, seen through a folder on this machine that is laid out as a local store.

    s3://BUCKET/PREFIX/ORG/NAME/v1.2.0/manifest.json  README.md     a version is there with its manifest
                      /.files/SHA256                                every file of every version, once

    CACHE/stores/BUCKET-…/ORG/NAME/v1.2.0/…                         what this machine has seen of it
    CACHE/files/SHA256                                              what it has read, checked once

This is the whole difference between the two kinds of store. A rename makes a local version visible; here its manifest
does, which is written last and only where there is none. Nothing of a writer that lost or was killed is under the name
of a version: files lie under their hashes, so two writers never write different bytes to one key, and a file that
another version has is not sent again. The README is written after the manifest, of which it is made where it is
missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from sotopia_rl_data.errors import StoreError, UsageError
from sotopia_rl_data.locks import LockedFolder, open_lock, wait
from sotopia_rl_data.refs import can_name
from sotopia_rl_data.schema import DataFile, Manifest
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.bucket import Bucket, Object
from sotopia_rl_data.store.disk import replace_file, storing
from sotopia_rl_data.store.fields import MOST_BYTES
from sotopia_rl_data.store.hub_dataset import HubDataset
from sotopia_rl_data.store.versions import Version, number

CACHE = "SOTOPIA_RL_DATA_CACHE"
FILES = ".files"
_MARKS = ".objects.json"  # in a version's folder: the mark of each object that was copied there
# README.md, pictures, where it is published: nothing else hidden, no way up, no file that could be a folder too
_BESIDE = re.compile(r"(?!.*\.parquet$|.{200})(([\w-]+/)?[\w-]+\.[\w.-]+|\.hub\.json)", re.ASCII)
_MOST_BESIDE = 16 << 20  # bytes of a README or a picture that is shown
_AT_ONCE = 8


def cache_folder() -> Path:
    """Where copies of what buckets hold are kept: SOTOPIA_RL_DATA_CACHE, else `sotopia-rl-data` in the user's cache.
    All of it can be fetched again."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named).absolute()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(home):  # where nobody knows the home folder, ~ stays
        raise StoreError(
            "There is no folder for a cache: the home folder is not known.", f"name one: export {CACHE}=DIR"
        )
    return Path(home) / "sotopia-rl-data"


def mirror_of(address: str | os.PathLike[str]) -> Mirror:
    """The store at an address. Raises UsageError where there can be none."""
    text = os.fspath(address)
    return Mirror(HubDataset(text) if text.lower().startswith("hf:") else Bucket(text))


class Mirror:
    """The store in a bucket, or the releases of a dataset of the Hub; `root` is the folder that shows it."""

    def __init__(self, bucket: Bucket | HubDataset) -> None:
        cache = cache_folder()
        self.bucket, self.root, self._files = bucket, cache / "stores" / bucket.folder_name, cache / "files"

    def writable(self) -> Bucket:
        """The bucket, to be written. Raises UsageError for a dataset of the Hub."""
        if isinstance(self.bucket, HubDataset):
            raise UsageError(
                f"The store {self.bucket.address} can only be read.",
                "write to another, with --store DIR: there this dataset is read by its name too, and "
                "`sotopia-rl-data push-to-hub` publishes from there",
            )
        return self.bucket

    def refresh(self, name: str = "") -> None:
        """Make `root` show the versions that the bucket has now, of one dataset or of all: no other, and each with its
        manifest. Raises StoreError."""
        with self._locked():
            there = self._versions(name)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda path: self._show(path, there[path]), there))
            for folder in self._shown(name):
                if folder.relative_to(self.root).as_posix() not in there:
                    shutil.rmtree(folder, ignore_errors=True)

    def manifest(self, folder: Path) -> Manifest:
        """The manifest of a version that `root` shows. Raises StoreError where it is damaged, or another's."""
        name, _, version = folder.relative_to(self.root).as_posix().rpartition("/")
        where, hint = f"{self.bucket.address_of(name, version)}/{manifests.FILE_NAME}", self.bucket.manifest_hint
        manifest = manifests.load(folder, where, hint)
        if manifest.version != version:
            raise StoreError(f"The manifest {where} is that of {manifest.version}.", hint)
        if isinstance(self.bucket, HubDataset) and self.bucket.contradicts(manifest):
            raise StoreError(
                f"The manifest {where} contradicts itself: its digest is not that of what it lists, so it was "
                "overwritten by hand.",
                hint,
            )
        return manifest

    def fetch(self, version: Version, files: Iterable[DataFile]) -> None:
        """Put files of a version into its folder, from the cache or else the bucket. Raises StoreError where one is not
        what the manifest lists."""
        missing = [file for file in files if not (version.dir / file.path).is_file()]
        with self._storing(), ThreadPoolExecutor(_AT_ONCE) as pool:
            for file, cached in zip(missing, pool.map(lambda one: self._cached(version, one), missing), strict=True):
                target = version.dir / file.path
                target.parent.mkdir(exist_ok=True)
                with suppress(FileExistsError):  # another process was faster
                    os.link(cached, target)

    def publish(self, folder: Path, manifest: Manifest) -> Path | None:
        """Make the finished `folder` the version that `manifest` describes: its files first, the manifest last.

        None where another writer took the number first. Raises StoreError; then the bucket has no new version.
        """
        bucket = self.writable()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda file: self._send(folder / file.path, file), manifests.listed_files(manifest)))
        path = f"{manifest.name}/{manifest.version}"
        if not bucket.create(f"{path}/{manifests.FILE_NAME}", (folder / manifests.FILE_NAME).read_bytes()):
            return None
        self.keep_notes(path, folder)
        for file in manifests.listed_files(manifest):
            with self._storing(), suppress(FileExistsError):
                self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.link(folder / file.path, self._files / file.sha256)
        self.refresh(manifest.name)
        return self.root / path

    def keep_notes(self, path: str, folder: Path) -> None:
        """Write what lies beside a version's manifest and rows (its README, pictures, where it was published) to the
        bucket, in the place of what was there."""
        bucket = self.writable()
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            beside = file.relative_to(folder).as_posix()
            if _BESIDE.fullmatch(beside) and beside not in (manifests.FILE_NAME, _MARKS):
                bucket.write(f"{path}/{beside}", file.read_bytes())

    @contextmanager
    def copied(self, version: Version) -> Iterator[Version]:
        """A version as the bucket has it now, nothing of it from the cache and nothing checked, in a folder of its
        own."""
        with self._storing():
            scratch = LockedFolder(self.root / ".staging", "copy")
        try:
            for beside in (manifests.FILE_NAME, "README.md"):
                with suppress(FileNotFoundError):
                    (scratch.dir / beside).write_bytes(
                        self.bucket.read(f"{version.name}/{version.version}/{beside}")[0]
                    )
            copy = Version(scratch.dir, manifests.load(scratch.dir))
            if not (scratch.dir / "README.md").exists():
                _write_readme(scratch.dir, copy.manifest)
            with self._storing():
                for file in manifests.listed_files(copy.manifest):
                    target = scratch.dir / file.path
                    target.parent.mkdir(exist_ok=True)
                    key = self._key(version, file)
                    size = self.bucket.size(key)
                    if size is not None:
                        self.bucket.download(key, size, target)
            yield copy
        finally:
            scratch.release()

    def held(self, file: DataFile) -> Path | None:
        """The cached copy of a file; None where there is none."""
        path = self._files / file.sha256
        return path if path.is_file() else None

    def read_range(self, version: Version, file: DataFile, start: int, length: int) -> bytes:
        """Bytes of a version's file, from the bucket. Raises FileNotFoundError, StoreError."""
        return self.bucket.read_range(self._key(version, file), start, length)

    def _key(self, version: Version, file: DataFile) -> str:
        """Where a version's file is. On the Hub each release has its own, so that a damaged one hides no other."""
        if isinstance(self.bucket, HubDataset):
            return f"{version.name}/{version.version}/{file.path}"
        return f"{FILES}/{file.sha256}"

    @contextmanager
    def _storing(self) -> Iterator[None]:
        with storing(self._files.parent, "cache", f"another with {CACHE}=DIR"):
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time lists the bucket and changes `root`, so that what another has shown stays."""
        with self._storing():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = open_lock(self.root / ".lock")
        try:
            wait(handle)
            yield
        finally:
            os.close(handle)

    def _versions(self, name: str) -> dict[str, dict[str, Object]]:
        """The objects of each version that has a manifest, by ORG/NAME/VERSION, and by their names in it."""
        found: dict[str, dict[str, Object]] = {}
        for one in self.bucket.list(name, after="" if name else ".~"):  # behind all that begins with a dot
            match = re.fullmatch(r"(?P<name>[^/]{1,200}(/[^/]{1,200})?)/(?P<version>v[0-9.]+)/(?P<beside>.+)", one.key)
            if (
                match
                and number(match["version"])
                and can_name(match["name"])
                and match["name"] == (name or match["name"])
            ):
                found.setdefault(f"{match['name']}/{match['version']}", {})[match["beside"]] = one
        return {path: objects for path, objects in found.items() if manifests.FILE_NAME in objects}

    def _shown(self, name: str) -> list[Path]:
        patterns = [f"{name}/v*"] if name else ["*/v*", "*/*/v*"]
        found = (path for pattern in patterns for path in self.root.glob(pattern))
        return [
            path for path in found if number(path.name) and not path.relative_to(self.root).as_posix().startswith(".")
        ]

    def _show(self, path: str, objects: dict[str, Object]) -> None:
        """Copy the manifest of a version and what lies beside it, as far as they have changed."""
        folder = self.root / path
        marks = _marks(folder)
        if marks.get(manifests.FILE_NAME) != objects[manifests.FILE_NAME].etag:
            shutil.rmtree(folder, ignore_errors=True)  # another version had this number before
            marks = {}
        wanted = {
            beside: one
            for beside, one in objects.items()
            if _BESIDE.fullmatch(beside) and (one.size <= _MOST_BESIDE or beside == manifests.FILE_NAME)
        }
        changed = [beside for beside, one in wanted.items() if marks.get(beside) != one.etag]
        if not changed:
            return
        with self._storing():
            folder.mkdir(parents=True, exist_ok=True)
            # the manifest is last: what has none is not a version
            for beside in sorted(changed, key=lambda name: name == manifests.FILE_NAME):
                try:
                    data, marks[beside] = self._shown_bytes(objects[beside])
                except FileNotFoundError:  # removed just now, or too large
                    if beside != manifests.FILE_NAME:
                        marks[beside] = objects[beside].etag
                    continue
                (folder / beside).parent.mkdir(exist_ok=True)
                if beside == manifests.FILE_NAME and not (folder / "README.md").exists():
                    with suppress(StoreError):  # whoever reads the version is told
                        _write_readme(folder, manifests.parse(data, f"{self.bucket.address}/{path}"))
                replace_file(folder / beside, data)
            replace_file(folder / _MARKS, json.dumps(marks).encode())

    def _shown_bytes(self, one: Object) -> tuple[bytes, str]:
        """An object and its mark; of a manifest that is too large, one byte more than is allowed: its reader refuses
        it."""
        if one.size > _MOST_BESIDE:
            return self.bucket.read_range(one.key, 0, MOST_BYTES + 1), one.etag
        return self.bucket.read(one.key)

    def _send(self, path: Path, file: DataFile) -> None:
        key = f"{FILES}/{file.sha256}"
        if self.bucket.size(key) != file.size:
            self.writable().write(key, path)

    def _cached(self, version: Version, file: DataFile) -> Path:
        path = self.held(file)
        if path is not None:
            return path
        key = self._key(version, file)
        size = self.bucket.size(key)
        problem = "is missing" if size is None else "has other bytes than its manifest lists"
        self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = LockedFolder(self._files.with_name("parts"), "part")
        try:
            part = scratch.dir / "file"
            if size != file.size or self.bucket.download(key, size, part) != file.sha256:
                raise StoreError(
                    f"{version.ref} cannot be read: its file {file.path} {problem} in {self.bucket.address}.",
                    f"see what is damaged: sotopia-rl-data verify {version.ref}",
                )
            part.chmod(0o444)
            return part.rename(self._files / file.sha256)
        finally:
            scratch.release()


def _marks(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / _MARKS).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _write_readme(folder: Path, manifest: Manifest) -> None:
    """The README of a writer that ended before it wrote one."""
    from sotopia_rl_data.store import readme

    replace_file(folder / "README.md", readme.render(manifest, "").encode())
