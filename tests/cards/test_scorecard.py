"""Flat metrics become a table: each figure once, its interval and its baselines beside it."""

from sotopia_rl_data.cards.model import metrics_of, scorecard

RM = {
    "mse": 0.1,
    "goal_mse": 0.3,
    "mse_low": 0.05,
    "mse_high": 0.2,
    "mean_mse": 0.4,
    "turn_mse": 0.35,
    "mean_goal_mse": 0.5,
}


def test_intervals_and_baselines_stand_beside_the_figure_they_belong_to():
    assert scorecard(RM) == (
        ["metric", "value", "95 % interval", "train mean", "train mean by turn"],
        [
            ["mean squared error", 0.1, "0.05 to 0.2", 0.4, 0.35],
            ["goal: mean squared error", 0.3, None, 0.5, None],
        ],
    )
    assert [one.name for one in metrics_of(RM)] == ["mse", "goal_mse"]


def test_a_name_that_only_looks_like_a_baseline_is_a_figure_of_its_own():
    assert scorecard({"loss": 2.0, "mean_token_accuracy": 0.5, "kl_low": 1.0}) == (
        ["metric", "value"],
        [["loss", 2.0], ["token accuracy", 0.5], ["kl low", 1.0]],
    )


def test_no_metrics_are_an_empty_table():
    assert scorecard({}) == (["metric", "value"], [])
