"""Anthropic's models: `claude-…`, `anthropic:MODEL[@URL]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from labelers.judges.api import ApiJudge, sampling_of
from sotopia_rl_data.asking import anthropic

# The API wants a limit. No answer comes near it: 40 turns, seven dimensions and two agents are about 4,000 tokens.
MAX_TOKENS = 8192
# Models before Opus 4.7 take a temperature; newer ones refuse it.
_TAKES_TEMPERATURE = re.compile(r"claude-(3-|(haiku|sonnet)-4-|opus-4-[0156]|.*-4-20\d{6})")


def judge(model: str, url: str = "", sampling: Mapping[str, Any] | None = None) -> ApiJudge:
    """The model at `url`, else at ANTHROPIC_BASE_URL, else at Anthropic. Raises KeyMissing, UsageError."""
    chosen = sampling_of(default_sampling(model), sampling)
    return ApiJudge(anthropic.target(model, url, chosen), anthropic.AnthropicClient)


def default_sampling(model: str) -> dict[str, Any]:
    """The token limit, and temperature 0 where the model takes one, so that a judge is as repeatable as it can be."""
    limit = {"max_tokens": MAX_TOKENS}
    return limit | {"temperature": 0} if _TAKES_TEMPERATURE.match(model) else limit
