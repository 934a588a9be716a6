"""A reward model's numbers, by hand: beside what needs no language, with intervals over episodes, never NaN."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.trainers.reward_model.head import RewardHead, fit
from sotopia_rl_data.trainers.reward_model.metrics import Baselines, reward_metrics

EPISODES = ["a", "a", "a", "b", "b", "b"]
ACTUAL = np.array([0.0, 0.5, 1.0, 1.0, 0.5, 0.0])


def test_a_perfect_prediction_beside_the_baselines():
    baselines = Baselines(ACTUAL, [0, 1, 2, 0, 1, 2]).of([0, 1, 2, 0, 1, 2])
    found = reward_metrics(ACTUAL, ACTUAL, EPISODES, baselines)
    assert (found["mse"], found["mae"], found["r2"], found["pair_accuracy"]) == (0.0, 0.0, 1.0, 1.0)
    assert found["spearman"] == pytest.approx(1.0)
    assert found["mean_mse"] == pytest.approx(np.var(ACTUAL))
    assert found["mean_pair_accuracy"] == 0.5
    assert (found["mse_low"], found["mse_high"]) == (0.0, 0.0)


def test_pairs_are_compared_within_an_episode_and_never_between_two():
    guess = np.array([0.0, 0.4, 0.2, 9.9, 9.8, 9.1])
    assert reward_metrics(guess, ACTUAL, EPISODES, {})["pair_accuracy"] == pytest.approx(5 / 6)
    assert reward_metrics(guess, ACTUAL, ["a"] * 6, {})["pair_accuracy"] < 5 / 6


def test_intervals_resample_whole_episodes():
    guess = ACTUAL + np.array([0.1, 0.1, 0.1, 0.3, 0.3, 0.3])
    found = reward_metrics(guess, ACTUAL, EPISODES, {})
    assert (found["mse_low"], found["mse_high"]) == (pytest.approx(0.01), pytest.approx(0.09))  # one of the two, twice
    assert "mse_low" not in reward_metrics(guess, ACTUAL, ["a"] * 6, {})


def test_the_baseline_by_turn_knows_the_train_mean_of_each_turn_and_no_more():
    baselines = Baselines([0.0, 1.0, 0.5, 0.7], [0, 1, 0, 1])
    found = baselines.of([0, 1, 9, None])
    assert found["turn"].tolist() == pytest.approx([0.25, 0.85, 0.55, 0.55])
    assert found["mean"].tolist() == pytest.approx([0.55] * 4)
    assert Baselines([0.0, 1.0, 0.5], [0, None, None]).of([0, None])["turn"].tolist() == pytest.approx([0.0, 0.5])


def test_what_cannot_be_computed_is_left_out():
    found = reward_metrics([0.3, 0.3], [0.1, 0.2], ["a", "a"], {})
    assert "spearman" not in found
    assert "spearman_low" not in found
    assert all(np.isfinite(v) for v in found.values())
    assert found["mae"] == pytest.approx(0.15)


def test_a_head_goes_there_and_back():
    head = fit(["goal", "knowledge"], {"goal": 3.0, "knowledge": 1.0}, [[0.0, 5.0], [2.0, 5.0], [np.nan, 5.0]])
    assert head.mean == (0.0, 0.0)  # which a stock head, without a bias, could not hold
    assert head.std == (1.0, 1.0)
    assert head.rewards(head.standardised([[2.0, 6.0]])).tolist() == [[2.0, 6.0]]
    assert head.aggregate([[2.0, 6.0]]).tolist() == [3.0]
    assert RewardHead(**{k: tuple(v) if isinstance(v, list) else v for k, v in head.to_config().items()}) == head


def test_targets_that_teach_nothing_or_are_out_of_bounds_are_refused():
    with pytest.raises(InputError, match=r"nothing to learn: in each of the train split's 2 rows reward is 0.5\."):
        fit(["reward"], {}, [[0.5], [0.5]])
    with pytest.raises(InputError, match=r"go up to 1e\+300: too far") as refused:
        fit(["reward"], {}, [[1e300], [0.0]])
    assert "--set sentinels=VALUE" in refused.value.hint
    assert fit(["reward"], {}, [[-1e6], [1e6]]).std == (1e6,)


def test_a_target_without_a_value_is_refused():
    with pytest.raises(InputError, match="no value of 'knowledge'"):
        fit(["goal", "knowledge"], {}, [[0.0, np.nan], [1.0, np.nan]])
