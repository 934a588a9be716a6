"""Whether lines of a batch meet a content filter that only the words of its error tell.

A line that was refused is asked once more in the next batch, beside a few controls (`asking/controls.py`) as long as
the longest of these lines. It meets a filter where all controls are answered and it is refused in the same way again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sotopia_rl_data.asking.batch.intent import BatchLine
from sotopia_rl_data.asking.controls import CONTROLS, control_for
from sotopia_rl_data.asking.negotiation import ABOUT_CONTENT
from sotopia_rl_data.errors import Rejected
from sotopia_rl_data.ledger.lookup import PendingRequest


class ContentFilter:
    """The lines that are suspected, and what the controls say."""

    def __init__(self) -> None:
        self._suspects: dict[str, tuple[int, int]] = {}  # status of the refusal and tokens of the prompt, by key
        self._answered = 0  # controls in the batch that is being fetched
        self._longest = 0  # tokens of the longest prompt that was answered, at most

    def answered(self, line: BatchLine) -> None:
        """A line, or a control, was answered."""
        self._longest = max(self._longest, line.input)
        self._answered += bool(line.control)

    def suspect(self, line: BatchLine, error: Rejected) -> None:
        """A line was refused, in a form in which others were answered, and is asked once more."""
        if error.status in ABOUT_CONTENT:
            self._suspects[line.key] = error.status, line.input

    def is_suspect(self, key: str) -> bool:
        """Whether a request is asked once more beside controls."""
        return key in self._suspects

    def is_met(self, line: BatchLine, error: Rejected) -> bool:
        """Whether a line that was refused once more meets a filter."""
        controls = self._answered == CONTROLS and line.input <= self._longest
        return controls and self._suspects.get(line.key) == (error.status, line.input)

    def batch_ended(self) -> None:
        """Forget the controls of a batch."""
        self._answered = 0

    def controls(self, asked: Sequence[PendingRequest]) -> list[tuple[PendingRequest, str]]:
        """The controls for a batch in which these are suspected, each with the key of the request that it is for: as
        long as the longest of them that may not be too long."""
        if not asked:
            return []
        short = [pending for pending in asked if self._suspects[pending.key][1] <= self._longest]
        longest = max(short or asked, key=lambda pending: pending.request.length)
        made = [control_for(longest.request, number) for number in range(CONTROLS)]
        return [(PendingRequest(control, *control.hashes), longest.key) for control in made]
