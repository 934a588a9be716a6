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
    path = _to_import(source)
    if path is not None:
        return _imported(store, path, SAMPLES if source is None else _name_of(path), check)
    named = source if isinstance(source, str) and not refs.is_path(source) else refs.DatasetRef(path=Path(str(source)))
    return _with_episodes(resolve(store, named))


def is_imported(source: str | Path | None) -> bool:
    """Whether `source` is a file that labelling imports first (None: the samples), not a dataset or a path to one."""
    return _to_import(source) is not None


def _to_import(source: str | Path | None) -> Path | None:
    """What is imported first; None where `source` names a dataset, or a folder that holds versions of one."""
    if source is None:
        from sotopia_rl_data.importers import samples_path

        return samples_path()
    if isinstance(source, str) and not refs.is_path(source):
        return None
    path = Path(source)
    holds_versions = (path / FILE_NAME).is_file() or any(path.glob(f"v*/{FILE_NAME}"))
    return None if holds_versions else path


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
