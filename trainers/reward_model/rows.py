"""From a dataset's rows to what a reward model is trained on: token ids, labels in the head's units, weights, batches.

A row of token ids holds one utterance, or all utterances of an agent in an episode. Both have the same bookkeeping, so
loss and metrics are the same for both: `labels` [N, K] (standardised), `weights` [N, K] (0 where a target is missing),
`index` [N] (which utterance) and `item` [N] (which row of the batch). Whether to pack is decided in `trainer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.trainers.config import RMConfig
from sotopia_rl_data.trainers.data import DatasetRow, DatasetRows, check_splits, target_table
from sotopia_rl_data.trainers.encoding import Cuts, Encoder, check_padding, count_cuts, cuts_of_all, tokenizer_of
from sotopia_rl_data.trainers.modeling import fingerprint
from sotopia_rl_data.trainers.reward_model.attention import tree_inputs
from sotopia_rl_data.trainers.reward_model.head import RewardHead, fit
from sotopia_rl_data.trainers.reward_model.tree import pack, packed_size, shared_prefix
from sotopia_rl_data.trainers.tokenised import lengths_of, tokenised

if TYPE_CHECKING:
    from datasets import Dataset

BOOKKEEPING = ("labels", "weights", "index", "item")
SPLITS = ("train", "validation", "test")
Slice = slice | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelledUtterance:
    """Token ids [L] with labels [K] and weights [K]; `group` is its episode and agent, `index` its number among the
    utterances of all splits."""

    index: int
    group: tuple[str, ...]
    ids: NDArray[np.int32]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]


Row = Sequence[LabelledUtterance]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a reward model is trained on: the utterances of each split, the head with its units, and what was cut so
    that prompts fit. `sharing` is how many times the tokens of packed train rows plain ones have."""

    encoder: Encoder
    head: RewardHead
    utterances: Mapping[str, LabelledUtterances]
    cuts: Cuts
    sharing: float


def prepare(data: DatasetRows, config: RMConfig) -> Prepared:
    """Tokenise the rows, fit the head on the train split. Raises InputError, UsageError where nothing is left."""
    tokenizer = tokenizer_of(config)
    check_padding(tokenizer)
    encoder = Encoder(tokenizer, config.max_length)

    def encode(rows: Sequence[DatasetRow]) -> tuple[pa.Table, dict[str, int]]:
        return encoded_utterances(rows, encoder, config.row_tokens)

    settings = {"kind": "utterances", "columns": 2, **encoder.settings(), "row_tokens": config.row_tokens}
    found = tokenised(data, encode, settings, show=not config.disable_tqdm)
    cuts = cuts_of_all(found, encoder.max_length)
    check_splits(data, found.splits, config.eval_strategy != "no")
    stored, first = {}, 0
    for split in SPLITS:
        if split in found.splits:
            stored[split] = StoredUtterances(found.splits[split], first, len(data.targets))
            first += len(stored[split])
    train = stored["train"]
    head = fit(data.targets, recipe_weights(data), train.targets(), fingerprint(tokenizer))
    check_measurable(head, stored)
    weights = SpreadWeights.fit([one.spread() for one in stored.values()]) if config.weigh_by_spread else None
    utterances = {split: LabelledUtterances(of_split, head, weights) for split, of_split in stored.items()}
    counts = found.counts["train"]
    return Prepared(encoder, head, utterances, cuts, counts["apart"] / max(1, counts["packed"]))


def encoded_utterances(
    rows: Sequence[DatasetRow], encoder: Encoder, row_tokens: int
) -> tuple[pa.Table, dict[str, int]]:
    """Whole episodes as token ids with their numbers, where a packed row `starts` and how many `tokens` it has (0
    elsewhere); and counts: what was cut, and the tokens of the rows `apart` and `packed`."""
    encoded = encoder.encode([(row.prompt, row.completion) for row in rows])
    none = np.zeros(0, dtype=np.float32)
    found = []
    for i, (row, fitted) in enumerate(zip(rows, encoded, strict=True)):
        if fitted is not None:
            group = (row.episode_id, row.agent) if row.episode_id else ("", "", str(i))
            found.append(LabelledUtterance(i, group, fitted.ids, none, none))
    packed = one_each_group(found, row_tokens)
    sized = [(row, packed_size([one.ids for one in row])) for row in packed]
    order = [(at == 0, one) for row in packed for at, one in enumerate(row)]
    kept = [rows[one.index] for _, one in order]
    table = pa.table(
        {
            "ids": pa.array([one.ids for _, one in order], pa.list_(pa.int32())),
            "starts": pa.array([starts for starts, _ in order], pa.bool_()),
            "tokens": pa.array([size if at == 0 else 0 for row, size in sized for at in range(len(row))], pa.int32()),
            "episode_id": pa.array([row.episode_id for row in kept], pa.string()),
            "agent": pa.array([row.agent for row in kept], pa.string()),
            "turn": pa.array([row.turn for row in kept], pa.int32()),
            "spread": pa.array([row.spread for row in kept], pa.float64()),
            **{
                f"target_{k}": pa.array([row.targets[k] for row in kept], pa.float64())
                for k in range(len(rows[0].targets))
            },
        }
    )
    tokens = {
        "apart": sum(len(one.ids) for one in found),
        "packed": sum(size for _, size in sized),
    }
    return table, count_cuts(encoded) | tokens


class StoredUtterances:
    """The utterances of one split as `encoded_utterances` stored them, memory-mapped; the first has the number `first`
    among those of all splits."""

    def __init__(self, data: Dataset, first: int, heads: int) -> None:
        self.first = first
        self._data = data.with_format("arrow")
        self._heads = heads

    def __len__(self) -> int:
        return len(self._data)

    def read(self, start: int, stop: int) -> pa.Table:
        """All columns of the utterances from `start` to `stop`."""
        return self._data[start:stop]

    def numbers(self, *names: str, at: Slice = slice(None)) -> pa.Table:
        """These columns of all utterances, or of those `at` ascending places."""
        if not isinstance(at, slice) and len(at) and at[-1] - at[0] == len(at) - 1:
            at = slice(int(at[0]), int(at[-1]) + 1)  # neighbours, as a whole split is, are not looked up one by one
        return self._data.select_columns(list(names))[at]

    def targets(self, at: Slice = slice(None)) -> NDArray[np.float64]:
        """[N, K] targets; NaN where one is missing."""
        return target_table(self.numbers(*(f"target_{k}" for k in range(self._heads)), at=at), self._heads)

    def turns(self, at: Slice = slice(None)) -> NDArray[np.float64]:
        """[N] turns; NaN where one is unknown."""
        return np.asarray(self.numbers("turn", at=at).column("turn").to_numpy(), dtype=np.float64)

    def spread(self) -> NDArray[np.float64]:
        """[N] spreads; NaN where one is unknown."""
        return np.asarray(self.numbers("spread").column("spread").to_numpy(), dtype=np.float64)

    def row_starts(self) -> NDArray[np.int64]:
        """Where each packed row begins, and the end of the last."""
        starts = np.flatnonzero(self.numbers("starts").column("starts").to_numpy())
        return np.append(starts, len(self)).astype(np.int64)

    def row_sizes(self) -> NDArray[np.int64]:
        """The tokens of each packed row."""
        table = self.numbers("starts", "tokens")
        tokens: NDArray[np.int64] = table.column("tokens").to_numpy().astype(np.int64)
        sizes: NDArray[np.int64] = tokens[table.column("starts").to_numpy()]
        return sizes

    def lengths(self) -> NDArray[np.int64]:
        """The tokens of each utterance."""
        return lengths_of(self._data, "ids")


@dataclass(frozen=True, slots=True)
class SpreadWeights:
    """A weight for each row: s² / (s² + spread²), where s is the train split's median spread; scaled to mean 1 on
    train.

    This is inverse-variance weighting with a floor: before scaling, the weight is 1 where opinions agree, and half
    where they differ by s. A row whose spread is unknown has the `usual` one.
    """

    usual: float
    s: float
    mean: float

    @classmethod
    def fit(cls, spreads: Sequence[NDArray[np.float64]]) -> Self:
        """From the spreads [N] of each split (NaN: unknown), train first. Raises InputError where train has none."""
        train, known = spreads[0], [of_split[np.isfinite(of_split)] for of_split in spreads]
        if not len(known[0]):
            raise InputError(
                "No row has a spread, so weigh_by_spread has nothing to weigh by.",
                "label with --samples 3 or several judges, or leave weigh_by_spread out",
            )
        usual = float(np.median(known[0]))
        s = usual or max(*(float(of_split.max()) for of_split in known if len(of_split)), 1.0)
        return cls(usual, s, float(cls(usual, s, 1.0).of(train).mean()))

    def of(self, spread: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N] weights of rows with these spreads."""
        weights: NDArray[np.float64] = self.s**2 / (self.s**2 + np.where(np.isfinite(spread), spread, self.usual) ** 2)
        return weights / self.mean


class LabelledUtterances(Sequence[LabelledUtterance]):
    """The labelled utterances of one split, read from the disk as they are taken."""

    def __init__(self, stored: StoredUtterances, head: RewardHead, weights: SpreadWeights | None = None) -> None:
        self.stored = stored
        self._head = head
        self._weights = weights

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, at: int) -> LabelledUtterance: ...

    @overload
    def __getitem__(self, at: slice) -> list[LabelledUtterance]: ...

    def __getitem__(self, at: int | slice) -> LabelledUtterance | list[LabelledUtterance]:
        if isinstance(at, slice):
            start, stop, _ = at.indices(len(self))
            return self._read(start, stop)
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._read(at, at + 1)[0]

    def _read(self, start: int, stop: int) -> list[LabelledUtterance]:
        table = self.stored.read(start, stop)
        spread = table.column("spread").to_numpy().astype(np.float64)
        weights = np.ones(len(table)) if self._weights is None else self._weights.of(spread)
        labels, shares = labels_of(self._head, target_table(table, len(self._head.targets)), weights)
        keys = zip(table.column("episode_id").to_pylist(), table.column("agent").to_pylist(), strict=True)
        return [
            LabelledUtterance(self.stored.first + start + i, group, ids.values.to_numpy(), labels[i], shares[i])
            for i, (group, ids) in enumerate(zip(keys, table.column("ids"), strict=True))
        ]


class PlainRows(Sequence[Row]):
    """One row for each utterance."""

    def __init__(self, utterances: Sequence[LabelledUtterance]) -> None:
        self._utterances = utterances

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, at: Any) -> Any:
        return [self._utterances[at]]


class PackedRows(Sequence[Row]):
    """One row for each agent of an episode, or several, as they were divided when they were tokenised."""

    def __init__(self, utterances: LabelledUtterances) -> None:
        self._utterances = utterances
        self._starts = utterances.stored.row_starts()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, at: Any) -> Any:
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._utterances[int(self._starts[at]) : int(self._starts[at + 1])]


def check_measurable(head: RewardHead, stored: Mapping[str, StoredUtterances]) -> None:
    """Raises InputError where a split that training needs has no utterance with all the targets of the reward."""
    for split in ("train", "validation"):
        if split in stored and not np.isfinite(head.known(stored[split].targets())).any():
            raise InputError(
                f"No utterance of the {split} split has a value for each of {', '.join(head.targets)}.",
                "name fewer --targets",
            )


def labels_of(
    head: RewardHead, values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[N, K] labels and [N, K] weights of rows with these targets [N, K] (NaN: missing) and weights [N]. A row's weight
    is divided among its known targets."""
    labels = head.standardised(values)
    known = np.isfinite(labels)
    shares = (weights[:, None] * known / known.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.where(known, labels, 0.0).astype(np.float32), shares


def recipe_weights(data: DatasetRows) -> dict[str, float]:
    """Each target's weight in the dataset's recipe, which made one reward of the dimensions."""
    recipe = data.pinned.recipe
    weights = recipe.get("weights") or recipe.get("rewards", {}).get("weights") or {}
    return {target: float(weights.get(target, 0.0)) for target in data.targets}


def one_each_group(utterances: Sequence[LabelledUtterance], row_tokens: int) -> list[Row]:
    """One row for each agent of an episode, or several in turn order where its tree would hold more than `row_tokens`
    tokens."""
    groups: dict[tuple[str, ...], list[LabelledUtterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.group, []).append(utterance)
    return [row for group in groups.values() for row in _rows_of_group(group, row_tokens)]


def _rows_of_group(group: Sequence[LabelledUtterance], row_tokens: int) -> Sequence[Row]:
    rows: list[list[LabelledUtterance]] = []
    size = 0
    for utterance in group:
        added = len(utterance.ids)
        if rows:
            added -= max(shared_prefix(utterance.ids, other.ids) for other in rows[-1])
        if not rows or size + added > row_tokens:
            rows.append([])
            size, added = 0, len(utterance.ids)
        rows[-1].append(utterance)
        size += added
    return rows


def tree_batch(rows: Sequence[Row]) -> dict[str, Any]:
    """All rows packed into a single one."""
    return tree_inputs(pack([utterance.ids for row in rows for utterance in row])) | _bookkeeping(rows)


class PlainBatch:
    """Utterances, each padded; the score is read at the last token that is not padding."""

    def __init__(self, pad: int, side: str = "right") -> None:
        self.pad = pad
        self.side = side

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        utterances = list(chain.from_iterable(rows))
        longest = max(len(utterance.ids) for utterance in utterances)
        ids = torch.full((len(utterances), longest), self.pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for at, utterance in enumerate(utterances):
            length = len(utterance.ids)
            place = slice(longest - length, None) if self.side == "left" else slice(length)
            ids[at, place] = torch.from_numpy(utterance.ids.astype(np.int64))
            mask[at, place] = 1
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions} | _bookkeeping(rows)


def _bookkeeping(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """The tensors named in BOOKKEEPING, which no model is given."""
    utterances = list(chain.from_iterable(rows))
    return {
        "labels": torch.from_numpy(np.stack([utterance.labels for utterance in utterances])),
        "weights": torch.from_numpy(np.stack([utterance.weights for utterance in utterances])),
        "index": torch.tensor([utterance.index for utterance in utterances]),
        "item": torch.tensor([at for at, row in enumerate(rows) for _ in row]),
    }
