"""Dialogues as an environment of TRL's GRPO: `GRPOTrainer(environment_factory=…)`, which plays by tool calls.

    plan = plan_of(bundled(), Rules(layout="chat"), a=outside(), b="gpt-4o")
    trainer = GRPOTrainer(
        model, train_dataset=Dataset.from_list(rows(plan)), environment_factory=factory(plan, rewards), args=…
    )

The policy acts by the tool `act`, once a turn; what it sees next is the tool's answer. The reward of an episode is the
mean of the rewards of its utterances; where one is missing, or nothing was said, it is None, and TRL leaves the
completion out. The policy needs a chat template with tools.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sotopia_rl_data.environments.playing import Partners, Table
from sotopia_rl_data.environments.rewards import TurnRewards
from sotopia_rl_data.rollouts import TurnPrompt
from sotopia_rl_data.rollouts.plan import RolloutPlan

_TASK = "Act in the scene by calling the tool `act`, once for each turn, until the scene is over.\n\n"
_OVER = "The scene is over."


class DialogueTools:
    """An episode as TRL plays it: `reset`, the tool `act`, `get_reward`."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def reset(self, scene: int | None = None, **columns: Any) -> str:
        """Begin the episode of a row's `scene`; returns what the policy sees first."""
        prompt = self._table.reset(scene)
        return _OVER if prompt is None else f"You are {self._name()}.\n{_seen(prompt)}"

    def act(self, action_type: str, argument: str) -> str:
        """
        Do one thing in the scene, and see what follows.

        Args:
            action_type: speak, non-verbal communication, action, leave or none.
            argument: The words, the gesture or the deed; empty for leave and none.

        Returns:
            What you see next, or that the scene is over.
        """
        self._table.act(json.dumps({"action_type": action_type, "argument": argument}))
        seated = self._table.seated
        prompt = None if seated is None else seated.prompt
        return _OVER if prompt is None else _seen(prompt)

    def get_reward(self) -> float | None:
        """The mean of the rewards of what was said; None where it is not known."""
        return self._table.mean_reward

    def _name(self) -> str:
        seated = self._table.seated
        return "" if seated is None else seated.episode.agent(seated.agent).name


def factory(plan: RolloutPlan, rewards: TurnRewards, partners: Partners | None = None) -> Callable[[], DialogueTools]:
    """The `environment_factory` for a plan whose `a` is `outside()`. Raises what `Table` raises."""
    partners = partners or Partners(plan)
    Table(plan, rewards, partners)
    return lambda: DialogueTools(Table(plan, rewards, partners))


def rows(plan: RolloutPlan) -> list[dict[str, Any]]:
    """The training rows: a prompt that the environment completes, and the number of an episode of the plan."""
    return [{"prompt": [{"role": "user", "content": _TASK}], "scene": number} for number in range(len(plan))]


def _seen(prompt: TurnPrompt) -> str:
    return prompt.messages[-1]["content"]
