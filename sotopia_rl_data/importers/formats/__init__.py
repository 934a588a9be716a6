"""The formats that can be imported: one file each, and this table of them.

episode_log.py    the sotopia library's EpisodeLog, as stored, dumped or exported from Redis
export.py         the rows that the library's own export makes of EpisodeLogs, JSONL or CSV
annotated.py      sotopia-rl's annotated JSONL: two rows for each episode, with labels
plain.py          our own format, for people with their own simulator
training.py       training rows: a prompt, a completion, perhaps a reward
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.importers.formats import annotated, episode_log, export, plain, training
from sotopia_rl_data.importers.formats.format import Format

FORMATS = (export.FORMAT, annotated.FORMAT, episode_log.FORMAT, plain.FORMAT, training.FORMAT)
"""In the order in which they are tried: a record is of the first format whose keys it has."""


def format_of(record: Any) -> Format | None:
    """The format of a record, or of a record with this set of keys; None if it is of no format."""
    if not isinstance(record, (Mapping, set)):
        return None
    keys = set(record)
    return next((form for form in FORMATS if form.tells(keys)), None)
