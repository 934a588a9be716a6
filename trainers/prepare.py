"""From examples to what a reward-model run needs that is no model: token ids, labels in the head's units, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.errors import InputError
from trainers.config import RMConfig
from trainers.data import Example, Examples, check_splits
from trainers.encoding import Encoder, check_padding, load_tokenizer
from trainers.head import RewardHead, fit
from trainers.modeling import fingerprint, split_revision, told
from trainers.rows import Sample

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Encoded utterances by split, the head's units, and what was cut (turns, in rows) or left out (too long)."""

    encoder: Encoder
    head: RewardHead
    examples: tuple[Example, ...]
    samples: Mapping[str, Sequence[Sample]]
    turns_cut: int
    rows_cut: int
    too_long: int


def prepare(found: Examples, config: RMConfig) -> Prepared:
    """Tokenise the examples, fit the head on the train split. Raises InputError, UsageError where nothing is left."""
    name, revision = split_revision(config.model)
    with told(config.model):
        tokenizer = load_tokenizer(
            name, pad_token=config.pad_token, chat_template=config.chat_template, revision=revision
        )
    check_padding(tokenizer)
    encoder = Encoder(tokenizer, config.max_length)
    encoded = encoder.encode([(r.prompt, r.completion) for r in found.rows])
    kept = [(row, ids) for row, ids in zip(found.rows, encoded, strict=True) if ids is not None]
    if not kept:
        raise InputError(
            f"No prompt fits into {config.max_length} tokens, even with its history cut.",
            "raise it: --set max_length=8192 (and the model's context with it)",
        )
    rows = tuple(row for row, _ in kept)
    check_splits(found, {r.split for r in rows}, config.eval_strategy != "no")
    values = np.array([[np.nan if t is None else t for t in r.targets] for r in rows], dtype=np.float64)
    train = np.array([r.split == "train" for r in rows])
    head = fit(found.targets, recipe_weights(found), values[train], fingerprint(tokenizer))
    weights = sample_weights(rows, train) if config.weigh_by_spread else np.ones(len(rows))
    labels = head.standardised(values)
    known = np.isfinite(labels)
    shares = weights[:, None] * known / known.sum(axis=1, keepdims=True)
    samples = [
        Sample(
            index=i,
            group=(r.episode_id, r.agent) if r.episode_id else ("", "", str(i)),
            ids=ids.ids,
            labels=np.where(known[i], labels[i], 0.0).astype(np.float32),
            weights=shares[i].astype(np.float32),
        )
        for i, (r, ids) in enumerate(kept)
    ]
    return Prepared(
        encoder=encoder,
        head=head,
        examples=tuple(replace(r, prompt=(), completion=()) for r in rows),  # the text has done its work
        samples={s: [x for x, r in zip(samples, rows, strict=True) if r.split == s] for s in SPLITS},
        turns_cut=sum(ids.turns_cut for _, ids in kept),
        rows_cut=sum(ids.turns_cut > 0 for _, ids in kept),
        too_long=len(found.rows) - len(kept),
    )


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
