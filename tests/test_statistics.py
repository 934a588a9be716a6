"""The arithmetic behind agreement, reward-model metrics and intervals, against scipy and scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from sotopia_rl_data import statistics as s


def tied(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 7, n).astype(float)
    return x, np.round(x + rng.normal(0, 2, n))


@pytest.mark.parametrize("n", [3, 10, 1000])
def test_correlations_equal_scipy_with_ties(n: int):
    x, y = tied(n, n)
    assert s.pearson(x, y) == pytest.approx(scipy_stats.pearsonr(x, y).statistic, abs=1e-12)
    assert s.spearman(x, y) == pytest.approx(scipy_stats.spearmanr(x, y).statistic, abs=1e-12)
    assert s.ranks(x) == pytest.approx(scipy_stats.rankdata(x))


def test_errors_equal_scikit_learn():
    x, y = tied(500, 1)
    assert s.mean_squared_error(x, y) == pytest.approx(sklearn_metrics.mean_squared_error(y, x), abs=1e-12)
    assert s.mean_absolute_error(x, y) == pytest.approx(sklearn_metrics.mean_absolute_error(y, x), abs=1e-12)
    assert s.r_squared(x, y) == pytest.approx(sklearn_metrics.r2_score(y, x), abs=1e-12)


ALL = {
    "mse": s.mean_squared_error,
    "mae": s.mean_absolute_error,
    "r2": s.r_squared,
    "pearson": s.pearson,
    "spearman": s.spearman,
}


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_weight_of_two_is_the_row_twice(name: str, data: st.DataObject):
    n = data.draw(st.integers(2, 20))
    numbers = st.lists(st.integers(-4, 4), min_size=n, max_size=n)
    x, y = np.array(data.draw(numbers), float), np.array(data.draw(numbers), float)
    w = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    weighted, repeated = ALL[name](x, y, w), ALL[name](np.repeat(x, w), np.repeat(y, w))
    assert weighted == (None if repeated is None else pytest.approx(repeated, abs=1e-9))


def test_what_cannot_be_computed_is_none_and_never_nan():
    flat, x = [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]
    assert s.pearson(flat, x) is None
    assert s.spearman(x, flat) is None
    assert s.r_squared(x, flat) is None
    assert [f([], []) for f in ALL.values()] == [None] * 5
    assert s.pair_accuracy([], [], []) is None
    assert s.calibration_error([], []) is None
    assert s.bootstrap_interval(lambda w: None, ["a", "b"]) is None


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        s.pearson([1.0], [1.0, 2.0])


def test_correlation_survives_tiny_and_huge_numbers():
    x = np.array([1.0, 2.0, 3.0, 5.0])
    assert s.pearson(x * 1e-200, x * 1e200) == pytest.approx(1.0)


def test_pairs_are_compared_within_a_group_only():
    actual = [1.0, 2.0, 3.0, 9.0, 0.0]
    group = ["a", "a", "a", "b", "b"]
    assert s.pair_accuracy([1, 2, 3, 9, 0], actual, group) == 1.0
    assert s.pair_accuracy([3, 2, 1, 0, 9], actual, group) == 0.0
    assert s.pair_accuracy([2, 1, 3, 9, 0], actual, group) == 3 / 4
    assert s.pair_accuracy([0, 0, 0, 0, 0], actual, group) == 0.5  # ties say nothing
    assert s.pair_accuracy([1, 2], [5.0, 5.0], ["a", "a"]) is None


@given(st.lists(st.sampled_from("abc"), max_size=12))
@settings(deadline=None)
def test_pairs_within_are_exactly_the_unordered_pairs_of_equal_group(groups: list[str]):
    left, right = s.pairs_within(np.array(groups, dtype=object) if groups else [])
    found = sorted(tuple(sorted(p)) for p in zip(left.tolist(), right.tolist(), strict=True))
    want = [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups)) if groups[i] == groups[j]]
    assert found == want


def test_calibration_error_is_the_shift_of_a_shifted_prediction_and_zero_of_a_calibrated_one():
    y = np.arange(100, dtype=float)
    assert s.calibration_error(y, y) == 0.0
    assert s.calibration_error(y + 0.25, y) == pytest.approx(0.25)
    # Two bins by hand: predictions 0 and 1, actual means 0.5 and 0.5.
    assert s.calibration_error([0, 0, 1, 1], [0, 1, 0, 1], bins=2) == pytest.approx(0.5)


def test_equal_predictions_share_a_bin():
    assert s.calibration_error([0.5] * 10, [0, 1] * 5) == 0.0


def test_the_interval_is_reproducible_and_widens_when_rows_of_a_cluster_agree():
    rng = np.random.default_rng(0)
    episodes = np.repeat(np.arange(50), 20)
    value = np.repeat(rng.normal(size=50), 20)  # twenty equal rows an episode: fifty observations, not a thousand

    def mean(w: np.ndarray) -> float:
        return float(np.average(value, weights=w))

    clustered = s.bootstrap_interval(mean, episodes, seed=3)
    naive = s.bootstrap_interval(mean, np.arange(1000), seed=3)
    assert clustered == s.bootstrap_interval(mean, episodes, seed=3)
    assert clustered is not None
    assert naive is not None
    ratio = (clustered[1] - clustered[0]) / (naive[1] - naive[0])
    assert ratio == pytest.approx(np.sqrt(20), rel=0.15)
    assert clustered[0] < value.mean() < clustered[1]


@pytest.mark.slow
def test_the_interval_over_episodes_covers_the_truth_as_often_as_it_says():
    hits = naive_hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        clusters = np.repeat(np.arange(60), 8)
        value = np.repeat(rng.normal(size=60), 8) + rng.normal(size=480) * 0.5

        def mean(w: np.ndarray, value: np.ndarray = value) -> float:
            return float(np.average(value, weights=w))

        low, high = s.bootstrap_interval(mean, clusters, resamples=200, seed=seed) or (0, 0)
        hits += low <= 0 <= high
        low, high = s.bootstrap_interval(mean, np.arange(480), resamples=200, seed=seed) or (0, 0)
        naive_hits += low <= 0 <= high
    assert 0.92 <= hits / 200 <= 0.98
    assert naive_hits / 200 < 0.75
