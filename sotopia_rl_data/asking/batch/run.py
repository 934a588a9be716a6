"""Asking in batches: the contract of `dispatch.ask_all`, in rounds. Nothing is submitted twice, nothing is forgotten.

A round walks over all requests, hands over what the ledger knows, and puts the rest into batches; when these have ended
their results are in the ledger, and the next round finds them there. What is wanted next (a repair turn), what failed
and what expired goes into the following round. Requests are made anew for every round and never held: a hundred
thousand of them wait on the disk, in the provider's format.

What is about to be submitted is written down first (`intent.py`). A batch of which no id was heard, because the process
was killed or the connection lost, is looked for at the provider; its requests are not submitted again before it is
certain that it never began.

Under a budget a round submits what fits with every answer at its worst, and the rest when answers that cost less have
made room: rounds go on until nothing is left, or nothing that is left can ever fit.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from sotopia_rl_data.asking.batch.client import BatchClient, BatchSearch, BatchState
from sotopia_rl_data.asking.batch.fetching import Fetching
from sotopia_rl_data.asking.batch.intent import BatchDraft, BatchFolder, Intent
from sotopia_rl_data.asking.batch.waiting import BatchBudget, Stopped, Waiting
from sotopia_rl_data.asking.plan import Batching, Respondent, is_paid
from sotopia_rl_data.asking.stopping import interruptible
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.errors import Rejected, Unavailable, UsageError
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, Outcome, PendingRequest
from sotopia_rl_data.request import Request

_PROVIDERS = ("openai", "anthropic")  # that have a batch API
_BREATH = 64  # requests walked over before Ctrl-C is heard


async def ask_batch(
    requests: Callable[[], Iterable[Request]],
    client: BatchClient,
    lookup: Lookup,
    *,
    batching: Batching | None = None,
    progress: Callable[[Outcome], None] | None = None,
    budget: Budget | None = None,
) -> Outcome:
    """Ask what the ledger does not answer, in batches.

    As `ask_all`, but that `requests` is called for every round and gives the same each time, and that
    `lookup.follow_up` may be called again for the same request and must want the same next. With `Batching.wait` off,
    and after Ctrl-C (the outcome says `interrupted`), `outcome.in_batches` requests may still be under way: the next
    run goes on with them. The `budget` may be shared by several runs at once, and has been told (`carry`) what is under
    way already; where something is left that does not fit, the outcome says `exhausted`.

    Raises UsageError where there is no batch API, Rejected where the provider refuses the batch or every request,
    Unavailable where it is down, StoreError where the ledger cannot be written or another process has its batches. What
    was answered until then is kept, and what was submitted is found again.
    """
    folder = BatchFolder(lookup.ledger.directory, client.target)
    share = BatchBudget(budget, client.target)
    with folder.held(), share.sharing():
        share.check(folder)
        lookup.ledger.reload()  # what another run fetched before it left the folder to this one
        return await _BatchRun(lookup, client, folder, batching or Batching(), progress, share).go(requests)


class _Unheard(Exception):
    """A batch was submitted and the provider's answer did not arrive: it may have begun."""


class _BatchRun:
    """What is under way, what failed how often, when to stop."""

    def __init__(
        self,
        lookup: Lookup,
        client: BatchClient,
        folder: BatchFolder,
        how: Batching,
        progress: Callable[[Outcome], None] | None,
        budget: BatchBudget,
    ) -> None:
        self._lookup, self._client, self._folder, self._how, self._budget = lookup, client, folder, how, budget
        self._outcome, self._progress = lookup.outcome, progress
        self._intents: dict[str, Intent] = {}
        self._under_way: dict[int, str] = {}  # short key -> its intent
        self._wanted: set[str] = set()  # intents that hold something that this run asks
        self._done: dict[str, int] = {}  # intent -> lines that are through
        self._handed: dict[int, int] = {}  # place of a request -> its steps that were handed over
        self._finished = bytearray()
        self._waiting = Waiting(how.silence_s, self._report)
        self._fetching = Fetching(lookup, client, folder, self._waiting, how.tries, budget)
        self._room = sys.maxsize  # requests that the provider's queue takes at once, as far as is known

    async def go(self, requests: Callable[[], Iterable[Request]]) -> Outcome:
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
        await self._client.newest()  # raises where there are no batches, before anything is written
        for intent in self._folder.intents():
            self._take(intent, (one.key for one in self._folder.batch_lines(intent).values()))
        await self._look()
        while not self._waiting.stopped:
            self._budget.begin_round()
            await self._round(requests())
            self._outcome.exhausted = self._budget.short > 0
            if not self._how.wait or not (self._pending or await self._budget.more()):
                return
            while self._pending and not self._waiting.stopped:
                await self._waiting.pause(self._how.poll_s)
                await self._look()

    @property
    def _pending(self) -> list[Intent]:
        """The batches that this run waits for: others of the same ledger may be under way beside them."""
        return [intent for intent in self._intents.values() if intent.id in self._wanted]

    async def _round(self, requests: Iterable[Request]) -> None:
        """Hand over what is known, submit the rest."""
        draft: BatchDraft | None = None
        room = self._room
        for place, request in enumerate(requests):
            if place % _BREATH == 0:
                await asyncio.sleep(0)
                self._report()
            if self._waiting.stopped:
                break
            asked = self._settle_known(place, request)
            if asked is not None and room and self._budget.fits(asked):
                draft, room = await self._put(draft, asked), room - 1
            elif asked is not None:
                self._lookup.put_back(asked.key)
        if draft is not None and self._waiting.stopped:
            draft.abandon()
        elif draft is not None:
            await self._submit(draft.seal(self._client.way))

    def _settle_known(self, place: int, request: Request) -> PendingRequest | None:
        """Hand over what is known, follow-ups included; returns what is to be asked, if it is not under way."""
        if place == len(self._finished):
            self._finished.append(False)
        if self._finished[place]:
            return None
        step, before = 0, self._handed.get(place, 0)
        wanted: Request | None = request
        while wanted is not None:
            asked = PendingRequest(wanted, *wanted.hashes)
            intent = self._under_way.get(short(asked.key))
            if intent is not None:
                self._wanted.add(intent)
                return None
            again = step < before  # in an earlier round it was handed over, and something was wanted next
            settled = self._lookup.unusable(asked.key) if again else self._lookup.look_up(asked)
            if settled is None:
                return asked
            wanted = self._lookup.hand_over(wanted, settled, again)
            step += 1
            self._handed[place] = max(step, before)
        self._finished[place] = True
        self._handed.pop(place, None)
        return None

    async def _put(self, draft: BatchDraft | None, asked: PendingRequest) -> BatchDraft:
        """Put a request into the batch that is being filled; a full one is submitted first."""
        limits = self._client.limits
        draft = draft or self._folder.draft()
        custom_id = draft.intent.custom_id(asked.key)
        line = self._client.line(custom_id, asked.request)
        if draft.count and (draft.count >= limits.requests or draft.size_bytes + len(line) + 99 > limits.size_bytes):
            await self._submit(draft.seal(self._client.way))
            return await self._put(None, asked)
        draft.add(line, asked)
        self._under_way[short(asked.key)] = draft.intent.id
        self._wanted.add(draft.intent.id)
        return draft

    def _take(self, intent: Intent, keys: Iterable[str] = ()) -> None:
        self._intents[intent.id] = intent
        self._under_way |= dict.fromkeys(map(short, keys), intent.id)

    def _drop(self, intent: Intent) -> None:
        """It is over, or never was."""
        self._folder.remove(intent)
        del self._intents[intent.id]
        self._done.pop(intent.id, None)
        self._under_way = {key: one for key, one in self._under_way.items() if one != intent.id}
        self._budget.batch_ended()

    async def _look(self) -> None:
        """See how every batch stands; fetch those that have ended."""
        for intent in list(self._intents.values()):
            if self._waiting.stopped:
                return
            if intent.batch:
                await self._look_at(intent)
            elif intent.tried:
                await self._look_for(intent)
            else:
                await self._submit_late(intent)
        self._report()

    async def _look_at(self, intent: Intent) -> None:
        try:
            state = await self._waiting.patiently(lambda: self._client.state(intent.batch))
            self._done[intent.id] = state.done
            if state.ended and state.refused is None:
                await self._fetching.fetch(intent, state)
                self._drop(intent)
        except Rejected as error:
            hint = (
                f"use the key it was begun with; or delete {self._folder.lines(intent).parent} to ask its requests anew"
            )
            raise Rejected(f"The batch {intent.batch} cannot be fetched: {error.message}", hint) from error
        if state.refused is not None:
            self._refused(intent, state)

    async def _look_for(self, intent: Intent) -> None:
        """Find out whether a submission whose answer was not heard began a batch; submit anew only if it did not."""
        known = {one.batch for one in self._intents.values() if one.batch}
        found = await self._waiting.patiently(lambda: self._client.find(intent, known))
        if isinstance(found, str):
            self._take(self._folder.keep(replace(intent, batch=found)))
            await self._look_at(self._intents[intent.id])
        elif found is BatchSearch.ABSENT and time.time() - intent.tried > self._how.doubt_s:
            await self._submit_late(intent)

    async def _submit_late(self, intent: Intent) -> None:
        """Submit what did not begin when it was to, unless more is reserved than a smaller cap allows by now: then its
        requests are walked over again."""
        if self._budget.over:
            self._never_began(intent)
        else:
            await self._submit(intent)

    async def _submit(self, intent: Intent) -> None:
        """Begin the batch. Where no id is heard, it stays in doubt for `_look_for`."""
        self._take(intent)
        try:
            ready = await self._made_ready(intent)
            self._take(await self._waiting.patiently(lambda: self._begin(ready)))
        except Rejected:
            self._never_began(intent)
            raise
        except _Unheard:
            return
        self._outcome.sent += intent.count

    async def _made_ready(self, intent: Intent) -> Intent:
        """Everything before the one request that begins it."""
        lines = self._folder.lines(intent)
        if not intent.file:
            file = await self._waiting.patiently(lambda: self._client.upload(lines, intent))
            intent = self._folder.keep(replace(intent, file=file))
        if intent.tried:
            return intent
        return replace(intent, after=await self._waiting.patiently(self._client.newest))

    async def _begin(self, intent: Intent) -> Intent:
        """The intent with its batch's id; that it is tried is written down first. Raises _Unheard where it may have
        begun: only a 429 is certain that it has not."""
        intent = self._folder.keep(replace(intent, tried=time.time()))
        self._take(intent)
        try:
            batch = await self._client.create(self._folder.lines(intent), intent)
        except Unavailable as error:
            if error.status == 429:
                raise
            raise _Unheard from error
        return self._folder.keep(replace(intent, batch=batch))

    def _refused(self, intent: Intent, state: BatchState) -> None:
        """None of it was begun. Raises the reason, unless it is that others have to end first."""
        self._never_began(intent)
        under_way = sum(one.count for one in self._intents.values() if one.batch)
        if state.refused is not None and (not state.full or self._room == 1):
            raise state.refused
        self._room = max(1, min(under_way, self._room) or min(intent.count, self._room) // 2)

    def _never_began(self, intent: Intent) -> None:
        self._fetching.put_back(intent)
        self._drop(intent)

    def _interrupt(self, working: asyncio.Future[None]) -> None:
        """Ctrl-C: the first ends the waiting, the second also what is being sent or fetched."""
        if self._outcome.interrupted:
            working.cancel()
        self._outcome.interrupted = True
        self._waiting.stop()
        self._budget.close()

    def _report(self) -> None:
        outcome = self._outcome
        pending = self._pending
        outcome.in_batches, outcome.batches = sum(intent.count for intent in pending), len(pending)
        outcome.words = self._words(pending)
        outcome.mark()
        if self._progress is not None:
            self._progress(outcome)

    def _words(self, pending: list[Intent]) -> str:
        """How far the batches are, and what is not in one yet."""
        words = []
        if pending:
            done = sum(self._done.get(intent.id, 0) for intent in pending)
            minutes = (time.time() - min(intent.made for intent in pending)) / 60
            batches = "1 batch" if len(pending) == 1 else f"{len(pending)} batches"
            words = [f"{done:,} of {sum(intent.count for intent in pending):,} in {batches}, {minutes:,.0f} min"]
        if self._budget.short:
            words.append(f"{self._budget.short:,} wait for room under the budget")
        return ", ".join(words)


def batch_client(respondent: Respondent) -> BatchClient:
    """What submits requests to a judge in batches. Raises UsageError where it has no batch API, and KeyMissing."""
    check_batches([respondent])
    target = respondent.target
    if target.provider == "openai":
        from sotopia_rl_data.asking.batch.openai import OpenAIBatchClient

        return OpenAIBatchClient(target)
    from sotopia_rl_data.asking.batch.anthropic import AnthropicBatchClient

    return AnthropicBatchClient(target)


def check_batches(respondents: Iterable[Respondent]) -> None:
    """Raises UsageError where one of them has no batch API for certain, or where two ask one model: its batches are
    worked on by one at a time. A URL without batches is found when it is asked."""
    by: dict[tuple[str, str, str], Respondent] = {}
    for one in respondents:
        target = one.target
        if target.provider not in _PROVIDERS or not is_paid(one):
            raise UsageError(
                f"{one.id} has no batch API.", "leave --batch out, or name a model of OpenAI's or Anthropic's"
            )
        other = by.setdefault((target.provider, target.base_url, target.model), one)
        if other is not one:
            raise UsageError(
                f"{other.id} and {one.id} both ask {target.model}, whose batches one at a time works on.",
                "leave --batch out, or ask each in a run of its own first",
            )


def keys_under_way(respondents: Iterable[Respondent], ledger: Ledger) -> set[int]:
    """The short keys of what is in their batches now. What was fetched before is in the ledger when this returns: it
    may have been open for long."""
    folders = [BatchFolder(ledger.directory, one.target) for one in respondents if is_paid(one)]
    keys = {short(one.key) for folder in folders for _, one in folder.under_way()}
    ledger.reload()
    return keys
