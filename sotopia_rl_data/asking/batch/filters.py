"""Whether lines of a batch meet a content filter that only the words of its error tell.

A line that was refused is asked once more in the next batch, beside a few controls: harmless texts, as long as the
longest of these lines, with the same schema. Where all controls are answered and the line is refused in the same way
again, it is not the length, the form, a limit or the account that is refused, but what the line says. The tokens of a
control are on the bill as those of a failed attempt at the line that it was made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sotopia_rl_data.asking.batch.intent import BatchLine
from sotopia_rl_data.asking.negotiation import ABOUT_CONTENT
from sotopia_rl_data.errors import Rejected
from sotopia_rl_data.ledger.lookup import PendingRequest
from sotopia_rl_data.request import Request
from sotopia_rl_data.schema import Message

_CONTROLS = 3  # a limit that lets one in eight calls pass lets them all pass once in 512 batches
_WORDS = "This text is here for its length alone, and there is nothing to judge in it. "


class ContentFilter:
    """The lines that are suspected, and what the controls say."""

    def __init__(self) -> None:
        self._suspects: dict[str, int] = {}  # status of the refusal, by key
        self._answered = 0  # controls in the batch that is being fetched
        self._longest = 0  # tokens of the longest prompt that was answered, at most

    def answered(self, line: BatchLine) -> None:
        """A line, or a control, was answered."""
        self._longest = max(self._longest, line.input)
        self._answered += bool(line.control)

    def suspect(self, line: BatchLine, error: Rejected) -> None:
        """A line was refused, in a form in which others were answered, and is asked once more."""
        if error.status in ABOUT_CONTENT and line.input <= self._longest:
            self._suspects[line.key] = error.status

    def is_suspect(self, key: str) -> bool:
        """Whether a request is asked once more beside controls."""
        return key in self._suspects

    def is_met(self, line: BatchLine, error: Rejected) -> bool:
        """Whether a line that was refused once more meets a filter."""
        return self._answered == _CONTROLS and self._suspects.get(line.key) == error.status

    def batch_ended(self) -> None:
        """Forget the controls of a batch."""
        self._answered = 0

    def controls(self, asked: Sequence[PendingRequest]) -> list[tuple[PendingRequest, str]]:
        """The controls for a batch in which these are suspected, each with the key of the request that it is for."""
        if not asked:
            return []
        longest = max(asked, key=lambda pending: pending.request.length)
        return [(_control(longest.request, number), longest.key) for number in range(_CONTROLS)]


def _control(request: Request, number: int) -> PendingRequest:
    """The request with harmless texts of the same lengths."""
    messages: list[Message] = [
        {"role": message["role"], "content": _harmless(len(message["content"]))} for message in request.messages
    ]
    made = replace(request, messages=messages, sample=number)
    return PendingRequest(made, *made.hashes)


def _harmless(length: int) -> str:
    return (_WORDS * (length // len(_WORDS) + 1))[:length]
