"""The store: immutable version directories in the layout of a Hub dataset repository.

    STORE/ORG/NAME/v1.2.0/README.md  manifest.json  rewards/train-00000-of-00001.parquet  …

A version is written in a stage (see `stage.py`) and renamed into place, so that it is there whole or not at all. This
module finds versions on this machine only (`hub/resolve.py` pulls missing ones from the Hub), and imports nothing
heavy. `query.py` reads what is in them.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sotopia_rl_data.display import Display, Silent
from sotopia_rl_data.errors import NotFound, StoreError, UsageError, VersionExists
from sotopia_rl_data.refs import DatasetRef, can_name, check_name, parse
from sotopia_rl_data.store import manifest as manifests
from sotopia_rl_data.store.bucket import is_address
from sotopia_rl_data.store.versions import Version, in_folder, load, number, read_published

if TYPE_CHECKING:
    from sotopia_rl_data.store.mirror import Mirror
    from sotopia_rl_data.store.stage import Stage

ENVIRONMENT = "SOTOPIA_RL_DATA_STORE"
log = logging.getLogger(__name__)


class Store:
    """A folder of datasets. Nothing is created until something is committed."""

    def __init__(self, root: str | Path, display: Display | None = None) -> None:
        """The store in this folder, or at `s3://BUCKET/PREFIX` or, to be read, `hf://datasets/ORG/NAME`: then `root` is
        the folder that shows it, and `mirror` fetches and commits. `display` shows what is pulled from the Hub
        (default: nothing is shown). Raises UsageError where the address cannot be used."""
        self.mirror: Mirror | None = None
        if is_address(root):
            from sotopia_rl_data.store.mirror import mirror_of

            self.mirror = mirror_of(root)
        self.root = self.mirror.root if self.mirror else Path(root)
        self.address = self.mirror.bucket.address if self.mirror else str(root)
        self.display = display or Silent()

    @classmethod
    def default(cls) -> Store:
        """The store of SOTOPIA_RL_DATA_STORE, or `./store`."""
        return cls(os.environ.get(ENVIRONMENT) or "store")

    @classmethod
    def of(cls, place: str | Path | Store | None) -> Store:
        """The store in this place, or this store; the default one where none is named."""
        if isinstance(place, Store):
            return place
        return cls.default() if place is None else cls(place)

    @property
    def is_of_the_hub(self) -> bool:
        """Whether it has the releases of a dataset of the Hub, and is only read."""
        return self.address.startswith("hf:")

    def names(self) -> list[str]:
        """Every dataset of the store, sorted."""
        if self.mirror is not None:
            self.mirror.refresh()
        names: list[str] = []
        for folder in _folders(self.root):
            if in_folder(folder):
                names.append(folder.name)
            names += [f"{folder.name}/{inner.name}" for inner in _folders(folder) if in_folder(inner)]
        return sorted(filter(can_name, names))

    def versions(self, name: str) -> list[str]:
        """The versions of `name`, oldest first; empty where there are none."""
        return [path.name for path in in_folder(self._folder(name))]

    def history(self, name: str) -> tuple[list[Version], dict[str, StoreError]]:
        """The versions of `name` that can be read, newest first; and by number, what is wrong with the others."""
        return self._history(self._folder(name))

    def histories(self) -> dict[str, tuple[list[Version], dict[str, StoreError]]]:
        """The `history` of every dataset, by its name. A bucket is listed once."""
        return {name: self._history(self.root / name) for name in self.names()}

    def _history(self, folder: Path) -> tuple[list[Version], dict[str, StoreError]]:
        readable: list[Version] = []
        damaged: dict[str, StoreError] = {}
        for path in reversed(in_folder(folder)):
            try:
                readable.append(load(path, self.mirror))
            except StoreError as error:
                damaged[path.name] = error
        return readable, damaged

    def version(self, name: str, version: str) -> Version:
        """One version by name and number. Raises NotFound where the store does not have it."""
        return self.resolve(DatasetRef(name, version))

    def check_untaken(self, name: str, version: str | None, left: Callable[[], int], what: str = "calls") -> None:
        """Raises VersionExists where `name` has that version already and `left()` calls (or `what` they are) are still
        to be made: their answers could not be kept under that number. Where none is left, committing decides."""
        if version is None or version not in self.versions(name):
            return
        count = left()
        if count:
            raise VersionExists(
                f"{name}@{version} exists already, and {count:,} {what} are still to be made, which would change the "
                "content of that version.",
                "leave --version out, or give it a number that no version has",
            )

    def latest(self, name: str) -> Version | None:
        """The newest version of `name`, or None."""
        directories = in_folder(self._folder(name))
        return load(directories[-1], self.mirror) if directories else None

    def by_commit(self, name: str, commit: str) -> Version | None:
        """The version of `name` that push or pull has noted for this commit of the Hub (or the beginning of its
        hash). A damaged note hides no other version."""
        for path in in_folder(self._folder(name)):
            try:
                published = read_published(path)
            except StoreError as error:
                log.warning("%s", error)
                continue
            if published and published.repo == name and any(sha.startswith(commit) for sha in published.commits):
                return load(path, self.mirror)
        return None

    def resolve(self, ref: str | DatasetRef) -> Version:
        """The version of this store that `ref` names: pinned, or the latest. (`hub.resolve` asks the Hub too.)

        Raises NotFound, naming the versions that exist.
        """
        ref = parse(ref) if isinstance(ref, str) else ref
        if ref.path is not None:
            return _at(ref.path)
        folder = self._folder(ref.name)
        directories = in_folder(folder)
        if ref.commit:
            known = self.by_commit(ref.name, ref.commit)
            if known is not None:
                return known
            raise NotFound(
                f"The store {self.address!r} has no version of {ref.name} from the Hub's commit {ref.commit}.",
                f"download it: sotopia-rl-data pull {ref}",
            )
        if not directories:
            raise self._unknown(ref.name)
        if ref.version is None:
            return load(directories[-1], self.mirror)
        if folder / ref.version not in directories:
            raise NotFound(
                f"The dataset {ref.name} has no version {ref.version}; it has {_listed(directories)}.",
                f"name a version that exists, such as {ref.name}@{directories[-1].name}",
            )
        return load(folder / ref.version, self.mirror)

    def check_writable(self) -> None:
        """Raises UsageError where the store is only read, as what is on the Hub is."""
        if self.mirror is not None:
            self.mirror.writable()

    def stage(self, name: str) -> Stage:
        """A context manager in which to write the next version of `name`. Raises StoreError where it cannot be made,
        UsageError where the store is only read."""
        from sotopia_rl_data.store.stage import Stage

        self.check_writable()
        return Stage(self.root, check_name(name), mirror=self.mirror)

    @property
    def ledger(self) -> Path:
        """Where the raw answers are that belong to the store: a folder, or an address where it is in a bucket. Raises
        UsageError where the store is only read."""
        self.check_writable()
        return Path(self.address) / ".ledger"

    def folder_for(self, what: str, hint: str = "name a store on this machine: --store DIR") -> Path:
        """The folder of a store on this machine, beside whose datasets `what` (the subject of a sentence, with "do")
        keep something. Raises UsageError for a store in a bucket."""
        self.check_writable()
        if self.mirror is not None:
            raise UsageError(f"{what} not work with the store {self.address}, which is in a bucket.", hint)
        return self.root

    def _folder(self, name: str) -> Path:
        """The folder of a dataset's versions, as they are now."""
        check_name(name)
        if self.mirror is not None:
            self.mirror.refresh(name)
        return self.root / name

    def _unknown(self, name: str) -> NotFound:
        """The error for a dataset that does not exist, with similar names."""
        close = difflib.get_close_matches(name, [one for one in self.names() if _ends_alike(name, one)], n=3)
        near = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
        see = "sotopia-rl-data list"
        return NotFound(
            f"The store {self.address!r} has no dataset {name!r}{near}.",
            f"write {close[0]}, or see {see}" if close else see,
        )


def _ends_alike(a: str, b: str) -> bool:
    """Whether two names of datasets are close behind their ORG/, which many datasets of a store share."""
    return bool(difflib.get_close_matches(a.rpartition("/")[2], [b.rpartition("/")[2]]))


def _at(path: Path) -> Version:
    if (path / manifests.FILE_NAME).is_file():
        return load(path)
    directories = in_folder(path)
    if directories:
        return load(directories[-1])
    if not path.exists():
        raise NotFound(
            f"There is no folder {path}.",
            "give the path of a dataset or a version, or the name of a dataset: sotopia-rl-data list",
        )
    raise NotFound(
        f"{path} is neither a version (it has no {manifests.FILE_NAME}) nor a dataset (it has no versions).",
        "give the path of a dataset or a version, or the name of a dataset: sotopia-rl-data list",
    )


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".") and number(p.name) is None)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            f"The store {str(path)!r} cannot be read ({error.strerror}).",
            "name another store with --store or SOTOPIA_RL_DATA_STORE",
        ) from error


def _listed(directories: list[Path]) -> str:
    names = [path.name for path in directories]
    return ", ".join(names if len(names) <= 8 else [*names[:3], "…", *names[-3:]])
