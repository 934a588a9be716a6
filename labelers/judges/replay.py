"""replay: answers out of a ledger, `replay:LEDGER[#MODEL]`. It asks nobody, and what it cannot find is a failure.

It stands for the very target whose answers it holds (provider, URL, model, sampling), so that the rows it gives are
those of the original run, ids of calls included. A ledger that holds several targets must be told which one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sotopia_rl_data.errors import NotFound, Rejected, UsageError
from sotopia_rl_data.hashing import canonical_json
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.requests import raised, request_of
from sotopia_rl_data.ledger.ledger import Attempt, Ledger
from sotopia_rl_data.request import Reply, Request, Target


class Replay:
    """Looks Requests up by their question. `id` is the model that once answered."""

    concurrency = 64
    paid = False

    def __init__(self, ledger: Path, wanted: str = "") -> None:
        self._ledger = Ledger(_directory(ledger))
        self.target = _choose(_targets(self._ledger), ledger, wanted)
        self.id = self.target.model

    async def send(self, request: Request) -> Reply:
        """The newest answer to the question. It costs nothing, so it says nothing of tokens. Raises Rejected."""
        for attempt in self._ledger.attempts_at(request.question):
            if attempt.status == "answer" and _label(_target(attempt)) == _label(request.target):
                return Reply(attempt.text, attempt.finish or "stop", attempt.returned_model)
        raise Rejected("the replayed ledger has no answer to this question", "ask the model itself for what is missing")

    async def answer(self, question: Question) -> Reply:
        """The same for a Question."""
        return await self.send(request_of(question, self.target))

    async def close(self) -> None:
        """Nothing was opened for writing."""


def _directory(given: Path) -> Path:
    """The ledger's own directory, where its store is named. Raises NotFound."""
    inner = given / ".ledger"
    if inner.is_dir():
        return inner
    if not given.is_dir():
        raise NotFound(f"There is no ledger {given}.", "name its directory, as in replay:./store/.ledger")
    return given


def _targets(ledger: Ledger) -> list[Target]:
    """Everyone whose answers the ledger holds. One that was asked again with a higher limit counts once."""
    found = {_label(target): target for target in map(_target, (a for a in ledger.scan() if a.status == "answer"))}
    for higher in [raised(target) for target in found.values()]:
        if higher is not None:
            found.pop(_label(higher), None)
    return sorted(found.values(), key=lambda target: (target.model, _label(target)))


def _choose(targets: Sequence[Target], ledger: Path, wanted: str) -> Target:
    """The one that `wanted` names: by its model, or by a part of its label that no other has. Raises UsageError."""
    if not targets:
        raise UsageError(f"The ledger {ledger} holds no answers.", "name the ledger of a store that was labelled")
    fitting = [t for t in targets if t.model == wanted] or [t for t in targets if wanted in _label(t)]
    if len(fitting) == 1:
        return fitting[0]
    there = "; ".join(map(_label, fitting or targets))
    if not fitting:
        raise UsageError(f"The ledger {ledger} holds no answers of {wanted!r}.", f"it holds those of {there}")
    example = _example(fitting)
    raise UsageError(f"The ledger {ledger} holds answers of {there}.", f"say which, as in replay:{ledger}#{example}")


def _example(targets: Sequence[Target]) -> str:
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
