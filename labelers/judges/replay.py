"""replay: answers from a ledger, `replay:LEDGER[#MODEL]`. It sends no request; what the ledger lacks is a failure.

Its target is the one whose answers it replays (provider, URL, model, sampling), so that its rows are those of the
original run, ids of calls included. Where a ledger holds the answers of several targets, the spec must say which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sotopia_rl_data.errors import NotFound, Rejected, UsageError
from sotopia_rl_data.hashing import canonical_json
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.requests import raised, request_of
from sotopia_rl_data.ledger.ledger import Attempt, Ledger
from sotopia_rl_data.request import Reply, Request, Target, Usage


class Replay:
    """Looks Requests up by their question. `id` is the model that gave the answers."""

    concurrency = 64
    paid = False

    def __init__(self, ledger: Path, selector: str = "") -> None:
        self._ledger = Ledger(_directory(ledger))
        self.target = _choose(_targets(self._ledger), ledger, selector)
        self.id = self.target.model

    async def send(self, request: Request) -> Reply:
        """The newest answer to the question, without tokens, since it costs nothing. Raises Rejected."""
        for attempt in self._ledger.attempts_at(request.question):
            if attempt.status == "answer" and _label(_target(attempt)) == _label(request.target):
                return replace(attempt.reply, usage=Usage())
        raise Rejected(
            "the replayed ledger has no answer to this question",
            "ask the model itself for what is missing, or replay in the wording in which it was asked (--wording)",
        )

    async def answer(self, question: Question) -> Reply:
        """The newest answer to a Question. Raises Rejected."""
        return await self.send(request_of(question, self.target))

    async def close(self) -> None:
        """Nothing to release: the ledger is only read."""


def _directory(path: Path) -> Path:
    """The ledger's directory; `path` may also be that of its store. Raises NotFound."""
    inner = path / ".ledger"
    if inner.is_dir():
        return inner
    if not path.is_dir():
        raise NotFound(f"The ledger {path} does not exist.", "name a ledger's directory, as in replay:./store/.ledger")
    return path


def _targets(ledger: Ledger) -> list[Target]:
    """The targets whose answers the ledger holds. One that was asked again with a higher token limit counts once."""
    answers = (attempt for attempt in ledger.scan() if attempt.status == "answer")
    by_label = {_label(target): target for target in map(_target, answers)}
    for higher in [raised(target) for target in by_label.values()]:
        if higher is not None:
            by_label.pop(_label(higher), None)
    return sorted(by_label.values(), key=lambda target: (target.model, _label(target)))


def _choose(targets: Sequence[Target], ledger: Path, selector: str) -> Target:
    """The target that `selector` names: by its model, or by a part of its label that no other has. Raises
    UsageError."""
    if not targets:
        raise UsageError(
            f"The ledger {ledger} holds no answers to replay.", "name the ledger of a store that was labelled"
        )
    matching = [t for t in targets if t.model == selector] or [t for t in targets if selector in _label(t)]
    if len(matching) == 1:
        return matching[0]
    labels = "; ".join(map(_label, matching or targets))
    if not matching:
        raise UsageError(
            f"The ledger {ledger} holds no answers of {selector!r}.", f"name one whose answers it holds: {labels}"
        )
    example = _selector_of_first(matching)
    raise UsageError(
        f"The ledger {ledger} holds answers of several models or settings, of which one must be named: {labels}.",
        f"say which, as in replay:{ledger}#{example}",
    )


def _selector_of_first(targets: Sequence[Target]) -> str:
    """A selector that only the first of these targets matches."""
    first, others = targets[0], targets[1:]
    if all(first.model != other.model for other in others):
        return first.model
    label = _label(first)
    parts = (first.base_url, label.partition(" ")[2])
    return next((part for part in parts if part and all(part not in _label(other) for other in others)), label)


def _target(attempt: Attempt) -> Target:
    return Target(attempt.provider, attempt.model, attempt.base_url, attempt.sampling)


def _label(target: Target) -> str:
    """How a target is told from others: `MODEL@URL {"temperature":0}`."""
    at = f"@{target.base_url}" if target.base_url else ""
    return f"{target.model}{at} {canonical_json(dict(target.sampling))}"
