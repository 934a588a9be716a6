"""Controls: harmless texts that are asked in place of a question, to see whether it meets a content filter.

Where a question is refused without an explanation, and harmless texts of the same length are answered in the same form,
it is not the length, the form, a limit or the account that is refused, but what the question says. A control has the
question's schema and roles. Its tokens are on the bill as those of a failed attempt at the question that it was made
for, and under a budget it is sent only where it fits at once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from sotopia_rl_data.asking.refusals import tokens_of
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.errors import AskingError, Unavailable
from sotopia_rl_data.ledger.lookup import Lookup, PendingRequest
from sotopia_rl_data.request import Reply, Request, Usage
from sotopia_rl_data.schema import Message

CONTROLS = 3  # a limit that lets one in eight calls pass lets them all pass once in 512 times
CONTROL_ANSWERED = "a harmless text of the same length was answered in its place"
_WORDS = "This text is here for its length alone, and there is nothing to judge in it. "


def control_for(request: Request, number: int) -> Request:
    """The request with harmless texts of the same lengths, each number with others, and with a key of its own."""
    messages: list[Message] = [
        {"role": message["role"], "content": _harmless(len(message["content"]), number)} for message in request.messages
    ]
    return Request(request.target, messages, request.answer_schema, number, request.schema_name, limit=request.limit)


def _harmless(length: int, number: int) -> str:
    return (f"{number + 1}. " + _WORDS * (length // len(_WORDS) + 1))[:length]


_CURRENT: ContextVar[ControlBill | None] = ContextVar("who pays for the controls of the call made here", default=None)


@dataclass(frozen=True, slots=True)
class ControlBill:
    """Puts what the controls for a question cost on the bill, and under the budget where there is one."""

    pending: PendingRequest
    lookup: Lookup
    budget: Budget | None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside the block it is this one that pays for controls."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    async def pay(self, control: Request, call: Callable[[], Awaitable[Reply]]) -> Reply | None:
        """The reply to a control; None where there is no room for it under the budget. Raises what the call raises."""
        hold = None
        if self.budget is not None:
            hold = self.budget.reserve_at_once(control.key, control, self.pending.chain)
            if hold is None:
                return None
        began, usage, maybe = time.monotonic(), Usage(), True
        try:
            reply = await call()
            usage = reply.usage
        except AskingError as error:
            maybe = isinstance(error, Unavailable) and error.maybe_billed
            usage = Usage(*error.tokens) if isinstance(error, Unavailable) and error.tokens is not None else usage
            raise
        finally:
            if maybe or usage != Usage():
                answered = Unavailable(CONTROL_ANSWERED, tokens=tokens_of(usage))
                self.lookup.keep_error(self.pending, answered, time.monotonic() - began)
            if self.budget is not None and hold is not None:
                if usage == Usage():
                    self.budget.failed(hold, maybe)
                else:
                    self.budget.answered(hold, usage)
        return reply


def current_bill() -> ControlBill | None:
    """Who pays for a control now; None where nobody does, and then there are none."""
    return _CURRENT.get()
