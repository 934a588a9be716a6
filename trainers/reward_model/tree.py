"""Prefix-tree packing: N token sequences that share prefixes become one row, exactly.

The utterances of one agent in one episode share a growing prefix, and the completions of one prompt share the prompt.
Every sequence is tokenised alone with the unchanged chat template; only identical leading tokens at identical
positions are merged. A token therefore sees exactly the tokens it would see alone, at the same positions, and a
decoder computes the same hidden state for it (up to floating-point summation order).

A row is laid out depth first. A maximal run of tokens that each follow their predecessor is one `Segment`; besides
itself, a segment attends to a few contiguous ranges of the row, its ancestors. `attention.py` computes attention
segment by segment and never forms the row-by-row mask. No torch here: the packing is numpy.

Related: Tree Training (arXiv 2511.00413), which packs agent trajectories for the same reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Segment:
    """Row positions [start, end), each following its predecessor, and the row's ranges that precede `start` on its
    path, in path order."""

    start: int
    end: int
    ancestors: tuple[tuple[int, int], ...] = ()

    @property
    def depth(self) -> int:
        """How many tokens precede `start` on its path."""
        return sum(b - a for a, b in self.ancestors)


@dataclass(frozen=True, slots=True)
class Tree:
    """One packed row of T tokens that holds N sequences.

    `input_ids` and `position_ids` are int64 [T] (a token's position is its depth, its place in the sequence alone);
    `read` is int64 [N], the row position of each sequence's last token, in the order the sequences were given;
    `subtree_end` is int64 [T], the exclusive end of the subtree below each token: key k is visible to query q
    exactly when k <= q < subtree_end[k]. `apart` is the number of tokens of the N sequences laid out one by one.
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    read: NDArray[np.int64]
    subtree_end: NDArray[np.int64]
    segments: tuple[Segment, ...]
    apart: int

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def ratio(self) -> float:
        """Tokens of the sequences one by one, for each token of the row; 1.0 where nothing is shared."""
        return self.apart / len(self.input_ids)

    def mask(self) -> NDArray[np.bool_]:
        """[T, T], True where the query (row) may attend to the key (column). For small rows: it is the definition."""
        at = np.arange(len(self))
        return (at[None, :] <= at[:, None]) & (at[:, None] < self.subtree_end[None, :])


def shared_prefix(a: Ids, b: Ids) -> int:
    """How many leading tokens `a` and `b` have in common."""
    shorter = min(len(a), len(b))
    differs = np.flatnonzero(np.asarray(a[:shorter]) != np.asarray(b[:shorter]))
    return int(differs[0]) if len(differs) else shorter


def pack(sequences: Sequence[Ids]) -> Tree:
    """Pack non-empty token sequences into one row. Raises ValueError where there is none, or one is empty."""
    if not sequences or not all(len(s) for s in sequences):
        raise ValueError("pack needs at least one sequence, and none may be empty")
    builder = _Builder()
    # In lexicographic order, neighbours share the longest prefixes and the trie is walked depth first.
    for index in sorted(range(len(sequences)), key=lambda i: _lexical(sequences[i])):
        builder.add(index, sequences[index])
    return builder.tree(len(sequences))


def packed_size(sequences: Sequence[Ids]) -> int:
    """How many tokens the row of these sequences has, without building it."""
    ordered = sorted(sequences, key=_lexical)
    return sum(len(s) - (shared_prefix(ordered[i - 1], s) if i else 0) for i, s in enumerate(ordered))


def _lexical(ids: Ids) -> bytes:
    """Token ids as bytes that sort as the ids do (big-endian, non-negative)."""
    return np.asarray(ids, dtype=">u4").tobytes()


class _Builder:
    """The row so far and the path to its last token, as ranges of the row."""

    def __init__(self) -> None:
        self.ids: list[NDArray[np.int64]] = []
        self.positions: list[NDArray[np.int64]] = []
        self.size = 0
        self.path: list[tuple[int, int]] = []
        self.last: Ids = ()
        self.segments: list[Segment] = []
        self.reads: dict[int, int] = {}
        self.ends: list[tuple[int, int, int]] = []
        self.apart = 0

    def add(self, index: int, sequence: Ids) -> None:
        keep = shared_prefix(self.last, sequence)
        self._retreat(keep)
        if keep < len(sequence):
            self._append(np.asarray(sequence[keep:], dtype=np.int64), keep)
        self.reads[index] = self.path[-1][1] - 1
        self.last = sequence
        self.apart += len(sequence)

    def _retreat(self, depth: int) -> None:
        """Shorten the path to its first `depth` tokens. The subtrees of the tokens that are dropped are complete."""
        kept: list[tuple[int, int]] = []
        for start, end in self.path:
            take = min(end - start, depth)
            depth -= take
            if take:
                kept.append((start, start + take))
            if start + take < end:
                self.ends.append((start + take, end, self.size))
        self.path = kept

    def _append(self, ids: NDArray[np.int64], depth: int) -> None:
        start, end = self.size, self.size + len(ids)
        self.ids.append(ids)
        self.positions.append(np.arange(depth, depth + len(ids), dtype=np.int64))
        self.size = end
        if self.path and self.path[-1][1] == start:  # directly after the last sequence: its run grows
            self.path[-1] = (self.path[-1][0], end)
            run = self.segments[-1]
            self.segments[-1] = Segment(run.start, end, run.ancestors)
        else:
            self.segments.append(Segment(start, end, tuple(self.path)))
            self.path.append((start, end))

    def tree(self, count: int) -> Tree:
        self._retreat(0)
        subtree_end = np.empty(self.size, dtype=np.int64)
        for start, end, stop in self.ends:
            subtree_end[start:end] = stop
        return Tree(
            input_ids=np.concatenate(self.ids),
            position_ids=np.concatenate(self.positions),
            read=np.array([self.reads[i] for i in range(count)], dtype=np.int64),
            subtree_end=subtree_end,
            segments=tuple(self.segments),
            apart=self.apart,
        )
