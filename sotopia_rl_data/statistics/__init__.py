"""Agreement, correlation, error, bootstrap and tests, in numpy; Student's t is scipy's.

Shared by `agreement`, `audit`, `report`, `curate`, the cards, the trainers and `compare`.

    columns.py      two columns: errors, differences, calibration; Pearson, Spearman and Kendall with ties
    reliability.py  quadratic-weighted kappa, Krippendorff's alpha, order within groups
    joint.py        the same figures from counted tables, for many tables at once
    inference.py    bootstrap and jackknife intervals over clusters, the paired t-test, sign-flip tests, corrections

Every statistic of two columns takes optional `weights`, one non-negative number for each row (default: 1). A row of
weight 2 counts as if it were there twice, so a bootstrap resample is a vector of weights, a table of counts is a column
of weights, and no row is ever copied. The formulas are written here because scipy, scikit-learn and krippendorff take
no weights, or one column at a time; the tests compare the results with theirs.

A figure that is not defined (no rows, a constant column) is None, never NaN. Callers drop missing values first, except
for `krippendorff_alpha`, which is made for them. docs/trust.md has every formula with its source.
"""

from sotopia_rl_data.statistics.columns import (
    Floats,
    calibration_bins,
    calibration_error,
    kendall,
    mean_absolute_error,
    mean_difference,
    mean_squared_error,
    pearson,
    r_squared,
    ranks,
    spearman,
)
from sotopia_rl_data.statistics.inference import (
    TTest,
    benjamini_hochberg,
    bootstrap_interval,
    draws,
    holm,
    jackknife_interval,
    mean_interval,
    paired_t_test,
    percentile_interval,
    resampled,
    sign_flip_test,
    smallest_p,
    standardised_shift,
    student_p,
    student_quantile,
)
from sotopia_rl_data.statistics.reliability import krippendorff_alpha, pair_accuracy, pairs_within, quadratic_kappa

__all__ = [
    "Floats",
    "TTest",
    "benjamini_hochberg",
    "bootstrap_interval",
    "calibration_bins",
    "calibration_error",
    "draws",
    "holm",
    "jackknife_interval",
    "kendall",
    "krippendorff_alpha",
    "mean_absolute_error",
    "mean_difference",
    "mean_interval",
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
    "student_quantile",
]
