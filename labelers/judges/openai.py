"""OpenAI's models, and any server that speaks the same protocol: `gpt-4o`, `o3`, `openai:MODEL[@URL]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.asking import openai
from sotopia_rl_data.asking.providers import sampling_of
from sotopia_rl_data.labelers.judges.api import ApiJudge


def judge(model: str, url: str = "", sampling: Mapping[str, Any] | None = None) -> ApiJudge:
    """The model at `url`, else at OPENAI_BASE_URL, else at OpenAI. Raises KeyMissing, UsageError."""
    chosen = sampling_of(default_sampling(model), sampling)
    return ApiJudge(openai.target(model, url, chosen), openai.OpenAIClient)


def default_sampling(model: str) -> dict[str, Any]:
    """Temperature 0, so that a judge is as repeatable as it can be; nothing where the model sets it itself."""
    return {"temperature": 0} if openai.takes_temperature(model) else {}
