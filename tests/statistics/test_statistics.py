"""The arithmetic behind agreement, reward-model metrics and intervals, against scipy and scikit-learn and by hand."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from sotopia_rl_data import statistics as s
from sotopia_rl_data.statistics import joint


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
    "difference": s.mean_difference,
    "r2": s.r_squared,
    "pearson": s.pearson,
    "spearman": s.spearman,
    "kendall": s.kendall,
    "kappa": s.quadratic_kappa,
}


@pytest.mark.slow
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
    assert s.kendall(flat, x) is None
    assert s.quadratic_kappa(flat, flat) is None
    assert s.quadratic_kappa(flat, [2.0, 2.0, 2.0]) == 0.0  # two constants that differ: as bad as chance
    assert s.krippendorff_alpha([flat, flat]) is None
    assert s.standardised_shift(flat) is None
    assert s.r_squared(x, flat) is None
    assert [f([], []) for f in ALL.values()] == [None] * len(ALL)
    assert s.pair_accuracy([], [], []) is None
    assert s.calibration_error([], []) is None
    assert s.bootstrap_interval(lambda w: None, ["a", "b"]) is None


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="the same length"):
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


@pytest.mark.slow
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


LEVELS = np.arange(4.0)


@st.composite
def two_judges(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Levels 0..3 by two judges: ties always, constant columns now and then."""
    n = draw(st.integers(1, 40))
    levels = st.lists(st.integers(0, draw(st.sampled_from([0, 1, 3]))), min_size=n, max_size=n)
    return np.array(draw(levels), float), np.array(draw(levels), float)


def quietly(reference, *arguments, **options) -> float | None:
    """A reference's figure, None where it has none (constant columns give NaN, a warning or an error)."""
    import warnings

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = float(reference(*arguments, **options))
        except ValueError:
            return None
    return None if np.isnan(found) else found


def close(value: float | None):
    return None if value is None else pytest.approx(value, abs=1e-9)


@pytest.mark.slow
@given(two_judges())
@settings(max_examples=150, deadline=None)
def test_every_figure_of_two_judges_equals_its_reference(pair):
    x, y = pair
    many = len(x) > 1
    assert s.pearson(x, y) == close(quietly(lambda: scipy_stats.pearsonr(x, y).statistic) if many else None)
    assert s.spearman(x, y) == close(quietly(lambda: scipy_stats.spearmanr(x, y).statistic) if many else None)
    assert s.kendall(x, y) == close(quietly(lambda: scipy_stats.kendalltau(x, y).statistic) if many else None)
    kappa = quietly(sklearn_metrics.cohen_kappa_score, x, y, labels=LEVELS, weights="quadratic")
    assert s.quadratic_kappa(x, y) == close(kappa)
    alpha = quietly(krippendorff.alpha, np.stack([x, y]), level_of_measurement="interval")
    assert s.krippendorff_alpha([x, y]) == close(alpha)
    assert s.mean_difference(x, y) == pytest.approx(np.mean(x) - np.mean(y), abs=1e-12)


@pytest.mark.slow
@given(two_judges())
@settings(max_examples=150, deadline=None)
def test_the_counted_table_gives_what_the_rows_give(pair):
    x, y = pair
    table = np.zeros((4, 4))
    np.add.at(table, (x.astype(int), y.astype(int)), 1)

    def number(found) -> float | None:
        return None if np.isnan(found) else pytest.approx(float(found), abs=1e-9)

    assert s.pearson(x, y) == number(joint.pearson(table, LEVELS, LEVELS))
    assert s.spearman(x, y) == number(joint.spearman(table))
    assert s.kendall(x, y) == number(joint.kendall(table))
    assert s.quadratic_kappa(x, y) == number(joint.quadratic_kappa(table, LEVELS, LEVELS))
    assert s.krippendorff_alpha([x, y]) == number(joint.alpha(table, LEVELS, LEVELS))
    assert s.mean_difference(x, y) == number(joint.mean_difference(table, LEVELS, LEVELS))
    left, right = s.pairs_within(np.zeros(len(x)))
    order = np.sign(x[left] - x[right]) * np.sign(y[left] - y[right])
    differ = (x[left] != x[right]) | (y[left] != y[right])
    assert joint.ordered_pairs(table).tolist() == [((order[differ] + 1) / 2).sum(), differ.sum()]


def test_many_tables_at_once_are_each_table_by_itself():
    tables = np.random.default_rng(0).integers(0, 5, (7, 3, 4)).astype(float)
    a, b = np.array([0.0, 1.0, 3.0]), LEVELS
    for figure in (joint.pearson, joint.quadratic_kappa, joint.alpha, joint.mean_difference):
        assert figure(tables, a, b) == pytest.approx([float(figure(one, a, b)) for one in tables])
    for figure in (joint.spearman, joint.kendall):
        assert figure(tables) == pytest.approx([float(figure(one)) for one in tables])


@pytest.mark.slow
@given(st.data())
@settings(max_examples=100, deadline=None)
def test_alpha_of_many_judges_with_gaps_equals_the_reference(data: st.DataObject):
    judges, units = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 15))
    one = st.one_of(st.none(), st.integers(0, 3), st.floats(-5, 5, allow_nan=False))
    rows = data.draw(st.lists(st.lists(one, min_size=units, max_size=units), min_size=judges, max_size=judges))
    values = np.array([[np.nan if v is None else v for v in row] for row in rows], float)
    reference = quietly(krippendorff.alpha, values, level_of_measurement="interval")
    found = s.krippendorff_alpha(values)
    if reference is not None and np.isfinite(reference):
        assert found == pytest.approx(reference, abs=1e-9, rel=1e-9)
    whole = values[:, (~np.isnan(values)).sum(axis=0) >= 2]
    if len(np.unique(whole[~np.isnan(whole)])) < 2:
        assert found is None


def test_alpha_by_hand():
    # Two units, two judges: (0, 1) and (2, 2). D_o = 2·1/4 = 1/2; all pairs of 0, 1, 2, 2: D_e = 2·(2.75)/3.
    assert s.krippendorff_alpha([[0, 2], [1, 2]]) == pytest.approx(1 - 0.5 / (2 * 2.75 / 3))
    # A unit with one value alone does not count.
    assert s.krippendorff_alpha([[0, 2, 3], [1, 2, np.nan]]) == pytest.approx(1 - 0.5 / (2 * 2.75 / 3))


@pytest.mark.parametrize("n", [2, 3, 17, 1000, 4096])
def test_kendall_of_continuous_columns_equals_scipy(n: int):
    rng = np.random.default_rng(n)
    x = rng.normal(size=n)
    y = x + rng.normal(size=n)
    assert s.kendall(x, y) == pytest.approx(scipy_stats.kendalltau(x, y).statistic, abs=1e-12)
    x[: n // 2] = np.round(x[: n // 2])
    assert s.kendall(x, np.round(y, 1)) == pytest.approx(scipy_stats.kendalltau(x, np.round(y, 1)).statistic, abs=1e-12)


def test_corrected_p_values_equal_scipy_and_holm_by_hand():
    p = [0.01, 0.04, 0.03, 0.5]
    assert s.benjamini_hochberg(p) == pytest.approx(scipy_stats.false_discovery_control(p))
    assert s.holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert s.holm([]).tolist() == []


def test_the_sign_flip_test_counts_the_patterns_that_shift_as_much():
    # Three clusters of sums 1, 2, 3: of eight patterns only +++ and --- reach 6.
    assert s.sign_flip_test([1, 1, 1, 3], ["a", "b", "b", "c"]) == 2 / 8
    assert s.sign_flip_test([], []) == 1.0
    assert s.sign_flip_test([0, 0], ["a", "b"]) == 1.0
    assert s.sign_flip_test(np.ones(40), np.arange(40)) == pytest.approx(1 / 10_000)


def test_the_sign_flip_test_equals_scipys_permutation_test():
    d = np.random.default_rng(5).normal(0.4, 1, 11)
    reference = scipy_stats.permutation_test(
        (d,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert s.sign_flip_test(d, np.arange(11)) == pytest.approx(reference.pvalue, abs=1e-12)


def test_an_effect_size_is_the_mean_in_standard_deviations():
    assert s.standardised_shift([1.0, 2.0, 3.0]) == pytest.approx(2.0)


@pytest.mark.parametrize("freedom", [1, 2, 4, 5, 10, 30, 100, 10_000])
def test_students_quantile_is_scipys(freedom: int):
    for share in (0.5, 0.9, 0.975, 0.995):
        expected = scipy_stats.t.ppf(share, freedom)
        assert s.student_quantile(share, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_students_quantile_is_that_of_printed_tables():
    printed = {1: 12.706, 2: 4.303, 5: 2.571, 30: 2.042}  # two-sided, 95 %
    assert {n: round(s.student_quantile(0.975, n), 3) for n in printed} == printed


def test_resampled_sums_are_the_statistic_of_the_drawn_rows():
    clusters = np.array([0, 0, 1, 2, 2, 2])
    value = np.arange(6.0)
    sums = np.stack([np.bincount(clusters, value), np.bincount(clusters)], axis=1)
    drawn = np.concatenate(list(s.draws(3, 20, seed=1)))
    assert drawn.sum(axis=1).tolist() == [3] * 20
    expected = [np.average(value, weights=one[clusters]) for one in drawn]
    found = s.resampled(sums, resamples=20, seed=1)
    assert found[:, 0] / found[:, 1] == pytest.approx(expected)


def test_the_interval_of_a_mean_by_sums_is_that_of_the_drawn_rows():
    values, cluster = [1.0, 2.0, 4.0, 8.0, 3.0], [0, 0, 1, 2, 1]
    drawn = s.bootstrap_interval(lambda weights: float(np.average(values, weights=weights)), cluster)
    assert s.mean_interval(values, cluster) == pytest.approx(drawn)
    assert s.mean_interval([1.0, 2.0], [0, 0]) is None


@pytest.mark.slow
def test_the_interval_over_episodes_covers_the_truth_in_93_to_97_percent_of_500_and_a_naive_one_does_not():
    """Two judges, 60 episodes of 8 utterances, levels that share an episode's mood: the mean difference, whose truth is
    0.3, and Pearson's correlation, whose truth is 0.75/1.5."""
    rng, simulations, episodes, turns = np.random.default_rng(1), 500, 60, 8
    clusters = np.repeat(np.arange(episodes), turns)

    def noise(scale: float) -> np.ndarray:
        return rng.normal(0, scale, (simulations, len(clusters)))

    mood = rng.normal(size=(simulations, episodes))[:, clusters]
    tilt = rng.normal(0, 0.5, (simulations, episodes))[:, clusters]
    x = mood + noise(0.5) + tilt
    y = mood + noise(0.5) - tilt - 0.3

    def covered(groups: np.ndarray) -> tuple[float, float]:
        hits = np.zeros(2)
        count = int(groups.max()) + 1
        for i in range(simulations):
            moments = np.stack([np.ones_like(x[i]), x[i], y[i], x[i] ** 2, y[i] ** 2, x[i] * y[i]])
            sums = np.stack([np.bincount(groups, one) for one in moments], axis=1)
            n, sx, sy, sxx, syy, sxy = s.resampled(sums, resamples=400, seed=i).T
            found = (sx - sy) / n, (sxy - sx * sy / n) / np.sqrt((sxx - sx**2 / n) * (syy - sy**2 / n))
            for k, (values, truth) in enumerate(zip(found, (0.3, 0.75 / 1.5), strict=True)):
                low, high = s.percentile_interval(values, count)
                hits[k] += low <= truth <= high
        return tuple((hits / simulations).tolist())

    over_episodes, naive = covered(clusters), covered(np.arange(len(clusters)))
    print(f"coverage over episodes {over_episodes}, naive {naive}")
    assert all(0.93 <= share <= 0.97 for share in over_episodes)
    assert all(share < 0.85 for share in naive)
