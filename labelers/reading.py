"""From the ledger to rows: what every answer says, and what has no label and why. Asks nobody.

Every utterance of every dimension ends in attributions or in failures. The rows are a function of the episodes, the
plan and the ledger, in key order, so a run that was killed and resumed writes what an undisturbed one writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from labelers.judge import Judge, Question, Slot
from labelers.judges.sending import request_of, target_of
from labelers.plan import Plan
from sotopia_rl_data.asking.ledger import Attempt, Ledger
from sotopia_rl_data.asking.request import Reply, Usage
from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.schema import Attribution, Episode, Failure

NO_SCORE = "no episode score"
NOT_ASKED = "the schema asks nothing about this utterance"
_NEVER = "never answered"


@dataclass(slots=True)
class Tally:
    """What was read so far. `usage` and `models` (as returned) are by judge and count every call once, those of
    earlier runs and of answers that failed included: it is the bill of these labels."""

    labels: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    models: dict[str, Counter[str]] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)
    _counted: set[int] = field(default_factory=set)

    def count(self, judge: str, key: str, attempts: Iterable[Attempt]) -> None:
        """Count a key's attempts, unless equal questions brought it here before."""
        short = int(key[:16], 16)
        if short in self._counted:
            return
        self._counted.add(short)
        for one in attempts:
            self.calls[judge] += 1
            self.models.setdefault(judge, Counter())[one.returned_model] += one.status == "answer"
            self.usage[judge] = added(self.usage.get(judge, Usage()), one.usage)


def rows_of(
    plan: Plan, ledger: Ledger, episodes: Iterable[Episode], tally: Tally
) -> Iterator[tuple[list[Attribution], list[Failure]]]:
    """The attributions and failures of each episode, each list in key order."""
    for episode in episodes:
        labels: list[Attribution] = []
        questions = plan.questions(episode)
        failures = list(_unasked(plan, episode, questions))
        for question in questions:
            for judge in plan.judges:
                for sample in range(plan.samples):
                    found = _rows(plan, ledger, question, judge, sample, tally)
                    labels += [row for row in found if isinstance(row, Attribution)]
                    failures += [row for row in found if isinstance(row, Failure)]
        tally.labels += len(labels)
        tally.failures.update(failure.reason for failure in failures)
        labels.sort(key=_label_key)
        failures.sort(key=_failure_key)
        yield labels, failures


def values_of(plan: Plan, question: Question, reply: Reply) -> dict[Slot, float]:
    """What a reply says. Raises BadAnswer: a refusal and a cut are told apart from what does not parse."""
    if reply.finish == "refusal":
        raise BadAnswer("the judge refused to answer")
    try:
        return plan.read(question, reply.text)
    except BadAnswer as wrong:
        if reply.finish == "length":
            raise BadAnswer("the answer was cut off at the token limit") from wrong
        raise


def _rows(
    plan: Plan, ledger: Ledger, question: Question, judge: Judge, sample: int, tally: Tally
) -> list[Attribution] | list[Failure]:
    key = request_of(question, target_of(judge), sample).key
    attempts = ledger.attempts(key)
    tally.count(judge.id, key, attempts)
    found = _newest(plan, question, attempts)
    episode_id = question.episode.episode_id
    if isinstance(found, str):
        return [
            Failure(found, episode_id, slot.agent, slot.turn, slot.dimension, judge.id, key)
            for slot in question.slots.values()
        ]
    low, high = plan.schema.bounds(plan.scale)
    return [
        Attribution(
            episode_id=episode_id,
            agent=slot.agent,
            turn=slot.turn,
            dimension=slot.dimension,
            schema=plan.schema.id,
            measure=plan.schema.measure,
            judge=judge.id,
            sample=sample,
            raw=value,
            scale_min=low,
            scale_max=high,
            call_id=key,
        )
        for slot, value in found.items()
    ]


def _newest(plan: Plan, question: Question, attempts: list[Attempt]) -> dict[Slot, float] | str:
    """What the newest attempt that parses says; else why there is none: the newest answer's fault, else the error."""
    reason = ""
    for attempt in attempts:
        if attempt.status != "answer":
            continue
        try:
            return values_of(plan, question, attempt.reply)
        except BadAnswer as wrong:
            reason = reason or wrong.message
    return reason or next((f"no answer: {_public(a)}" for a in attempts), _NEVER)


def _public(attempt: Attempt) -> str:
    """An error as the data may carry it: without the provider's URL, which can be somebody's own."""
    return attempt.error.replace(attempt.base_url, "its provider") if attempt.base_url else attempt.error


def _unasked(plan: Plan, episode: Episode, questions: Iterable[Question]) -> Iterator[Failure]:
    """Utterances that no question is about: their episode's score is missing, or the schema left them out."""
    asked = {slot for question in questions for slot in question.slots.values()}
    scores = {(s.agent, s.dimension) for s in episode.scores if s.evaluator == plan.evaluator}
    for turn in episode.turns:
        for dimension in plan.dimensions:
            if (turn.agent, dimension) not in scores:
                yield Failure(NO_SCORE, episode.episode_id, turn.agent, turn.turn, dimension)
            elif plan.judges and Slot(turn.agent, turn.turn, dimension) not in asked:
                yield Failure(NOT_ASKED, episode.episode_id, turn.agent, turn.turn, dimension)


def _label_key(row: Attribution) -> tuple[str, int, str, str, int]:
    return (row.agent, row.turn, row.dimension, row.judge, row.sample)


def _failure_key(row: Failure) -> tuple[str, int, str, str, str]:
    return (row.agent or "", row.turn or 0, row.dimension or "", row.judge or "", row.reason)


def added(total: Usage, more: Usage | None) -> Usage:
    """The tokens of both; what names none adds none."""
    if more is None:
        return total
    return Usage(
        total.input + more.input, total.cached + more.cached, total.written + more.written, total.output + more.output
    )
