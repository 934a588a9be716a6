"""Which judges can be asked in batches, and how: those behind OpenAI's and Anthropic's APIs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from labelers.judge import Judge, is_paid
from labelers.judges.sending import target_of
from sotopia_rl_data.asking.batch.client import BatchClient
from sotopia_rl_data.asking.batch.intent import Asked, Box, Intent
from sotopia_rl_data.asking.index import short
from sotopia_rl_data.errors import UsageError

_PROVIDERS = ("openai", "anthropic")


def batch_client(judge: Judge) -> BatchClient:
    """What submits the judge's requests in batches. Raises UsageError where it has no batch API, and KeyMissing."""
    check_batches([judge])
    target = target_of(judge)
    if target.provider == "openai":
        from sotopia_rl_data.asking.batch.openai import OpenAIBatches

        return OpenAIBatches(target)
    from sotopia_rl_data.asking.batch.anthropic import AnthropicBatches

    return AnthropicBatches(target)


def check_batches(judges: Iterable[Judge]) -> None:
    """Raises UsageError where one of them has no batch API for certain; a URL without one is found when it is asked."""
    for judge in judges:
        if target_of(judge).provider not in _PROVIDERS or not is_paid(judge):
            raise UsageError(
                f"The judge {judge.id} has no batch API.",
                "leave --batch out, or name a model of OpenAI's or Anthropic's",
            )


def under_way(judge: Judge, ledger: Path) -> Iterator[tuple[Intent, Asked]]:
    """What a ledger's batches hold for the judge now, whoever submitted it. Changes nothing."""
    return Box(ledger, target_of(judge)).under_way() if is_paid(judge) else iter(())


def keys_under_way(judge: Judge, ledger: Path) -> set[int]:
    """The short keys of it."""
    return {short(one.key) for _, one in under_way(judge, ledger)}
