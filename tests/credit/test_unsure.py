"""Asking where unsure: chances that are known, and means that stay right whatever the model says."""

from __future__ import annotations

import numpy as np
import pytest

from sotopia_rl_data.credit.unsure import LEAST, chances, corrected_mean
from sotopia_rl_data.errors import UsageError


def test_chances_sum_to_what_is_asked_and_rise_with_uncertainty():
    uncertainty = np.array([0.0, 1.0, 2.0, 5.0])
    found = chances(uncertainty, 2.0)
    assert found.sum() == pytest.approx(2.0)
    assert (np.diff(found) > 0).all()
    assert found[0] > 0
    assert found[0] / found[2] == pytest.approx(LEAST / (LEAST + (1 - LEAST) * 2 / 2))
    assert chances(np.zeros(4), 2.0) == pytest.approx([0.5] * 4)
    assert chances(uncertainty, 4.0) == pytest.approx([1.0] * 4)
    assert chances(np.array([0.0, 0.0, 0.0, 100.0]), 1.5).max() == 1.0


def test_a_mean_by_hand():
    # All are asked with certainty, so the mean is that of the answers, whatever the model says.
    answers = np.array([1.0, 2.0, 4.0, 5.0])
    found = corrected_mean(np.array([9.0, 0.0, 3.0, 3.0]), answers, np.ones(4), np.array(["a", "a", "b", "b"]))
    assert found.mean == pytest.approx(3.0)
    # with a model that is constant, residuals count double (4 / (4 - 2)): by environment 6 below and 6 above the mean
    plain = corrected_mean(np.zeros(4), answers, np.ones(4), np.array(["a", "a", "b", "b"]))
    assert plain.error == pytest.approx((2 * 36 * 2 / 16) ** 0.5)
    assert found.high - found.mean == pytest.approx(12.7062 * found.error, rel=1e-4)


def held(count: int, correlation: float, active: bool) -> float:
    """How often the interval holds 0, the mean of all environments there could be."""
    rng, found = np.random.default_rng(7), 0
    for _ in range(count):
        environment = np.repeat(np.arange(60), 20)
        spread = np.exp(0.5 * rng.normal(size=1200))
        model = rng.normal(size=1200)
        truth = correlation * model + spread * rng.normal(size=1200) + rng.normal(0, 0.3, 60)[environment]
        chance = chances(spread if active else np.ones(1200), 120)
        answers = np.where(rng.random(1200) < chance, truth, np.nan)
        one = corrected_mean(model, answers, chance, environment)
        found += one.low <= 0.0 <= one.high
    return found / count


@pytest.mark.parametrize("active", [False, True], ids=["even", "by uncertainty"])
def test_intervals_hold_the_mean_about_as_often_as_they_say(active: bool):
    assert 0.91 <= held(400, 0.8, active) <= 0.98


def test_a_model_that_knows_nothing_costs_nothing_and_one_that_knows_saves():
    rng = np.random.default_rng(3)
    gains = {}
    for correlation in (0.0, 0.9):
        squares = []
        for _ in range(30):
            model = rng.normal(size=4_000)
            truth = correlation * model + np.sqrt(1 - correlation**2) * rng.normal(size=4_000)
            chance = chances(np.ones(4_000), 80)
            answers = np.where(rng.random(4_000) < chance, truth, np.nan)
            names = np.arange(4_000) // 10
            both = [corrected_mean(one, answers, chance, names).error ** 2 for one in (np.zeros(4_000), model)]
            squares.append(both)
        without, using = np.mean(squares, axis=0)
        gains[correlation] = without / using
    assert gains[0.0] >= 0.95
    assert gains[0.9] == pytest.approx(1 / (1 - 0.81), rel=0.25)


def test_what_cannot_be_asked_is_a_sentence():
    for expected in (0, 5):
        with pytest.raises(UsageError, match="cannot be asked"):
            chances(np.ones(4), expected)
    with pytest.raises(UsageError, match="uncertainty"):
        chances(np.array([1.0, -1.0]), 1)
    with pytest.raises(UsageError, match="give no interval"):
        corrected_mean(np.ones(4), np.array([1.0, np.nan, np.nan, np.nan]), np.ones(4), np.arange(4))
