"""From a dataset's rows to what a reward model is trained on: token ids, labels in the head's units, weights, batches.

A row of token ids holds one utterance, or all utterances of an agent in an episode. Both have the same bookkeeping, so
loss and metrics are the same for both: `labels` [N, K] (standardised), `weights` [N, K] (0 where a target is missing),
`index` [N] (which utterance) and `item` [N] (which row of the batch). Whether to pack is decided in `trainer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.trainers.config import RMConfig
from sotopia_rl_data.trainers.data import DatasetRow, DatasetRows, check_splits, target_table
from sotopia_rl_data.trainers.encoding import Cuts, Encoder, check_padding, count_cuts, tokenizer_of
from sotopia_rl_data.trainers.modeling import fingerprint
from sotopia_rl_data.trainers.reward_model.attention import tree_inputs
from sotopia_rl_data.trainers.reward_model.head import RewardHead, fit
from sotopia_rl_data.trainers.reward_model.tree import pack, packed_size, shared_prefix

BOOKKEEPING = ("labels", "weights", "index", "item")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class LabelledUtterance:
    """Token ids [L] with labels [K] and weights [K]; `group` is its episode and agent, `index` its row in the
    dataset."""

    index: int
    group: tuple[str, ...]
    ids: NDArray[np.int32]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]


Row = list[LabelledUtterance]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Labelled utterances by split, the dataset's rows that fit (without their text), the head with its units, and what
    was cut so that prompts fit."""

    encoder: Encoder
    head: RewardHead
    rows: tuple[DatasetRow, ...]
    utterances: Mapping[str, Sequence[LabelledUtterance]]
    cuts: Cuts


def prepare(data: DatasetRows, config: RMConfig) -> Prepared:
    """Tokenise the rows, fit the head on the train split. Raises InputError, UsageError where nothing is left."""
    tokenizer = tokenizer_of(config)
    check_padding(tokenizer)
    encoder = Encoder(tokenizer, config.max_length)
    encoded = encoder.encode([(row.prompt, row.completion) for row in data.rows])
    cuts = count_cuts(encoded, encoder.max_length)
    kept = [(row, fitted.ids) for row, fitted in zip(data.rows, encoded, strict=True) if fitted is not None]
    rows = [replace(row, prompt=(), completion=()) for row, _ in kept]  # the text is no longer needed
    check_splits(data, {row.split for row in rows}, config.eval_strategy != "no")
    values, in_train = target_table(rows), np.array([row.split == "train" for row in rows])
    head = fit(data.targets, recipe_weights(data), values[in_train], fingerprint(tokenizer))
    check_measurable(head, rows, values)
    weights = sample_weights(rows, in_train) if config.weigh_by_spread else np.ones(len(rows))
    labelled = labelled_utterances(kept, head.standardised(values), weights)
    by_split: dict[str, list[LabelledUtterance]] = {split: [] for split in SPLITS}
    for utterance, row in zip(labelled, rows, strict=True):
        if row.split in by_split:
            by_split[row.split].append(utterance)
    return Prepared(encoder, head, tuple(rows), by_split, cuts)


def check_measurable(head: RewardHead, rows: Sequence[DatasetRow], values: NDArray[np.float64]) -> None:
    """Raises InputError where a split that training needs has no utterance with all the targets of the reward."""
    is_known = np.isfinite(head.known(values))
    measured = {row.split for row, known in zip(rows, is_known, strict=True) if known}
    unmeasured = ({"train", "validation"} & {row.split for row in rows}) - measured
    if unmeasured:
        raise InputError(
            f"No utterance of the {min(unmeasured)} split has a value for each of {', '.join(head.targets)}.",
            "name fewer --targets",
        )


def labelled_utterances(
    kept: Sequence[tuple[DatasetRow, NDArray[np.int32]]], labels: NDArray[np.float64], weights: NDArray[np.float64]
) -> list[LabelledUtterance]:
    """Token ids with their labels [N, K] (NaN: missing). A row's weight is divided among its known targets."""
    known = np.isfinite(labels)
    shares = (weights[:, None] * known / known.sum(axis=1, keepdims=True)).astype(np.float32)
    filled = np.where(known, labels, 0.0).astype(np.float32)
    utterances = []
    for i, (row, ids) in enumerate(kept):
        group = (row.episode_id, row.agent) if row.episode_id else ("", "", str(i))
        utterances.append(LabelledUtterance(i, group, ids, filled[i], shares[i]))
    return utterances


def recipe_weights(data: DatasetRows) -> dict[str, float]:
    """Each target's weight in the dataset's recipe, which made one reward of the dimensions."""
    recipe = data.pinned.recipe
    weights = recipe.get("weights") or recipe.get("rewards", {}).get("weights") or {}
    return {target: float(weights.get(target, 0.0)) for target in data.targets}


def sample_weights(rows: Sequence[DatasetRow], in_train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A weight for each row: s² / (s² + spread²), where s is the train split's median spread; scaled to mean 1 on
    train.

    This is inverse-variance weighting with a floor: before scaling, the weight is 1 where opinions agree, and half
    where they differ by s. A row whose spread is unknown counts as typical.
    """
    spread = np.array([np.nan if row.spread is None else row.spread for row in rows], dtype=np.float64)
    if not np.isfinite(spread[in_train]).any():
        raise InputError(
            "No row has a spread, so weigh_by_spread has nothing to weigh by.",
            "label with --samples 3 or several judges, or leave weigh_by_spread out",
        )
    typical = float(np.nanmedian(spread[in_train]))
    spread = np.where(np.isfinite(spread), spread, typical)
    if typical == 0.0:
        typical = max(float(spread.max()), 1.0)
    weights: NDArray[np.float64] = typical**2 / (typical**2 + spread**2)
    return weights / float(weights[in_train].mean())


def one_each(utterances: Sequence[LabelledUtterance]) -> list[Row]:
    """One row for each utterance."""
    return [[utterance] for utterance in utterances]


def one_each_group(utterances: Sequence[LabelledUtterance], row_tokens: int) -> list[Row]:
    """One row for each agent of an episode, or several in turn order where its tree would hold more than `row_tokens`
    tokens."""
    groups: dict[tuple[str, ...], list[LabelledUtterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.group, []).append(utterance)
    return [row for group in groups.values() for row in _rows_of_group(group, row_tokens)]


def _rows_of_group(group: Sequence[LabelledUtterance], row_tokens: int) -> list[Row]:
    rows: list[Row] = []
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


def sharing(rows: Sequence[Row]) -> float:
    """Tokens with one row for each utterance, for each token when packed: what packing saves; 1.0 is nothing."""
    apart = sum(len(utterance.ids) for row in rows for utterance in row)
    return apart / max(1, sum(packed_size([utterance.ids for utterance in row]) for row in rows))


def tree_batch(rows: Sequence[Row]) -> dict[str, Any]:
    """All rows packed into a single one."""
    return tree_inputs(pack([utterance.ids for row in rows for utterance in row])) | _bookkeeping(rows)


class PlainBatch:
    """Rows of one utterance each, padded; the score is read at the last token that is not padding."""

    def __init__(self, pad: int, side: str = "right") -> None:
        self.pad = pad
        self.side = side

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        longest = max(len(utterance.ids) for row in rows for utterance in row)
        ids = torch.full((len(rows), longest), self.pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for at, (utterance,) in enumerate(rows):
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
