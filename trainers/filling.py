"""Batches with a token budget: as many rows as fit, so that short rows do not leave a GPU idle nor long ones fill it.

Which rows make a batch is drawn once, by the run's seed, and stays; the order of the batches is drawn anew in each
epoch, as that of rows is. So a batch is one item of the dataset, and sampling, several processes and resuming are the
Trainer's own. Losses are divided by the utterances, or tokens, of the whole step, so each counts the same whatever
batch it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW = 1024  # rows among which those of like length are put together, where batches are padded


def filled(sizes: NDArray[np.int64], most: int, *, is_padded: bool, seed: int) -> list[NDArray[np.int64]]:
    """The places of the rows that make each batch, where row k has `sizes[k]` tokens: at most `most` in a batch, in
    which, where it `is_padded`, each row takes as many as the longest. A row that is larger is a batch of its own."""
    order = np.random.default_rng(seed).permutation(len(sizes))
    if is_padded:
        windows = [order[at : at + WINDOW] for at in range(0, len(order), WINDOW)]
        order = np.concatenate([window[np.argsort(sizes[window], kind="stable")] for window in windows] or [order])
    batches: list[NDArray[np.int64]] = []
    first, taken, longest = 0, 0, 0
    for at, size in enumerate(sizes[order].tolist()):
        after = (at - first + 1) * max(longest, size) if is_padded else taken + size
        if at > first and after > most:
            batches.append(order[first:at])
            first, taken, longest = at, 0, 0
        taken, longest = taken + size, max(longest, size)
    return [*batches, order[first:]] if len(order) else []


class FilledRows(Sequence[Any]):
    """Batches of a dataset's rows: each item is the list of a batch's rows, which `joined` makes one of."""

    def __init__(
        self, rows: Any, batches: Sequence[NDArray[np.int64]], joined: Callable[[list[Any]], Any] = list
    ) -> None:
        self._rows = rows
        self._batches = batches
        self._joined = joined

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, at: Any) -> Any:
        return self._joined([self._rows[int(place)] for place in self._batches[at]])


def one_row(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """The utterances of several rows of a reward model, as of one row."""
    return list(chain.from_iterable(rows))


class FlatBatch:
    """A collator of rows, given lists of them."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, items: Sequence[Any]) -> Any:
        return self._collate([row for item in items for row in (item if isinstance(item, list) else [item])])
