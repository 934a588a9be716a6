"""The rewards of GRPO beside the reward model: the form of an action, and those of others, by name.

A reward is, as in TRL, a callable of (prompts, completions, **columns) that returns one number for each completion, or
None where it does not apply. Rewards of others are found by entry point (group `sotopia_rl_data.rewards`) or as
`path/to/file.py:Name`, with a weight: `--set rewards=politeness=0.5`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sotopia_rl_data import plugins
from sotopia_rl_data.errors import BadAnswer, UsageError
from sotopia_rl_data.schema import ACTION_TYPES, Message
from sotopia_rl_data.thoughts import without_thought

Reward = Callable[..., list[float | None]]

GROUP = "sotopia_rl_data.rewards"
BUILTINS = {"format": "sotopia_rl_data.trainers.rewards:valid_action"}


def valid_action(prompts: Any, completions: Sequence[Sequence[Message]], **columns: Any) -> list[float | None]:
    """1.0 for a completion that the simulator can read as one action, else 0.0."""
    return [float(is_action(completion[-1]["content"])) for completion in completions]


valid_action.__name__ = "format"


def is_action(text: str) -> bool:
    """Whether the text is `{"action_type": one of five, "argument": text}`, with or without `to`. A thought may precede
    it, since the simulator skips thoughts; nothing else may."""
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
        reward = plugins.load("reward", GROUP, name if equals else spec, BUILTINS)
        rewards.append(reward() if isinstance(reward, type) else reward)
        try:
            weights.append(float(weight) if equals else 1.0)
        except ValueError as error:
            raise UsageError(f"The weight in {spec!r} is not a number.", "write it as NAME=0.5") from error
    return rewards, weights
