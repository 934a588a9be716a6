"""Reward models side by side: each scores the same held-out rows, and is measured against the same rewards.

Models that were trained on other rewards (by another attribution, say) are compared on those of one dataset. An
interval resamples whole episodes; a difference to the first model is resampled in pairs, so that it may be certain
where two intervals still overlap. Splits by environment are the same in every dataset, so what is held out here was
held out from every model that was trained with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sotopia_rl_data import statistics as stats
from sotopia_rl_data.display import Display, Silent
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers.data import load_rows
from sotopia_rl_data.trainers.reward_model.metrics import WITH_INTERVAL, Metric, statistics_of
from sotopia_rl_data.trainers.reward_model.model import RewardModel
from sotopia_rl_data.trainers.run_folder import RunFolder

BATCH = 256
_NOT_HELD_OUT = (
    "The runs held out different rows, so these are the dataset's own splits: a run may have been trained on some of "
    "their rows."
)
Number = float | None


def compare_runs(
    runs: Sequence[str | Path],
    *,
    dataset: str | None = None,
    split: str = "test",
    store: str | Path | None = None,
    resamples: int = 1000,
    display: Display | None = None,
) -> dict[str, Any]:
    """The reward models of the folders `runs` on the `split` of `dataset` (by default that of the first run).

    For each run: what it was trained on, and each metric of WITH_INTERVAL as value, low and high (95 %), with its
    difference to the first run's. `warnings` say where a run may have been trained on some of these rows. Raises
    NotFound, UsageError where a run is not of a reward model or where no `dataset` is named and the runs held out
    different rows, InputError where the split has no rows.
    """
    records = [_reward_run(run) for run in runs]
    first = records[0]["dataset"]
    ref = dataset or f"{first['name']}@{first['version']}"
    choice = _common_choice(runs, records, ref, is_named=dataset is not None)
    rows = tuple(row for row in load_rows(ref, store=store, **choice).of(split) if row.reward is not None)
    if not rows:
        raise InputError(f"The {split} split of {ref} has no rows.", "name another one: --split validation")
    truth = np.array([row.reward for row in rows], dtype=np.float64)
    episodes = [row.episode_id or str(i) for i, row in enumerate(rows)]
    scores = []
    with (display or Silent()).progress("scoring", "utterances") as advance:
        for number, run in enumerate(runs):
            model = RewardModel.load(run)
            for at in range(0, len(rows), BATCH):
                some = rows[at : at + BATCH]
                scores.append(model.score_batch([(row.prompt, row.completion) for row in some]))
                advance(number * len(rows) + at + len(some), len(runs) * len(rows))
    predicted = np.concatenate(scores).reshape(len(runs), len(rows))
    metrics = {name: of for name, of in statistics_of(episodes).items() if name in WITH_INTERVAL}
    measured = [
        {name: _measured(of, one, predicted[0], truth, episodes, resamples) for name, of in metrics.items()}
        for one in predicted
    ]
    compared = [
        {"run": str(run), "trained_on": f"{of['dataset']['name']}@{of['dataset']['version']}", "metrics": figures}
        for run, of, figures in zip(runs, records, measured, strict=True)
    ]
    sizes = {"rows": len(rows), "episodes": len(set(episodes))}
    return {"dataset": ref, "split": split, **sizes, "runs": compared, "warnings": [] if choice else [_NOT_HELD_OUT]}


def _reward_run(run: str | Path) -> dict[str, Any]:
    record = RunFolder.existing(run).read()
    if record["kind"] != "rm":
        raise UsageError(f"{run} is not a reward model's run.", "name folders that `train rm` wrote")
    return record


def _common_choice(
    runs: Sequence[str | Path], records: Sequence[Mapping[str, Any]], ref: str, is_named: bool
) -> dict[str, Any]:
    """What decides which rows the runs held out, as arguments of `load_rows`. Runs that differ in it have nothing in
    common: then the dataset that is named has its own splits."""
    first, *others = map(_choice, records)
    for run, other in zip(runs[1:], others, strict=True):
        for name, value in first.items():
            if other[name] != value and is_named:
                return {}
            if other[name] != value:
                raise UsageError(
                    f"{runs[0]} was trained with {name}={value} and {run} with {name}={other[name]}, so they held "
                    "out different rows.",
                    f"--dataset {ref} takes its own splits, on some of whose rows a run may have been trained",
                )
    return first


def _choice(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record.get("config", {})
    return {
        "split_by": config.get("split_by", "dataset"),
        "sentinels": config.get("sentinels", []),
        # the dataset's own splits are what they are, whichever of their rows were trained on
        "where": None if record.get("splits_by") == "dataset" else config.get("where"),
    }


def _measured(
    metric: Metric,
    predicted: Any,
    first: Any,
    truth: Any,
    episodes: Sequence[str],
    resamples: int,
) -> Mapping[str, Number]:
    """A metric with its interval, and its difference to that of the `first` predictions with its own interval."""

    def difference(weights: Any) -> Number:
        ours, others = metric(predicted, truth, weights), metric(first, truth, weights)
        return None if ours is None or others is None else ours - others

    def interval(statistic: Callable[[Any], Number]) -> tuple[Number, Number]:
        return stats.bootstrap_interval(statistic, episodes, resamples=resamples) or (None, None)

    low, high = interval(partial(metric, predicted, truth))
    change_low, change_high = interval(difference)
    return {
        "value": metric(predicted, truth, None),
        "low": low,
        "high": high,
        "difference": difference(None),
        "difference_low": change_low,
        "difference_high": change_high,
    }
