"""What a run has done so far, counted: for a progress bar, a report and a test."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from sotopia_rl_data.request import Usage

_WINDOW_S = 10.0


@dataclass(slots=True)
class Outcome:
    """Counts of one `ask_all`. Requests: `settled` = `hits` + `repeated` + `asked` + `unreachable`, where follow-ups
    count as requests of their own.

    `hits` were answered by the ledger, `repeated` by another request of this run, `asked` by the provider;
    `unreachable` have no answer; `followed` counts the follow-ups. `failed` of the answers were not accepted. `sent`
    counts every request on the wire; `throttled` of them met 429, `faults` met 5xx, a time limit or a lost connection.
    `usage` adds up what this run's answers cost, by the model asked for. `cache_expected` requests began with a prefix
    that the provider had seen just before; `cache_missed` of them were billed in full. `in_batches` requests are under
    way in `batches` that have not ended; `words` say how these stand. `exhausted` where something did not fit under a
    budget.
    """

    total: int | None = None
    settled: int = 0
    hits: int = 0
    repeated: int = 0
    asked: int = 0
    unreachable: int = 0
    followed: int = 0
    failed: int = 0
    sent: int = 0
    throttled: int = 0
    faults: int = 0
    in_flight: int = 0
    in_batches: int = 0
    batches: int = 0
    words: str = ""
    usage: dict[str, Usage] = field(default_factory=dict)
    cache_expected: int = 0
    cache_missed: int = 0
    interrupted: bool = False
    exhausted: bool = False
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    _marks: deque[tuple[float, int, int]] = field(default_factory=deque, repr=False)

    def count_usage(self, model: str, usage: Usage) -> None:
        """Add the tokens of one answer."""
        before = self.usage.get(model, Usage())
        self.usage[model] = Usage(
            before.input + usage.input,
            before.cached + usage.cached,
            before.written + usage.written,
            before.output + usage.output,
        )

    def mark(self) -> None:
        """Note the time: `rate` and `eta` speak about the last ten seconds of marks."""
        now = time.monotonic()
        self.seconds = now - self.began
        self._marks.append((now, self.asked, self.settled))
        while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW_S:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Answers a second from the provider, lately. None where it is too early to say."""
        return self._speed(1)

    @property
    def eta(self) -> float | None:
        """Seconds to go at the present speed; None where the total or the speed is not known."""
        speed = self._speed(2)
        if self.total is None or not speed:
            return None
        return max(self.total - self.settled, 0) / speed

    def _speed(self, column: int) -> float | None:
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return None
        first, last = self._marks[0], self._marks[-1]
        return (last[column] - first[column]) / (last[0] - first[0])
