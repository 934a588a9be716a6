"""What every statistic of two columns is given: columns of equal length, and a weight for each row."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def columns(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    """Both columns and the weights (default: 1 each) as float64. Raises ValueError where they differ in length."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (a.shape == b.shape == w.shape and a.ndim == 1):
        raise ValueError(f"columns differ in length: {a.shape}, {b.shape}, {w.shape}")
    return a, b, w


def mean(values: Floats, weights: Floats) -> float | None:
    """The weighted mean; None where no row has a weight."""
    total = float(np.sum(weights))
    return float(np.sum(weights * values)) / total if total > 0 else None


def is_constant(values: Floats, weights: Floats) -> bool:
    """Whether the rows that count all have one value, or there are none."""
    present = values[weights > 0]
    return len(present) == 0 or bool(np.all(present == present[0]))
