"""Judges behind an API: OpenAI's and Anthropic's models, and any server that speaks one of their protocols.

`gpt-4o`, `o3`, `openai:MODEL[@URL]`, `claude-…`, `anthropic:MODEL[@URL]`. How a provider is sent a Request is the
business of `sotopia_rl_data.asking`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.asking import anthropic
from sotopia_rl_data.asking.providers import ApiModel, ModelName, api_client, sampling_of, takes_temperature
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.requests import request_of
from sotopia_rl_data.request import Reply


class ApiJudge(ApiModel):
    """Asks one model at one URL."""

    async def answer(self, question: Question) -> Reply:
        """One call, for whoever has no ledger."""
        return await self.send(request_of(question, self.target))


def judge(name: ModelName, sampling: Mapping[str, Any] | None = None) -> ApiJudge:
    """The model at its URL, else at OPENAI_BASE_URL or ANTHROPIC_BASE_URL, else at its provider.

    `sampling` is laid over temperature 0, so that a judge is as repeatable as it can be (nothing where the model sets
    its own), and over the token limit that Anthropic wants named. Raises KeyMissing, UsageError.
    """
    default: dict[str, Any] = {"temperature": 0} if takes_temperature(name.provider, name.model) else {}
    if name.provider == anthropic.PROVIDER:
        default["max_tokens"] = anthropic.MAX_TOKENS
    return ApiJudge(api_client(name, sampling_of(default, sampling)))
