"""Agreement, correlation, error, bootstrap and tests: pure numpy.

Shared by `agreement`, `audit`, `report`, `curate`, the trainers and `compare`.

    columns.py      what every statistic is given: columns of equal length, and weights
    deviation.py    how far one column is from another: errors, differences, calibration, effect sizes
    correlation.py  Pearson, Spearman and Kendall with ties
    reliability.py  quadratic-weighted kappa, Krippendorff's alpha, order within groups
    joint.py        the same figures from counted tables, for many tables at once
    bootstrap.py    intervals that resample whole clusters
    student.py      Student's t and the paired test
    testing.py      sign-flip tests, and p-values corrected for their number

Every statistic of two columns takes optional `weights`, one non-negative number a row (default: 1 each). A row of
weight 2 counts as if it stood there twice, so a bootstrap resample is a vector of weights, a table of counts is a
column of weights, and no row is ever copied.

What cannot be computed (no rows, a constant column) is None, never NaN. Missing values are the caller's to drop, but
for `krippendorff_alpha`, which is made for them. scipy, scikit-learn and krippendorff are references in the tests, not
dependencies. docs/trust.md has every formula with its source.
"""

from sotopia_rl_data.statistics.bootstrap import bootstrap_interval, draws, percentile_interval, resampled
from sotopia_rl_data.statistics.columns import Floats
from sotopia_rl_data.statistics.correlation import kendall, pearson, ranks, spearman
from sotopia_rl_data.statistics.deviation import (
    calibration_error,
    mean_absolute_error,
    mean_difference,
    mean_squared_error,
    r_squared,
    standardised_shift,
)
from sotopia_rl_data.statistics.reliability import krippendorff_alpha, pair_accuracy, pairs_within, quadratic_kappa
from sotopia_rl_data.statistics.student import TTest, paired_t_test, student_p
from sotopia_rl_data.statistics.testing import benjamini_hochberg, holm, sign_flip_test, smallest_p

__all__ = [
    "Floats",
    "TTest",
    "benjamini_hochberg",
    "bootstrap_interval",
    "calibration_error",
    "draws",
    "holm",
    "kendall",
    "krippendorff_alpha",
    "mean_absolute_error",
    "mean_difference",
    "mean_squared_error",
    "pair_accuracy",
    "paired_t_test",
    "pairs_within",
    "pearson",
    "percentile_interval",
    "quadratic_kappa",
    "r_squared",
    "ranks",
    "resampled",
    "sign_flip_test",
    "smallest_p",
    "spearman",
    "standardised_shift",
    "student_p",
]
