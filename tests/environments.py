"""An environment that has one package and what it requires, and nothing else: made of links, without a network."""

from __future__ import annotations

import importlib.metadata
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement


def environment_with(package: str, folder: Path) -> Path:
    """A new environment in `folder` that has `package` as it is installed here; its Python."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = folder / "lib" / version / "site-packages"
    for name in required(package):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (target / top).exists():
                (target / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin" / "python"


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
