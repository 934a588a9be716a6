"""Which judges can be asked in batches, and how: those behind OpenAI's and Anthropic's APIs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sotopia_rl_data.asking.batch.client import BatchClient
from sotopia_rl_data.asking.batch.intent import BatchFolder
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.judge import Judge, is_paid
from sotopia_rl_data.labelers.judges.sending import target_of
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.ledger.ledger import Ledger

_PROVIDERS = ("openai", "anthropic")


def batch_client(judge: Judge) -> BatchClient:
    """What submits the judge's requests in batches. Raises UsageError where it has no batch API, and KeyMissing."""
    check_batches([judge])
    target = target_of(judge)
    if target.provider == "openai":
        from sotopia_rl_data.asking.batch.openai import OpenAIBatchClient

        return OpenAIBatchClient(target)
    from sotopia_rl_data.asking.batch.anthropic import AnthropicBatchClient

    return AnthropicBatchClient(target)


def check_batches(judges: Iterable[Judge]) -> None:
    """Raises UsageError where one of them has no batch API for certain, or where two ask one model: its batches are
    worked on by one at a time. A URL without batches is found when it is asked."""
    by: dict[tuple[str, str, str], Judge] = {}
    for judge in judges:
        if target_of(judge).provider not in _PROVIDERS or not is_paid(judge):
            raise UsageError(
                f"The judge {judge.id} has no batch API.",
                "leave --batch out, or name a model of OpenAI's or Anthropic's",
            )
        target = target_of(judge)
        other = by.setdefault((target.provider, target.base_url, target.model), judge)
        if other is not judge:
            raise UsageError(
                f"The judges {other.id} and {judge.id} both ask {target.model}, whose batches one at a time works on.",
                "leave --batch out, or ask each in a run of its own first",
            )


def batch_folder(judge: Judge, ledger: Path) -> BatchFolder:
    """Where a ledger's batches of the judge lie, whoever submitted them."""
    return BatchFolder(ledger, target_of(judge))


def keys_under_way(judge: Judge, ledger: Ledger) -> set[int]:
    """The short keys of what is in the judge's batches now. What was fetched before is in the ledger when this returns:
    it may have been open for long."""
    if not is_paid(judge):
        return set()
    keys = {short(one.key) for _, one in batch_folder(judge, ledger.directory).under_way()}
    ledger.reload()
    return keys
