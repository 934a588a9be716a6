"""The limit of an answer in batches, where none was set: the same as of live requests (`answer_limit.py`).

A batch cannot be stopped when its first answers are cut off. So while it is not known whether a model's answers keep
to the limit, no more than `_UNKNOWN` lines have it; what these show is remembered, and later batches go by it. What
was cut off before it began, and what was refused where the limit may be the reason, is asked again without the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sotopia_rl_data.asking.answer_limit import AnswerLimits
from sotopia_rl_data.asking.batch.intent import BatchLine
from sotopia_rl_data.asking.forms import RequestForm
from sotopia_rl_data.asking.memory import FORMS_KEPT_S, EndpointMemory
from sotopia_rl_data.errors import Rejected
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.lookup import PendingRequest, Settled
from sotopia_rl_data.request import Reply, Request, Target

_NAME = "answers keep to the limit"  # the entry of the memory: true or false
_UNKNOWN = 64  # as many as a live run has in flight when its first answer comes


class BatchAnswerLimits:
    """What is known of the answers of a target's model, and which requests are asked again without the limit."""

    def __init__(self, target: Target) -> None:
        self._target, self._limits = target, AnswerLimits()
        self._memory: EndpointMemory | None = None
        self._keeps: bool | None = None  # whether answers keep to the limit, as far as is known
        self._left = _UNKNOWN
        self._without: set[str] = set()  # keys
        self._refused: set[RequestForm] = set()  # forms in which a line with a limit was refused

    def use_memory(self, memory: EndpointMemory) -> None:
        """Remember there whether answers keep to the limit, and go by what an earlier run has seen."""
        self._memory = memory
        told: Any = memory.recall(self._target, _NAME, FORMS_KEPT_S)
        if isinstance(told, bool):
            self._learn(told)

    def limited(self, pending: PendingRequest) -> Request:
        """The request of a line, with its limit where it gets one."""
        if pending.key in self._without or not (self._keeps or self._left):
            return pending.request
        request = self._limits.limited(pending.request)
        self._left -= request is not pending.request
        return request

    def answered(self, line: BatchLine, reply: Reply) -> None:
        """A line was answered. Whether its answer is asked for again is for `is_asked_again` to say."""
        sent = self._sent(line)
        self._limits.answered(sent, reply, was_refused=False)
        if self._limits.needs_room(sent, reply):
            self._without.add(line.key)
        elif not line.limit:
            self._without.discard(line.key)
        elif reply.finish != "length" and self._keeps is None:
            self._learn(True)
        if self._limits.is_open(self._target):
            self._learn(False)

    def is_asked_again(
        self, pending: PendingRequest, settled: Settled, attempts: Callable[[str], Sequence[Attempt]]
    ) -> bool:
        """Whether the only answer was cut off at the limit, in this run or before, and is asked for without it."""
        if settled.attempt is None or settled.accepted:
            return False
        if self._limits.was_interrupted(pending.request, settled, attempts):
            self._without.add(pending.key)
        return pending.key in self._without

    def may_be_refused(self, line: BatchLine, form: RequestForm, error: Rejected) -> bool:
        """Whether a refusal may be one of the limit, which its server has not taken yet: then the request is asked
        again without it."""
        suspect = self._limits.is_suspect(self._sent(line), error)
        if suspect:
            self._without.add(line.key)
            self._refused.add(form)
        return suspect

    def decide(self, is_answered: Callable[[RequestForm], bool]) -> None:
        """All results of a batch are there: a form that was refused with a limit alone shows that none is taken."""
        if any(is_answered(form) for form in self._refused):
            self._learn(False)

    def _learn(self, keeps: bool) -> None:
        if keeps is self._keeps:
            return
        self._keeps = keeps
        if not keeps:
            self._limits.open(self._target)
            self._refused.clear()
        if self._memory is not None:
            self._memory.keep(self._target, _NAME, keeps)

    def _sent(self, line: BatchLine) -> Request:
        return Request(self._target, (), limit=line.limit or None)
