"""Reward functions of other trainers that ask a reward server (`sotopia-rl-data serve`).

The environment says which one: SOTOPIA_RL_DATA_REWARD_SERVER has its URL, SOTOPIA_RL_DATA_REWARD_TOKEN its token where
it wants one.

    TRL:   GRPOTrainer(reward_funcs=[sotopia_rl_data.serve.clients.trl_reward], …)
    verl:  custom_reward_function.path=…/sotopia_rl_data/serve/clients.py custom_reward_function.name=compute_score
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from sotopia_rl_data.errors import KeyMissing, Unavailable

URL, TOKEN = "SOTOPIA_RL_DATA_REWARD_SERVER", "SOTOPIA_RL_DATA_REWARD_TOKEN"
_TIMEOUT_S = 600.0
_TRIES = 8  # of a request that finds the queue full


async def trl_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """The reward of each completion: an asynchronous reward function as TRL's GRPO takes it."""
    pairs = zip(prompts, completions, strict=True)
    return await ask([{"prompt": prompt, "completion": completion} for prompt, completion in pairs])


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **more: Any
) -> float:
    """The reward of one answer: a reward function as verl takes it, for rows of `export --to verl`, which have the
    prompt in `extra_info`."""
    prompt = [dict(message) for message in (extra_info or {})["messages"]]
    (reward,) = asyncio.run(ask([{"prompt": prompt, "completion": solution_str}]))
    return reward


async def ask(items: Sequence[Mapping[str, Any]]) -> list[float]:
    """The rewards of these items of a ScoreRequest. Raises KeyMissing where no server is named, Unavailable."""
    url = os.environ.get(URL)
    if not url:
        raise KeyMissing(f"{URL} is not set.", f"export {URL}=http://127.0.0.1:8000, where `serve` runs")
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT_S) as client:
            for left in reversed(range(_TRIES)):
                answer = await client.post("/score", json={"items": list(items)})
                if answer.status_code != httpx2.codes.TOO_MANY_REQUESTS or not left:
                    break
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
            told = answer.json()
    except (httpx2.HTTPError, ValueError) as error:
        why = str(error) or type(error).__name__  # a timeout says nothing
        raise Unavailable(f"The reward server at {url} gave no answer ({why}).", "check that it is running") from error
    if answer.status_code != httpx2.codes.OK:
        raise Unavailable(f"The reward server at {url} refused: {told.get('error')}", str(told.get("hint")))
    return [float(reward) for reward in told["rewards"]]
