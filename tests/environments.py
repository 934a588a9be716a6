"""Environments of their own for tests: made once a run, whoever of its workers asks first; some without a network."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` filled, for all workers of this run; the others wait for the first."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = base / name, base / f"{name}.made"
    with (base / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(folder)
            made.touch()
    return folder


def python_of(folder: Path) -> Path:
    """An environment's interpreter."""
    return folder / "bin" / "python"


def packages_of(folder: Path) -> Path:
    """An environment's site-packages."""
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def link_environment(package: str, folder: Path, itself: bool = True) -> None:
    """A new environment in `folder` that has what `package` requires, and unless told otherwise the package itself, as
    they are installed here: links alone."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    target = packages_of(folder)
    for name in required(package):
        if name == package and not itself:
            continue
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (target / top).exists():
                (target / top).symlink_to(Path(str(distribution.locate_file(top))))


def required(package: str) -> Iterator[str]:
    """`package` and everything that it requires on this machine, each once."""
    seen, waiting = set(), [package]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        yield name
        for text in importlib.metadata.requires(name) or ():
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                waiting.append(wanted.name)
