"""Files of ours that a newer version wrote: one sentence, and nothing is read by half, changed or deleted.

A version that changes what a file means raises the number of its format, or adds a field; this one knows neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import StoreError

RUN_VERSION, RUN_FORMAT = "run_version", 1  # of the record of a training run, `run.json`


def newer(where: Path | str) -> StoreError:
    """The error about a file that a newer version of this program wrote."""
    return StoreError(
        f"{where} was written by a newer sotopia-rl-data, and the installed one cannot read it.",
        "install a newer sotopia-rl-data",
    )


def check_number(number: object, known: int, where: Path | str) -> None:
    """Raises StoreError where the number of a file's format is higher than the one `known` here."""
    if isinstance(number, int) and number > known:
        raise newer(where)


def check_fields(record: Mapping[str, Any], kind: type, where: Path | str) -> None:
    """Raises StoreError where a record has a field that the dataclass `kind`, which is made from it, does not have."""
    if record.keys() - {field.name for field in fields(kind)}:
        raise newer(where)
