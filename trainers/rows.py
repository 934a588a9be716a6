"""Utterances as training rows: one row an utterance, or one row an episode-agent, and how rows become a batch.

Both ways carry the same bookkeeping, so loss and metrics do not care which one it is: `labels` [N, K] (standardised),
`weights` [N, K] (0 where a target is missing), `index` [N] (which utterance) and `item` [N] (which row of the batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sotopia_rl_data.trainers.attention import tree_inputs
from sotopia_rl_data.trainers.treepack import pack, packed_size, shared_prefix

BOOKKEEPING = ("labels", "weights", "index", "item")


@dataclass(frozen=True, slots=True)
class Sample:
    """One utterance, encoded: ids [L], labels [K] and weights [K]; `group` is its episode-agent, `index` its row."""

    index: int
    group: tuple[str, ...]
    ids: NDArray[np.int32]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]


class Rows(torch.utils.data.Dataset[list[Sample]]):
    """A list of rows, each a list of samples."""

    def __init__(self, rows: Sequence[list[Sample]]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Sample]:
        return self.rows[index]

    @property
    def samples(self) -> int:
        """Utterances in all rows."""
        return sum(len(r) for r in self.rows)


def one_each(samples: Sequence[Sample]) -> Rows:
    """One row an utterance."""
    return Rows([[s] for s in samples])


def one_each_group(samples: Sequence[Sample], row_tokens: int) -> Rows:
    """One row an episode-agent, cut in turn order where its tree would hold more than `row_tokens` tokens."""
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    return Rows([row for group in groups.values() for row in _within(group, row_tokens)])


def _within(group: Sequence[Sample], row_tokens: int) -> list[list[Sample]]:
    rows: list[list[Sample]] = []
    size = 0
    for sample in group:
        new = len(sample.ids)
        if rows:
            new -= max(shared_prefix(sample.ids, other.ids) for other in rows[-1])
        if not rows or size + new > row_tokens:
            rows.append([])
            size, new = 0, len(sample.ids)
        rows[-1].append(sample)
        size += new
    return rows


def sharing(rows: Rows) -> float:
    """Tokens one row an utterance for each token packed: what tree packing saves, 1.0 for nothing."""
    apart = sum(len(s.ids) for row in rows.rows for s in row)
    return apart / max(1, sum(packed_size([s.ids for s in row]) for row in rows.rows))


def tree_batch(rows: Sequence[list[Sample]]) -> dict[str, Any]:
    """Rows packed into one forest of a single row."""
    return tree_inputs(pack([s.ids for row in rows for s in row])) | _bookkeeping(rows)


class PlainBatch:
    """Rows of one utterance each, padded; the score is read at the last token that is not padding."""

    def __init__(self, pad: int, side: str = "right") -> None:
        self.pad = pad
        self.side = side

    def __call__(self, rows: Sequence[list[Sample]]) -> dict[str, Any]:
        longest = max(len(s.ids) for row in rows for s in row)
        ids = torch.full((len(rows), longest), self.pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for at, (sample,) in enumerate(rows):
            place = slice(longest - len(sample.ids), None) if self.side == "left" else slice(len(sample.ids))
            ids[at, place] = torch.from_numpy(sample.ids.astype(np.int64))
            mask[at, place] = 1
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions} | _bookkeeping(rows)


def _bookkeeping(rows: Sequence[list[Sample]]) -> dict[str, torch.Tensor]:
    samples = [s for row in rows for s in row]
    return {  # the names of BOOKKEEPING: what no model is given
        "labels": torch.from_numpy(np.stack([s.labels for s in samples])),
        "weights": torch.from_numpy(np.stack([s.weights for s in samples])),
        "index": torch.tensor([s.index for s in samples]),
        "item": torch.tensor([at for at, row in enumerate(rows) for _ in row]),
    }
