"""Reward functions of other trainers that ask a reward server (`sotopia-rl-data serve`).

The environment says which one: SOTOPIA_RL_DATA_REWARD_SERVER has its URL, SOTOPIA_RL_DATA_REWARD_TOKEN its token where
it wants one.

    TRL:   GRPOTrainer(reward_funcs=[sotopia_rl_data.serve.clients.trl_reward], …)
    verl:  custom_reward_function.path=…/sotopia_rl_data/serve/clients.py custom_reward_function.name=compute_score
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sotopia_rl_data.errors import InputError, KeyMissing
from sotopia_rl_data.trainers.reward_server import ask, asyncio_run

URL = "SOTOPIA_RL_DATA_REWARD_SERVER"


async def trl_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """The reward of each completion, None where the server has none, which TRL leaves out if it is the only reward: an
    asynchronous reward function as TRL's GRPO takes it."""
    return await ask(_url(), zip(prompts, completions, strict=True))


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **more: Any
) -> float:
    """The reward of one answer: a reward function as verl takes it, for rows of `export --to verl`, which have the
    prompt in `extra_info`. Raises InputError where the server has none: verl knows no missing reward."""
    prompt = [dict(message) for message in (extra_info or {})["messages"]]
    reward: float | None
    (reward,) = asyncio_run(ask(_url(), [(prompt, solution_str)]))
    if reward is None:
        raise InputError("The judge's answer about a completion cannot be used, so it has no reward.", "see its ledger")
    return reward


def _url() -> str:
    url = os.environ.get(URL)
    if not url:
        raise KeyMissing(f"{URL} is not set.", f"export {URL}=http://127.0.0.1:8000, where `serve` runs")
    return url
