"""The one loop that asks: deduplicate, look up, pace, send, keep, hand over. Nothing is asked twice, nothing hangs.

A reply is in the ledger before anyone parses it. Requests come from an iterator and are held only while they are in
flight. Retries are bounded. After the first Ctrl-C requests in flight may finish; a second one gives them up. Other
modules own the rules: `ledger/lookup.py` what counts as answered, `pacing.py` how fast a provider may be asked,
`stopping.py` when to give a provider up, `prompt_cache.py` which requests wait for a shared prefix.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

from sotopia_rl_data.asking.answer_limit import AnswerLimits
from sotopia_rl_data.asking.batch.keys import BatchedKeys
from sotopia_rl_data.asking.controls import ControlBill
from sotopia_rl_data.asking.pacing import Epoch, Pacer, Pacing
from sotopia_rl_data.asking.prompt_cache import PromptCacheWarmup
from sotopia_rl_data.asking.refusals import refusal_of
from sotopia_rl_data.asking.stopping import CircuitBreaker, Silence, ThrottleWall, interruptible
from sotopia_rl_data.asking.time_limit import TimeLimit
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.tokens import rough_tokens
from sotopia_rl_data.errors import AskingError, Filtered, Unavailable, UsageError
from sotopia_rl_data.ledger.lookup import Lookup, Outcome, PendingRequest, Settled
from sotopia_rl_data.request import Reply, Request, Usage

log = logging.getLogger(__name__)

Send = Callable[[Request], Awaitable[Reply]]

_YIELD_EVERY = 64  # after looking up this many requests, let the event loop serve the requests in flight
_WAITING = 1_024  # at most this many requests wait for the answer to an equal request in flight
_AHEAD = 4  # at most this many times the concurrency of requests wait for their prefix to be cached
_THROTTLES = (429, 503, 529)
# A request that is longer than any that was answered, and is refused for rate so often while others are answered, does
# not fit under the limit at all.
_TOO_LARGE_TRIES = 6
_TOO_LARGE_ANSWERS = 3
_REPORT_S = 0.2
_LOOK_S = 0.1  # seconds between two looks at the requests that other processes are asking


async def ask_all(
    requests: Iterable[Request],
    send: Send,
    lookup: Lookup,
    *,
    concurrency: int = 64,
    pacing: Pacing | None = None,
    progress: Callable[[Outcome], None] | None = None,
    budget: Budget | None = None,
    batched: BatchedKeys | None = None,
) -> Outcome:
    """Ask what the ledger does not answer; `lookup` has the ledger, the rule for what counts as an answer, and the
    follow-ups. Requests are not settled in order.

    A follow-up is looked up and asked at once, in the place of the request that it follows. `progress` is called a few
    times a second and at the end. `batched` knows the requests under way in batches. After Ctrl-C the
    outcome says `interrupted`; where nothing more fits under the `budget` it says `exhausted`. The next run asks what
    was not settled.

    Raises Rejected where the provider refuses everything (a wrong key, an unknown model), Unavailable where it is down,
    UsageError where a `batched` request would be asked and paid for again, KeyMissing, StoreError where the ledger
    cannot be written, and whatever the callbacks raise. What was answered until then is kept.
    """
    if concurrency < 1:
        raise UsageError(f"The concurrency must be 1 or more, not {concurrency}.", "give a concurrency of 1 or more")
    return await _LiveRun(lookup, send, pacing or Pacing(), concurrency, budget, batched).run(requests, progress)


class _LiveRun:
    """The requests in flight and waiting, and whether the run goes on. `run` is called once."""

    def __init__(
        self,
        lookup: Lookup,
        send: Send,
        pacing: Pacing,
        concurrency: int,
        budget: Budget | None,
        batched: BatchedKeys | None,
    ) -> None:
        self._lookup = lookup
        self._outcome = lookup.outcome
        self._send = send
        self._pacing = pacing
        self._pacer = (pacing.shared or Pacer)(pacing, concurrency)
        self._pacer.interrupt = self._interrupt
        self._limits = AnswerLimits()
        self._breaker = CircuitBreaker()
        self._wall = ThrottleWall(pacing.wall_s, pacing.longest_wall_s)
        self._silence = Silence(pacing.silence_s)
        self._longest_answered = 0  # characters
        self._budget = budget
        self._batched = batched
        self._warming = PromptCacheWarmup()
        self._ahead = _AHEAD * concurrency
        self._tasks: set[asyncio.Task[None]] = set()
        self._duplicates: dict[str, list[Request]] = {}  # key in flight -> equal requests that wait for its answer
        self._claims = lookup.ledger.claims
        # requests that other processes are asking, by key, each with the number of its attempts known until then
        self._claimed_elsewhere: dict[str, tuple[PendingRequest, int]] = {}
        self._next_look = 0.0  # monotonic time of the next look at `_claimed_elsewhere`
        self._waiting = self._looked_up = 0
        self._sending: set[TimeLimit] = set()  # one for each request on the wire
        self._at_servers = 0  # how many of these are not answered by this process
        self._slot_free = asyncio.Event()
        self._ending = False
        self._error: BaseException | None = None

    async def run(self, requests: Iterable[Request], progress: Callable[[Outcome], None] | None) -> Outcome:
        feeding = asyncio.create_task(self._feed(requests))
        watching = asyncio.create_task(self._watch(progress))
        try:
            with interruptible(self._interrupt):
                done, _ = await asyncio.wait({feeding, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (feeding, watching, *self._tasks):
                task.cancel()
            self._outcome.pace = self._pacer.pace
        self._report(progress)
        for task in done:
            task.result()
        return self._outcome

    async def _feed(self, requests: Iterable[Request]) -> None:
        """Place every request, then wait for those in flight."""
        try:
            for request in requests:
                if self._ending:
                    break
                await self._place(request)
        finally:
            while self._tasks or ((self._warming.ready or self._claimed_elsewhere) and not self._ending):
                await self._launch_ready()
                if self._tasks:
                    wait_s = _LOOK_S if self._claimed_elsewhere else None
                    await asyncio.wait(self._tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                elif self._claimed_elsewhere:
                    await asyncio.sleep(_LOOK_S)
        if self._error is not None:
            raise self._error
        if self._breaker.fruitless is not None and not (self._outcome.interrupted or self._outcome.exhausted):
            raise self._breaker.fruitless

    async def _place(self, request: Request) -> None:
        """Settle a request from the ledger, let it wait for an equal one or for its prefix, or launch it."""
        await self._launch_ready()
        while (self._waiting >= _WAITING or self._warming.held >= self._ahead) and self._tasks:
            await self._wait_for_slot()
            await self._launch_ready()
        pending = await self._settle_known(request)
        if pending is not None and not self._warming.holds(pending):
            await self._launch(pending)

    async def _launch_ready(self) -> None:
        while self._warming.ready and not self._ending:
            await self._launch(self._warming.ready.popleft())
        if self._claimed_elsewhere and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_S
            await self._take_from_others()

    async def _take_from_others(self) -> None:
        """Hand over the answers that other processes have got meanwhile, and ask the requests that they gave up."""
        free = [waiting for waiting in self._claimed_elsewhere.values() if self._claim(waiting[0])]
        if free:
            self._lookup.ledger.catch_up()
        for pending, known in free:
            del self._claimed_elsewhere[pending.key]
            settled = self._lookup.answered_meanwhile(pending, known)
            if settled is None:
                await self._launch(pending)
            else:
                self._start(self._go_on(self._settle(pending, settled), pending.chain))

    async def _launch(self, pending: PendingRequest) -> None:
        """Start a request's task when the window and the rate allow it."""
        while len(self._tasks) >= self._pacer.window and not self._ending:
            await self._wait_for_slot()
        self._start(self._run_chain(pending, await self._admit(pending)))

    def _start(self, chain: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(chain)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    async def _settle_known(self, request: Request | None, chain: str = "") -> PendingRequest | None:
        """Hand over the answers that are known, follow-ups included. Returns the request that is left to ask, if any;
        from now on equal requests wait for its answer. `chain` is the key of the first request of the chain, or empty
        where `request` is the first."""
        while request is not None and not self._ending:
            self._looked_up += 1
            if self._looked_up % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            question, key = request.hashes
            chain = chain or key
            pending = PendingRequest(request, question, key, chain)
            if pending.key in self._duplicates:
                self._duplicates[pending.key].append(request)
                self._waiting += 1
                return None
            settled = self._lookup.look_up(pending)
            if settled is not None and self._limits.was_interrupted(request, settled, self._lookup.ledger.attempts):
                settled = None
            if settled is None:
                ledger = self._lookup.ledger
                ledger.check()
                if not self._claim(pending):
                    self._duplicates[pending.key] = []
                    self._claimed_elsewhere[pending.key] = pending, ledger.tries(pending.key)
                    return None
                if ledger.has_news():
                    known = ledger.tries(pending.key)
                    settled = self._lookup.answered_meanwhile(pending, known) if ledger.catch_up() else None
                if settled is None:
                    self._duplicates[pending.key] = []
                    return pending
                self._claims.give_up(pending.key)
            if settled.accepted:
                self._longest_answered = max(self._longest_answered, request.length)
            request = self._lookup.hand_over(request, settled)
        return None

    def _claim(self, pending: PendingRequest) -> bool:
        """Claim a request; False while another process is asking it, or may have put it into a batch that it drafts.
        Raises UsageError where it is in a batch."""
        if not self._claims.take(pending.key):
            return False
        if self._batched is None:
            return True
        drafted = self._batched.being_drafted()
        if drafted or pending.key in self._batched:
            self._claims.give_up(pending.key)
            if not drafted:
                raise _under_way(pending.request)
        return not drafted

    async def _run_chain(self, pending: PendingRequest, epoch: Epoch) -> None:
        """Ask one request, then the follow-ups of its chain."""
        await self._go_on(await self._ask_one(pending, epoch), pending.chain)

    async def _go_on(self, first: list[Request | None], chain: str) -> None:
        """Ask these follow-ups and the follow-ups of each, in a loop: a dialogue may be too long for a recursion."""
        following = deque(first)
        while following:
            pending = await self._settle_known(following.popleft(), chain)
            if pending is not None:
                following.extendleft(reversed(await self._ask_one(pending, await self._admit(pending))))

    async def _ask_one(self, pending: PendingRequest, epoch: Epoch) -> list[Request | None]:
        """Ask one request and hand its answer over, also for the equal requests that wait; returns the follow-ups."""
        settled: Settled | None = None
        try:
            settled = await self._ask(pending, epoch)
        finally:
            self._warming.ended(pending.request, None if settled is None else settled.attempt)
            following = self._settle(pending, settled)
        return following

    def _settle(self, pending: PendingRequest, settled: Settled | None) -> list[Request | None]:
        """Give up the claim and hand the answer over, also for the equal requests that wait; returns the follow-ups."""
        self._claims.give_up(pending.key)
        duplicates = self._duplicates.pop(pending.key)
        self._waiting -= len(duplicates)
        if settled is None:
            return []
        following = [self._lookup.hand_over(pending.request, settled)]
        return following + [self._lookup.hand_over(equal, replace(settled, fresh=False)) for equal in duplicates]

    async def _ask(self, pending: PendingRequest, epoch: Epoch) -> Settled | None:
        """Send until there is an answer, the tries are used up, or the run ends (None)."""
        settled: Settled | None = None
        faults = throttles = 0
        asked_before = self._outcome.asked
        was_tried = self._lookup.ledger.tries(pending.key) > 0
        limited, refused = True, False  # whether a limit of ours may be sent, and whether it may have been refused
        while not self._ending:
            began = time.monotonic()
            sent = self._limits.limited(pending.request) if limited else pending.request
            try:
                with ControlBill(pending, self._lookup, self._budget).current():
                    reply = await self._send_within_budget(replace(pending, request=sent))
            except Unavailable as error:
                throttled = error.status in _THROTTLES
                if throttled:
                    throttles += 1
                    self._outcome.throttled += 1
                    self._pacer.throttled(epoch, error.retry_after)
                    self._wall.throttled(error)
                    if throttles >= _TOO_LARGE_TRIES and self._is_too_large(pending.request, asked_before):
                        self._lookup.keep_error(pending, error, time.monotonic() - began)
                        return self._lookup.lose(pending.key, _too_large(error, throttles))
                else:
                    faults += 1
                    self._outcome.faults += 1
                wait = self._pacer.backoff(throttles + faults, error.retry_after)
                used_up = faults >= self._pacing.tries or throttles >= self._pacing.throttles
                lost = used_up or (error.retry_after or 0) > self._pacing.longest_wait_s
                if lost or not throttled:
                    self._lookup.keep_error(pending, error, time.monotonic() - began)
                what = "given up" if lost else f"sent again in {wait:.1f} s"
                log.info("%s (%s, try %d)", error.message, what, throttles + faults)
                if lost:
                    self._breaker.lost(error)
                    self._end(self._breaker.hopeless)
                    return self._lookup.lose(pending.key, error)
                await self._pacer.rest(wait)
                epoch = await self._admit(pending)
            except AskingError as error:
                self._lookup.keep_error(pending, error, time.monotonic() - began)
                if self._limits.is_suspect(sent, error):
                    limited, refused = False, True
                    epoch = await self._admit(pending)
                    continue
                self._limits.cleared(sent.target)
                own = was_tried or pending.request.length > self._longest_answered
                self._breaker.refused(error, self._longest_answered > 0 and own)
                self._end(self._breaker.hopeless)
                return self._lookup.lose(pending.key, error)
            else:
                if reply is None:
                    return None
                self._breaker.answered()
                self._wall.answered()
                self._longest_answered = max(self._longest_answered, pending.request.length)
                self._pacer.answered()
                self._pacer.spent(self._tokens(pending.request), reply.usage.input + reply.usage.output)
                self._limits.answered(sent, reply, refused)
                settled = self._lookup.keep(pending, reply, time.monotonic() - began)
                if settled.accepted or not self._limits.needs_room(sent, reply):
                    return settled
                limited = False
                epoch = await self._admit(pending)
        return settled

    def _is_too_large(self, request: Request, asked_before: int) -> bool:
        """Whether a request that is refused for rate again and again is so because of its length: shorter ones were
        answered in the meantime (`asked_before` were before), or it is the last one."""
        others = self._outcome.asked - asked_before
        enough = others >= _TOO_LARGE_ANSWERS or len(self._tasks) == 1
        return enough and 0 < self._longest_answered < request.length

    async def _send_within_budget(self, pending: PendingRequest) -> Reply | None:
        """Send one request, within the budget where there is one; None where it does not fit any more."""
        if self._budget is None:
            try:
                return await self._send_once(pending.request)
            except Filtered as refused:
                return refusal_of(refused)
        hold = await self._budget.reserve(pending.key, pending.request, pending.chain)
        if hold is None:
            self._exhaust()
            return None
        try:
            reply = await self._send_once(pending.request)
        except Filtered as refused:
            self._budget.failed(hold, False)
            return refusal_of(refused)
        except AskingError as error:
            if isinstance(error, Unavailable) and error.tokens is not None:
                self._budget.answered(hold, Usage(*error.tokens))
            else:
                self._budget.failed(hold, isinstance(error, Unavailable) and error.maybe_billed)
            raise
        except BaseException:
            self._budget.given_up(hold)
            raise
        self._budget.answered(hold, reply.usage)
        return reply

    async def _send_once(self, request: Request) -> Reply:
        """Send one request, within the time limit."""
        limit = TimeLimit(self._pacing.timeout_s, lambda: self._ending)
        self._sending.add(limit)
        at_server = 1 if request.target.base_url else 0
        self._at_servers += at_server
        self._outcome.sent += 1
        try:
            async with limit:
                reply = await self._send(request)
            self._silence.heard(time.monotonic() - limit.began)
            return reply
        except AskingError as error:
            if not isinstance(error, Unavailable) or error.status:
                self._silence.heard()
            raise
        except TimeoutError:
            self._pacer.timed_out()
            raise Unavailable(
                f"{request.target.model} gave no answer within {self._pacing.timeout_s:g} s.",
                "allow more time (--timeout) or ask fewer requests at once (--concurrency)",
            ) from None
        finally:
            self._sending.remove(limit)
            self._at_servers -= at_server
            self._pacer.ended()

    async def _admit(self, pending: PendingRequest) -> Epoch:
        return await self._pacer.admit(self._tokens(pending.request))

    def _tokens(self, request: Request) -> float:
        return rough_tokens(request) if self._pacing.tpm else 0.0

    async def _wait_for_slot(self) -> None:
        self._slot_free.clear()
        await self._slot_free.wait()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slot_free.set()
        if not task.cancelled():
            self._end(task.exception())

    def _interrupt(self) -> None:
        """Ctrl-C: the first ends the sending, the second also the waiting for answers."""
        if self._outcome.interrupted:
            self._give_up()
        self._outcome.interrupted = True
        self._stop_sending()

    def _end(self, error: BaseException | None) -> None:
        """End the run where there is an error: requests in flight may finish within the grace time."""
        if error is not None and self._error is None:
            self._error = error
            asyncio.get_running_loop().call_later(self._pacing.grace_s, self._give_up)
            self._stop_sending()

    def _exhaust(self) -> None:
        """Stop sending because nothing more fits under the budget, or because the run ends."""
        self._outcome.exhausted = self._budget is not None and self._budget.exhausted
        self._stop_sending()

    def _stop_sending(self) -> None:
        self._ending = True
        if self._budget is not None:
            self._budget.stop()
        self._pacer.stop()
        self._slot_free.set()

    def _give_up(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _report(self, progress: Callable[[Outcome], None] | None) -> None:
        self._outcome.in_flight = len(self._sending)
        self._outcome.claimed = self._claims.held
        self._outcome.cache_expected, self._outcome.cache_missed = self._warming.expected, self._warming.missed
        self._outcome.mark()
        if progress is not None:
            progress(self._outcome)

    async def _watch(self, progress: Callable[[Outcome], None] | None) -> None:
        """Report a few times a second, and end the run where a request outlives its time limit: a client that cannot
        be cancelled would otherwise hang the run."""
        while True:
            await asyncio.sleep(_REPORT_S)
            now, oldest = time.monotonic(), min((limit.began for limit in self._sending), default=math.inf)
            self._wall.look(now, oldest)
            self._silence.look(now, self._at_servers > 0)
            self._outcome.words = self._wall.words(now)
            self._report(progress)
            self._end(self._wall.ended(now) or self._silence.ended(now))
            if now - oldest > self._pacing.timeout_s + self._pacing.grace_s:
                self._stop_sending()
                raise Unavailable(
                    f"A request has hung for {self._pacing.grace_s:g} s beyond its time limit and cannot be ended.",
                    "run the same command again: what was answered is kept",
                )


def _too_large(error: Unavailable, tries: int) -> Unavailable:
    return Unavailable(
        f"{error.message} (refused for rate {tries} times while shorter requests were answered: this one is too large "
        "for the limit)",
        "ask it from a model or an account with a higher limit",
        status=error.status,
    )


def _under_way(request: Request) -> UsageError:
    return UsageError(
        f"Some of these requests are under way in batches of {request.target.model}; asking them now would pay twice.",
        "first repeat the command that submitted them (with --batch): it fetches what has ended and waits for the rest",
    )
