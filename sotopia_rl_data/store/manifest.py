"""`manifest.json`: what a version is and where it came from, written once, and checked whenever it is read.

What a manifest may say is in `fields.py`: one that says anything else is refused here, so that no later code has to
check.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.formats import check_fields, check_number
from sotopia_rl_data.schema import DERIVED, DataFile, Manifest, Split

FILE_NAME = "manifest.json"
FORMAT = 1
_HINT = "delete the version's folder, then pull the version again or run the command that made it"


def dump(manifest: Manifest) -> str:
    """The manifest as the text of its file."""
    return json.dumps(asdict(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load(directory: Path, where: str = "", hint: str = _HINT) -> Manifest:
    """The manifest of the version in `directory`, which the error may say to be `where` it comes from. Raises
    StoreError where it is missing or damaged."""
    from sotopia_rl_data.store.fields import MOST_BYTES

    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            return parse(file.read(MOST_BYTES + 1), where or str(path), hint)
    except OSError as error:
        raise StoreError(
            f"The version's folder {directory} has no {FILE_NAME} that can be read ({error.strerror}).",
            "see which versions the store has: sotopia-rl-data list",
        ) from error


def parse(text: str | bytes, where: str, hint: str = _HINT) -> Manifest:
    """The manifest in `text`. Raises StoreError, naming `where` it comes from, where it is damaged: not JSON, or with
    a field that is missing or is not what `fields.py` says."""
    from sotopia_rl_data.store.fields import ManifestFields

    try:
        data = _document(text)
        problem = ""
    except (ValueError, RecursionError) as error:
        data, problem = {}, str(error)
    check_number(data.get("manifest_version"), FORMAT, where)
    check_fields(data, Manifest, where)
    problem = problem or _problem(ManifestFields, data)
    if problem:
        raise StoreError(f"The manifest {where} is damaged ({problem}).", hint)
    return Manifest(**data | {"configs": _configs(data["configs"])})


def _document(text: str | bytes) -> dict[str, Any]:
    """A JSON object that says the same to every reader. Raises ValueError, and RecursionError where it is too deep.

    It has no key twice, no number that a double or 64 bits cannot hold, and no text that UTF-8 cannot.
    """
    from sotopia_rl_data.store.fields import MOST_BYTES, MOST_DEPTH

    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    data = json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_whole, object_pairs_hook=_object)
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    level: list[dict[str, Any] | list[Any]] = [data]
    depth = 0
    while level:
        depth += 1
        inner = (part.values() if isinstance(part, dict) else part for part in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")
    json.dumps(data, ensure_ascii=False).encode()
    return data


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:40]} … is not a number of 64 bits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("an object has one key twice")
    return data


def listed_files(manifest: Manifest) -> Iterator[DataFile]:
    """The Parquet files that a manifest lists."""
    for splits in manifest.configs.values():
        for split in splits.values():
            yield from split.files


def split_digests(configs: Mapping[str, Mapping[str, Split]]) -> dict[str, dict[str, str]]:
    """The digest of each split's rows, by config and split; with the recipe they make a version's digest. Configs that
    are derived from others are left out."""
    return {
        config: {name: split.digest for name, split in splits.items()}
        for config, splits in configs.items()
        if config not in DERIVED
    }


def plain(value: Mapping[str, Any], what: Literal["recipe", "provenance"]) -> dict[str, Any]:
    """`value` as JSON holds it (tuples become lists). Raises StoreError, naming `what`, where JSON cannot hold it, or
    reading it would refuse it."""
    from sotopia_rl_data.store import fields

    checks: dict[str, Any] = {"recipe": fields.RecipeFields, "provenance": fields.ProvenanceFields}
    try:
        parsed = _document(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"The {what} cannot be written as JSON into {FILE_NAME}: {error}.",
            "use only strings, finite numbers, booleans, None, lists and dictionaries in it",
        ) from error
    problem = _problem(checks[what], parsed)
    if problem:
        raise StoreError(
            f"The {what} cannot be written into {FILE_NAME}: {problem}.",
            "give the key a value of this kind, or choose another key",
        )
    return parsed


def _problem(fields: Any, data: Any) -> str:
    """What is wrong with `data`, by a class of `fields.py`; "" where nothing is."""
    from msgspec import ValidationError, convert

    try:
        convert(data, fields)
    except ValidationError as error:
        return str(error)[:400]
    return ""


def _configs(data: Mapping[str, Any]) -> dict[str, dict[str, Split]]:
    return {
        config: {
            name: Split(split["rows"], split["digest"], tuple(DataFile(**file) for file in split["files"]))
            for name, split in splits.items()
        }
        for config, splits in data.items()
    }
