"""Which judges can be asked in batches, and how: those behind OpenAI's and Anthropic's APIs."""

from __future__ import annotations

from collections.abc import Iterable

from labelers.judge import Judge
from labelers.judges.sending import target_of
from sotopia_rl_data.asking.batch.client import BatchClient
from sotopia_rl_data.errors import UsageError

_PROVIDERS = ("openai", "anthropic")


def batch_client(judge: Judge) -> BatchClient:
    """What submits the judge's requests in batches. Raises UsageError where it has no batch API, and KeyMissing."""
    target = target_of(judge)
    if target.provider == "openai":
        from sotopia_rl_data.asking.batch.openai import OpenAIBatches

        return OpenAIBatches(target)
    if target.provider == "anthropic":
        from sotopia_rl_data.asking.batch.anthropic import AnthropicBatches

        return AnthropicBatches(target)
    raise _none(judge)


def check_batches(judges: Iterable[Judge]) -> None:
    """Raises UsageError where one of them has no batch API for certain; a URL without one is found when it is asked."""
    for judge in judges:
        if target_of(judge).provider not in _PROVIDERS:
            raise _none(judge)


def _none(judge: Judge) -> UsageError:
    return UsageError(
        f"The judge {judge.id} has no batch API.", "leave --batch out, or name a model of OpenAI's or Anthropic's"
    )
