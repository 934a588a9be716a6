"""A run's metrics as a table to read: each figure with its interval, beside what needs no language.

A run keeps them flat (`mse`, `mse_low`, `mse_high`, `mean_mse`, `turn_mse`), as every logger wants them. Here the
interval and the baselines go back to the figure that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BASELINES = {"mean": "train mean", "turn": "train mean by turn"}
NAMES = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "r2": "R²",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "pair_accuracy": "pair accuracy",
    "calibration_error": "calibration error",
    "loss": "loss",
    "mean_token_accuracy": "token accuracy",
    "num_tokens": "tokens seen",
    "reward_first": "mean reward, first steps",
    "reward_last": "mean reward, last steps",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric: `interval` is (low, high) at 95 %, `beside` the same metric of each baseline that there is."""

    name: str
    value: float
    interval: tuple[float, float] | None
    beside: Mapping[str, float]

    @property
    def said(self) -> str:
        """Its name in words; of one head among several, after the head's own name."""
        for name in sorted(NAMES, key=len, reverse=True):
            if self.name == name:
                return NAMES[name]
            if self.name.endswith(f"_{name}"):
                return f"{self.name.removesuffix(name).strip('_')}: {NAMES[name]}"
        return self.name.replace("_", " ")


def figures(metrics: Mapping[str, float]) -> list[Figure]:
    """The figures of one split, in the order they were measured."""
    return [_figure(name, metrics) for name in metrics if not _belongs(name, metrics)]


def scorecard(metrics: Mapping[str, float]) -> tuple[list[str], list[list[str | float | None]]]:
    """(columns, rows) of one split: metric, value, and where there are any the 95 % interval and each baseline."""
    found = figures(metrics)
    with_interval = any(one.interval for one in found)
    baselines = [b for b in BASELINES if any(b in one.beside for one in found)]
    columns = ["metric", "value", *["95 % interval"] * with_interval, *(BASELINES[b] for b in baselines)]
    rows = [
        [one.said, one.value, *[_interval(one.interval)] * with_interval, *(one.beside.get(b) for b in baselines)]
        for one in found
    ]
    return columns, rows


def _figure(name: str, metrics: Mapping[str, float]) -> Figure:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    beside = {b: metrics[f"{b}_{name}"] for b in BASELINES if f"{b}_{name}" in metrics}
    return Figure(name, metrics[name], None if low is None or high is None else (low, high), beside)


def _belongs(name: str, metrics: Mapping[str, float]) -> bool:
    """True for a bound or a baseline of another metric."""
    starts = [name.removeprefix(f"{b}_") for b in BASELINES if name.startswith(f"{b}_")]
    ends = [name.removesuffix(end) for end in ("_low", "_high") if name.endswith(end)]
    return any(other in metrics for other in [*starts, *ends])


def _interval(bounds: Sequence[float] | None) -> str | None:
    return None if bounds is None else f"{bounds[0]:.3g} to {bounds[1]:.3g}"
