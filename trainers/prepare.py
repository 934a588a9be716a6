"""From examples to what a reward-model run needs that is no model: token ids, labels in the head's units, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.trainers.config import RMConfig
from sotopia_rl_data.trainers.data import Example, Examples, check_splits, target_table
from sotopia_rl_data.trainers.encoding import Cuts, Encoder, check_padding, cuts_made, tokenizer_of
from sotopia_rl_data.trainers.head import RewardHead, fit
from sotopia_rl_data.trainers.modeling import fingerprint
from sotopia_rl_data.trainers.rows import Sample

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Encoded utterances by split, the head's units, and what it took for the prompts to fit."""

    encoder: Encoder
    head: RewardHead
    examples: tuple[Example, ...]
    samples: Mapping[str, Sequence[Sample]]
    cuts: Cuts


def prepare(found: Examples, config: RMConfig) -> Prepared:
    """Tokenise the examples, fit the head on the train split. Raises InputError, UsageError where nothing is left."""
    tokenizer = tokenizer_of(config)
    check_padding(tokenizer)
    encoder = Encoder(tokenizer, config.max_length)
    encoded = encoder.encode([(r.prompt, r.completion) for r in found.rows])
    cuts = cuts_made([None if one is None else one.turns_cut for one in encoded], encoder.max_length)
    kept = [(row, one.ids) for row, one in zip(found.rows, encoded, strict=True) if one is not None]
    rows = [replace(row, prompt=(), completion=()) for row, _ in kept]  # the text has done its work
    check_splits(found, {r.split for r in rows}, config.eval_strategy != "no")
    values, train = target_table(rows), np.array([r.split == "train" for r in rows])
    head = fit(found.targets, recipe_weights(found), values[train], fingerprint(tokenizer))
    check_known(head, rows, values)
    weights = sample_weights(rows, train) if config.weigh_by_spread else np.ones(len(rows))
    samples = samples_of(kept, head.standardised(values), weights)
    by_split = {s: [x for x, r in zip(samples, rows, strict=True) if r.split == s] for s in SPLITS}
    return Prepared(encoder, head, tuple(rows), by_split, cuts)


def check_known(head: RewardHead, rows: Sequence[Example], values: NDArray[np.float64]) -> None:
    """Raises InputError where a split that training needs has no utterance with all the targets of the reward."""
    measured = {r.split for r, known in zip(rows, np.isfinite(head.known(values)), strict=True) if known}
    lost = ({"train", "validation"} & {r.split for r in rows}) - measured
    if lost:
        raise InputError(
            f"No utterance of the {min(lost)} split has all of {', '.join(head.targets)}: nothing is measured.",
            "name fewer --targets",
        )


def samples_of(
    kept: Sequence[tuple[Example, NDArray[np.int32]]], labels: NDArray[np.float64], weights: NDArray[np.float64]
) -> list[Sample]:
    """Token ids with their labels [N, K] (NaN: missing); a row's weight is shared by the heads that are known."""
    known = np.isfinite(labels)
    shares = (weights[:, None] * known / known.sum(axis=1, keepdims=True)).astype(np.float32)
    filled = np.where(known, labels, 0.0).astype(np.float32)
    return [
        Sample(i, (row.episode_id, row.agent) if row.episode_id else ("", "", str(i)), ids, filled[i], shares[i])
        for i, (row, ids) in enumerate(kept)
    ]


def recipe_weights(found: Examples) -> dict[str, float]:
    """The weights with which the dataset's recipe made one reward of its dimensions, by target."""
    recipe = found.pinned.recipe
    known = recipe.get("weights") or recipe.get("rewards", {}).get("weights") or {}
    return {t: float(known.get(t, 0.0)) for t in found.targets}


def sample_weights(rows: Sequence[Example], train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One weight a row: s² / (s² + spread²), s the train split's median spread; scaled to mean 1 on train.

    Inverse-variance weighting with a floor: where opinions agree the weight is 1, where they differ by s it is half.
    A row whose spread is unknown counts as typical.
    """
    spread = np.array([np.nan if r.spread is None else r.spread for r in rows], dtype=np.float64)
    if not np.isfinite(spread[train]).any():
        raise InputError(
            "No row has a spread to weigh by.", "label with --samples 3 or several judges, or leave the weights out"
        )
    typical = float(np.nanmedian(spread[train]))
    spread = np.where(np.isfinite(spread), spread, typical)
    if typical == 0.0:
        typical = max(float(spread.max()), 1.0)
    weights: NDArray[np.float64] = typical**2 / (typical**2 + spread**2)
    return weights / weights[train].mean()
