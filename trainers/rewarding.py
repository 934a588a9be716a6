"""Rewards for GRPO, as TRL calls them: the reward model, the form of an action, and anyone's own by name.

A reward is a callable of (prompts, completions, **columns) that gives one number a completion, or None where it does
not apply. Further ones come by entry point (group `sotopia_rl_data.rewards`) or as `path/to/file.py:Name`, with a
weight: `--set rewards=politeness=0.5`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sotopia_rl_data import plugins
from sotopia_rl_data.errors import BadAnswer, UsageError
from sotopia_rl_data.schema import ACTION_TYPES, Message
from sotopia_rl_data.thoughts import without_thought
from sotopia_rl_data.trainers.reward_model import RewardModel

Reward = Callable[..., list[float | None]]

BUILTINS = {"format": "sotopia_rl_data.trainers.rewarding:valid_action"}


class ModelReward:
    """A reward model as a reward: the whole batch in packed rows, so that completions of one prompt share it.

    A completion that stopped at the length limit has not ended its turn, though the template would close it: it gets
    `truncated` instead of a score (None: it is scored all the same). `ends` are the ids that end a completion.
    """

    def __init__(self, model: RewardModel, ends: Sequence[int], truncated: float | None) -> None:
        self.model = model
        self.ends = frozenset(ends)
        self.truncated = truncated
        self.__name__ = "reward_model"

    def __call__(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[Sequence[Message]],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        scores = self.model.score_batch(zip(prompts, completions, strict=True)).tolist()
        if self.truncated is None or completion_ids is None:
            return scores
        ended = [bool(len(ids)) and ids[-1] in self.ends for ids in completion_ids]
        if log_metric is not None:
            log_metric("truncated", 1.0 - sum(ended) / max(1, len(ended)))
        return [score if done else self.truncated for score, done in zip(scores, ended, strict=True)]


def valid_action(prompts: Any, completions: Sequence[Sequence[Message]], **columns: Any) -> list[float | None]:
    """1.0 for a completion that is one action as the simulator reads it, else 0.0."""
    return [float(is_action(completion[-1]["content"])) for completion in completions]


valid_action.__name__ = "format"


def is_action(text: str) -> bool:
    """True for `{"action_type": one of five, "argument": text}`, with or without `to`, and nothing besides but a
    thought before it, which the simulator does not read either."""
    try:
        action = json.loads(without_thought(text))
    except (ValueError, RecursionError, BadAnswer):
        return False
    return (
        isinstance(action, dict)
        and {"action_type", "argument"} <= action.keys() <= {"action_type", "argument", "to"}
        and action["action_type"] in ACTION_TYPES
        and isinstance(action["argument"], str)
        and isinstance(action.get("to", []), list)
    )


def named_rewards(specs: Sequence[str]) -> tuple[list[Reward], list[float]]:
    """Rewards and weights of `name`, `name=0.5`, `path/to/file.py:Name=0.5`. Raises UsageError."""
    rewards, weights = [], []
    for spec in specs:
        name, equals, weight = spec.rpartition("=")
        reward = plugins.load("reward", "sotopia_rl_data.rewards", name if equals else spec, BUILTINS)
        rewards.append(reward() if isinstance(reward, type) else reward)
        weights.append(_weight(spec, weight) if equals else 1.0)
    return rewards, weights


def _weight(spec: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"The weight in {spec!r} is no number.", "write name=0.5") from error
