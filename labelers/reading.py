"""From the ledger to rows: what every answer says, and what has no label and why. Asks nobody.

Every utterance of every dimension ends in attributions or in failures. The rows are a function of the episodes, the
plan and the ledger, in key order, so a run that was killed and resumed writes what an undisturbed one writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from sotopia_rl_data.costs.bill import Category, Tally
from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.labelers.judge import Judge, Question, Slot
from sotopia_rl_data.labelers.plan import LabelPlan
from sotopia_rl_data.labelers.requests import JudgeRequest, follow_up, request_of, target_of
from sotopia_rl_data.ledger.ledger import Attempt, Ledger
from sotopia_rl_data.request import Reply
from sotopia_rl_data.schema import Attribution, Episode, Failure

NO_SCORE = "no episode score"
NOT_ASKED = "the schema asks nothing about this utterance"
NOTHING_SAID = "there is nothing to judge: nobody said or did anything"
_NEVER = "never answered"


Rows = tuple[list[Attribution], list[Failure]]
"""What the ledger says about one episode, each list in key order."""


@dataclass(slots=True)
class LabelTally(Tally):
    """Also what was read so far: `labels`, `failures` by reason; `repaired` and `unusable` count answers: those that
    could be used at the second try, and those that could not at all."""

    labels: int = 0
    repaired: int = 0
    unusable: int = 0
    failures: Counter[str] = field(default_factory=Counter)


def rows_of(plan: LabelPlan, ledger: Ledger, episodes: Iterable[Episode], tally: LabelTally) -> Iterator[Rows]:
    """The attributions and failures of each episode."""
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


def values_of(plan: LabelPlan, question: Question, reply: Reply) -> dict[Slot, float]:
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
    plan: LabelPlan, ledger: Ledger, question: Question, judge: Judge, sample: int, tally: LabelTally
) -> list[Attribution] | list[Failure]:
    asked = request_of(question, target_of(judge), sample)
    found = _counting(plan, ledger, asked, judge.id, tally)
    episode_id = question.episode.episode_id
    if isinstance(found, str):
        return [
            Failure(found, episode_id, slot.agent, slot.turn, slot.dimension, judge.id, asked.key)
            for slot in question.slots.values()
        ]
    bounds = {name: plan.schema.bounds(plan.scale, name) for name in plan.dimensions}
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
            scale_min=bounds[slot.dimension][0],
            scale_max=bounds[slot.dimension][1],
            call_id=found.key,
            reasoning=found.reasons.get(slot),
        )
        for slot, value in found.values.items()
    ]


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says, and the ledger's key that it lies under: the question's own, or that of its second try."""

    values: dict[Slot, float]
    key: str
    reasons: dict[Slot, str]


def said(plan: LabelPlan, ledger: Ledger, asked: JudgeRequest, reply: Reply) -> Said:
    """What a reply says, or else what was said when it was sent back. Raises BadAnswer with what is wrong with it."""
    try:
        return _said(plan, asked, reply)
    except BadAnswer as wrong:
        second = follow_up(asked, reply, wrong.message)
        for attempt in [] if second is None else ledger.attempts(second.key):
            if second is not None and attempt.status == "answer":
                with suppress(BadAnswer):
                    return _said(plan, second, attempt.reply)
        raise


def _said(plan: LabelPlan, asked: JudgeRequest, reply: Reply) -> Said:
    values = values_of(plan, asked.asked, reply)
    return Said(values, asked.key, plan.reasons(asked.asked, reply.text))


def _counting(plan: LabelPlan, ledger: Ledger, asked: JudgeRequest, judge: str, tally: LabelTally) -> Said | str:
    """What the newest attempt that parses says, counted; else why there is none: the newest answer's fault, else the
    error."""
    attempts, counts = ledger.attempts(asked.key), tally.first(asked.key)
    found: Said | None = None
    reason = ""
    for attempt in attempts:
        category: Category = "used"
        if attempt.status == "answer":
            try:
                this: Said | None = _said(plan, asked, attempt.reply)
            except BadAnswer as wrong:
                category, reason = "failed", reason or wrong.message
                this = _second(plan, ledger, follow_up(asked, attempt.reply, wrong.message), judge, tally)
            found = found or this
        if counts:
            tally.count(judge, asked, attempt, category)
    if found is not None:
        tally.repaired += found.key != asked.key
        return found
    tally.unusable += bool(reason)
    return reason or next((f"no answer: {_public(a)}" for a in attempts), _NEVER)


def _second(plan: LabelPlan, ledger: Ledger, asked: JudgeRequest | None, judge: str, tally: LabelTally) -> Said | None:
    """What the second try at an answer says, counted: it is on the bill too. None where it says nothing of use."""
    found: Said | None = None
    counts = asked is not None and tally.first(asked.key)
    for attempt in [] if asked is None else ledger.attempts(asked.key):
        category: Category = "failed"
        if asked is not None and attempt.status == "answer":
            with suppress(BadAnswer):
                this = _said(plan, asked, attempt.reply)
                category, found = "repaired", found or this
        if asked is not None and counts:
            tally.count(judge, asked, attempt, category)
    return found


def _public(attempt: Attempt) -> str:
    """An error as the data may carry it: without the provider's URL, which can be somebody's own."""
    return attempt.error.replace(attempt.base_url, "its provider") if attempt.base_url else attempt.error


def _unasked(plan: LabelPlan, episode: Episode, questions: Iterable[Question]) -> Iterator[Failure]:
    """What no question is about: its episode's score is missing, or the schema left it out."""
    if plan.only is not None:
        return  # what is not named has no label by intent, and what is named and has no score is not asked about
    asked = {slot for question in questions for slot in question.slots.values()}
    scores = {(s.agent, s.dimension) for s in episode.scores if s.evaluator == plan.evaluator}
    for agent, turn in plan.units(episode):
        for dimension in plan.dimensions:
            if plan.needs_score and (agent, dimension) not in scores:
                yield Failure(NO_SCORE, episode.episode_id, agent, turn, dimension)
            elif plan.judges and Slot(agent, turn, dimension) not in asked:
                yield Failure(NOT_ASKED if turn >= 0 else NOTHING_SAID, episode.episode_id, agent, turn, dimension)


def _label_key(row: Attribution) -> tuple[str, int, str, str, int]:
    return (row.agent, row.turn, row.dimension, row.judge, row.sample)


def _failure_key(row: Failure) -> tuple[str, int, str, str, str]:
    return (row.agent or "", row.turn or 0, row.dimension or "", row.judge or "", row.reason)
