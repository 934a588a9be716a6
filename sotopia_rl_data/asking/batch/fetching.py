"""From a batch that has ended to the ledger: every result an attempt, joined by its custom_id, durable before it is
parsed; and what is to be asked again, or given up."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from dataclasses import replace

from sotopia_rl_data.asking.batch.client import BatchClient, BatchState, cancelled
from sotopia_rl_data.asking.batch.intent import BatchFolder, BatchLine, Intent
from sotopia_rl_data.asking.batch.waiting import BatchBudget, Waiting
from sotopia_rl_data.errors import AskingError, Rejected, Unavailable
from sotopia_rl_data.ledger.ledger import Attempt, Ledger, answered, failed
from sotopia_rl_data.ledger.lookup import Lookup
from sotopia_rl_data.request import Reply, Request, Usage


def brought(ledger: Ledger, intent: Intent, key: str) -> list[Attempt]:
    """What a batch's line is in the ledger already, from an earlier fetch."""
    some = ledger.attempts(key) if intent.batch else []
    return [one for one in some if one.batch == intent.batch and one.time >= intent.made]


class Fetching:
    """One request may fail `tries` times. `last` is the last failure there was."""

    def __init__(
        self,
        lookup: Lookup,
        client: BatchClient,
        folder: BatchFolder,
        waiting: Waiting,
        tries: int,
        budget: BatchBudget,
    ) -> None:
        self._lookup, self._client, self._folder, self._waiting, self._tries = lookup, client, folder, waiting, tries
        self._budget = budget
        self._errors: Counter[str] = Counter()
        self.last: AskingError | None = None

    async def fetch(self, intent: Intent, state: BatchState) -> None:
        """Put every result into the ledger, on the disk when this returns. What is there already is left alone."""
        left = self._folder.batch_lines(intent)
        await self._waiting.patiently(lambda: self._collect(intent, left))
        for one in left.values():
            self._keep(intent, one, self._missing(state), maybe_billed=not state.cancelled)
        self._lookup.ledger.close()  # to the disk, before the intent goes

    async def _collect(self, intent: Intent, left: dict[str, BatchLine]) -> None:
        """Take the results out of what is left. Ids that nobody sent, or that came before, are passed over."""
        async with aclosing(self._client.results(intent.batch)) as results:
            async for result in results:
                one = left.pop(result.custom_id, None)
                if one is not None:
                    outcome = result.outcome  # a 200 without an answer: the provider says that it did the work
                    worked = isinstance(outcome, Unavailable) and outcome.status == 200
                    self._keep(intent, one, outcome, maybe_billed=worked)

    def _keep(self, intent: Intent, one: BatchLine, outcome: Reply | AskingError, maybe_billed: bool) -> None:
        """Make a line's result durable, unless it is from an earlier fetch, and see what follows from it. A line that
        failed or expired is not billed; one without a result may be, and so may one whose result holds no answer."""
        ledger, target = self._lookup.ledger, replace(self._client.target, sampling=one.sampling)
        request = Request(target, (), sample=one.sample)
        new = all(isinstance(outcome, Reply) and a.status == "error" for a in brought(ledger, intent, one.key))
        if isinstance(outcome, Reply):
            if new:
                ledger.append(answered(request, one.key, one.question, outcome, 0.0, intent.batch))
            self._budget.came(one.key, outcome.usage)
            self._lookup.outcome.count_usage(target.model, outcome.usage)
            self._lookup.came(one.key)
            return
        if new:
            ledger.append(failed(request, one.key, one.question, outcome.message, 0.0, intent.batch, maybe_billed))
        self._budget.came(one.key, Usage() if maybe_billed else None)
        self._fail(one.key, outcome, intent.way)

    def _fail(self, key: str, error: AskingError, way: int) -> None:
        """Give a request up, or leave it to the next round."""
        self.last = error
        self._lookup.outcome.faults += 1
        if isinstance(error, Rejected):
            if self._client.weaken(error, way):
                self._lookup.put_back(key)
            else:
                self._lookup.lose(key, error)
            return
        self._errors[key] += 1
        if self._errors[key] >= self._tries:
            self._lookup.lose(key, error)
        else:
            self._lookup.put_back(key)

    def _missing(self, state: BatchState) -> AskingError:
        if state.cancelled:
            return cancelled(self._client.target)
        model = self._client.target.model
        return Unavailable(f"{model}: the batch ended without a result for this", "run the same command again")

    def put_back(self, intent: Intent) -> None:
        """None of its requests was begun: they are asked again."""
        for one in self._folder.batch_lines(intent).values():
            self._budget.came(one.key, None)
            self._lookup.put_back(one.key)
