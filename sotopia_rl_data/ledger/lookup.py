"""What a run does without the network: look up, keep, hand over, count.

A lookup returns the newest attempt that the caller accepts. An answer that the caller does not accept is a hit too: a
failure, which costs no second call unless `retry_failed` is set. A transport error is never a hit. `Outcome` counts
what a run has done so far, for a progress bar, a report or a test.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sotopia_rl_data.errors import AskingError, Unavailable
from sotopia_rl_data.ledger.ledger import Attempt, Ledger, answered, failed
from sotopia_rl_data.request import Reply, Request, Usage
from sotopia_rl_data.secrets import redact

Accept = Callable[[Request, Reply], bool]


@dataclass(frozen=True, slots=True)
class Settled:
    """How a request ended.

    `attempt` is the newest accepted one, else the newest answer, else None, and then `error` says why there is none.
    `fresh` is True where the answer was asked for in this run.
    """

    attempt: Attempt | None
    accepted: bool
    fresh: bool
    error: str = ""

    @property
    def reply(self) -> Reply | None:
        return None if self.attempt is None else self.attempt.reply


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that is to be settled, its hashes, and the key of the first request of its chain."""

    request: Request
    question: str
    key: str
    chain: str = ""


FollowUp = Callable[[Request, Settled], Request | None]


class Lookup:
    """Looks requests up in a ledger, keeps replies there, hands them over, and counts.

    `accept` says whether a reply can be used; it is called when the reply is durable, and again for every lookup.
    `follow_up` is called once for each settled request; the Request that it returns (a repair, the next turn) is asked
    next. With `retry_failed`, a request whose answers are all unusable is asked once more. `total` is the number of
    requests to come, where it is known.
    """

    def __init__(
        self,
        ledger: Ledger,
        accept: Accept,
        follow_up: FollowUp | None = None,
        *,
        retry_failed: bool = False,
        total: int | None = None,
    ) -> None:
        self.ledger = ledger
        self.accept = accept
        self.outcome = Outcome(total)
        self._follow_up = follow_up
        self._retry_failed = retry_failed
        self._retried: set[str] = set()
        self._came: set[str] = set()
        self._lost: dict[str, str] = {}
        self._began = time.time()

    def look_up(self, pending: PendingRequest) -> Settled | None:
        """How the ledger, or this run, has settled the request; None where it is to be asked."""
        key = pending.key
        if key in self._lost:
            return Settled(None, False, False, self._lost[key])
        answers = [attempt for attempt in self.ledger.attempts(key) if attempt.status == "answer"]
        fresh = key in self._came
        for attempt in answers:
            if self.accept(pending.request, attempt.reply):
                return Settled(attempt, True, fresh)
        if not answers:
            return None
        if self._retry_failed and key not in self._retried:
            self._retried.add(key)
            return None
        return Settled(answers[0], False, fresh)

    def answered_meanwhile(self, asked: PendingRequest, known: int) -> Settled | None:
        """The answer that another process has added since there were `known` attempts; None where it has added none."""
        attempts = self.ledger.attempts(asked.key)
        new = attempts[: len(attempts) - known]
        return self.look_up(asked) if any(one.status == "answer" for one in new) else None

    def unusable(self, key: str) -> Settled:
        """The newest answer to a key whose follow-up was asked: the answer was not usable."""
        answers = (attempt for attempt in self.ledger.attempts(key) if attempt.status == "answer")
        return Settled(next(answers), False, False)

    def put_back(self, key: str) -> None:
        """The key was to be asked and has no answer yet: the next `look_up` says again that it is to be asked."""
        self._retried.discard(key)

    def came(self, key: str) -> None:
        """A batch brought an answer to this key in this run: it counts as asked, and is not retried."""
        self._retried.add(key)
        self._came.add(key)

    def keep(self, pending: PendingRequest, reply: Reply, seconds: float) -> Settled:
        """Make a reply durable, then see whether it is accepted."""
        attempt = answered(pending.request, pending.key, pending.question, reply, seconds)
        self.ledger.append(attempt)
        self.outcome.count(pending.request.target.model, reply)
        self.outcome.count_prompt(pending.request.target.model, pending.request.length, reply.usage.input)
        return Settled(attempt, self.accept(pending.request, attempt.reply), True)

    def keep_error(self, pending: PendingRequest, error: AskingError, seconds: float) -> None:
        """Make a failed attempt durable, and note whether it may have been billed."""
        billed = isinstance(error, Unavailable) and error.maybe_billed
        tokens = error.tokens if isinstance(error, Unavailable) else None
        request, key, question = pending.request, pending.key, pending.question
        self.ledger.append(failed(request, key, question, error.message, seconds, "", billed, tokens))
        if tokens is not None:
            self.outcome.count_usage(request.target.model, Usage(*tokens))

    def lose(self, key: str, error: AskingError) -> Settled:
        """Give a request up: it gets no answer in this run."""
        self._lost[key] = redact(error.message)
        return Settled(None, False, True, self._lost[key])

    def hand_over(self, request: Request, settled: Settled, again: bool = False) -> Request | None:
        """Pass a settled request to `follow_up` and count it, unless `again`; returns the follow-up."""
        following = None if self._follow_up is None else self._follow_up(request, settled)
        if not again:
            self._count(settled)
            if following is not None:
                self.outcome.followed += 1
        return following

    def _count(self, settled: Settled) -> None:
        outcome = self.outcome
        outcome.settled += 1
        if settled.attempt is None:
            outcome.unreachable += 1
            return
        if not settled.accepted:
            outcome.failed += 1
        if settled.fresh:
            self._came.discard(settled.attempt.key)  # an equal request later in the run counts as repeated
            outcome.asked += 1
        elif settled.attempt.time >= self._began:
            outcome.repeated += 1
        else:
            outcome.hits += 1


_WINDOW_S = 10.0
_LONG_PROMPT = 2_000  # characters; shorter prompts are not cut
_MOST_CHARACTERS = 7  # of a prompt that make one token, in any language


@dataclass(slots=True)
class Outcome:
    """The counts of one `ask_all` or `ask_batch`. `settled` = `hits` + `repeated` + `asked` + `unreachable`; follow-ups
    count as requests of their own.

    `hits` were answered by the ledger, `repeated` by an equal request, of this run or of one at the same time, `asked`
    by the provider; `unreachable` have no answer. `followed` counts the follow-ups, `failed` the answers that were not
    accepted. `claimed` is False where equal runs at once would ask the same questions. `sent` counts every request on
    the wire; `throttled` of them met 429, `faults` met 5xx, a time limit or a lost connection. `usage` sums the tokens
    of this run's answers, by the model asked for; `forms` counts those whose request was put in a weaker form, by model
    and form; `served` counts the names that answers came under, by the model asked for, and `cut` the prompts that were
    read as far fewer tokens than were sent. `pace` is how fast the run asked at its end. `cache_expected` requests
    began with a prefix that the provider had just seen; `cache_missed` of them were billed in full. `in_batches`
    requests are under way in `batches` that have not ended; `words` say how far these are. `exhausted` says that a
    request did not fit under the budget. `asked_twice` keys were answered to more than one worker.
    """

    total: int | None = None
    settled: int = 0
    hits: int = 0
    repeated: int = 0
    asked: int = 0
    unreachable: int = 0
    claimed: bool = True
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
    forms: dict[tuple[str, str], int] = field(default_factory=dict)
    served: dict[str, dict[str, int]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    pace: dict[str, Any] = field(default_factory=dict)
    cache_expected: int = 0
    cache_missed: int = 0
    asked_twice: int = 0
    interrupted: bool = False
    exhausted: bool = False
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    _marks: deque[tuple[float, int, int]] = field(default_factory=deque, repr=False)

    def count(self, model: str, reply: Reply) -> None:
        """Add the tokens of one answer, and the form in which it was asked for."""
        if reply.model:
            served = self.served.setdefault(model, {})
            served[reply.model] = served.get(reply.model, 0) + 1
        if reply.form:
            self.forms[model, reply.form] = self.forms.get((model, reply.form), 0) + 1
        self.count_usage(model, reply.usage)

    def count_prompt(self, model: str, characters: int, tokens: int) -> None:
        """Note a prompt that was read as far fewer tokens than were sent: its server has cut it."""
        if tokens and characters > max(_LONG_PROMPT, _MOST_CHARACTERS * tokens):
            self.cut[model] = self.cut.get(model, 0) + 1

    def count_usage(self, model: str, usage: Usage) -> None:
        """Add tokens that were paid for."""
        before = self.usage.get(model, Usage())
        self.usage[model] = Usage(
            before.input + usage.input,
            before.cached + usage.cached,
            before.written + usage.written,
            before.output + usage.output,
        )

    def with_asked(self, elsewhere: Outcome) -> Outcome:
        """This outcome, where a part of what counts as `hits` was asked by others just before."""
        for model, usage in elsewhere.usage.items():
            self.count_usage(model, usage)
        for model, names in elsewhere.served.items():
            self.served[model] = dict(Counter(self.served.get(model, {})) + Counter(names))
        self.forms = dict(Counter(self.forms) + Counter(elsewhere.forms))
        asked = min(elsewhere.asked, self.hits)
        self.hits -= asked
        self.asked += asked
        self.count_trouble(elsewhere)
        return self

    def count_trouble(self, other: Outcome) -> None:
        """Add what another outcome says of faults, prompts that were cut, the provider's cache, and what was asked
        twice."""
        self.cut = dict(Counter(self.cut) + Counter(other.cut))
        self.sent += other.sent
        self.throttled += other.throttled
        self.faults += other.faults
        self.asked_twice += other.asked_twice
        self.cache_expected += other.cache_expected
        self.cache_missed += other.cache_missed

    def mark(self) -> None:
        """Note the time and the counts: `rate` and `eta` come from the marks of the last ten seconds."""
        now = time.monotonic()
        self.seconds = now - self.began
        self._marks.append((now, self.asked, self.settled))
        while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW_S:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Answers a second from the provider, lately. None where it is too early to tell."""
        return self._speed(1)

    @property
    def eta(self) -> float | None:
        """Seconds left at the present speed; None where the total or the speed is not known."""
        speed = self._speed(2)
        if self.total is None or not speed:
            return None
        return max(self.total - self.settled, 0) / speed

    def _speed(self, column: int) -> float | None:
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return None
        first, last = self._marks[0], self._marks[-1]
        return (last[column] - first[column]) / (last[0] - first[0])
