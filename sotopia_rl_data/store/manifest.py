"""`manifest.json`: what a version is and where it came from, written once, and checked whenever it is read.

A version may come from the Hub: a manifest that names files outside its own directory is refused here, so that no later
code has to check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.formats import check_fields, check_number
from sotopia_rl_data.schema import DataFile, Manifest, Split

FILE_NAME = "manifest.json"
FORMAT = 1


def dump(manifest: Manifest) -> str:
    """The manifest as the text of its file."""
    return json.dumps(asdict(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load(directory: Path) -> Manifest:
    """The manifest of the version in `directory`. Raises StoreError where it is missing or damaged."""
    path = directory / FILE_NAME
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise StoreError(
            f"The version's folder {directory} has no {FILE_NAME} that can be read ({error.strerror}).",
            "see which versions the store has: sotopia-rl-data list",
        ) from error


def parse(text: str | bytes, where: str) -> Manifest:
    """The manifest in `text`. Raises StoreError, naming `where` it comes from, where it is damaged."""
    try:
        data = json.loads(text)
        check_number(data["manifest_version"], FORMAT, where)
        check_fields(data, Manifest, where)
        return Manifest(**data | {"configs": _configs(data["configs"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"The manifest {where} is damaged ({error}).",
            "delete the version's folder, then pull the version again or run the command that made it",
        ) from error


def listed_files(manifest: Manifest) -> Iterator[DataFile]:
    """The Parquet files that a manifest lists."""
    for splits in manifest.configs.values():
        for split in splits.values():
            yield from split.files


def split_digests(configs: Mapping[str, Mapping[str, Split]]) -> dict[str, dict[str, str]]:
    """The digest of each split's rows, by config and split; with the recipe they make a version's digest."""
    return {config: {name: split.digest for name, split in splits.items()} for config, splits in configs.items()}


def plain(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`value` as JSON holds it (tuples become lists). Raises StoreError, naming `what`, where JSON cannot hold it."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"The {what} cannot be written as JSON into {FILE_NAME}: {error}.",
            "use only strings, finite numbers, booleans, None, lists and dictionaries in it",
        ) from error
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _configs(data: Mapping[str, Any]) -> dict[str, dict[str, Split]]:
    return {
        _plain_name(config): {_plain_name(name): _split(split) for name, split in splits.items()}
        for config, splits in data.items()
    }


def _split(data: Mapping[str, Any]) -> Split:
    files = tuple(
        DataFile(_inside(file["path"]), int(file["rows"]), int(file["size"]), str(file["sha256"]))
        for file in data["files"]
    )
    return Split(int(data["rows"]), str(data["digest"]), files)


def _plain_name(name: str) -> str:
    """The name of a config or split, which becomes part of paths and SQL. Raises ValueError where it is not plain."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is not a possible name of a config or split")
    return name


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError(f"the file {path!r} lies outside the version")
    return path
