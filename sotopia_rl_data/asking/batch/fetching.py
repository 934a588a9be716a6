"""From a batch that has ended to the ledger: each result becomes an attempt at the request with its custom_id.

An attempt is durable before it is parsed. Requests without an answer are asked again in the next round, or given up.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from dataclasses import replace

from sotopia_rl_data.asking.batch.client import BatchClient, BatchState, cancelled
from sotopia_rl_data.asking.batch.filters import ContentFilter
from sotopia_rl_data.asking.batch.intent import BatchFolder, BatchLine, Intent
from sotopia_rl_data.asking.batch.waiting import BatchBudget, Waiting, brought
from sotopia_rl_data.asking.controls import CONTROL_ANSWERED
from sotopia_rl_data.asking.forms import RequestForm
from sotopia_rl_data.asking.negotiation import is_unexplained
from sotopia_rl_data.asking.refusals import refusal_of, tokens_of
from sotopia_rl_data.errors import AskingError, Filtered, Rejected, Unavailable
from sotopia_rl_data.ledger.ledger import answered, failed
from sotopia_rl_data.ledger.lookup import Lookup
from sotopia_rl_data.request import Reply, Request, Usage


class Fetching:
    """Fetches the results of batches. A request may fail `tries` times. `last` is the last failure."""

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
        self._asked_again: set[str] = set()  # keys that were refused in a form in which others were answered
        self._helped = False  # whether one of them is answered in the batch that is being fetched
        self._refused: list[tuple[BatchLine, RequestForm, Rejected]] = []  # the lines that were refused for good
        self._throttled: list[tuple[str, Unavailable]] = []  # the lines of one batch that were refused for rate
        self.filter = ContentFilter()
        self.last: AskingError | None = None

    async def fetch(self, intent: Intent, state: BatchState) -> None:
        """Put every result into the ledger, durably. Results of an earlier fetch are not added again."""
        left = self._folder.batch_lines(intent)
        await self._waiting.until_answered(lambda: self._collect(intent, left))
        self._retry_refused(intent)
        self._retry_throttled(answers=intent.count - len(left) - len(self._throttled))
        for line in left.values():
            self._keep(intent, line, self._missing(state), maybe_billed=not state.cancelled)
        self._lookup.ledger.close()  # flushes to the disk; only then may the intent be removed

    async def _collect(self, intent: Intent, left: dict[str, BatchLine]) -> None:
        """Keep each result and take its line out of `left`. Unknown and repeated ids are ignored."""
        async with aclosing(self._client.results(intent.batch)) as results:
            async for result in results:
                line = left.pop(result.custom_id, None)
                if line is not None:
                    outcome = result.outcome
                    # status 200 without an answer: the provider did the work, and may bill it
                    worked = isinstance(outcome, Unavailable) and outcome.status == 200
                    self._keep(intent, line, outcome, maybe_billed=worked)

    def _keep(self, intent: Intent, line: BatchLine, outcome: Reply | AskingError, maybe_billed: bool) -> None:
        """Append a line's result to the ledger, unless an earlier fetch did, and settle its reservation. Providers do
        not bill lines that failed or expired; a line without a result, or without an answer in it, may have been
        billed."""
        if line.control:
            self._keep_control(intent, line, outcome)
            return
        ledger, request = self._lookup.ledger, self._request(line)
        earlier = brought(ledger, intent, line.key)
        form = RequestForm.of(line.form, self._client.api.ways) or RequestForm(way=intent.way)
        if isinstance(outcome, Filtered):
            self._budget.came(line.key, None)
            outcome = refusal_of(outcome)
        if isinstance(outcome, Reply):
            outcome = replace(outcome, form=self._client.forms.words(form))
            self._client.forms.answered(form)
            self._helped = self._helped or line.key in self._asked_again
            if all(attempt.status == "error" for attempt in earlier):
                ledger.append(answered(request, line.key, line.question, outcome, 0.0, intent.batch))
            self._budget.came(line.key, outcome.usage)
            self._lookup.outcome.count(request.target.model, outcome)
            # the line has the most tokens that its prompt can have; in any language it has at least half as many
            self._lookup.outcome.count_prompt(request.target.model, line.input // 2, outcome.usage.input)
            self._lookup.came(line.key)
            self._client.answer_limits.answered(line, outcome)
            self.filter.answered(line)
            return
        tokens = outcome.tokens if isinstance(outcome, Unavailable) else None
        if not earlier:
            message, batch = outcome.message, intent.batch
            ledger.append(failed(request, line.key, line.question, message, 0.0, batch, maybe_billed, tokens))
        usage = Usage() if maybe_billed else None
        self._budget.came(line.key, usage if tokens is None else Usage(*tokens))
        self._fail(line, outcome, form)

    def _keep_control(self, intent: Intent, line: BatchLine, outcome: Reply | AskingError) -> None:
        """Put what a control has cost on the bill of the request that it was made for."""
        if not isinstance(outcome, Reply):
            self._budget.came(line.key, None)
            return
        if outcome.finish != "refusal":
            self.filter.answered(line)
        usage, ledger, request = outcome.usage, self._lookup.ledger, self._request(line)
        self._budget.came(line.key, usage)
        if all(past.question != line.question for past in brought(ledger, intent, line.control)):
            tokens = tokens_of(usage)
            unknown = tokens is None
            ledger.append(
                failed(request, line.control, line.question, CONTROL_ANSWERED, 0.0, intent.batch, unknown, tokens)
            )
            self._lookup.outcome.count_usage(request.target.model, usage)

    def _request(self, line: BatchLine) -> Request:
        """What an attempt in the ledger records of the request behind a line."""
        return Request(replace(self._client.target, sampling=line.sampling), (), sample=line.sample)

    def _fail(self, line: BatchLine, error: AskingError, form: RequestForm) -> None:
        """Give a request up, or leave it for the next round."""
        self.last, key = error, line.key
        self._lookup.outcome.faults += 1
        if isinstance(error, Rejected) and is_unexplained(error):
            self._refused.append((line, form, error))
        elif isinstance(error, Rejected):
            self._lookup.lose(key, error)
        elif isinstance(error, Unavailable) and error.status == 429:
            self._throttled.append((key, error))
        else:
            self._fail_once(key, error)

    def _retry_refused(self, intent: Intent) -> None:
        """Leave the refused lines for the next round: where others in their form were answered once more in the same
        form, since some servers refuse at random, and again while that helps; else without the limit of the answer, or
        in another form."""
        refused, self._refused = self._refused, []
        forms, limits = self._client.forms, self._client.answer_limits
        for line, form, error in refused:
            key = line.key
            if limits.may_be_refused(line, form, error):
                forms.refused_with_limit(error)
                self._lookup.put_back(key)
                continue
            own_fault = forms.is_own_fault(form, error)
            if own_fault and key in self._asked_again and not self._helped:
                self._lose(intent, line, error)
                continue
            self._lookup.put_back(key)
            if own_fault:
                self._asked_again.add(key)
                self.filter.suspect(line, error)
        self._helped = False
        limits.decide(forms.is_answered)
        forms.decide()
        self.filter.batch_ended()

    def _lose(self, intent: Intent, line: BatchLine, error: Rejected) -> None:
        """Give a refused request up; where it meets a content filter, for later runs too."""
        if not self.filter.is_met(line, error):
            self._lookup.lose(line.key, error)
            return
        refusal = refusal_of(Filtered(error.message, status=error.status))
        self._lookup.ledger.append(answered(self._request(line), line.key, line.question, refusal, 0.0, intent.batch))
        self._lookup.came(line.key)

    def _retry_throttled(self, answers: int) -> None:
        """Leave the lines that were refused for rate for the next round. That counts as a failure only where the batch
        had no answers: a round with answers leaves fewer for the next."""
        throttled, self._throttled = self._throttled, []
        for key, error in throttled:
            if answers:
                self._lookup.put_back(key)
            else:
                self._fail_once(key, error)

    def _fail_once(self, key: str, error: AskingError) -> None:
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
        """Leave all requests of a batch that never began for the next round."""
        for line in self._folder.batch_lines(intent).values():
            self._budget.came(line.key, None)
            self._lookup.put_back(line.key)
