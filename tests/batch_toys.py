"""What the batch tests share: many small questions, a caller that writes down how each ended, a run of one command."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.batch.anthropic import AnthropicBatchClient
from sotopia_rl_data.asking.batch.client import BatchClient, BatchLimits
from sotopia_rl_data.asking.batch.openai import OpenAIBatchClient
from sotopia_rl_data.asking.batch.rounds import ask_batch
from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.asking.plan import Batching
from sotopia_rl_data.fake_provider.running import Running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, Outcome, Settled
from sotopia_rl_data.request import Client, Reply, Request, Target

PROVIDERS = ["openai", "anthropic"]
SCHEMA = {
    "type": "object",
    "properties": {"importance": {"type": "integer", "enum": [0, 1, 2, 3]}},
    "required": ["importance"],
    "additionalProperties": False,
}
QUICK = Batching(poll_s=0.05, doubt_s=0.5, silence_s=2)


def target(provider: str, at: Running) -> Target:
    if provider == "openai":
        return openai.target("sim", at.openai_url, {"temperature": 0})
    return anthropic.target("sim", at.url, {"max_tokens": 200})


def judge(provider: str, at: Running) -> str:
    """The same as the judge of a label run."""
    return f"openai:sim@{at.openai_url}" if provider == "openai" else f"anthropic:sim@{at.url}"


def batches(provider: str, at: Running, limits: BatchLimits | None = None) -> BatchClient:
    made = OpenAIBatchClient if provider == "openai" else AnthropicBatchClient
    return made(target(provider, at)) if limits is None else made(target(provider, at), limits)


def live(provider: str, at: Running) -> Client:
    made = openai.OpenAIClient if provider == "openai" else anthropic.AnthropicClient
    return made(target(provider, at))


def question(number: int, to: Target) -> Request:
    return Request(to, [{"role": "user", "content": f"question {number}"}], SCHEMA)


def questions(count: int, to: Target) -> list[Request]:
    return [question(number, to) for number in range(count)]


class Caller:
    """Accepts JSON that obeys, and writes down how every question ended."""

    def __init__(self, accepts: Callable[[Request, Reply], bool] = lambda request, reply: reply.text.startswith("{")):
        self.accept = accepts
        self.settled: list[tuple[str, Settled]] = []

    def on_settled(self, request: Request, settled: Settled) -> Request | None:
        self.settled.append((request.key, settled))
        return None

    @property
    def texts(self) -> dict[str, str | None]:
        return {key: None if one.attempt is None else one.attempt.text for key, one in self.settled}

    @property
    def times(self) -> Counter[str]:
        return Counter(key for key, _ in self.settled)


def ask_in_batches(
    requests: Iterable[Request], client: BatchClient, ledger: Path, caller: Caller | None = None, **options: Any
) -> tuple[Outcome, Caller]:
    """One run, in an event loop of its own."""
    made, caller = list(requests), caller or Caller()
    accept, follow_up = options.pop("accept", None), options.pop("follow_up", None)
    how = {name: options.pop(name) for name in ("retry_failed", "total") if name in options}
    options = {"batching": QUICK} | options

    async def go() -> Outcome:
        try:
            with Ledger(ledger) as kept:
                lookup = Lookup(kept, accept or caller.accept, follow_up or caller.on_settled, **how)
                return await ask_batch(lambda: made, client, lookup, **options)
        finally:
            await client.close()

    return asyncio.run(go()), caller


def ask_live(requests: Iterable[Request], client: Client, ledger: Path, caller: Caller | None = None) -> Outcome:
    async def go() -> Outcome:
        try:
            with Ledger(ledger) as kept:
                return await ask_all(requests, client.send, Lookup(kept, (caller or Caller()).accept))
        finally:
            await client.close()

    return asyncio.run(go())
