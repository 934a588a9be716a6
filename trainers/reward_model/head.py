"""What a reward model's outputs mean: which targets, in which units, and how they make one reward.

Targets are scaled for training, and the units kept in the model's own configuration, as `reward_head` in
`config.json`, so a checkpoint carries them: reward = logit * std + mean. The mean is 0 in what is trained now: a stock
head has no bias that could hold it in a merged model (`merging.py`), so the head starts at the mean and learns it. With
several heads, the aggregate is their weighted mean, as in the dataset's recipe. An adapter has no `config.json` (with
one, the stock loaders would look for whole weights beside it) and keeps the units in the file `reward_head.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.formats import check_fields

Floats = NDArray[np.float64]
KEY = "reward_head"
FILE = f"{KEY}.json"
LARGEST = 1e30  # a deviation


@dataclass(frozen=True, slots=True)
class RewardHead:
    """K targets, each with its weight in the aggregate and what its logits are scaled by (`std`) and moved by (`mean`).

    `tokenizer` is the SHA-256 of the tokenizer and chat template that it was trained with ("" where unknown).
    """

    targets: tuple[str, ...]
    weights: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokenizer: str = ""

    def standardised(self, values: ArrayLike) -> Floats:
        """[N, K] targets in the units of the logits; NaN stays NaN."""
        mean, std = np.asarray(self.mean, dtype=np.float64), np.asarray(self.std, dtype=np.float64)
        return (np.asarray(values, dtype=np.float64) - mean) / std

    def rewards(self, logits: ArrayLike) -> Floats:
        """[N, K] logits in the targets' own units."""
        mean, std = np.asarray(self.mean, dtype=np.float64), np.asarray(self.std, dtype=np.float64)
        return np.asarray(logits, dtype=np.float64) * std + mean

    def aggregate(self, rewards: ArrayLike) -> Floats:
        """[N] weighted mean over the K targets of [N, K] rewards."""
        weighted: Floats = np.asarray(rewards, dtype=np.float64) @ np.array(self.weights)
        return weighted / float(sum(self.weights))

    def known(self, values: ArrayLike) -> Floats:
        """[N] aggregates of [N, K] targets of the data; NaN where a target with a weight is missing."""
        return self.aggregate(np.where(np.array(self.weights) > 0, np.asarray(values, dtype=np.float64), 0.0))

    def to_config(self) -> dict[str, Any]:
        """The head as `config.json` holds it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def fit(targets: Sequence[str], weights: Mapping[str, float], values: ArrayLike, tokenizer: str = "") -> RewardHead:
    """The head of these targets from their [N, K] train values (NaN: missing).

    `std` is each one's deviation (1 for a constant target), `mean` is 0. Raises InputError where a target has no value,
    where none of them varies, or where one's deviation is beyond float32, in which heads are trained.
    """
    table = np.asarray(values, dtype=np.float64)
    for target, values_of_target in zip(targets, table.T, strict=True):
        if not np.isfinite(values_of_target).any():
            raise InputError(f"The train split has no value of {target!r}.", "name other targets with --targets")
    with np.errstate(over="ignore", invalid="ignore"):
        std = np.nanstd(table, axis=0)
    for target, deviation in zip(targets, std.tolist(), strict=True):
        if not deviation < LARGEST:
            raise InputError(
                f"The train split's values of {target!r} go up to {np.nanmax(np.abs(table)):.3g}: too far to train on.",
                "leave out what stands for a missing value: --set sentinels=VALUE, or --where",
            )
    varies = std > 1e-12
    if not varies.any():
        same = ", ".join(
            f"{target} is {value:.6g}" for target, value in zip(targets, np.nanmax(table, axis=0), strict=True)
        )
        raise InputError(
            f"There is nothing to learn: in each of the train split's {len(table):,} rows {same}.",
            "label with another schema or judge, or give a wider --where",
        )
    std = np.where(varies, std, 1.0)
    shares = tuple(float(weights.get(target, 0.0)) for target in targets)
    if not sum(shares) > 0:
        shares = (1.0,) * len(targets)
    return RewardHead(tuple(targets), shares, (0.0,) * len(targets), tuple(std.tolist()), tokenizer)


def save(head: RewardHead, folder: str | Path) -> None:
    """Write `reward_head.json`."""
    (Path(folder) / FILE).write_text(json.dumps(head.to_config(), indent=1) + "\n", encoding="utf-8")


def load(folder: str | Path) -> dict[str, Any] | None:
    """What `reward_head.json` holds, or None."""
    path = Path(folder) / FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def check_same_units(checkpoint: Path, head: RewardHead) -> None:
    """Raises UsageError where the weights in `checkpoint` were trained in other units than those of `head`."""
    config = checkpoint / "config.json"
    stored = load(checkpoint) or (json.loads(config.read_text(encoding="utf-8")).get(KEY) if config.exists() else None)
    if stored and not all(np.allclose(stored[name], getattr(head, name), rtol=1e-6) for name in ("mean", "std")):
        raise UsageError(
            f"{checkpoint} was trained by a version of this program that scaled rewards otherwise.",
            "start a new run, in another folder with --output",
        )


def _is_head(stored: Any, count: int | None) -> bool:
    """Whether a value has what a head of `count` targets (None: any number) is made of."""
    if not isinstance(stored, Mapping) or not isinstance(stored.get("tokenizer", ""), str):
        return False
    targets = stored.get("targets")
    if not isinstance(targets, list) or len(targets) != (count or len(targets)):
        return False
    numbers = [stored.get(name) for name in ("weights", "mean", "std")]
    return all(isinstance(target, str) for target in targets) and all(
        isinstance(of, list)
        and len(of) == len(targets)
        and all(isinstance(one, int | float) and abs(one) <= LARGEST for one in of)
        for of in numbers
    )


def from_config(config: Any) -> RewardHead:
    """The head in a model's configuration; for a foreign reward model, a head that leaves logits unchanged."""
    stored = getattr(config, KEY, None)
    if stored is None:
        count = int(getattr(config, "num_labels", 1))
        names = tuple(f"label_{i}" for i in range(count)) if count > 1 else ("reward",)
        return RewardHead(names, (1.0,) * count, (0.0,) * count, (1.0,) * count)
    whose = f"The {KEY} of {getattr(config, '_name_or_path', '') or 'the model'}"
    if isinstance(stored, Mapping):
        check_fields(stored, RewardHead, whose)
    if not _is_head(stored, getattr(config, "num_labels", None)):
        raise InputError(f"{whose} is damaged.", "bring the model here again, or name another one")
    return RewardHead(
        targets=tuple(stored["targets"]),
        weights=tuple(stored["weights"]),
        mean=tuple(stored["mean"]),
        std=tuple(stored["std"]),
        tokenizer=stored.get("tokenizer", ""),
    )
