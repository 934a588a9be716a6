"""Student's t: the distribution, to the last digits, and the paired test.

The distribution function is the regularised incomplete beta function, by its continued fraction (Abramowitz & Stegun
26.5.8 and 26.7.1; modified Lentz as in Press et al. 2007, "Numerical Recipes", section 6.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

_TINY, _CLOSE = 1e-300, 1e-16


@dataclass(frozen=True, slots=True)
class TTest:
    """`n` differences with mean `difference`; t with n - 1 degrees of freedom, its two-sided p, and the interval of the
    mean at the level that was asked for. What is not defined (fewer than two, or none that differs) is None."""

    n: int
    difference: float | None = None
    t: float | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None


def paired_t_test(differences: ArrayLike, level: float = 0.95) -> TTest:
    """Is the mean of paired differences 0? t = mean / (sd / √n) (Student 1908). NaN are to be dropped before."""
    d = np.asarray(differences, dtype=np.float64)
    n = len(d)
    if n < 2 or bool(np.all(d == d[0])):
        return TTest(n, float(d.mean()) if n else None)
    middle, error = float(d.mean()), float(d.std(ddof=1)) / math.sqrt(n)
    t, half = middle / error, error * student_two_sided(level, n - 1)
    return TTest(n, middle, t, student_p(t, n - 1), middle - half, middle + half)


def student_p(t: float, freedom: float) -> float:
    """P(|T| ≥ |t|) with `freedom` degrees of freedom."""
    whole = freedom + t * t
    return incomplete_beta(freedom / 2.0, 0.5, freedom / whole, t * t / whole)


@cache
def student_two_sided(level: float, freedom: float) -> float:
    """The t that |T| stays below with probability `level`: p falls as t grows, so it is found by halving."""
    low, high = 0.0, 1.0
    while student_p(high, freedom) > 1.0 - level:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if student_p(middle, freedom) > 1.0 - level else (low, middle)
    return (low + high) / 2.0


def incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b), regularised; x in [0, 1]. `rest` is 1 - x, given apart so that neither loses digits near 0 or 1."""
    if x <= 0.0 or rest <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    ln = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(ln) * _fraction(a, b, x) / a
    return 1.0 - math.exp(ln) * _fraction(b, a, rest) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction, from the front."""
    c, d = 1.0, 1.0 / _off_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, 10_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 / _off_zero(1.0 + step * d)
            c = _off_zero(1.0 + step / c)
            value *= d * c
        if abs(d * c - 1.0) < _CLOSE * 10:
            break
    return value


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
