"""Which episodes are labelled: a dataset of the store, or a file, which is imported first; by default the samples."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from sotopia_rl_data import refs
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.manifest import FILE_NAME

if TYPE_CHECKING:
    from sotopia_rl_data.importers.run import Check

SAMPLES = "samples"
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


def episodes_version(store: Store, source: str | Path | None, check: Check) -> Version:
    """The version whose episodes `source` names: a reference, a path to one, or files to import (None: the samples).

    A file `NAME.jsonl` becomes the dataset NAME; where the store already has its content, nothing is written, nor where
    `check` raises. Raises NotFound, InputError, UsageError.
    """
    if source is None:
        from sotopia_rl_data.importers import samples_path

        return _imported(store, samples_path(), SAMPLES, check)
    path = source if isinstance(source, Path) else Path(source) if refs.is_path(source) else None
    if path is None or _holds_versions(path):
        return _with_episodes(resolve(store, str(source) if path is None else refs.DatasetRef(path=path)))
    return _imported(store, path, _name_of(path), check)


def is_imported(source: str | Path | None) -> bool:
    """Whether `source` is a file that labelling imports first (None: the samples), and no dataset or path to one."""
    if source is None:
        return True
    path = source if isinstance(source, Path) else Path(source) if refs.is_path(source) else None
    return path is not None and not _holds_versions(path)


def _holds_versions(path: Path) -> bool:
    return (path / FILE_NAME).is_file() or any(path.glob(f"v*/{FILE_NAME}"))


def _imported(store: Store, path: Path, name: str, check: Check) -> Version:
    from sotopia_rl_data.importers.run import import_dataset

    if not path.exists():
        raise InputError(
            f"There is no {path}.", "name a file of episodes, or a dataset by its name: sotopia-rl-data list"
        )

    def checked(scored: Set[tuple[str, str]] | None) -> None:
        if scored is None:
            raise _no_episodes(str(path))
        check(scored)

    import_dataset(store, [path], name, check=checked)
    return _with_episodes(resolve(store, name))


def _with_episodes(version: Version) -> Version:
    if "episodes" not in version.manifest.configs:
        raise _no_episodes(version.ref)
    return version


def _no_episodes(where: str) -> UsageError:
    hint = "training rows have no utterances to judge: import the episodes they were made from"
    return UsageError(f"{where} holds no episodes.", hint)


def _name_of(path: Path) -> str:
    """A dataset's name out of a file's: `my día.v2.jsonl` -> `my-dia.v2`."""
    plain = unicodedata.normalize("NFKD", path.resolve().stem).encode("ascii", "ignore").decode()
    stem = _ODD.sub("-", plain).strip("-.")
    return stem if stem[:1].isalnum() else "episodes"
