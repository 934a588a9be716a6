"""The store: immutable version directories that are Hub-shaped, so that anything reads them as they lie.

    STORE/ORG/NAME/v1.2.0/README.md  manifest.json  rewards/train-00000-of-00001.parquet  …

A version is written beside (see `stage.py`) and renamed into place: it is there whole or not at all. This module finds
versions, here and nowhere else (`hub/resolve.py` asks the Hub for what is missing), and imports nothing heavy. What is
in them is read by `query.py`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sotopia_rl_data.display import Display, Silent
from sotopia_rl_data.errors import NotFound, StoreError, VersionExists
from sotopia_rl_data.refs import DatasetRef, check_name, parse
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.versions import Version, in_folder, load, number, read_published

if TYPE_CHECKING:
    from sotopia_rl_data.store.stage import Stage

ENVIRONMENT = "SOTOPIA_RL_DATA_STORE"


class Store:
    """A folder of datasets. Nothing is created until something is committed."""

    def __init__(self, root: str | Path, display: Display | None = None) -> None:
        """The store in this folder. `display` hears of what is pulled from the Hub (default: nobody)."""
        self.root, self.display = Path(root), display or Silent()

    @classmethod
    def default(cls) -> Store:
        """The store of SOTOPIA_RL_DATA_STORE, or `./store`."""
        return cls(os.environ.get(ENVIRONMENT) or "store")

    def names(self) -> list[str]:
        """Every dataset of the store, sorted."""
        found: list[str] = []
        for folder in _folders(self.root):
            if in_folder(folder):
                found.append(folder.name)
            found += [f"{folder.name}/{inner.name}" for inner in _folders(folder) if in_folder(inner)]
        return sorted(found)

    def versions(self, name: str) -> list[str]:
        """The versions of `name`, oldest first; empty where there is none."""
        return [path.name for path in in_folder(self.root / check_name(name))]

    def version(self, name: str, version: str) -> Version:
        """One version by name and number, if it is here. Raises NotFound."""
        return self.resolve(DatasetRef(name, version))

    def check_untaken(self, name: str, version: str | None, left: Callable[[], int], what: str = "calls") -> None:
        """Raises VersionExists where `name` has that version and `left()` of `what` make it are still to come: what is
        paid for them could not be kept under that number. Where none is, it is all paid, and committing decides."""
        count = left() if version is not None and version in self.versions(name) else 0
        if count:
            raise VersionExists(
                f"{name}@{version} exists already, and {count:,} {what} are still to come: nobody is asked for other "
                "content of it.",
                "leave --version out, or give it a number that is free",
            )

    def latest(self, name: str) -> Version | None:
        """The newest version of `name`, or None."""
        there = in_folder(self.root / check_name(name))
        return load(there[-1]) if there else None

    def by_commit(self, name: str, commit: str) -> Version | None:
        """The version of `name` that push or pull noted as this commit of the Hub (or its beginning)."""
        for path in in_folder(self.root / check_name(name)):
            known = read_published(path)
            if known and known.repo == name and any(one.startswith(commit) for one in known.commits):
                return load(path)
        return None

    def resolve(self, ref: str | DatasetRef) -> Version:
        """The version of this store that `ref` stands for: pinned, or the latest. The Hub is not asked: `hub.resolve`.

        Raises NotFound, saying what there is.
        """
        ref = parse(ref) if isinstance(ref, str) else ref
        if ref.path is not None:
            return _at(ref.path)
        folder = self.root / check_name(ref.name)
        there = in_folder(folder)
        if ref.commit:
            known = self.by_commit(ref.name, ref.commit)
            if known is not None:
                return known
            raise NotFound(
                f"The store {str(self.root)!r} does not know the commit {ref.commit} of {ref.name}.",
                f"sotopia-rl-data pull {ref}",
            )
        if not there:
            raise self._unknown(ref.name)
        if ref.version is None:
            return load(there[-1])
        if folder / ref.version not in there:
            raise NotFound(
                f"{ref.name} has no {ref.version}; it has {_listed(there)}.",
                f"name one of them: {ref.name}@{there[-1].name}",
            )
        return load(folder / ref.version)

    def stage(self, name: str) -> Stage:
        """Where to write the next version of `name`: a context manager. Raises StoreError where it cannot be made."""
        from sotopia_rl_data.store.stage import Stage

        return Stage(self.root, check_name(name))

    def _unknown(self, name: str) -> NotFound:
        """That there is no such dataset, with the names that are near it."""
        close = difflib.get_close_matches(name, self.names(), n=3)
        near = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
        see = "sotopia-rl-data list"
        return NotFound(
            f"The store {str(self.root)!r} has no dataset {name!r}{near}.",
            f"write {close[0]}, or see {see}" if close else see,
        )


def _at(path: Path) -> Version:
    if (path / manifests.FILE_NAME).is_file():
        return load(path)
    there = in_folder(path)
    if there:
        return load(there[-1])
    if not path.exists():
        raise NotFound(
            f"There is no {path}.", "name a version's directory, or a dataset by its name: sotopia-rl-data list"
        )
    raise NotFound(
        f"{path} holds no {manifests.FILE_NAME} and no versions.",
        "name a version's directory, or a dataset by its name: sotopia-rl-data list",
    )


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".") and number(p.name) is None)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            f"The store {str(path)!r} cannot be read ({error.strerror}).",
            "name another with --store DIR or SOTOPIA_RL_DATA_STORE",
        ) from error


def _listed(there: list[Path]) -> str:
    names = [p.name for p in there]
    return ", ".join(names if len(names) <= 8 else [*names[:3], "…", *names[-3:]])
