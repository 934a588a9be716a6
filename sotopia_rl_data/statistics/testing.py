"""Is a shift more than noise, and how many such questions were asked?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sotopia_rl_data.statistics.columns import Floats

FLIPS = 9_999
_EXACT = 12  # clusters up to which all sign patterns are gone through
_CELLS = 1 << 22


def sign_flip_test(
    shifts: ArrayLike, clusters: Sequence[Any] | NDArray[Any], *, flips: int = FLIPS, seed: int = 0
) -> float:
    """Two-sided p-value of "the shifts are symmetric about 0", flipping the sign of whole clusters at once.

    A randomisation test (Fisher 1935; Lehmann & Romano 2005, section 15.2): exact in level whatever the distribution
    and whatever the dependence within a cluster, as long as flipping a cluster changes nothing under the hypothesis. Up
    to 12 clusters that are not 0 go through every pattern; more through `flips` random ones, of which the observed
    counts as one, so p is never 0. 1.0 where nothing shifts.
    """
    d = np.asarray(shifts, dtype=np.float64)
    if not len(d):
        return 1.0
    code = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = np.bincount(code, weights=d)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    bar = abs(float(sums.sum())) * (1.0 - 1e-12)  # equal sums that were added up in another order count as equal
    if len(sums) <= _EXACT:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ sums) >= bar))
    rng, beyond, step = np.random.default_rng(seed), 0, max(1, _CELLS // len(sums))
    for start in range(0, flips, step):
        signs = rng.integers(0, 2, (min(step, flips - start), len(sums)), dtype=np.int8) * 2 - 1
        beyond += int(np.count_nonzero(np.abs(signs @ sums) >= bar))
    return (beyond + 1) / (flips + 1)


def smallest_p(clusters: int, *, flips: int = FLIPS) -> float:
    """The smallest p that `sign_flip_test` can give over so many clusters: below it, nothing can be found."""
    return min(1.0, 2.0 ** (1 - clusters)) if clusters <= _EXACT else 1 / (flips + 1)


def holm(p_values: ArrayLike) -> Floats:
    """Adjusted p-values that hold the chance of any false alarm (Holm 1979): at most α of all families go wrong."""
    p, order = _ascending(p_values)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return _back(np.minimum(stepped, 1.0), order)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Adjusted p-values that hold the share of false alarms among the alarms (Benjamini & Hochberg 1995)."""
    p, order = _ascending(p_values)
    stepped = len(p) / np.arange(1, len(p) + 1) * p[order]
    return _back(np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1.0), order)


def _ascending(p_values: ArrayLike) -> tuple[Floats, NDArray[np.intp]]:
    p = np.asarray(p_values, dtype=np.float64)
    return p, np.argsort(p, kind="stable")


def _back(stepped: Floats, order: NDArray[np.intp]) -> Floats:
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return adjusted
