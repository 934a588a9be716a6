"""The questions of a plan: how a run asks them, and how their answers are read from the ledger. `label`, `evaluate` and
`audit` share this.

Each of the three is a plan, its questions, and a ledger that is read afterwards. An audit has two parts: the original
episodes, asked about twice, and the changed ones.

Reading asks nothing. Every utterance ends, on every dimension, in attributions or in failures. The rows are a function
of the episodes, the plan and the ledger, and come in key order, so a run that was killed and resumed writes what an
undisturbed one writes.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import chain, islice, product
from tempfile import TemporaryFile

from sotopia_rl_data.asking.batch.keys import BatchedKeys
from sotopia_rl_data.asking.plan import Group, paid_targets
from sotopia_rl_data.costs.bill import Category, Tally
from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.labelers.judge import Judge, Question, Slot
from sotopia_rl_data.labelers.plan import LabelPlan, episodes_of
from sotopia_rl_data.labelers.requests import (
    JudgeRequest,
    asked_judges,
    follow_up,
    judge_request,
    request_of,
    target_of,
)
from sotopia_rl_data.labelers.schemas import in_wording, wording_of
from sotopia_rl_data.labelers.schemas.phrasing import Wording
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.request import CUT_OFF, CUT_OFF_THOUGHT, Reply, Request
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.secrets import without_server
from sotopia_rl_data.shards import WHOLE, Shard, divided
from sotopia_rl_data.store import Version

NO_SCORE = "no episode score"
NOT_ASKED = "the schema asks nothing about this utterance"
NOTHING_SAID = "there is nothing to judge: nobody said or did anything"
_NEVER = "never answered"
_LOOKED_AT = 200  # episodes

Rows = tuple[list[Attribution], list[Failure]]
"""What the ledger says about one episode, each list in key order."""


@dataclass(slots=True)
class LabelTally(Tally):
    """A Tally that also counts what was read so far: `labels`, `failures` by reason, answers that could be used only at
    the second try (`repaired`), and answers that could not be used at all (`unusable`)."""

    labels: int = 0
    repaired: int = 0
    unusable: int = 0
    failures: Counter[str] = field(default_factory=Counter)


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QuestionPart:
    """A plan and its episodes; each call of `episodes()` goes through them from the start."""

    plan: LabelPlan
    episodes: Callable[[], Iterable[Episode]]


class Questions:
    """The plan's questions as an `asking.plan.Plan`. All parts have the same schema and judges.

    Counts when it is made: `total` calls, about how many `episodes` and `utterances`.
    """

    unit = "calls"

    def __init__(self, *parts: QuestionPart) -> None:
        self._parts = parts
        self.plan = parts[0].plan
        self.judges = asked_judges(self.plan.judges)
        self.episodes = self.utterances = self.total = 0
        for part in parts:
            for episode in part.episodes():
                self.episodes += 1
                self.utterances += len(episode.turns)
                if self.judges:
                    self.total += sum(1 for _ in part.plan.questions(episode)) * part.plan.samples * len(self.judges)

    @classmethod
    def about(cls, plan: LabelPlan, version: Version, shard: Shard = WHOLE) -> Questions:
        """The questions about the episodes of a version: about all, or about those of a shard, which is the same share
        of what is to be read by the judges."""
        files = list(chain.from_iterable(version.files("episodes").values()))
        if shard == WHOLE:
            return cls(QuestionPart(plan, lambda: episodes_of(files)))
        is_ours = shard.of((episode.episode_id, _length(plan, episode)) for episode in episodes_of(files))
        return cls(QuestionPart(plan, lambda: (one for one in episodes_of(files) if is_ours(one.episode_id))))

    def groups(self) -> list[Group]:
        """One group for each judge."""
        return [Group((judge,), self._requests_to(judge.judge), judge.sends) for judge in self.judges]

    def known_only_in(self, wording: Wording, ledger: Ledger) -> int:
        """How many calls have an answer in the ledger, or are under way in a batch, in this wording and not in the
        plan's own. 0 also where that holds of none of some 200 episodes, evenly spread, so that most runs, which have
        no such answers, do not look all of them up."""
        if wording_of(self.plan.schema) in (None, wording):
            return 0
        under_way = BatchedKeys(paid_targets(self.judges), ledger)

        def is_known(key: str) -> bool:
            # The index alone tells of most keys that they were never asked.
            answered = ledger.tries(key) and any(attempt.status == "answer" for attempt in ledger.attempts(key))
            return bool(answered) or key in under_way

        def calls(step: int) -> Iterator[bool]:
            """Whether that holds of each call about every `step`-th episode."""
            for part in self._parts:
                other = replace(part.plan, schema=in_wording(part.plan.schema, wording))
                for episode in islice(part.episodes(), 0, None, step):
                    asked = zip(part.plan.questions(episode), other.questions(episode), strict=True)
                    for (own, there), judge, sample in product(asked, self.judges, range(part.plan.samples)):
                        known = is_known(request_of(there, judge.target, sample).key)
                        yield known and not is_known(request_of(own, judge.target, sample).key)

        return sum(calls(1)) if any(calls(max(1, self.episodes // _LOOKED_AT))) else 0

    def accepts(self, request: Request, reply: Reply, ledger: Ledger) -> bool:
        """Whether the reply, or the second try that follows it, can be used."""
        try:
            usable_answer(self.plan, ledger, judge_request(request), reply)
        except BadAnswer:
            return False
        return True

    def fault(self, request: Request, reply: Reply) -> str:
        """What is wrong with a reply that cannot be used."""
        try:
            values_of(self.plan, judge_request(request).asked, reply)
        except BadAnswer as wrong:
            return wrong.message
        return "it was not accepted"

    def follow_up(self, request: Request, settled: Settled) -> Request | None:
        """The second try, where the first answer cannot be used."""
        if settled.reply is None or settled.accepted:
            return None
        first = judge_request(request)
        try:
            values_of(self.plan, first.asked, settled.reply)
        except BadAnswer as wrong:
            return follow_up(first, settled.reply, wrong.message)
        return None

    def count(self, ledger: Ledger, tally: Tally) -> None:
        """Count every attempt at the questions."""
        counting = LabelTally(tally.spent, tally.models, tally.forms, tally.keys)
        for _ in self.rows(ledger, counting):
            pass

    def rows(self, ledger: Ledger, tally: LabelTally) -> Iterator[Rows]:
        """What the ledger says: the attributions and failures of each episode of each part."""
        return chain.from_iterable(rows_of(part.plan, ledger, part.episodes(), tally) for part in self._parts)

    def parts(self, count: int) -> Iterator[Callable[[Ledger], Questions]]:
        """What makes the questions of each of `count` shards, anywhere: it holds the shard's episodes."""
        (part,) = self._parts
        number_of = divided(((one.episode_id, _length(part.plan, one)) for one in part.episodes()), count)
        with ExitStack() as open_files:
            files = [open_files.enter_context(TemporaryFile()) for _ in range(count)]
            for episode in part.episodes():
                pickle.dump(episode, files[number_of(episode.episode_id) - 1])
            for file in files:
                file.seek(0)
                yield partial(_about_pickled, part.plan, file.read())

    def _requests_to(self, judge: Judge) -> Callable[[], Iterator[JudgeRequest]]:
        def requests() -> Iterator[JudgeRequest]:
            for part in self._parts:
                yield from part.plan.requests(part.episodes(), judge)

        return requests


def _length(plan: LabelPlan, episode: Episode) -> int:
    """Characters of all that a judge is asked about an episode."""
    return sum(len(message["content"]) for question in plan.questions(episode) for message in question.messages)


def _about_pickled(plan: LabelPlan, pickled: bytes, _ledger: Ledger) -> Questions:
    """The questions about pickled episodes, which are read one at a time."""

    def episodes() -> Iterator[Episode]:
        stream = BytesIO(pickled)
        while stream.tell() < len(pickled):
            yield pickle.load(stream)

    return Questions(QuestionPart(plan, episodes))


# --- reading ----------------------------------------------------------------------------------------------------------


def rows_of(plan: LabelPlan, ledger: Ledger, episodes: Iterable[Episode], tally: LabelTally) -> Iterator[Rows]:
    """The attributions and failures of each episode."""
    for episode in episodes:
        labels: list[Attribution] = []
        failures: list[Failure] = []
        asked: set[Slot] = set()
        for question in plan.questions(episode):
            asked.update(question.slots.values())
            for judge in plan.judges:
                for sample in range(plan.samples):
                    request = request_of(question, target_of(judge), sample)
                    answer = _counted_answer(plan, ledger, request, judge.id, tally)
                    if isinstance(answer, str):
                        failures += _failures(question, judge, request.key, answer)
                    else:
                        labels += _labels(plan, question, judge, sample, answer)
        failures += _unasked(plan, episode, asked)
        tally.labels += len(labels)
        tally.failures.update(failure.reason for failure in failures)
        labels.sort(key=_label_key)
        failures.sort(key=_failure_key)
        yield labels, failures


def values_of(plan: LabelPlan, question: Question, reply: Reply) -> dict[Slot, float]:
    """The number of every slot in a reply. Raises BadAnswer, which tells a refusal and an answer that was cut off from
    one that does not parse."""
    if reply.finish == "refusal":
        raise BadAnswer("the judge refused to answer")
    try:
        return plan.read(question, reply.answer)
    except BadAnswer as wrong:
        if reply.finish == "length" and wrong.message != CUT_OFF_THOUGHT:
            raise BadAnswer(CUT_OFF) from wrong
        raise


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What an answer says, and its key in the ledger: that of the question, or of the second try at it."""

    values: dict[Slot, float]
    key: str
    reasons: dict[Slot, str]


def usable_answer(plan: LabelPlan, ledger: Ledger, request: JudgeRequest, reply: Reply) -> ParsedAnswer:
    """What a reply says; where it cannot be used, what the second try at it says. Raises BadAnswer with what is wrong
    with the first."""
    try:
        return _parsed(plan, request, reply)
    except BadAnswer as wrong:
        second = follow_up(request, reply, wrong.message)
        if second is not None:
            for attempt in ledger.attempts(second.key):
                if attempt.status == "answer":
                    with suppress(BadAnswer):
                        return _parsed(plan, second, attempt.reply)
        raise


def _parsed(plan: LabelPlan, request: JudgeRequest, reply: Reply) -> ParsedAnswer:
    values = values_of(plan, request.asked, reply)
    return ParsedAnswer(values, request.key, plan.reasons(request.asked, reply.answer))


def _counted_answer(
    plan: LabelPlan, ledger: Ledger, request: JudgeRequest, judge: str, tally: LabelTally
) -> ParsedAnswer | str:
    """What the newest attempt that parses says. Without one, the reason: what is wrong with the newest answer, else the
    newest error. Every attempt is counted in the tally."""
    attempts, is_new = ledger.attempts(request.key), tally.first(request.key)
    newest: ParsedAnswer | None = None
    reason = ""
    for attempt in attempts:
        category: Category = "used" if attempt.status == "answer" else "failed"
        if attempt.status == "answer":
            try:
                answer: ParsedAnswer | None = _parsed(plan, request, attempt.reply)
            except BadAnswer as wrong:
                category, reason = "failed", reason or wrong.message
                second = follow_up(request, attempt.reply, wrong.message)
                answer = None if second is None else _counted_second(plan, ledger, second, judge, tally)
            newest = newest or answer
        if is_new:
            tally.count(judge, request, attempt, category)
    if newest is not None:
        if newest.key != request.key:
            tally.repaired += 1
        return newest
    if reason:
        tally.unusable += 1
        return reason
    return f"no answer: {without_server(attempts[0].error, attempts[0].base_url)}" if attempts else _NEVER


def _counted_second(
    plan: LabelPlan, ledger: Ledger, request: JudgeRequest, judge: str, tally: LabelTally
) -> ParsedAnswer | None:
    """What the second try at an answer says, or None where it cannot be used either. Its attempts are counted: they are
    on the bill too."""
    newest: ParsedAnswer | None = None
    is_new = tally.first(request.key)
    for attempt in ledger.attempts(request.key):
        category: Category = "failed"
        if attempt.status == "answer":
            with suppress(BadAnswer):
                answer = _parsed(plan, request, attempt.reply)
                category, newest = "repaired", newest or answer
        if is_new:
            tally.count(judge, request, attempt, category)
    return newest


def _labels(
    plan: LabelPlan, question: Question, judge: Judge, sample: int, answer: ParsedAnswer
) -> Iterator[Attribution]:
    bounds = {name: plan.schema.bounds(plan.scale, name) for name in plan.dimensions}
    for slot, value in answer.values.items():
        low, high = bounds[slot.dimension]
        yield Attribution(
            episode_id=question.episode.episode_id,
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
            call_id=answer.key,
            reasoning=answer.reasons.get(slot),
        )


def _failures(question: Question, judge: Judge, key: str, reason: str) -> Iterator[Failure]:
    for slot in question.slots.values():
        yield Failure(reason, question.episode.episode_id, slot.agent, slot.turn, slot.dimension, judge.id, key)


def _unasked(plan: LabelPlan, episode: Episode, asked: Set[Slot]) -> Iterator[Failure]:
    """A failure for each utterance and dimension that was not asked about: because the episode's score is missing, or
    because the schema leaves the utterance out."""
    if plan.only is not None:
        # With --only, neither an utterance that the list leaves out nor a listed one without a score is a failure.
        return
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
