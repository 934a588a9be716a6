"""Which labels deserve more money: those that opinions disagree about most, as a list for further labelling.

The list is a CSV that `label --only LIST` and `annotate template` take. Disagreement is the sample standard deviation
of a unit's opinions divided by that of all values on its dimension, so that dimensions can be ranked together: 1 means
that the opinions on this one utterance differ as much as utterances do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sotopia_rl_data.agreement.opinions import Opinions, opinions_of
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.outputs import guarded
from sotopia_rl_data.results import write_result
from sotopia_rl_data.statistics import Floats
from sotopia_rl_data.store import Version

By = Literal["utterance", "episode"]
COLUMNS = ("episode_id", "agent", "turn", "dimension", "why", "spread")


@dataclass(frozen=True, slots=True)
class Disputed:
    """One line of the list. `agent`, `turn` and `dimension` are None where the whole episode is meant. `spread` is in
    standard deviations of the dimension; `why` says it in words."""

    episode_id: str
    agent: str | None
    turn: int | None
    dimension: str | None
    why: str
    spread: float


def curate(
    versions: Sequence[Version], *, top: int = 100, by: By = "utterance", dimensions: Sequence[str] | None = None
) -> list[Disputed]:
    """The `top` utterances (each on one dimension), or episodes by the mean of theirs, that opinions disagree about
    most, the widest first. Utterances on which all agree are never listed.

    Raises UsageError where nothing was judged twice or a dimension is absent.
    """
    if top < 1:
        raise UsageError(f"--top is {top}, but a list needs at least 1 line.", "give, for example, --top 100")
    opinions = opinions_of(versions, dimensions)
    spread = spreads(opinions)
    if np.isnan(spread).all():
        names = ", ".join(opinions.names) or "none"
        raise UsageError(
            f"No utterance has two opinions that could disagree; the only opinions are: {names}.",
            "label with a second --judge or with --samples 2, or name a second dataset of these episodes",
        )
    return list(_episodes(opinions, spread, top) if by == "episode" else _utterances(opinions, spread, top))


def spreads(opinions: Opinions) -> Floats:
    """Each unit's disagreement; NaN where fewer than two opinions, or a dimension on which nothing ever differs."""
    there = ~np.isnan(opinions.values)
    count = there.sum(axis=0)
    middle = np.where(there, opinions.values, 0.0).sum(axis=0) / np.maximum(count, 1)
    within = np.where(there, opinions.values - middle, 0.0)
    own = np.sqrt((within**2).sum(axis=0) / np.maximum(count - 1, 1))
    scale = np.full(len(opinions.dimensions), np.nan)
    for d in range(len(scale)):
        values = opinions.values[:, opinions.dimension == d]
        values = values[~np.isnan(values)]
        scale[d] = values.std(ddof=1) if len(values) > 1 and np.ptp(values) > 0 else np.nan
    found: Floats = np.where(count > 1, own / scale[opinions.dimension], np.nan)
    return found


def write_list(rows: Sequence[Disputed], path: Path) -> None:
    """Write the list as CSV. Raises StoreError where the file cannot be written."""
    types = (pa.string(), pa.string(), pa.int32(), pa.string(), pa.string(), pa.float64())
    columns = []
    for name, kind in zip(COLUMNS, types, strict=True):
        values = [getattr(row, name) for row in rows]
        columns.append(pa.array([guarded(value) if isinstance(value, str) else value for value in values], kind))
    write_result(pa.table(columns, names=COLUMNS), "csv", path)


def _utterances(opinions: Opinions, spread: Floats, top: int) -> Iterator[Disputed]:
    for unit in _widest(spread, (opinions.turn, opinions.dimension, opinions.agent, opinions.episode), top):
        said = ", ".join(
            f"{name} {opinions.level(int(opinions.dimension[unit]), value):.4g}"
            for name, value in zip(opinions.names, opinions.values[:, unit], strict=True)
            if not np.isnan(value)
        )
        where = (
            opinions.episodes[opinions.episode[unit]],
            opinions.agents[opinions.agent[unit]],
            int(opinions.turn[unit]),
        )
        yield Disputed(*where, opinions.dimensions[opinions.dimension[unit]], said, round(float(spread[unit]), 6))


def _episodes(opinions: Opinions, spread: Floats, top: int) -> Iterator[Disputed]:
    known = ~np.isnan(spread)
    count = np.bincount(opinions.episode[known], minlength=len(opinions.episodes))
    total = np.bincount(opinions.episode[known], spread[known], len(opinions.episodes))
    disputed = np.bincount(opinions.episode[known], spread[known] > 0, len(opinions.episodes))
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    for episode in _widest(mean, (np.arange(len(mean)),), top):
        why = f"{int(disputed[episode])} of {int(count[episode])} labels disputed"
        yield Disputed(opinions.episodes[episode], None, None, None, why, round(float(mean[episode]), 6))


def _widest(spread: Floats, ties: Sequence[NDArray[np.generic]], top: int) -> list[int]:
    """The rows with the widest spread above 0, widest first; ties in a fixed order."""
    rows = np.flatnonzero(np.nan_to_num(spread) > 0)
    order = np.lexsort([*(key[rows] for key in ties), -spread[rows]])
    return [int(row) for row in rows[order[:top]]]
