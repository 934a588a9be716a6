"""The rewards of GRPO beside the reward model: the form of an action, and those of others, by name.

A reward is, as in TRL, a callable of (prompts, completions, **columns) that returns one number for each completion, or
None where it does not apply. Rewards of others are found by entry point (group `sotopia_rl_data.rewards`) or as
`path/to/file.py:Name`, with a weight: `--set rewards=politeness=0.5`. What they return is checked: a wrong number of
values, a text or an infinity would become a policy's aim, or an error from the midst of a library.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import reprlib
from collections.abc import Callable, Sequence
from typing import Any

from sotopia_rl_data import plugins
from sotopia_rl_data.errors import BadAnswer, InputError, SotopiaDataError, UsageError
from sotopia_rl_data.schema import ACTION_TYPES, Message
from sotopia_rl_data.thoughts import without_thought

log = logging.getLogger(__name__)

Reward = Callable[..., list[float | None]]

GROUP = "sotopia_rl_data.rewards"
BUILTINS = {"format": "sotopia_rl_data.trainers.rewards:valid_action"}


def valid_action(prompts: Any, completions: Sequence[Sequence[Message]], **columns: Any) -> list[float | None]:
    """1.0 for a completion that the simulator can read as one action, else 0.0."""
    return [float(is_action(completion[-1].get("content") or "")) for completion in completions]


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


class CheckedReward:
    """A reward of somebody else's. What it returns, or raises, is told in a sentence that names it (InputError)."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.__name__ = str(getattr(reward, "__name__", type(reward).__name__))
        self._has_warned = False

    def __call__(self, prompts: Any, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        try:
            values = self.reward(prompts=prompts, completions=completions, **columns)
        except Exception as error:
            raise self._failure(error) from error
        return self.checked(values, completions, columns.get("log_metric"))

    def checked(self, values: Any, completions: Sequence[Any], log_metric: Any = None) -> list[float | None]:
        """The values as numbers and None. Raises InputError for anything else, and for a wrong number of them."""
        hint = "let it return a list with a number for each completion, or None where it does not apply"
        listed = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(listed, list | tuple):
            raise InputError(f"The reward {self.__name__} returned {reprlib.repr(values)}, which is not a list.", hint)
        if len(listed) != len(completions):
            values_told = f"{len(listed)} value{'' if len(listed) == 1 else 's'}"
            told = f"The reward {self.__name__} returned {values_told} for {len(completions)} completions."
            raise InputError(told, hint)
        numbers = [self._number(value, hint) for value in listed]
        absent = sum(number is None for number in numbers)
        if absent and log_metric is not None:
            log_metric(f"rewards/{self.__name__}/none", absent / len(numbers))
        if absent and not self._has_warned:
            self._has_warned = True
            log.warning(
                "The reward %s is None for %d of %d completions, which are judged without it (this is said once).",
                self.__name__, absent, len(numbers),
            )  # fmt: skip
        return numbers

    def _number(self, value: Any, hint: str) -> float | None:
        value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
        if value is None:
            return None
        try:
            number = float(value) if isinstance(value, int | float) else math.nan
        except OverflowError:  # a whole number beyond all floats
            number = value = math.inf
        if not math.isfinite(number):
            raise InputError(f"The reward {self.__name__} returned {reprlib.repr(value)}: not a finite number.", hint)
        return number

    def _failure(self, error: Exception) -> Exception:
        """The error to raise where the reward raised `error`."""
        import torch

        if isinstance(error, SotopiaDataError | torch.OutOfMemoryError):
            return error
        what = f"{type(error).__name__}: {error}".strip(": ")
        return InputError(f"The reward {self.__name__} failed: {what}.", "fix it, or leave it out of --set rewards=")


class CheckedAsyncReward(CheckedReward):
    """The same for a reward that is a coroutine, which TRL awaits beside others."""

    async def __call__(  # type: ignore[override]  # TRL tells by this that it has to be awaited
        self, prompts: Any, completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        try:
            values = await self.reward(prompts=prompts, completions=completions, **columns)  # type: ignore[misc]
        except Exception as error:
            raise self._failure(error) from error
        return self.checked(values, completions, columns.get("log_metric"))


def checked(reward: Reward) -> CheckedReward:
    """The reward with its answers checked."""
    waits = inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__)
    return CheckedAsyncReward(reward) if waits else CheckedReward(reward)


def named_rewards(specs: Sequence[str]) -> tuple[list[Reward], list[float]]:
    """Rewards, checked, and weights of `name`, `name=0.5`, `path/to/file.py:Name=0.5`. Raises UsageError."""
    rewards: list[Reward] = []
    weights = []
    for spec in specs:
        name, equals, weight = spec.rpartition("=")
        reward = plugins.load("reward", GROUP, name if equals else spec, BUILTINS)
        rewards.append(checked(reward() if isinstance(reward, type) else reward))
        try:
            weights.append(float(weight) if equals else 1.0)
        except ValueError as error:
            raise UsageError(f"The weight in {spec!r} is not a number.", "write it as NAME=0.5") from error
        if not math.isfinite(weights[-1]):
            raise UsageError(f"The weight in {spec!r} is not a finite number.", "write it as NAME=0.5")
    return rewards, weights
