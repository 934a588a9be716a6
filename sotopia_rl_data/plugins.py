"""Name -> object: the built-ins, then installed entry points, then `path/to/file.py:Name`.

One lookup for every kind of plug-in (judges, schemas …). Built-ins are named as `module:attribute` and imported only
when they are used. A class is returned as it is: the caller constructs it. Leaves out what a plug-in must look like,
which the code that loads it checks.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sotopia_rl_data.errors import SotopiaDataError, UsageError
from sotopia_rl_data.hashing import file_sha256

# A module that is loaded from a path gets a name that begins with this.
_PREFIX = "sotopia_rl_data_plugin_"


@contextmanager
def calling(failed: Callable[[str], SotopiaDataError]) -> Iterator[None]:
    """A block that calls a plug-in. What the plug-in raises becomes the error that `failed` makes of its text, such as
    `KeyError: 'x'`.

    Every Exception is caught, since a plug-in may use any library. Errors of this package, an interrupt and an exit
    pass through unchanged.
    """
    try:
        yield
    except SotopiaDataError:
        raise
    except Exception as wrong:
        raise failed(" ".join(f"{type(wrong).__name__}: {wrong}".split()).rstrip(".")) from wrong


def load(kind: str, group: str, name: str, builtins: Mapping[str, str]) -> Any:
    """The object called `name`. `kind` ("judge") is for messages, `group` is the entry points' group.

    Raises UsageError, naming what there is, where nothing has that name, and where a plug-in cannot be imported.
    """
    if name in builtins:
        module, _, attribute = builtins[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    if is_file(name):
        return _from_file(kind, name)
    for entry in importlib.metadata.entry_points(group=group, name=name):
        hint = f"repair or reinstall {entry.dist.name if entry.dist else 'its package'}"
        with calling(lambda said: UsageError(f"The {kind} {name!r} cannot be imported: {said}.", hint)):  # noqa: B023
            return entry.load()
    known = ", ".join(names(group, builtins))
    raise UsageError(f"There is no {kind} {name!r}.", f"name one of: {known}; or your own as path/to/file.py:Name")


def names(group: str, builtins: Mapping[str, str]) -> list[str]:
    """Every name that `load` knows for this group, built-ins first."""
    installed = {entry.name for entry in importlib.metadata.entry_points(group=group)}
    return [*builtins, *sorted(installed - set(builtins))]


def packages(group: str) -> dict[str, str]:
    """For each installed entry point of this group, the package that brings it, and its version."""
    entries = importlib.metadata.entry_points(group=group)
    return {e.name: f"{e.dist.name} {e.dist.version}" if e.dist else "" for e in entries}


def is_file(name: str) -> bool:
    """True where `name` is spelled as `path/to/file.py:Name`."""
    path, colon, attribute = name.rpartition(":")
    return bool(colon) and path.endswith(".py") and attribute.isidentifier()


def source_sha256(thing: object) -> str | None:
    """Hex SHA-256 of the file that the function or the thing's class came from, where `load` took it from a path."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if module is None or not module.__name__.startswith(_PREFIX) or not module.__file__:
        return None
    return file_sha256(Path(module.__file__))


def _from_file(kind: str, name: str) -> Any:
    text, _, attribute = name.rpartition(":")
    path = Path(text)
    if not path.is_file():
        raise UsageError(f"The {kind}'s file {text} does not exist.", "check the path: path/to/file.py:Name")
    module = _execute(kind, path)
    if not hasattr(module, attribute):
        public = ", ".join(n for n in vars(module) if not n.startswith("_")) or "nothing"
        raise UsageError(f"The {kind}'s file {text} has no {attribute!r}.", f"name what the file defines: {public}")
    return getattr(module, attribute)


def _execute(kind: str, path: Path) -> ModuleType:
    """Run the file as a module of its own. It is registered in `sys.modules`, which dataclasses and pickling need."""
    return _load(kind, f"{_PREFIX}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}", path)


def _load(kind: str, name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(
            f"The {kind}'s file {path} cannot be read as a Python module.", "check the path: path/to/file.py:Name"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    hint = f"run `python {path}` to see where it fails"
    try:
        with calling(lambda said: UsageError(f"The {kind}'s file {path} cannot be imported: {said}.", hint)):
            spec.loader.exec_module(module)
    except SotopiaDataError:
        del sys.modules[name]
        raise
    return module


def sources() -> dict[str, str]:
    """The source of every module that was loaded from a path, by its name, for another machine."""
    files = {name: module.__file__ for name, module in sys.modules.items() if name.startswith(_PREFIX)}
    return {name: Path(file).read_text(encoding="utf-8") for name, file in files.items() if file}


def install(modules: Mapping[str, str], folder: Path) -> None:
    """Load modules of these names and sources, written into `folder`, unless they are there already."""
    for name, source in modules.items():
        if name not in sys.modules:
            path = folder / f"{name}.py"
            path.write_text(source, encoding="utf-8")
            _load("plug-in", name, path)
