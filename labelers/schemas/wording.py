"""The wording of judge prompts: files in `labelers/prompts/`, each with its version in its name.

A file that has been used is never edited: a new wording is a new file and a new version of the schemas that use it.
`tests/goldens` freezes every file's hash and what is rendered from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.request import sha256_of


@cache
def text(name: str) -> str:
    """The file `labelers/prompts/<name>.txt`, without its last newline."""
    return (
        (files("sotopia_rl_data.labelers") / "prompts" / f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n")
    )


def fill(name: str, **values: object) -> str:
    """The wording with its `$placeholders` replaced, in one pass: what is filled in is never read as a placeholder."""
    return Template(text(name)).substitute({key: str(value) for key, value in values.items()})


def levels(scale: int) -> str:
    """The name of the file that anchors the levels 0..scale. Raises UsageError where no such scale is worded."""
    name = f"levels.{scale}.v1"
    if not (files("sotopia_rl_data.labelers") / "prompts" / f"{name}.txt").is_file():
        raise UsageError(f"There is no wording for a scale of 0 to {scale}.", "use --scale 3, 5 or 10")
    return name


def sha256(names: Sequence[str]) -> str:
    """Hex SHA-256 over the named files' texts, in this order."""
    return sha256_of([[name, text(name)] for name in names])
