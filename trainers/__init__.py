"""Reward models, behaviour cloning, DPO and GRPO by dataset id: thin over transformers, trl and peft.

    from sotopia_rl_data.trainers import RewardModel

    api.py           what the command line calls: a function for each trainer, `score`, `release`, `inspect_run`
    config.py        the libraries' own configurations with a few more fields; presets
    data.py          a dataset pinned, read and split
    encoding.py      from messages to token ids; prompts cut to fit
    filling.py       batches with a token budget
    modeling.py      loads models, and says in one sentence why one cannot be loaded
    reward_model/    the reward model: rows that share prefixes, loss, metrics, units, and the model in use
    policies.py      behaviour cloning and GRPO
    preferences.py   DPO, over the pairs of completions that pairs.py finds
    score.py         a reward model as one more judge of a dataset
    plan.py          what a run would take, and whether it fits on given GPUs; memory.py counts the bytes
    side_by_side.py  reward models on the same held-out rows
    run_folder.py    `run.json`, metrics and checkpoints, read without torch
    callbacks.py     what a run writes and shows while it trains
    merging.py       a run's model as one whole checkpoint for other programs
    release.py       a run's model on the Hub
    tiny.py          a tiny random model for tests and smoke runs

The core imports nothing from here. Importing this package is cheap: torch is imported when `RewardModel` is first
used, and by the functions of `api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if __name__ != "sotopia_rl_data.trainers":  # `import trainers` would make a second copy of every class
    raise ImportError("Import sotopia_rl_data.trainers: the folder trainers/ is a part of that package.")

if TYPE_CHECKING:
    from sotopia_rl_data.trainers.reward_model.model import RewardModel

__all__ = ["RewardModel"]


def __getattr__(name: str) -> type[RewardModel]:
    """`RewardModel`, imported with torch when it is first asked for."""
    if name != "RewardModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sotopia_rl_data.trainers.reward_model.model import RewardModel

    return RewardModel
