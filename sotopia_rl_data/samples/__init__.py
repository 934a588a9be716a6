"""The bundled samples: short dialogues written for this project, so that every command has data to work on.

The same episodes are here twice, as an export of the sotopia library and in the plain format. `exporters/samples.py`
makes both files from `scenarios/*.yaml`. README.md describes the scenarios.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from sotopia_rl_data.errors import UsageError

Format = Literal["export", "plain"]
SCENARIOS = Path(str(files(__name__) / "scenarios"))
"""The folder of the scenarios from which the samples are made."""
_FILES = {"export": "episodes.jsonl", "plain": "episodes.plain.jsonl"}


def path(format: Format = "export") -> Path:
    """The file of the samples as an export of the sotopia library, or in the plain format.

    Raises UsageError for any other format.
    """
    if format not in _FILES:
        raise UsageError(f"The samples do not come in the format {format!r}.", f"use one of: {', '.join(_FILES)}")
    return Path(str(files(__name__) / _FILES[format]))
