"""What ends a run early: Ctrl-C (or SIGTERM, which schedulers send) and failures.

The first Ctrl-C lets requests in flight finish, the second abandons them. A provider that has failed so often that it
is pointless to go on (a wrong key, an unknown model, a dead server, a limit that lets nothing through) ends the run
too. So does a model whose answers cannot be used.
"""

from __future__ import annotations

import asyncio
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sotopia_rl_data.errors import AskingError, KeyMissing, Rejected, Unavailable, UnusableAnswers
from sotopia_rl_data.ledger.lookup import FollowUp, Settled
from sotopia_rl_data.request import Reply, Request, Target


class _Listeners:
    """The callbacks that Ctrl-C and SIGTERM call. The signal handlers are installed while there is any."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._before: dict[int, Any] = {}

    def add(self, callback: Callable[[], None]) -> None:
        if not self._callbacks:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.getsignal(number)
                asyncio.get_running_loop().add_signal_handler(number, self._call)
        self._callbacks.append(callback)

    def remove(self, callback: Callable[[], None]) -> None:
        self._callbacks.remove(callback)
        if not self._callbacks:
            for number, before in self._before.items():
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, before)

    def _call(self) -> None:
        for callback in list(self._callbacks):
            callback()


_listeners = _Listeners()


@contextmanager
def interruptible(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Call `on_interrupt` in the running loop for every Ctrl-C inside the block, instead of raising. Where several
    blocks run at once, each callback is called.

    Does nothing outside the main thread, where no signals arrive.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _listeners.add(on_interrupt)
    try:
        yield
    finally:
        _listeners.remove(on_interrupt)


# statuses that concern the account or the URL, not a single request; so do redirects
_ACCOUNT = (401, 402, 403, 404, 429)
# A run ends after this many failures in a row:
_REFUSED_ACCOUNT = 5  # requests refused with a status of `_ACCOUNT`, if no request was ever answered
_REFUSED_LATER = 25  # requests refused with any status that may not be their own fault
_LOST = 8  # requests that used up their tries


class CircuitBreaker:
    """Counts failures in a row. `hopeless` is the error that ends the run at once; `fruitless` the error that it ends
    with when everything was asked and nothing was answered."""

    def __init__(self) -> None:
        self._refused = self._lost = 0
        self._answered = False
        self.hopeless: AskingError | None = None
        self.fruitless: AskingError | None = None

    def answered(self) -> None:
        """An answer came: forget the failures."""
        self._refused = self._lost = 0
        self._answered = True
        self.fruitless = None

    def refused(self, error: AskingError, may_be_its_own: bool) -> None:
        """A request was refused for good. `may_be_its_own`: whether that may be this request's own fault, since others
        were answered, and all of them are shorter or it was tried in vain before."""
        self._refused += 1
        account = isinstance(error, Rejected) and (error.status in _ACCOUNT or 300 <= error.status < 400)
        if account and not self._answered:
            self.fruitless = error
        if (
            isinstance(error, KeyMissing)
            or (isinstance(error, Rejected) and error.final)
            or (account and self._refused >= (_REFUSED_LATER if self._answered else _REFUSED_ACCOUNT))
            or (self._refused >= _REFUSED_LATER and not may_be_its_own)
        ):
            self.hopeless = error

    def lost(self, error: AskingError) -> None:
        """A request used up its tries."""
        self._lost += 1
        if not self._answered:
            self.fruitless = error
        if self._lost >= _LOST:
            self.hopeless = error


_SHOWN = 0.1  # after this share of the time that ends the run, a person is told that everything is throttled
_BEING_ANSWERED_S = 5.0  # a request that waits longer is being answered: refusals because of a limit come at once


class ThrottleWall:
    """Notices that a provider refuses everything for rate. `ended(now)` is the error that ends the run, `words(now)`
    what a person is told meanwhile. The run ends after `wall_s` seconds where nothing was ever answered, after
    `longest_wall_s` where something was or Retry-After asks to wait. Times in seconds of the monotonic clock."""

    def __init__(self, wall_s: float, longest_wall_s: float) -> None:
        self._wall_s, self._longest_wall_s = wall_s, longest_wall_s
        self._since = math.inf
        self._until = math.inf
        self._refused = self._answers = 0
        self._last: Unavailable | None = None

    def answered(self) -> None:
        """An answer came, so not everything is refused."""
        self._answers += 1
        self._since = math.inf

    def throttled(self, error: Unavailable) -> None:
        """A request was refused for rate."""
        now = time.monotonic()
        if self._since == math.inf:
            self._since, self._refused = now, 0
            self._until = now + (self._longest_wall_s if self._answers else self._wall_s)
        if error.retry_after:
            self._until = min(max(self._until, now + error.retry_after + 1), self._since + self._longest_wall_s)
        self._refused += 1
        self._last = error

    def look(self, now: float, oldest_sent: float) -> None:
        """`oldest_sent` is when the oldest request on the wire was sent; where it is being answered there is no
        wall."""
        if now - oldest_sent > _BEING_ANSWERED_S:
            self._since = math.inf

    def words(self, now: float) -> str:
        """How long everything was refused for, and when the run ends; empty in the first seconds."""
        lasted = now - self._since  # -inf while nothing is refused
        if lasted < _SHOWN * self._wall_s:
            return ""
        return f"throttled: all refused for {lasted:,.0f} s, given up in {max(self._until - now, 0):,.0f} s"

    def ended(self, now: float) -> Unavailable | None:
        """The error that ends the run, once the time is up."""
        if self._last is None or now < self._until or self._since == math.inf:
            return None
        before = f"after {self._answers:,} answers" if self._answers else "and not one was answered"
        return Unavailable(
            f"Every request of the last {now - self._since:,.0f} s was refused for rate or load ({self._refused:,} in "
            f"all), {before}. The last refusal: {self._last.message}",
            "run the same command again when the limit allows it (what was answered is kept), or slower: --rpm",
            status=self._last.status,
            retry_after=self._last.retry_after,
        )


_SLOWER = 3.0  # an answer may take up to this many times as long as the slowest one before it


class Silence:
    """Notices that a server takes requests and says nothing. `ended(now)` is the error that ends the run: after
    `longest_s` seconds without any response while requests are on the wire, or after three times as long as the
    slowest answer took, where that is more. Times in seconds of the monotonic clock."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._since = math.inf
        self._heard = 0

    def heard(self, seconds: float = 0.0) -> None:
        """A response came; an answer took so many seconds."""
        self._longest_s = max(self._longest_s, _SLOWER * seconds)
        self._since = math.inf
        self._heard += 1

    def look(self, now: float, is_on_wire: bool) -> None:
        """Whether a request is on the wire now. Between two tries at one, the silence goes on."""
        if is_on_wire:
            self._since = min(self._since, now)

    def ended(self, now: float) -> Unavailable | None:
        """The error that ends the run, once the silence has lasted too long."""
        if now - self._since <= self._longest_s:
            return None
        before = f"any more, after {self._heard:,} responses" if self._heard else "yet"
        return Unavailable(
            f"The server takes requests, and has not answered any of them {before}: it said nothing for "
            f"{self._longest_s:,.0f} s.",
            "see what the server does, then run the same command again (what was answered is kept); if its answers "
            f"take longer, wait for them with --timeout {2 * math.ceil(self._longest_s):.0f}",
        )


_UNUSABLE = 25  # a run ends after so many answers of a model in a row that cannot be used …
_UNUSABLE_ENDS = 5  # … of which so many were the last try at their question
_EXAMPLES = 3
_EXAMPLE = 120  # characters of an answer that are shown


class AnswerBreaker:
    """Counts answers that cannot be used, in a row and by target. `reason` says what is wrong with a reply."""

    def __init__(self, reason: Callable[[Request, Reply], str]) -> None:
        self._reason = reason
        self._streaks: dict[tuple[str, str], list[tuple[Request, Reply]]] = {}  # by URL and model
        self._ends: Counter[tuple[str, str]] = Counter()

    def came(self, request: Request, settled: Settled, following: Request | None) -> UnusableAnswers | None:
        """A request was settled, and `following` is asked next. Returns the error that ends the run, if it should."""
        model = _model(request.target)
        if settled.reply is None or not settled.fresh:
            return None
        if settled.accepted:
            self._streaks.pop(model, None)
            self._ends.pop(model, None)
            return None
        streak = self._streaks.setdefault(model, [])
        streak.append((request, settled.reply))
        self._ends[model] += following is None
        return self.error(request.target) if self._ends[model] >= _UNUSABLE_ENDS else None

    def watching(self, follow_up: FollowUp) -> FollowUp:
        """`follow_up`, which then raises the error that ends the run."""

        def watched(request: Request, settled: Settled) -> Request | None:
            following = follow_up(request, settled)
            error = self.came(request, settled, following)
            if error is not None:
                raise error
            return following

        return watched

    def error(self, target: Target) -> UnusableAnswers | None:
        """The error, where enough answers of a model in a row were unusable."""
        streak = self._streaks.get(_model(target), [])
        if len(streak) < _UNUSABLE:
            return None
        reasons = Counter(self._reason(*each) for each in streak)
        examples = ", ".join(repr(_shortened(reply.text)) for _, reply in streak[-_EXAMPLES:])
        usual = reasons.most_common(1)[0][0].rstrip(".")
        return UnusableAnswers(
            f"{len(streak)} answers of {target.model} in a row could not be used, most of them because {usual}. "
            f"The last three: {examples}.",
            "ask another model, or in another form; what was answered is kept, and the same command asks the rest",
        )


def _model(target: Target) -> tuple[str, str]:
    return target.base_url, target.model


def _shortened(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _EXAMPLE else f"{words[: _EXAMPLE - 1]}…"
