"""From several opinions to one number, and from several dimensions to one reward.

Arrays are float64 with NaN for NULL. Sums are taken one term after the other, in the order given.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sotopia_rl_data.rewards.recipe import Average
from sotopia_rl_data.rewards.rules import Floats


def average(kind: Average, opinions: Floats) -> Floats:
    """The mean or median over those of (opinions, utterances) that have a value; NaN where none has."""
    if len(opinions) == 1:
        only: Floats = opinions[0]
        return only
    count = np.count_nonzero(~np.isnan(opinions), axis=0)
    if kind == "mean":
        return _divide(_sum(opinions), count)
    ascending = np.sort(opinions, axis=0)  # NaN last
    row = np.arange(opinions.shape[1])
    low: Floats = ascending[np.maximum(count - 1, 0) // 2, row]
    high: Floats = ascending[np.minimum(count // 2, len(opinions) - 1), row]
    return np.where(count % 2 == 1, low, (low + high) / 2)


def reward(weights: Mapping[str, float], norm: Mapping[str, Floats]) -> Floats:
    """Σ γ_d·r̃_d / Σ γ_d over the dimensions with a weight above 0; NaN where one of them is NaN (arXiv 2508.03905)."""
    weighted = [(weight, norm[d]) for d, weight in weights.items() if weight > 0]
    total = np.zeros_like(weighted[0][1])
    for weight, values in weighted:
        total += weight * values
    total /= sum(weight for weight, _ in weighted)
    return total


def spread(rewards: Floats) -> Floats:
    """The sample standard deviation (n − 1) over those of (opinions, utterances) with a value; NaN below two."""
    count = np.count_nonzero(~np.isnan(rewards), axis=0)
    if len(rewards) < 2:
        return np.full(rewards.shape[1], np.nan)
    squares = _sum((rewards - _divide(_sum(rewards), count)) ** 2)
    return np.sqrt(_divide(squares, np.where(count < 2, 0, count - 1)))


def _sum(rows: Floats) -> Floats:
    """The sum over the first axis, row after row, NaN left out."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += np.where(np.isnan(row), 0.0, row)
    return total


def _divide(total: Floats, count: np.ndarray) -> Floats:
    means = np.full(len(total), np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means
