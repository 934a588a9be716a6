"""Anthropic's models: `claude-…`, `anthropic:MODEL[@URL]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.asking import anthropic
from sotopia_rl_data.asking.providers import sampling_of
from sotopia_rl_data.labelers.judges.api import ApiJudge


def judge(model: str, url: str = "", sampling: Mapping[str, Any] | None = None) -> ApiJudge:
    """The model at `url`, else at ANTHROPIC_BASE_URL, else at Anthropic. Raises KeyMissing, UsageError."""
    chosen = sampling_of(default_sampling(model), sampling)
    return ApiJudge(anthropic.target(model, url, chosen), anthropic.AnthropicClient)


def default_sampling(model: str) -> dict[str, Any]:
    """The token limit, and temperature 0 where the model takes one, so that a judge is as repeatable as it can be."""
    limit = {"max_tokens": anthropic.MAX_TOKENS}
    return limit | {"temperature": 0} if anthropic.takes_temperature(model) else limit
