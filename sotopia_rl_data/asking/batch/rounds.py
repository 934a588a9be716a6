"""Asking in batches: the contract of `dispatch.ask_all`, in rounds. Nothing is submitted twice, nothing is forgotten.

A round goes through all requests, hands over what the ledger has answered, and puts the rest into batches. When these
have ended their results are in the ledger, where the next round finds them. Follow-ups (a repair) and requests that
failed or expired go into the following round. Requests are made again for every round instead of being kept in memory:
a hundred thousand of them wait on the disk, in the provider's format.

A batch is recorded before it is submitted (`intent.py`). Where its id was never received, because the process was
killed or the connection lost, it is looked for at the provider; its requests are not submitted again until it is
certain that the batch never began.

Several processes may ask at once. One drafts at a time: under the folder's lock it learns what the others have answered
and have under way, and seals batches of the rest, which it submits after it has let the lock go. A process looks after
the batches that it holds; it waits for the results of the others', and takes those over whose process has ended. What
a live run has claimed waits for the next round.

Under a budget a round submits what fits if every answer costs the most that it may. The rest is submitted when answers
that cost less have made room. Rounds go on until nothing is left, or nothing that is left can ever fit.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from itertools import zip_longest

from sotopia_rl_data.asking.batch.client import BatchClient, BatchSearch, BatchState
from sotopia_rl_data.asking.batch.fetching import Fetching
from sotopia_rl_data.asking.batch.intent import BatchDraft, BatchFolder, Intent
from sotopia_rl_data.asking.batch.waiting import BatchBudget, Stopped, Waiting
from sotopia_rl_data.asking.fleet import SCHEME
from sotopia_rl_data.asking.forms import RequestForm
from sotopia_rl_data.asking.negotiation import MOST_PROBES
from sotopia_rl_data.asking.plan import Batching, Respondent, is_paid
from sotopia_rl_data.asking.stopping import AnswerBreaker, interruptible
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.errors import AskingError, Rejected, Unavailable, UsageError
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.ledger.lookup import Lookup, Outcome, PendingRequest, Settled
from sotopia_rl_data.request import Request

log = logging.getLogger(__name__)

_PROVIDERS = ("openai", "anthropic")  # providers that have a batch API
_YIELD_EVERY = 64  # after looking up this many requests, let the event loop handle Ctrl-C
_DRAFTED_S = 0.05  # seconds between two checks of whether another process is still drafting
_CLAIMED_S = 5.0  # the longest wait for requests that live runs are asking


async def ask_batch(
    requests: Callable[[], Iterable[Request]],
    client: BatchClient,
    lookup: Lookup,
    *,
    batching: Batching | None = None,
    progress: Callable[[Outcome], None] | None = None,
    budget: Budget | None = None,
    breaker: AnswerBreaker | None = None,
) -> Outcome:
    """Ask what the ledger does not answer, in batches.

    Like `ask_all`, except that `requests` is called for every round and must give the same requests each time, and that
    `lookup.follow_up` may be called again for a request and must return the same follow-up. With `Batching.wait` off,
    and after Ctrl-C (the outcome says `interrupted`), `outcome.in_batches` requests may still be under way: the next
    run goes on with them. The `budget` may be shared by several runs at once, and counts already (`Budget.carry`) what
    is under way; where a request is left that does not fit, the outcome says `exhausted`.

    Raises UsageError where there is no batch API, Rejected where the provider refuses the batch or every request,
    Unavailable where it is down, UnusableAnswers where the `breaker` says so before a round is submitted, StoreError
    where the ledger cannot be written. What was answered until then is kept, and the next run finds what was submitted.
    """
    folder = BatchFolder(lookup.ledger.directory, client.target)
    share = BatchBudget(budget, client.target)
    run = _BatchRun(lookup, client, folder, batching or Batching(), progress, share)
    run.answer_breaker = breaker
    with share.sharing(), closing(run):
        return await run.run(requests)


class _ResponseLost(Exception):
    """A batch was submitted and the response was lost, or is none: the batch may have begun."""

    def __init__(self, error: Unavailable) -> None:
        super().__init__(error.message)
        self.error = error


class _BatchRun:
    """The batches under way, and what each round has handed over. `run` is called once, then `close`."""

    def __init__(
        self,
        lookup: Lookup,
        client: BatchClient,
        folder: BatchFolder,
        batching: Batching,
        progress: Callable[[Outcome], None] | None,
        budget: BatchBudget,
    ) -> None:
        self._lookup, self._client, self._folder = lookup, client, folder
        self._batching, self._budget = batching, budget
        self._outcome, self._progress = lookup.outcome, progress
        self._intents: dict[str, Intent] = {}
        self._under_way: dict[int, str] = {}  # short key -> id of its intent
        self._locks: dict[str, int | None] = {}  # intent that this process looks after -> the handle that holds it
        self._own: set[str] = set()  # intents that hold a request of this run
        self._claimed = 0  # requests that live runs of other processes were asking in this round
        self._done: dict[str, int] = {}  # intent -> lines that are finished
        self._handed: dict[int, int] = {}  # index of a request -> how many requests of its chain were handed over
        self._finished = bytearray()  # by index of a request: 1 where its chain has ended
        self._waiting = Waiting(batching.silence_s, self._report)
        self._fetching = Fetching(lookup, client, folder, self._waiting, batching.tries, budget)
        self.answer_breaker: AnswerBreaker | None = None
        self._room = sys.maxsize  # requests that the provider's queue takes, as far as is known

    async def run(self, requests: Callable[[], Iterable[Request]]) -> Outcome:
        working = asyncio.ensure_future(self._work(requests))
        with interruptible(lambda: self._interrupt(working)), suppress(asyncio.CancelledError, Stopped):
            await working
        self._report()
        outcome = self._outcome
        fruitless = outcome.unreachable and not outcome.asked + outcome.hits + outcome.in_batches
        if fruitless and self._fetching.last is not None:
            raise self._fetching.last
        return outcome

    async def _work(self, requests: Callable[[], Iterable[Request]]) -> None:
        await self._client.newest()  # raises where there is no batch API, before anything is written
        await self._look()
        while not self._waiting.stopped:
            await self._submit_all(await self._draft(requests))
            self._outcome.exhausted = self._budget.short > 0
            if self._claimed:
                await self._waiting.pause(min(self._batching.poll_s, _CLAIMED_S))
                continue
            if not self._batching.wait or not (self._pending or await self._budget.more()):
                return
            while self._pending and not self._waiting.stopped:
                await self._waiting.pause(self._batching.poll_s)
                await self._look()

    def close(self) -> None:
        """Let other processes look after the batches that are under way."""
        for lock in self._locks.values():
            if lock is not None:
                os.close(lock)

    @property
    def _pending(self) -> list[Intent]:
        """The batches with requests of this run. Batches of other runs on the same ledger may be under way too."""
        return [intent for intent in self._intents.values() if intent.id in self._own]

    @property
    def _is_alone(self) -> bool:
        """Whether no batch is under way."""
        return not any(intent.batch for intent in self._intents.values())

    async def _draft(self, requests: Callable[[], Iterable[Request]]) -> list[Intent]:
        """Hand over what is known and seal batches of the rest, while no other process drafts."""
        with self._folder.drafting() as alone:
            while not alone():
                if self._waiting.stopped:
                    return []
                await self._waiting.pause(_DRAFTED_S)
            self._folder.sweep()
            self._learn()
            self._budget.begin_round()
            return await self._round(requests())

    async def _round(self, requests: Iterable[Request]) -> list[Intent]:
        """Hand over what is known and seal the rest; or a few of the rest, where a form is looked for."""
        forms = self._client.forms
        if forms.judged is not None:
            raise forms.judged
        sealed: list[Intent] = []
        draft: BatchDraft | None = None
        room, self._claimed = self._room, 0
        async with aclosing(self._left(requests)) as left:
            if forms.is_looking:
                draft = self._probe(await _shortest(left, self._lookup), sealed)
            else:
                asked: list[PendingRequest] = []
                async for pending in left:
                    if room and self._budget.fits(pending):
                        draft, room = self._put(draft, pending, forms.form, sealed), room - 1
                        asked += [pending] if self._fetching.filter.is_suspect(pending.key) else []
                    else:
                        self._lookup.put_back(pending.key)
                for control, key in self._fetching.filter.controls(asked):
                    if room and self._budget.fits(control):
                        draft, room = self._put(draft, control, forms.form, sealed, key), room - 1
        if draft is not None:
            sealed.append(self._seal(draft))
        unusable = self.answer_breaker and self.answer_breaker.error(self._client.target) if sealed else None
        if unusable or self._waiting.stopped:
            self._put_back(sealed)
            sealed = []
        if unusable:
            raise unusable
        return sealed

    def _seal(self, draft: BatchDraft) -> Intent:
        intent = draft.seal()
        self._take(intent)
        return intent

    async def _submit_all(self, sealed: list[Intent]) -> None:
        """Submit the batches of a round. Where one cannot be, those after it do not wait for the next run."""
        left = deque(sealed)
        try:
            while left:
                await self._submit(left.popleft())
        except (AskingError, Stopped, asyncio.CancelledError):
            self._put_back(left)
            raise

    async def _left(self, requests: Iterable[Request]) -> AsyncGenerator[PendingRequest]:
        """Hand over what is known; yields the requests that are to be asked."""
        for place, request in enumerate(requests):
            if place % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
                self._report()
            if self._waiting.stopped:
                return
            pending = self._settle_known(place, request)
            if pending is not None:
                yield pending

    def _probe(self, shortest: list[PendingRequest], sealed: list[Intent]) -> BatchDraft | None:
        """A draft with each of these requests in another form; those that are left over wait."""
        draft: BatchDraft | None = None
        forms = self._client.forms.to_try(shortest[0].request, len(shortest)) if shortest else []
        if shortest and not forms:
            raise self._client.forms.judge()
        for pending, form in zip_longest(shortest, forms):
            if form is not None and self._budget.fits(pending):
                draft = self._put(draft, pending, form, sealed)
            else:
                self._lookup.put_back(pending.key)
        return draft

    def _settle_known(self, place: int, request: Request) -> PendingRequest | None:
        """Hand over what is known of a chain; returns the request that is to be asked, unless it is under way."""
        if place == len(self._finished):
            self._finished.append(False)
        if self._finished[place]:
            return None
        step, before = 0, self._handed.get(place, 0)
        following: Request | None = request
        while following is not None:
            pending = PendingRequest(following, *following.hashes)
            intent = self._under_way.get(short(pending.key))
            if intent is not None:
                self._own.add(intent)
                if intent not in self._locks:
                    self._budget.carry_request(pending)
                return None
            self._budget.settle(pending.key, self._lookup.ledger)
            again = step < before  # an earlier round handed this request over, and a follow-up came of it
            settled = self._lookup.unusable(pending.key) if again else self._look_up(pending)
            if settled is None and not self._is_free(pending.key):
                self._claimed += 1
                self._lookup.put_back(pending.key)
                return None
            if settled is None:
                return pending
            asked, following = following, self._lookup.hand_over(following, settled, again)
            if self.answer_breaker is not None and not again:
                self.answer_breaker.came(asked, settled, following)
            step += 1
            self._handed[place] = max(step, before)
        self._finished[place] = True
        self._handed.pop(place, None)
        return None

    def _look_up(self, pending: PendingRequest) -> Settled | None:
        """How the request is settled; None where it is to be asked, also without the limit that cut its answer off."""
        lookup, limits = self._lookup, self._client.answer_limits
        settled = lookup.look_up(pending)
        asked_again = settled is not None and limits.is_asked_again(pending, settled, lookup.ledger.attempts)
        return None if asked_again else settled

    def _is_free(self, key: str) -> bool:
        """Whether no live run of another process is asking this now, or has just got an answer. One that claims it
        later sees that batches are being drafted."""
        ledger = self._lookup.ledger
        known = ledger.tries(key)
        if not ledger.claims.take(key):
            return False
        ledger.claims.give_up(key)
        return not (ledger.catch_up() and ledger.tries(key) > known)

    def _put(
        self,
        draft: BatchDraft | None,
        pending: PendingRequest,
        form: RequestForm,
        sealed: list[Intent],
        control: str = "",
    ) -> BatchDraft:
        """Add a request to the draft; a full draft is sealed first, and a new one begun. `control`: the key of the
        request that it is a control for."""
        limits = self._client.limits
        if draft is None:
            draft = self._folder.draft()
            self._locks[draft.intent.id] = draft.lock
        custom_id = draft.intent.custom_id(pending.key)
        if not (self._client.forms.is_looking or pending.request.limit):
            pending = replace(pending, request=self._client.answer_limits.limited(pending))
        line = self._client.line(custom_id, pending.request, form)
        if draft.count and (draft.count >= limits.requests or draft.size_bytes + len(line) + 99 > limits.size_bytes):
            sealed.append(self._seal(draft))
            return self._put(None, pending, form, sealed, control)
        draft.add(line, pending, form, control)
        self._under_way[short(pending.key)] = draft.intent.id
        self._own.add(draft.intent.id)
        return draft

    def _take(self, intent: Intent) -> None:
        self._intents[intent.id] = intent

    def _drop(self, intent: Intent) -> None:
        """Remove a batch that is fetched, or never began."""
        self._folder.remove(intent)
        self._forget(intent.id)
        self._budget.batch_ended()

    def _forget(self, intent: str) -> None:
        lock = self._locks.pop(intent, None)
        if lock is not None:
            os.close(lock)
        self._intents.pop(intent, None)
        self._done.pop(intent, None)
        self._under_way = {key: id_ for key, id_ in self._under_way.items() if id_ != intent}

    def _learn(self) -> None:
        """Learn which batches other processes have under way, and what they have answered."""
        present = {intent.id: intent for intent in self._folder.intents()}
        ledger = self._lookup.ledger
        ledger.catch_up()  # after the look at the batches: what is in none of them any more is in the ledger
        for gone in self._intents.keys() - present.keys():
            self._forget(gone)
        for intent in present.values():
            if intent.id not in self._intents:
                with suppress(FileNotFoundError):  # another process has fetched it meanwhile
                    lines = self._folder.batch_lines(intent).values()
                    self._under_way |= {short(line.key): intent.id for line in lines}
                    self._budget.carry(intent, lines, ledger)
                    self._take(intent)
            elif intent.id not in self._locks:
                self._take(intent)

    def _holds(self, intent: Intent) -> bool:
        """Whether this process looks after the batch; it takes over the one of a process that has ended."""
        if intent.id in self._locks:
            return True
        try:
            lock = self._folder.hold(intent)
        except FileNotFoundError:
            self._learn()
            return False
        if lock is not None:
            self._learn()  # how far that process came
            self._locks[intent.id] = lock
        return lock is not None

    async def _look(self) -> None:
        """Look at every batch that no other process looks after, and fetch those that have ended."""
        self._learn()
        for intent in list(self._intents.values()):
            if self._waiting.stopped:
                return
            if not self._holds(intent):
                continue
            intent = self._intents[intent.id]
            if intent.batch:
                await self._look_at(intent)
            elif intent.tried:
                await self._look_for(intent)
            else:
                await self._submit_late(intent)
        self._report()

    async def _look_at(self, intent: Intent) -> None:
        try:
            state = await self._waiting.until_answered(lambda: self._client.state(intent.batch))
            self._done[intent.id] = state.done
            if state.ended and state.refused is None:
                await self._fetching.fetch(intent, state)
                log.info("fetched the batch %s", intent.batch)
                self._drop(intent)
        except (Rejected, Unavailable) as error:
            lacks_results = error.status == 200
            if isinstance(error, Unavailable) and not lacks_results:
                raise
            remedy = "run the same command again later" if lacks_results else "use the API key that submitted the batch"
            hint = f"{remedy}; or delete the folder {self._folder.lines(intent).parent} to ask its requests again"
            raise type(error)(f"The batch {intent.batch} cannot be fetched: {error.message}", hint) from error
        if state.refused is not None:
            self._refused(intent, state)

    async def _look_for(self, intent: Intent) -> None:
        """Find the batch of a submission whose response was lost; submit again only if it certainly never began."""
        known = {other.batch for other in self._intents.values() if other.batch}
        batch = await self._waiting.until_answered(lambda: self._client.find(intent, known))
        if isinstance(batch, str):
            self._take(self._folder.keep(replace(intent, batch=batch)))
            await self._look_at(self._intents[intent.id])
        elif batch is BatchSearch.ABSENT and time.time() - intent.tried > self._batching.doubt_s:
            await self._submit_late(intent)

    async def _submit_late(self, intent: Intent) -> None:
        """Submit a batch that an earlier run sealed but did not begin. Where the cap is smaller by now and does not
        allow it, its requests go back to the next round."""
        if self._budget.over:
            self._never_began(intent)
        else:
            await self._submit(intent)

    async def _submit(self, intent: Intent) -> None:
        """Submit a batch. Where the response is lost, `_look_for` finds out later whether it began: in this run, or in
        the next where the server took the batch and gave no id, which it would do again."""
        self._take(intent)
        try:
            ready = await self._prepare(intent)
            self._take(await self._waiting.until_answered(lambda: self._begin(ready), alone=self._is_alone))
        except Rejected:
            self._never_began(intent)
            raise
        except _ResponseLost as lost:
            if lost.error.status == 200:
                raise lost.error from None
            return
        self._outcome.sent += intent.count

    async def _prepare(self, intent: Intent) -> Intent:
        """Do everything that comes before the call that creates the batch."""
        lines = self._folder.lines(intent)
        if not intent.file:
            file = await self._waiting.until_answered(lambda: self._client.upload(lines, intent), alone=self._is_alone)
            intent = self._folder.keep(replace(intent, file=file))
        if intent.tried:
            return intent
        return replace(intent, after=await self._waiting.until_answered(self._client.newest))

    async def _begin(self, intent: Intent) -> Intent:
        """Create the batch; returns the intent with its id. The try is recorded first. Raises _ResponseLost where the
        batch may have begun: of all faults, only a 429 says for certain that it has not."""
        intent = self._folder.keep(replace(intent, tried=time.time()))
        self._take(intent)
        try:
            batch = await self._client.create(self._folder.lines(intent), intent)
        except Unavailable as error:
            if error.status == 429:
                raise
            raise _ResponseLost(error) from error
        log.info("submitted the batch %s of %d requests", batch, intent.count)
        return self._folder.keep(replace(intent, batch=batch))

    def _refused(self, intent: Intent, state: BatchState) -> None:
        """Handle a refused batch. Raises the reason, unless it is only that other batches have to end first."""
        self._never_began(intent)
        under_way = sum(other.count for other in self._intents.values() if other.batch)
        if state.refused is not None and (not state.full or self._room == 1):
            raise state.refused
        room = min(under_way, self._room) if under_way else min(intent.count, self._room) // 2
        self._room = max(1, room)

    def _never_began(self, intent: Intent) -> None:
        self._fetching.put_back(intent)
        self._drop(intent)

    def _put_back(self, sealed: Iterable[Intent]) -> None:
        for intent in sealed:
            self._never_began(intent)

    def _interrupt(self, working: asyncio.Future[None]) -> None:
        """Ctrl-C: the first ends the waiting, the second also a submission or fetch in progress."""
        if self._outcome.interrupted:
            working.cancel()
        self._outcome.interrupted = True
        self._waiting.stop()
        self._budget.close()

    def _report(self) -> None:
        outcome = self._outcome
        outcome.claimed = self._lookup.ledger.claims.held
        pending = self._pending
        outcome.in_batches, outcome.batches = sum(intent.count for intent in pending), len(pending)
        outcome.words = self._words(pending)
        outcome.mark()
        if self._progress is not None:
            self._progress(outcome)

    def _words(self, pending: list[Intent]) -> str:
        """How far the batches are, and how many requests wait for the budget."""
        words = [self._waiting.words] if self._waiting.words else []
        if pending:
            done = sum(self._done.get(intent.id, 0) for intent in pending)
            minutes = (time.time() - min(intent.made for intent in pending)) / 60
            batches = "1 batch" if len(pending) == 1 else f"{len(pending)} batches"
            words.append(f"{done:,} of {sum(intent.count for intent in pending):,} in {batches}, {minutes:,.0f} min")
        if self._budget.short:
            words.append(f"{self._budget.short:,} wait for room under the budget")
        return ", ".join(words)


async def _shortest(left: AsyncIterator[PendingRequest], lookup: Lookup) -> list[PendingRequest]:
    """The shortest requests, as many as may be probed with; the others are put back."""
    kept: list[tuple[int, int, PendingRequest]] = []  # a heap, the longest first
    number = 0
    async for pending in left:
        number += 1
        heapq.heappush(kept, (-pending.request.length, -number, pending))
        if len(kept) > MOST_PROBES:
            lookup.put_back(heapq.heappop(kept)[2].key)
    return [pending for _, _, pending in sorted(kept, reverse=True)]


def batch_client(respondent: Respondent) -> BatchClient:
    """The client for the batches of a judge or policy. Raises UsageError where it has no batch API, and KeyMissing."""
    check_batches([respondent])
    target = respondent.target
    if target.provider == "openai":
        from sotopia_rl_data.asking.batch.openai import OpenAIBatchClient

        return OpenAIBatchClient(target)
    from sotopia_rl_data.asking.batch.anthropic import AnthropicBatchClient

    return AnthropicBatchClient(target)


def check_batches(respondents: Iterable[Respondent]) -> None:
    """Raises UsageError where a provider has no batch API, or where two respondents ask the same model, whose batches
    only one of them can work on. Whether the server at a URL has batches is found out when it is called."""
    by_model: dict[tuple[str, str, str], Respondent] = {}
    for respondent in respondents:
        target = respondent.target
        if target.provider not in _PROVIDERS or not is_paid(respondent) or target.base_url.startswith(SCHEME):
            raise UsageError(
                f"{respondent.id} has no batch API, so it cannot be asked in batches.",
                "leave --batch out, or name a model of OpenAI's or Anthropic's",
            )
        other = by_model.setdefault((target.provider, target.base_url, target.model), respondent)
        if other is not respondent:
            raise UsageError(
                f"{other.id} and {respondent.id} both ask {target.model}, whose batches only one of them can work on.",
                "leave --batch out, or ask each in a run of its own first",
            )
