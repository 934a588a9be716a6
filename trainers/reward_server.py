"""A reward server as the reward of GRPO and of other trainers: it is asked as `serve` answers, at POST /score.

    RewardServer("http://127.0.0.1:8000").score_batch([(prompt, completion), …])

The token is in SOTOPIA_RL_DATA_REWARD_TOKEN, where the server wants one. A reward that the server does not know is NaN.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.errors import InputError, Unavailable
from sotopia_rl_data.schema import Message

TOKEN = "SOTOPIA_RL_DATA_REWARD_TOKEN"
_TIMEOUT_S = 600.0
_TRIES = 8  # of a request that finds the queue full
_LOST = 4  # tries of a request without an answer
_ITEMS = 256  # of a request
_BUSY = (httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.SERVICE_UNAVAILABLE)


def is_server(reward_model: str) -> bool:
    """Whether a reward model is named by the URL of a server."""
    return reward_model.startswith(("http://", "https://"))


class RewardServer:
    """The rewards of a server. `identity` names what it serves, `targets` what that rewards.

    Raises Unavailable where nobody answers at `url`, InputError where somebody else does.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        told = asyncio_run(self._health())
        self.identity, self.targets = f"{told['model']} (served)", [str(name) for name in told["targets"]]

    def score_batch(
        self, dialogues: Iterable[tuple[str | Sequence[Message], str | Sequence[Message]]]
    ) -> NDArray[np.float64]:
        """[N] rewards; NaN where the server has none. Raises Unavailable, InputError."""
        rewards = asyncio_run(ask(self._url, dialogues))
        return np.array([math.nan if reward is None else reward for reward in rewards])

    def record(self) -> dict[str, Any]:
        """What a run's record says of it: no URL, which may be private."""
        return {"identity": self.identity, "targets": self.targets}

    async def _health(self) -> Mapping[str, Any]:
        async with _client(self._url) as client:
            told = await _answer(client, "GET", "/health", None, tries=1)
        if not (isinstance(told.get("model"), str) and isinstance(told.get("targets"), list)):
            raise _stranger(self._url)
        return told


async def ask(url: str, dialogues: Iterable[tuple[Any, Any]]) -> list[float | None]:
    """The reward of each (prompt, completion); None where the server has none. Raises Unavailable, InputError."""
    items = [{"prompt": prompt, "completion": completion} for prompt, completion in dialogues]
    async with _client(url) as client:

        async def some(start: int) -> list[float | None]:
            asked = items[start : start + _ITEMS]
            rewards = (await _answer(client, "POST", "/score", {"items": asked}, tries=_LOST)).get("rewards")
            if not isinstance(rewards, list) or len(rewards) != len(asked) or not all(map(_is_reward, rewards)):
                raise _stranger(url)
            return [None if reward is None else float(reward) for reward in rewards]

        return list(chain.from_iterable(await asyncio.gather(*(some(i) for i in range(0, len(items), _ITEMS)))))


def asyncio_run(coroutine: Any) -> Any:
    """The result of a coroutine, also in a notebook, where a loop runs already."""
    from sotopia_rl_data.asking.ask import wait

    return wait(coroutine)


def _client(url: str) -> httpx2.AsyncClient:
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT_S)


async def _answer(client: httpx2.AsyncClient, method: str, path: str, body: Any, tries: int) -> Mapping[str, Any]:
    """What the server says. It is asked again while its queue is full or it is down for a moment."""
    url, lost, busy = str(client.base_url).rstrip("/"), 0, 0
    while True:
        try:
            answer = await client.request(method, path, json=body)
            told = answer.json()
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            lost += 1
            if lost < tries and isinstance(error, httpx2.TransportError):
                await asyncio.sleep(2.0**lost)
                continue
            why = str(error) or type(error).__name__  # a timeout says nothing
            raise Unavailable(
                f"The reward server at {url} gave no answer ({why}).", "check that it is running"
            ) from error
        if answer.status_code in _BUSY and busy + 1 < _TRIES:
            busy += 1
            await asyncio.sleep(_seconds(answer.headers.get("retry-after")))
        elif not isinstance(told, dict):
            raise _stranger(url)
        elif answer.status_code != httpx2.codes.OK:
            said, hint = (str(told.get(name) or "").rstrip(".") for name in ("error", "hint"))
            raise Unavailable(f"The reward server at {url} refused: {said or answer.status_code}.", hint)
        else:
            return told


def _seconds(told: str | None) -> float:
    return min(float(told), 60.0) if told and told.isdigit() else 1.0


def _is_reward(value: Any) -> bool:
    """Whether the value is a finite number or null."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def _stranger(url: str) -> InputError:
    return InputError(f"What answers at {url} is not a reward server.", "name the URL that `serve` has printed")
