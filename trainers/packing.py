"""Whether to pack, into what, and the check that packed scores are the plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.trainers import attention
from sotopia_rl_data.trainers.config import RMConfig
from sotopia_rl_data.trainers.prepare import Prepared
from sotopia_rl_data.trainers.rows import BOOKKEEPING, PlainBatch, Rows, one_each, one_each_group, sharing, tree_batch

PAYS = 1.2


def training_rows(prepared: Prepared, config: RMConfig, packed: bool) -> dict[str, Rows]:
    """Each split's rows, packed or plain."""
    build = (lambda s: one_each_group(s, config.row_tokens)) if packed else one_each
    return {split: build(samples) for split, samples in prepared.samples.items() if samples}


def choose_packing(prepared: Prepared, config: RMConfig, model: nn.Module) -> tuple[bool, float]:
    """Whether to pack, and the tokens saved (a ratio): `auto` packs where it pays and the model allows it."""
    if config.packing == "none":
        return False, 1.0
    ratio = sharing(one_each_group(prepared.samples["train"], config.row_tokens))
    able = attention.can_read_many(model.get_base_model() if hasattr(model, "get_base_model") else model)
    if config.packing == "tree" and not able:
        raise UsageError(f"{type(model).__name__} cannot score several tokens of a row.", "--set packing=none")
    return able and (config.packing == "tree" or ratio >= PAYS), ratio


@torch.no_grad()
def self_check(model: nn.Module, rows: Rows, pad: int) -> float:
    """Largest difference between packed and plain scores over the first rows, as a share of the scores' range.

    Relative, because the scores of an untrained head lie close together: rounding is a tiny share of their range,
    a token that sees what it should not is a large one.
    """
    first = rows.rows[:2]
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    plain = PlainBatch(pad)([[s] for row in first for s in row])
    scores = [_scores(model, batch, device) for batch in (tree_batch(first), plain)]
    model.train(training)
    return relative_gap(scores[0].cpu().numpy(), scores[1].cpu().numpy())


def relative_gap(packed: NDArray[np.floating[Any]], plain: NDArray[np.floating[Any]]) -> float:
    """Largest |packed - plain| over the range of `plain` (at least 1e-4: there may be but one score)."""
    return float(np.abs(packed - plain).max() / max(float(np.ptp(plain, axis=0).max()), 1e-4))


def _scores(model: nn.Module, batch: Mapping[str, Any], device: torch.device) -> Tensor:
    inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items() if k not in BOOKKEEPING}
    logits: Tensor = model(**inputs).logits.float()
    return logits


def rounding(model: nn.Module) -> float:
    """How large the relative gap may be: rounding in the weights' dtype, through a deep network."""
    return {torch.float32: 1e-2, torch.float64: 1e-4}.get(next(model.parameters()).dtype, 0.25)
