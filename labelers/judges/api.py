"""Judges behind an API: OpenAI's and Anthropic's models, and any server that speaks one of their protocols.

Their forms are `gpt-4o`, `o3`, `openai:MODEL[@URL]`, `claude-…` and `anthropic:MODEL[@URL]`. How a Request is sent to a
provider is left to `sotopia_rl_data.asking`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.asking import anthropic
from sotopia_rl_data.asking.providers import ApiModel, ModelName, api_model, sampling_of, takes_temperature
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.requests import request_of
from sotopia_rl_data.request import Reply


class ApiJudge(ApiModel):
    """Asks one model at one URL, or at those of a fleet."""

    async def answer(self, question: Question) -> Reply:
        """One call, without a ledger."""
        return await self.send(request_of(question, self.target))


def judge(name: ModelName, sampling: Mapping[str, Any] | None = None) -> ApiJudge:
    """The model at its URL, else at OPENAI_BASE_URL or ANTHROPIC_BASE_URL, else at its provider.

    `sampling` overrides the defaults: temperature 0, so that a judge is as repeatable as it can be (none where the
    model takes no temperature), and the token limit, which Anthropic requires. Raises KeyMissing, UsageError.
    """
    default: dict[str, Any] = {"temperature": 0} if takes_temperature(name.provider, name.model) else {}
    if name.provider == anthropic.PROVIDER:
        default["max_tokens"] = anthropic.MAX_TOKENS
    chosen = sampling_of(sampling_of(default, name.sampling), sampling)
    return ApiJudge(api_model(name, chosen), 64 * max(1, len(name.servers)), name.id)
