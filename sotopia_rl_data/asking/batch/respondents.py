"""Who can be asked in batches, and what of theirs is under way: those behind OpenAI's and Anthropic's APIs."""

from __future__ import annotations

from collections.abc import Iterable

from sotopia_rl_data.asking.batch.client import BatchClient
from sotopia_rl_data.asking.batch.intent import BatchFolder
from sotopia_rl_data.asking.plan import Respondent, is_paid
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.ledger.ledger import Ledger

_PROVIDERS = ("openai", "anthropic")


def batch_client(respondent: Respondent) -> BatchClient:
    """What submits requests to a judge in batches. Raises UsageError where it has no batch API, and KeyMissing."""
    check_batches([respondent])
    target = respondent.target
    if target.provider == "openai":
        from sotopia_rl_data.asking.batch.openai import OpenAIBatchClient

        return OpenAIBatchClient(target)
    from sotopia_rl_data.asking.batch.anthropic import AnthropicBatchClient

    return AnthropicBatchClient(target)


def check_batches(respondents: Iterable[Respondent]) -> None:
    """Raises UsageError where one of them has no batch API for certain, or where two ask one model: its batches are
    worked on by one at a time. A URL without batches is found when it is asked."""
    by: dict[tuple[str, str, str], Respondent] = {}
    for one in respondents:
        target = one.target
        if target.provider not in _PROVIDERS or not is_paid(one):
            raise UsageError(
                f"{one.id} has no batch API.", "leave --batch out, or name a model of OpenAI's or Anthropic's"
            )
        other = by.setdefault((target.provider, target.base_url, target.model), one)
        if other is not one:
            raise UsageError(
                f"{other.id} and {one.id} both ask {target.model}, whose batches one at a time works on.",
                "leave --batch out, or ask each in a run of its own first",
            )


def keys_under_way(respondents: Iterable[Respondent], ledger: Ledger) -> set[int]:
    """The short keys of what is in their batches now. What was fetched before is in the ledger when this returns: it
    may have been open for long."""
    folders = [BatchFolder(ledger.directory, one.target) for one in respondents if is_paid(one)]
    keys = {short(one.key) for folder in folders for _, one in folder.under_way()}
    ledger.reload()
    return keys
