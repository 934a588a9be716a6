"""A reward server as the reward of GRPO and of other trainers: it is asked as `serve` answers, at POST /score.

    RewardServer("http://127.0.0.1:8000").score_batch([(prompt, completion), …])

The token is in SOTOPIA_RL_DATA_REWARD_TOKEN, where the server wants one. A reward that the server does not know is NaN.
What the server says is a stranger's: it is read up to a size and for a time, as the answers of providers are
(`asking/reading.py`), shown without the token, and its hints are not passed on.
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

from sotopia_rl_data.asking.keys import is_local
from sotopia_rl_data.asking.reading import MOST_BYTES, json_or_none, unpacked
from sotopia_rl_data.asking.refusals import provider_text, retry_after
from sotopia_rl_data.asking.transport import clean_url
from sotopia_rl_data.errors import InputError, Unavailable, UsageError
from sotopia_rl_data.schema import Message
from sotopia_rl_data.secrets import hide

TOKEN = "SOTOPIA_RL_DATA_REWARD_TOKEN"
_LONGEST_S = {"/health": 60.0, "/score": 600.0}  # of an answer, from the request to its end
_LONGEST_WAIT_S = 60.0
_LONGEST_NAME = 1_000  # characters
_TRIES = 8  # of a request that finds the queue full
_LOST = 4  # tries of a request without an answer
_ITEMS = 256  # of a request
_BUSY = (httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.SERVICE_UNAVAILABLE)
_NAME_IT = "name the URL that `serve` has printed"


def is_server(reward_model: str) -> bool:
    """Whether a reward model is named by the URL of a server."""
    return reward_model.startswith(("http://", "https://"))


class RewardServer:
    """The rewards of a server. `identity` names what it serves, `targets` what that rewards.

    Raises Unavailable where nobody answers at `url`, InputError where somebody else does, UsageError where `url`
    is not a URL or has a password in it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        told = asyncio_run(self._health())
        model, *self.targets = (hide(name, _token()) for name in (told["model"], *told["targets"]))
        self.identity = f"{model} (served)"

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
            targets = told.get("targets")
            if not (isinstance(targets, list) and all(map(_is_name, [told.get("model"), *targets]))):
                raise _stranger(client)
        return told


async def ask(url: str, dialogues: Iterable[tuple[Any, Any]]) -> list[float | None]:
    """The reward of each (prompt, completion); None where the server has none. Raises Unavailable, InputError,
    UsageError."""
    items = [{"prompt": prompt, "completion": completion} for prompt, completion in dialogues]
    async with _client(url) as client:

        async def some(start: int) -> list[float | None]:
            asked = items[start : start + _ITEMS]
            rewards = (await _answer(client, "POST", "/score", {"items": asked}, tries=_LOST)).get("rewards")
            if not isinstance(rewards, list) or len(rewards) != len(asked) or not all(map(_is_reward, rewards)):
                raise _stranger(client)
            return [None if reward is None else float(reward) for reward in rewards]

        return list(chain.from_iterable(await asyncio.gather(*(some(i) for i in range(0, len(items), _ITEMS)))))


def asyncio_run(coroutine: Any) -> Any:
    """The result of a coroutine, also in a notebook, where a loop runs already."""
    from sotopia_rl_data.asking.ask import wait

    return wait(coroutine)


def _token() -> str:
    return os.environ.get(TOKEN, "").strip()


def _client(url: str) -> httpx2.AsyncClient:
    """A client of the server. Raises UsageError where nothing can be at the URL, or it has a password in it."""
    headers = {b"Accept-Encoding": b"identity"}
    if token := _token():
        headers[b"Authorization"] = b"Bearer " + os.fsencode(token)
    try:
        base = clean_url(url)
        return httpx2.AsyncClient(base_url=base, headers=headers, timeout=None, trust_env=not is_local(base))
    except UsageError as error:
        raise UsageError(error.message, f"{_NAME_IT}, and put its token into {TOKEN}") from None
    except httpx2.InvalidURL:
        raise UsageError("The URL of the reward server cannot be read.", _NAME_IT) from None


async def _answer(client: httpx2.AsyncClient, method: str, path: str, body: Any, tries: int) -> Mapping[str, Any]:
    """What the server says. It is asked again while its queue is full or it is down for a moment."""
    lost = busy = 0
    while True:
        try:
            async with asyncio.timeout(_LONGEST_S[path]), client.stream(method, path, json=body) as answer:
                told = json_or_none(unpacked(await _read(answer)))
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            lost += 1
            if lost < tries and isinstance(error, httpx2.TransportError | TimeoutError):
                await asyncio.sleep(2.0**lost)
                continue
            why = provider_text(str(error), _token()) or type(error).__name__  # a timeout says nothing
            said = f"The reward server at {_url(client)} gave no answer ({why})."
            raise Unavailable(said, "check that it is running") from None
        if answer.status_code in _BUSY and busy + 1 < _TRIES:
            busy += 1
            wait = retry_after(answer.headers)
            await asyncio.sleep(1.0 if wait is None else min(wait, _LONGEST_WAIT_S))
        elif answer.status_code != httpx2.codes.OK:
            raise _refused(client, answer.status_code, told)
        elif not isinstance(told, dict):
            raise _stranger(client)
        else:
            return told


async def _read(answer: httpx2.Response) -> bytes:
    """The body as it is sent; of one that is too long, no more than a part."""
    body = bytearray()
    async for part in answer.aiter_raw():
        body += part
        if len(body) > MOST_BYTES:
            break
    return bytes(body)


def _refused(client: httpx2.AsyncClient, status: int, told: object) -> Unavailable:
    """The error of the server, in its words and with our hint: its own could name any command."""
    said = provider_text(told, _token()).rstrip(".") or status
    hint = "check the URL, and see the log of the server"
    if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
        hint = f"put the token of the server into {TOKEN}"
    return Unavailable(f"The reward server at {_url(client)} refused: {said}.", hint)


def _is_name(value: Any) -> bool:
    """Whether the value can be the name of a model or a target, in a record and on a terminal."""
    return isinstance(value, str) and len(value) <= _LONGEST_NAME and value.isprintable()


def _is_reward(value: Any) -> bool:
    """Whether the value is a finite number or null."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def _url(client: httpx2.AsyncClient) -> str:
    return str(client.base_url).rstrip("/")


def _stranger(client: httpx2.AsyncClient) -> InputError:
    return InputError(f"What answers at {_url(client)} is not a reward server.", _NAME_IT)
