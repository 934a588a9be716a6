"""A chunk of long attributions as numbers: which utterance each is about, which dimension and opinion, and its value.

The rows of an utterance are next to each other. Where every utterance has the same rows, which is the rule, they
are a grid and are laid out as one; else each row is put in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sotopia_rl_data.rewards.long import Opinion
from sotopia_rl_data.rewards.rules import Floats, Ints
from sotopia_rl_data.rewards.streams import Codes, codes, encode

_LONGEST = 1 << 12  # rows of one utterance: longer ones are laid out row by row


@dataclass(frozen=True, slots=True)
class Answers:
    """`value` (rows,) is on the scale [0, 1], NaN where there is none; `layer` (rows,) is the opinion and dimension it
    belongs to, below 0 where nobody wants it.

    `heads` are the rows that begin an utterance, and `each` is how many rows all of them have (0: they differ).
    """

    layer: Ints
    value: Floats
    heads: Ints
    each: int

    @classmethod
    def of(
        cls, rows: pa.Table, keys: Sequence[Codes], dimensions: Sequence[str], opinions: Sequence[Opinion]
    ) -> Answers:
        """From the attributions' columns; `keys` are the columns that tell utterances apart."""
        dimension = codes(rows.column("dimension"), pa.array(dimensions))
        layer = np.where(dimension < 0, -1, _opinion(rows, opinions) * len(dimensions) + dimension)
        each = _grid(layer, keys)
        heads = np.arange(0, len(layer), each) if each else np.flatnonzero(changes(*keys))
        return cls(layer, _value(rows), heads, each)

    def lay(self, into: Floats, at: Ints) -> None:
        """Put the values into (layers, places): `at` (heads,) is the place of each utterance, below 0 for none."""
        if self.each:
            known = slice(None) if (at >= 0).all() else at >= 0
            for row in range(self.each):
                if self.layer[row] >= 0:
                    into[self.layer[row], at[known]] = self.value[row :: self.each][known]
            return
        spread = np.repeat(at, np.diff(self.heads, append=len(self.layer)))
        wanted = (self.layer >= 0) & (spread >= 0)
        into[self.layer[wanted], spread[wanted]] = self.value[wanted]


def changes(*keys: Codes) -> NDArray[np.bool_]:
    """True at each row whose key differs from the row before it."""
    heads = np.zeros(len(keys[0]), bool)
    heads[:1] = True
    for key in keys:
        heads[1:] |= key[1:] != key[:-1]
    return heads


def _grid(layer: Ints, keys: Sequence[Codes]) -> int:
    """How many rows each utterance has, where all have the same; else 0."""
    first = np.flatnonzero(changes(*(key[:_LONGEST] for key in keys)))
    each = int(first[1]) if len(first) > 1 else len(layer)
    if each > _LONGEST or len(layer) % each or (layer.reshape(-1, each) != layer[:each]).any():
        return 0
    blocks = (key.reshape(-1, each) for key in keys)
    return 0 if any((block != block[:, :1]).any() for block in blocks) else each


def _value(rows: pa.Table) -> Floats:
    """(raw − scale_min)/(scale_max − scale_min); NaN where the scale has no width."""
    raw, low, high = (_floats(rows, column) for column in ("raw", "scale_min", "scale_max"))
    value = raw - low
    with np.errstate(divide="ignore", invalid="ignore"):
        value /= high - low
    if not np.isfinite(value).all():
        value[~np.isfinite(value)] = np.nan
    return value


def _floats(rows: pa.Table, column: str) -> Floats:
    return np.asarray(rows.column(column).to_numpy(), np.float64)


def _opinion(rows: pa.Table, opinions: Sequence[Opinion]) -> Ints | int:
    """Which of the opinions each row belongs to."""
    if len(opinions) == 1:
        return 0
    judge, judges = encode(rows.column("judge"))
    samples, sample = np.unique(rows.column("sample").to_numpy(), return_inverse=True)
    number = {opinion: i for i, opinion in enumerate(opinions)}
    table = np.array([[number.get((name, int(s)), -1) for s in samples] for name in judges.to_pylist()])
    which: Ints = table[judge, sample]
    return which
