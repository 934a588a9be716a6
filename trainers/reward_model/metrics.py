"""How good a reward model is, beside two baselines that read no text: the train mean, and the train mean by turn.

Every number is in the reward's own units, over the utterances of one split; what cannot be computed is left out.
Intervals resample whole episodes, since utterances of one episode are not independent. Where there are several heads,
each is also measured by itself. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sotopia_rl_data import statistics as stats

if TYPE_CHECKING:
    from sotopia_rl_data.trainers.reward_model.rows import Prepared

Floats = NDArray[np.float64]
Metric = Callable[[ArrayLike, ArrayLike, ArrayLike | None], float | None]  # arguments: predicted, actual, weights

# The calibration error is left out: resampling makes it larger, so its interval would not contain it.
WITH_INTERVAL = ("mse", "mae", "r2", "pearson", "spearman", "pair_accuracy")


def statistics_of(episodes: Sequence[Any]) -> dict[str, Metric]:
    """The metrics by name. `episodes` has each utterance's episode: pairs are compared within an episode."""
    names = np.array([repr(episode) for episode in episodes], dtype=object)
    groups = np.unique(names, return_inverse=True)[1] if len(names) else np.array([], dtype=np.intp)

    def pair_accuracy(predicted: ArrayLike, actual: ArrayLike, weights: ArrayLike | None) -> float | None:
        return stats.pair_accuracy(predicted, actual, groups, weights)

    return {
        "mse": stats.mean_squared_error,
        "mae": stats.mean_absolute_error,
        "r2": stats.r_squared,
        "pearson": stats.pearson,
        "spearman": stats.spearman,
        "pair_accuracy": pair_accuracy,
        "calibration_error": stats.calibration_error,
    }


def reward_metrics(
    predicted: ArrayLike,
    actual: ArrayLike,
    episodes: Sequence[Any],
    baselines: Mapping[str, ArrayLike],
    *,
    target: str = "",
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """All metrics of `predicted` against `actual`; `<metric>_low` and `<metric>_high` (95 %) of those in WITH_INTERVAL;
    and each metric of every baseline as `<baseline>_<metric>`. Intervals resample whole `episodes`. With a `target`,
    the names are `<target>_<metric>` and `<baseline>_<target>_<metric>`."""
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    of_target = f"{target}_" if target else ""
    functions = {f"{of_target}{name}": function for name, function in statistics_of(episodes).items()}
    measured = {name: function(x, y, None) for name, function in functions.items()}
    for name in [f"{of_target}{name}" for name in WITH_INTERVAL] if resamples else []:
        interval = stats.bootstrap_interval(
            partial(functions[name], x, y), [repr(episode) for episode in episodes], resamples=resamples, seed=seed
        )
        measured[f"{name}_low"], measured[f"{name}_high"] = interval or (None, None)
    for baseline, guess in baselines.items():
        measured |= {f"{baseline}_{name}": function(guess, y, None) for name, function in functions.items()}
    return {name: value for name, value in measured.items() if value is not None}


class Baselines:
    """What the train split's mean, and its mean at each turn, would predict."""

    def __init__(self, rewards: ArrayLike, turns: ArrayLike) -> None:
        values, at = np.asarray(rewards, dtype=np.float64), np.asarray(turns, dtype=np.float64)
        self.mean = float(values.mean())
        self.by_turn = {t: float(values[at == t].mean()) for t in np.unique(at[np.isfinite(at)]).tolist()}

    def of(self, turns: ArrayLike) -> dict[str, Floats]:
        """The predictions `mean` and `turn` for utterances at these turns; a turn that is unknown (NaN) or not in train
        gets the mean."""
        by_turn = [self.by_turn.get(t, self.mean) for t in np.asarray(turns, dtype=np.float64).tolist()]
        return {"mean": np.full(len(by_turn), self.mean), "turn": np.array(by_turn, dtype=np.float64)}


class RewardMetrics:
    """Metrics of a model's predictions for numbered utterances: what Trainer calls `compute_metrics`."""

    def __init__(self, prepared: Prepared, resamples: int, seed: int) -> None:
        self.head = prepared.head
        self.stored = [utterances.stored for utterances in prepared.utterances.values()]
        self.resamples = resamples
        self.seed = seed
        train = prepared.utterances["train"].stored
        turns, targets = train.turns(), train.targets()

        def baselines_of(truth: Floats) -> Baselines:
            known = np.isfinite(truth)
            return Baselines(truth[known], turns[known])

        self.baselines = baselines_of(self.head.known(targets))
        count = len(self.head.targets)
        self.by_target = [baselines_of(targets[:, k]) for k in range(count)] if count > 1 else []

    def __call__(self, prediction: Any) -> dict[str, float]:
        """Metrics from transformers' EvalPrediction: predictions [rows, m, K] and label_ids [rows, m] (-100: none)."""
        numbers = np.asarray(prediction.label_ids).reshape(-1)
        logits = np.asarray(prediction.predictions).reshape(len(numbers), -1)
        index, first = np.unique(numbers, return_index=True)  # a row may have been repeated to fill the last batch
        is_utterance = index >= 0
        return self.metrics(index[is_utterance], logits[first[is_utterance]])

    def metrics(self, index: NDArray[np.int64], logits: NDArray[np.floating[Any]]) -> dict[str, float]:
        """Metrics of [N, K] logits for these utterances of one split, in ascending order, where their reward is known;
        with several heads, also of each."""
        stored = next(of_split for of_split in reversed(self.stored) if of_split.first <= index[0])
        at = index - stored.first
        rewards = self.head.rewards(logits)
        names = stored.numbers("episode_id", at=at).column("episode_id").to_pylist()
        episodes = [name or i for i, name in enumerate(names)]
        targets, turns = stored.targets(at), stored.turns(at)
        truth = self.head.known(targets)
        known = np.flatnonzero(np.isfinite(truth))
        measured = reward_metrics(
            self.head.aggregate(rewards)[known],
            truth[known],
            [episodes[i] for i in known],
            self.baselines.of(turns[known]),
            resamples=self.resamples,
            seed=self.seed,
        )
        for k, baselines in enumerate(self.by_target):
            known = np.flatnonzero(np.isfinite(targets[:, k]))
            measured |= reward_metrics(
                rewards[known, k],
                targets[known, k],
                [episodes[i] for i in known],
                baselines.of(turns[known]),
                target=self.head.targets[k],
                resamples=0,
            )
        return measured
