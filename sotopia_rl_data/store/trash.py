"""Removed versions: moved to the store's trash, where no reader looks, and from which they come back.

    STORE/.trash/20261129-114512-031416/ORG/NAME/v1.2.0/…

Each removal has a folder of its own, laid out as a store. A version, or a whole dataset, is moved by one rename: at any
moment it is whole, in its place or in the trash. Nothing leaves the trash by itself: only `empty` deletes. A version
that is restored never takes the place of another.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sotopia_rl_data.errors import NotFound, UsageError, VersionExists
from sotopia_rl_data.locks import LockedFolder
from sotopia_rl_data.refs import DatasetRef, parse
from sotopia_rl_data.store.disk import storing, sync_file
from sotopia_rl_data.store.store import Store
from sotopia_rl_data.store.versions import number

FOLDER = ".trash"


@dataclass(frozen=True, slots=True)
class Removed:
    """A version in the trash. `removal` names the removal that took it there: its time, in UTC, to the microsecond."""

    removal: str
    name: str
    version: str
    dir: Path

    @property
    def ref(self) -> str:
        """`org/name@v1.2.0`."""
        return f"{self.name}@{self.version}"


def _folder_of(store: Store) -> Path:
    """The store's folder. Raises UsageError for a store in a bucket."""
    hint = (
        f"with a program for buckets, remove {store.address}/ORG/NAME/vX.Y.Z/manifest.json: then the version is gone "
        "for all machines, and back when its manifest is"
    )
    return store.folder_for("`rm` and `undo` do", hint)


def named(store: Store, refs: Sequence[str]) -> dict[str, list[str]]:
    """The versions that `refs` name, by dataset; `org/name` names all of its versions, damaged ones included.

    Raises NotFound where the store lacks one, and UsageError for a path or a commit.
    """
    _folder_of(store)
    found: dict[str, list[str]] = {}
    for text in refs:
        ref = parse(text)
        if ref.path is not None or ref.commit:
            raise UsageError(
                f"{text!r} does not name a version of this store.", "name it as `sotopia-rl-data list` shows it"
            )
        known = _numbers(store.root / ref.name)
        if not known or (ref.version and ref.version not in known):
            store.resolve(DatasetRef(ref.name, ref.version))  # raises NotFound, with the names that are near
        chosen = [ref.version] if ref.version else known
        found[ref.name] = list(dict.fromkeys([*found.get(ref.name, []), *chosen]))
    return found


def made_from(store: Store, chosen: dict[str, list[str]]) -> list[str]:
    """The references of the other versions of the store that name one of the `chosen` versions as a parent."""
    made = []
    for name, (versions, _) in store.histories().items():
        for version in versions:
            if version.version in chosen.get(name, ()):
                continue
            parents = version.manifest.provenance.get("parents", [])
            if any(parent.get("version") in chosen.get(parent.get("name"), ()) for parent in parents):
                made.append(version.ref)
    return made


def remove(store: Store, chosen: dict[str, list[str]]) -> list[Removed]:
    """Move versions to the trash, each dataset that is named whole by one rename. Raises NotFound where another
    process was faster, StoreError."""
    removal = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")
    trash = store.root / FOLDER / removal
    with storing(store.root):
        for name, numbers in chosen.items():
            folder = store.root / name
            (trash / name).parent.mkdir(parents=True, exist_ok=True)
            whole = folder.is_dir() and set(numbers) >= {path.name for path in folder.iterdir()}
            whole = whole and not (trash / name).exists()  # as the folder of a dataset that went there just now
            for source in [name] if whole else [f"{name}/{one}" for one in numbers]:
                (trash / source).parent.mkdir(parents=True, exist_ok=True)
                _move(store.root / source, trash / source)
            with contextlib.suppress(OSError):
                folder.rmdir()
    return [one for one in removed(store) if one.removal == removal]


def removed(store: Store) -> list[Removed]:
    """What is in the trash: the newest removal first, versions in their order."""
    found = []
    for trash in sorted(_folders(_folder_of(store) / FOLDER), reverse=True):
        datasets = [folder for outer in _folders(trash) for folder in (outer, *_folders(outer)) if _numbers(folder)]
        for folder in datasets:
            name = folder.relative_to(trash).as_posix()
            found += [Removed(trash.name, name, one, folder / one) for one in _numbers(folder)]
    return found


def restore(store: Store, what: str) -> list[Removed]:
    """Move versions back: those of a reference that were removed last, or all of a removal. Raises NotFound, and
    VersionExists where the store has one of them again: then nothing is moved, unless it was written in this moment."""
    known = removed(store)
    chosen = [one for one in known if one.removal == what]
    if not chosen:
        ref = parse(what)
        matching = [one for one in known if one.name == ref.name and ref.version in (None, one.version)]
        chosen = [one for one in matching if one.removal == matching[0].removal]
    if not chosen:
        raise NotFound(f"The trash has no {what}.", "see what it has: sotopia-rl-data undo")
    for one in chosen:
        _check_free(store, one)
    with storing(store.root):
        for one in chosen:
            target = store.root / one.name / one.version
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _move(one.dir, target)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    _check_free(store, one)
                raise
            _remove_empty(one.dir.parent, store.root / FOLDER)
    return chosen


def empty(store: Store, found: Sequence[Removed]) -> list[Removed]:
    """Delete for good those of `found` that are in the trash still, and return them. A deletion that fails or is
    interrupted is finished by the next writer. Raises StoreError."""
    deleted = []
    with storing(store.root):
        for one in found:
            grave = LockedFolder(store.root / ".staging", "trash")
            try:
                with contextlib.suppress(FileNotFoundError):  # another process has restored or deleted it
                    one.dir.rename(grave.dir / one.version)
                    deleted.append(one)
                _remove_empty(one.dir.parent, store.root / FOLDER)
                shutil.rmtree(grave.dir)
            finally:
                grave.release()
    return deleted


def _check_free(store: Store, one: Removed) -> None:
    if one.dir.exists() and (store.root / one.name / one.version).exists():  # else another process has restored it
        raise VersionExists(
            f"The store has a {one.ref} again, and the removed one is not put in its place.",
            f"remove that one first: `sotopia-rl-data rm {one.ref}`; then `sotopia-rl-data undo {one.removal}`",
        )


def _move(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except FileNotFoundError as error:
        if source.exists():
            raise
        raise NotFound(
            f"Another process has moved {source.name} of {source.parent.name}.", "run the command again"
        ) from error
    sync_file(target.parent)
    sync_file(source.parent)


def _remove_empty(folder: Path, until: Path) -> None:
    """Remove this folder and those above it, below `until`, as far as nothing is in them."""
    while folder != until:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _numbers(folder: Path) -> list[str]:
    """The versions whose folders are in a dataset's folder, oldest first, also where their manifests are damaged."""
    found = [(number(path.name), path.name) for path in _folders(folder)]
    return [name for key, name in sorted((key, name) for key, name in found if key)]


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(inner for inner in path.iterdir() if inner.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
