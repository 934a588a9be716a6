"""Asking where unsure: chances that are known, and means that stay right whatever the model says."""

from __future__ import annotations

import numpy as np
import pytest

from sotopia_rl_data.credit.unsure import LEAST, AskedRows, chances, errors_by_prediction
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


def test_chances_go_by_what_a_unit_costs():
    cost = np.array([1.0, 4.0])
    found = chances(np.ones(2), 2.0, cost=cost, amounts=cost)
    assert found @ cost == pytest.approx(2.0)
    assert found[0] == pytest.approx(2 * found[1])  # four times as dear, half as often


def test_errors_are_measured_among_units_of_which_the_model_says_alike():
    rng = np.random.default_rng(5)
    said = rng.uniform(0, 1, 4_000)
    truth = 3 * said + 7 + np.where(said < 0.5, 0.1, 0.4) * rng.normal(size=4_000)
    found = errors_by_prediction(said, truth, np.arange(4_000), np.array([0.05, 0.25, 0.75, 0.95]))
    assert found == pytest.approx([0.1, 0.1, 0.4, 0.4], rel=0.1)
    # two rows a unit: independent errors count as those of one row, errors in common for more
    units, common = np.arange(4_000) // 2, np.repeat(rng.normal(size=2_000), 2)
    assert errors_by_prediction(np.zeros(4_000), rng.normal(size=4_000), units, np.zeros(1)) == pytest.approx(
        1, rel=0.1
    )
    assert errors_by_prediction(np.zeros(4_000), common, units, np.zeros(1)) == pytest.approx(2**0.5, rel=0.1)


def test_a_mean_by_hand():
    # All are asked with certainty, so the mean is that of the answers, whatever the model says.
    answers, names = np.tile([1.0, 2.0, 4.0, 5.0], 3), np.tile(["a", "a", "b", "b"], 3)
    found = AskedRows(np.tile([9.0, 0.0, 3.0, 3.0], 3), answers, np.ones(12)).mean(names)
    assert found.mean == pytest.approx(3.0)
    # with a model that is constant, the means without an environment are 4.5 and 1.5: each 1.5 away
    plain = AskedRows(np.zeros(12), answers, np.ones(12)).mean(names)
    assert plain.error == pytest.approx((1 / 2 * 2 * 1.5**2) ** 0.5)
    assert plain.high - plain.mean == pytest.approx(12.7062 * plain.error, rel=1e-4)
    assert AskedRows(np.zeros(12), answers, np.ones(12)).gain() == pytest.approx(1.0)


def test_the_gain_is_about_these_rows_however_much_environments_differ():
    """Even draws of p with no model are as near as a tenth with one if (1/p − 1) · 1 = 9 · 0.19."""
    rng = np.random.default_rng(5)
    environment, model = np.repeat(np.arange(60), 100), rng.normal(size=6_000)
    truth = 0.9 * model + np.sqrt(1 - 0.81) * rng.normal(size=6_000)
    told = []
    for effects in (np.zeros(60), rng.normal(size=60)):
        both = truth + effects[environment]
        answers = np.where(rng.random(6_000) < 0.1, both, np.nan)
        told.append(AskedRows(model + effects[environment], answers, np.full(6_000, 0.1)).gain())
    assert told[0] == pytest.approx(10 / (1 + 9 * 0.19), rel=0.1)
    assert told[1] > told[0]  # the model knows the environments, and even draws do not


@pytest.mark.parametrize("answers", [np.ones(40), np.append(np.arange(6.0), np.full(34, np.nan))], ids=["equal", "six"])
def test_equal_answers_and_a_handful_give_no_interval(answers: np.ndarray):
    with pytest.raises(UsageError, match="give no interval"):
        AskedRows(np.arange(40.0), answers, np.full(40, 0.5)).mean(np.arange(40))


def test_where_predictions_are_all_but_the_same_no_bin_is_empty():
    """Half of the units are predicted 0, half 1; the models are off by 1, either way: so they are about 0.4 too."""
    said = np.repeat([0.0, 1.0], 200)
    truth = said + np.tile([1.0, -1.0], 200)
    found = errors_by_prediction(said, truth, np.arange(400), np.array([-1.0, 0.0, 0.4, 1.0, 2.0]))
    assert found == pytest.approx(np.ones(5))


def test_the_error_is_that_of_fitting_anew_without_each_environment():
    rng = np.random.default_rng(1)
    model, names, chance = rng.normal(size=300), np.arange(300) // 15, rng.uniform(0.1, 0.5, 300)
    answers = np.where(rng.random(300) < chance, 2 * model + rng.normal(size=300), np.nan)
    among = names < 12

    def mean(kept: np.ndarray) -> float:
        weight = np.where(np.isnan(answers), 0.0, 1 / chance) * kept
        b, a = np.polyfit(model, np.nan_to_num(answers), 1, w=np.sqrt(weight))
        fitted = a + b * model
        corrected = fitted + weight * (np.nan_to_num(answers) - fitted)
        return float(corrected[kept & among].mean())

    found = AskedRows(model, answers, chance).mean(names, among)
    assert found.mean == pytest.approx(mean(np.ones(300, dtype=bool)))
    gaps = [mean(names != name) - found.mean for name in range(20)]
    assert found.error == pytest.approx((11 / 12 * sum(gap**2 for gap in gaps)) ** 0.5)


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
        one = AskedRows(model, answers, chance).mean(environment)
        found += one.low <= 0.0 <= one.high
    return found / count


@pytest.mark.slow
@pytest.mark.parametrize("active", [False, True], ids=["even", "by uncertainty"])
def test_intervals_hold_the_mean_as_often_as_they_say(active: bool):
    """95 % is meant; a standard error of 1,000 data sets is 0.7 %."""
    assert 0.93 <= held(1_000, 0.8, active) <= 0.97


@pytest.mark.long
@pytest.mark.parametrize("active", [False, True], ids=["even", "by uncertainty"])
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.8, 0.9])
def test_of_4000_intervals_94_to_96_percent_hold_the_mean(correlation: float, active: bool):
    assert 0.94 <= held(4_000, correlation, active) <= 0.96


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, *(pytest.param(one, marks=pytest.mark.long) for one in (0.6, 0.8)), 0.9])
def test_a_model_that_knows_nothing_costs_nothing_and_one_that_knows_saves(correlation: float):
    rng = np.random.default_rng(3)
    squares, told = [], []
    for _ in range(100):
        model = rng.normal(size=4_000)
        truth = correlation * model + np.sqrt(1 - correlation**2) * rng.normal(size=4_000)
        chance = chances(np.ones(4_000), 80)
        answers = np.where(rng.random(4_000) < chance, truth, np.nan)
        names = np.arange(4_000) // 10
        plain, rows = (AskedRows(one, answers, chance) for one in (np.zeros(4_000), model))
        squares.append(np.square([one.mean(names).error for one in (plain, rows)]))
        told.append(rows.gain())
    without, using = np.mean(squares, axis=0)
    assert without / using >= 0.95
    assert without / using == pytest.approx(1 / (1 - correlation**2), rel=0.15)
    assert np.mean(told) == pytest.approx(without / using, rel=0.1)  # each estimates it from its own answers


def test_what_cannot_be_asked_is_a_sentence():
    for expected in (0, 5):
        with pytest.raises(UsageError, match="cannot be asked"):
            chances(np.ones(4), expected)
    with pytest.raises(UsageError, match="uncertainty"):
        chances(np.array([1.0, -1.0]), 1)
    with pytest.raises(UsageError, match="give no interval"):
        AskedRows(np.ones(4), np.array([1.0, np.nan, np.nan, np.nan]), np.ones(4)).mean(np.arange(4))
