"""The questions of a plan about some episodes, as a run asks them: what `label`, `evaluate` and `audit` share.

All three are a plan, its questions, and a ledger that is read afterwards (`reading.py`). An audit has two parts: the
originals, asked twice, and what was changed of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from sotopia_rl_data.asking.plan import Group
from sotopia_rl_data.costs.bill import Tally
from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.plan import LabelPlan
from sotopia_rl_data.labelers.reading import LabelTally, Rows, rows_of, said, values_of
from sotopia_rl_data.labelers.requests import JudgeRequest, asked_judges, follow_up, judge_request
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.request import Reply, Request
from sotopia_rl_data.schema import Episode


@dataclass(frozen=True, slots=True)
class QuestionPart:
    """A plan and its episodes; `episodes()` goes through them once more."""

    plan: LabelPlan
    episodes: Callable[[], Iterable[Episode]]


class Questions:
    """An `asking.plan.Plan`. The parts share schema and judges. Counts its calls at once: `total`, and how many
    `episodes` and `utterances` they are about."""

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
                    self.total += len(part.plan.questions(episode)) * part.plan.samples * len(self.judges)

    def groups(self) -> list[Group]:
        """A group a judge."""
        return [Group((one,), self._requests_to(one.judge), one.sends) for one in self.judges]

    def accepts(self, request: Request, reply: Reply, ledger: Ledger) -> bool:
        """Whether a reply can be used, be it at the second try."""
        try:
            said(self.plan, ledger, judge_request(request), reply)
        except BadAnswer:
            return False
        return True

    def follow_up(self, request: Request, settled: Settled) -> Request | None:
        """The second try, where an answer cannot be used."""
        if settled.reply is None or settled.accepted:
            return None
        asked = judge_request(request)
        try:
            values_of(self.plan, asked.asked, settled.reply)
        except BadAnswer as wrong:
            return follow_up(asked, settled.reply, wrong.message)
        return None

    def count(self, ledger: Ledger, tally: Tally) -> None:
        """Count every attempt at the questions."""
        counting = LabelTally(tally.spent, tally.models, tally.keys)
        for _ in self.rows(ledger, counting):
            pass

    def rows(self, ledger: Ledger, tally: LabelTally) -> Iterator[Rows]:
        """What the ledger says: the attributions and failures of each episode of each part."""
        return chain.from_iterable(rows_of(part.plan, ledger, part.episodes(), tally) for part in self._parts)

    def _requests_to(self, judge: Judge) -> Callable[[], Iterator[JudgeRequest]]:
        def requests() -> Iterator[JudgeRequest]:
            for part in self._parts:
                yield from part.plan.requests(part.episodes(), judge)

        return requests
