"""What trainers make of a dataset once and read again: Arrow files in the cache of `datasets`, memory-mapped.

A folder for each key. Whichever process comes first fills it, under a lock; the other processes of a run, and later
runs, find it there. It is renamed into place when it is whole. After a `kill -9` the next process goes on in the
unfinished folder, so whoever fills one writes each file aside and renames it (`whole_file`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sotopia_rl_data import locks
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.store.disk import is_full

FORMAT = 1  # of the files; another number is another folder
FACTS = "facts.json"


def cached(kind: str, key: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any]]) -> tuple[Path, Any]:
    """The folder of `key` (JSON values), which `fill` fills where it is not there yet, and the facts about it that
    `fill` returned (JSON values).

    Raises InputError where the cache cannot be written.
    """
    folder = _root() / kind / sha256_of({"format": FORMAT, **key})[:32]
    try:
        if not folder.is_dir():
            _make(folder, fill)
    except OSError as error:
        if not is_full(error) and not str(error.filename).startswith(str(folder.parent.parent)):
            raise
        raise InputError(
            f"The cache {folder.parent} cannot be written: {error.strerror or error}.",
            "free some space, or set HF_DATASETS_CACHE to a folder with more",
        ) from error
    return folder, json.loads((folder / FACTS).read_text(encoding="utf-8"))


def _make(folder: Path, fill: Callable[[Path], Mapping[str, Any]]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    handle = locks.open_lock(folder.with_name(f"{folder.name}.lock"))
    try:
        is_alone = locks.wait(handle)  # without locks, two processes may both fill a folder, each one of its own
        if not folder.is_dir():
            unfinished = folder.with_name(f"{folder.name}.{'unfinished' if is_alone else os.getpid()}")
            unfinished.mkdir(mode=0o700, exist_ok=True)
            (unfinished / FACTS).write_text(json.dumps(fill(unfinished)), encoding="utf-8")
            _place(unfinished, folder)
    finally:
        os.close(handle)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` at the end of the block."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _place(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(unfinished, ignore_errors=True)  # another process was faster


def _root() -> Path:
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "sotopia-rl-data"
