"""A judge behind an API: it hands Requests to a client of `sotopia_rl_data.asking`, and says how it samples.

Leaves out pacing, retries and the ledger (`asking/dispatch.py`), and what is asked (`labelers/attribution`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from labelers.judge import Question
from labelers.judges.sending import request_of
from sotopia_rl_data.asking.request import Client, Reply, Request, Target


class ApiJudge:
    """Asks one model at one URL. The client is made at once: a missing key is found before anything is asked."""

    concurrency = 64

    def __init__(self, target: Target, connect: Callable[[Target], Client]) -> None:
        self.id = target.model
        self.target = target
        self._connect = connect
        self._client: Client | None = connect(target)

    async def send(self, request: Request) -> Reply:
        """One call. Raises what the client raises."""
        if self._client is None:
            self._client = self._connect(self.target)
        return await self._client.send(request)

    async def answer(self, question: Question) -> Reply:
        """One call, for whoever has no ledger."""
        return await self.send(request_of(question, self.target))

    async def close(self) -> None:
        """Close the connections; the next `send`, in another event loop perhaps, opens new ones."""
        if self._client is not None:
            await self._client.close()
        self._client = None


def sampling_of(default: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The default with what was given laid over it; a None takes a parameter out."""
    return {name: value for name, value in {**default, **(given or {})}.items() if value is not None}
