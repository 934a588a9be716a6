"""How a dataset is named: `name`, `org/name`, `org/name@v1.2.0`, `org/name@<commit>`, or a path.

A path starts with `./`, `../` or `/`; anything else is a name. `parse` only reads the text; the store (and, where the
store does not have it, the Hub) looks the version up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sotopia_rl_data.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_ON_THE_HUB = re.compile(rf"hf:/+datasets/(?P<name>{_NAME.pattern})")
_VERSION = re.compile(r"v\d+\.\d+\.\d+")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A parsed reference: either `path`, or `name` with an optional pinned `version` ("v1.2.0") or `commit`."""

    name: str = ""
    version: str | None = None
    commit: str | None = None
    path: Path | None = None

    def __str__(self) -> str:
        pin = self.version or self.commit
        return str(self.path) if self.path else f"{self.name}@{pin}" if pin else self.name


def is_path(text: str) -> bool:
    """Whether a reference is written as a path."""
    return text.startswith(("./", "../", "/")) or text in (".", "..")


def parse(text: str) -> DatasetRef:
    """Read a reference. Raises UsageError, naming the forms, where the text is none of them."""
    if is_path(text):
        return DatasetRef(path=Path(text))
    name, at, pin = text.partition("@")
    if at and not (_VERSION.fullmatch(pin) or _COMMIT.fullmatch(pin)):
        raise UsageError(
            f"In the reference {text!r}, {pin!r} is neither a version such as v1.0.0 nor a commit's hash.",
            f"write {name}@v1.0.0, {name}@COMMIT, or {name} for the latest version",
        )
    check_name(name)
    return DatasetRef(name, pin if pin.startswith("v") else None, pin if at and not pin.startswith("v") else None)


def check_name(name: str) -> str:
    """`name` where it can name a dataset (`name` or `org/name`). Raises UsageError."""
    if Path(name).exists() and not Path(name).is_dir():  # a pipe too
        raise UsageError(
            f"{name!r} would be the name of a dataset, but a file with this name exists.",
            f"write ./{name} if you mean the file; a path starts with ./, ../ or /",
        )
    at_the_hub = _ON_THE_HUB.fullmatch(name)
    if at_the_hub:
        raise UsageError(
            f"{name!r} is the address of a store, and not the name of a dataset.",
            f"write {at_the_hub['name']}, which is pulled, or {at_the_hub['name']} --store {name}, to read it there",
        )
    if not can_name(name):
        raise UsageError(
            f"{name!r} is not a possible name of a dataset.",
            "write NAME or ORG/NAME with letters, digits, '.', '_' and '-'; a path starts with ./, ../ or /",
        )
    return name


def can_name(text: str) -> bool:
    """Whether `text` can name a dataset (`name` or `org/name`)."""
    parts = text.split("/")
    return bool(
        _NAME.fullmatch(text)
        and ".." not in text
        and not any(_VERSION.fullmatch(part) or part.endswith((".", "-", ".git")) for part in parts)
    )
