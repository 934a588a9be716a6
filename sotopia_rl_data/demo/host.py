"""What all talks of a demo share: scenes, policies, who rewards and evaluates, the ledger, and one budget.

Models are asked in one place at a time, so that the budget holds for all talks together. Whoever comes while others
wait for answers joins the next to be asked: what waits is asked together, as one plan, so that twenty talks wait little
longer than one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from sotopia_rl_data.asking import ask as asking
from sotopia_rl_data.asking.ask import bill_of
from sotopia_rl_data.asking.local import BatchedModel
from sotopia_rl_data.asking.plan import AskOptions, Respondent
from sotopia_rl_data.costs.bill import Tally
from sotopia_rl_data.demo.drawing import NextTurns
from sotopia_rl_data.errors import Unavailable, UsageError
from sotopia_rl_data.labelers.evaluation.evaluating import evaluation_plan
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.plan import Elicitation, LabelPlan
from sotopia_rl_data.labelers.questions import LabelTally, QuestionPart, Questions
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.prompts import Layout, prompts_of
from sotopia_rl_data.request import Reply, Request
from sotopia_rl_data.rollouts.episode_run import EpisodeSpec, Rules
from sotopia_rl_data.rollouts.policies import Player
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.rollouts.world import World
from sotopia_rl_data.schema import Episode, Score, Turn
from sotopia_rl_data.serve.judging import JudgeRewards
from sotopia_rl_data.serve.sources import ModelRewards, Scores
from sotopia_rl_data.store import Store


class Sliceable(Protocol):
    """A list or an array."""

    def __getitem__(self, part: slice, /) -> Any: ...


Asked = TypeVar("Asked")
Found = TypeVar("Found", bound=Sliceable)


class TurnSource(Protocol):
    """Who rewards utterances: a judge (`JudgeRewards`), or a reward model (`ModelTurns`)."""

    @property
    def identity(self) -> str: ...
    @property
    def targets(self) -> Sequence[str]: ...
    def of_last_turns(self, episodes: Sequence[Episode]) -> Scores:
        """[N, K] rewards by target of each episode's last utterance; NaN where there is none."""

    def aggregate(self, scores: Scores) -> Scores:
        """[N] rewards of [N, K] rewards by target."""


@dataclass(frozen=True, slots=True)
class ModelTurns:
    """A reward model as a TurnSource. It reads prompts in the `layout` that it was trained on."""

    model: ModelRewards
    layout: Layout = "single"

    @property
    def identity(self) -> str:
        """The model's identity."""
        return self.model.identity

    @property
    def targets(self) -> Sequence[str]:
        """What the model rewards."""
        return self.model.targets

    def of_last_turns(self, episodes: Sequence[Episode]) -> Scores:
        """See `TurnSource.of_last_turns`. Raises ValueError where a reward is not finite."""
        last = [episode.turns[-1] for episode in episodes]
        return self.model.score(
            [
                next((prompt, said) for *key, prompt, said in prompts_of(one, self.layout) if key == [t.agent, t.turn])
                for one, t in zip(episodes, last, strict=True)
            ]
        )

    def aggregate(self, scores: Scores) -> Scores:
        """See `TurnSource.aggregate`."""
        return self.model.aggregate(scores)


class KeptPlayer:
    """A local policy that keeps its weights from one turn to the next; `ask` closes whom it has asked."""

    def __init__(self, model: BatchedModel) -> None:
        self.id, self.target, self.concurrency = model.id, model.target, model.concurrency
        self._model = model

    async def send(self, request: Request) -> Reply:
        """See `BatchedModel.send`."""
        return await self._model.send(request)

    async def close(self) -> None:
        """Give up the requests that wait."""
        await BatchedModel.close(self._model)


@dataclass(frozen=True, slots=True)
class TalkScores:
    """The scores of an episode, and why there are not more: a sentence for each reason."""

    scores: tuple[Score, ...]
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoChoices:
    """What people may choose from, by the names that the page shows. `sources` may be empty, `judges` are those that
    evaluate. `rules` hold for all talks. Raises UsageError where there is nothing to talk about or nobody to talk to,
    and where the rules do not fit a scene."""

    scenes: Sequence[Scene]
    policies: Mapping[str, Player]
    sources: Mapping[str, TurnSource] = field(default_factory=dict)
    judges: Mapping[str, Judge] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    out: str = "demo/talks"

    def __post_init__(self) -> None:
        if not self.scenes or not self.policies:
            raise UsageError("A demo needs a scenario and a policy.", "name --scenarios samples and --policy SPEC")
        for scene in self.scenes:
            World(scene, self.rules.dialect, max_turns=self.rules.turns)


class DemoHost:
    """Asks for all talks. `options` says how; its `budget` is a cap in USD on all that is asked until `close`.

    Raises UsageError where a cap cannot be kept, StoreError where the ledger cannot be read.
    """

    def __init__(self, store: Store, choices: DemoChoices, options: AskOptions) -> None:
        self.store, self.choices, self.spent = store, choices, 0.0  # USD
        self._options, self._prices = options, options.price_list()
        self._evaluations = {name: evaluation_plan(Elicitation(judges=[one])) for name, one in choices.judges.items()}
        asking.check(choices.policies.values(), options, self._prices)
        for plan in self._evaluations.values():
            asking.check(Questions(QuestionPart(plan, lambda: ())).judges, options, self._prices)
        self._ledger = Ledger(options.ledger_in(store.root))
        self._asking = threading.Lock()
        self.saving = threading.Lock()
        self._turns = Gathered(self._next_turns, self._asking)
        self._rewards = {name: Gathered(self._rewarder(one), self._asking) for name, one in choices.sources.items()}
        self._scores = {name: Gathered(self._evaluator(one), self._asking) for name, one in self._evaluations.items()}

    def next_turns(self, specs: Sequence[EpisodeSpec]) -> list[Turn]:
        """What is done next in episodes that have begun. Raises AskingError where a policy gives no answer."""
        turns = []
        for turn in self._turns.ask(specs):
            if isinstance(turn, Unavailable):
                raise turn
            turns.append(turn)
        return turns

    def rewards(self, source: str, episodes: Sequence[Episode]) -> tuple[Scores, Scores]:
        """[N, K] rewards by target and [N] rewards of the last utterance of each episode; NaN where there is none.
        Raises AskingError where the judge cannot be asked, InputError where the model cannot read a dialogue."""
        scores = self._rewards[source].ask(episodes)
        return scores, self.choices.sources[source].aggregate(scores)

    def evaluate(self, judge: str, episode: Episode) -> TalkScores:
        """SOTOPIA-EVAL of an episode by a judge. Raises AskingError."""
        (found,) = self._scores[judge].ask([episode])
        return found

    def close(self) -> None:
        """Close the ledgers."""
        self._ledger.close()
        for source in self.choices.sources.values():
            if isinstance(source, JudgeRewards):
                source.close()

    def _next_turns(self, specs: Sequence[EpisodeSpec]) -> list[Turn | Unavailable]:
        plan = NextTurns(specs, self.choices.rules)
        self._ask(plan, plan.players)
        return plan.turns

    def _rewarder(self, source: TurnSource) -> Callable[[Sequence[Episode]], Scores]:
        def rewards(episodes: Sequence[Episode]) -> Scores:
            if not isinstance(source, JudgeRewards):
                return source.of_last_turns(episodes)
            source.spent = self.spent
            try:
                return source.of_last_turns(episodes)
            finally:
                self.spent = source.spent

        return rewards

    def _evaluator(self, plan: LabelPlan) -> Callable[[Sequence[Episode]], list[TalkScores]]:
        def scores(episodes: Sequence[Episode]) -> list[TalkScores]:
            questions = Questions(QuestionPart(plan, lambda: episodes))
            self._ask(questions, questions.judges)
            found = []
            for labels, failures in questions.rows(self._ledger, LabelTally()):
                given = [Score(one.agent, one.dimension, one.raw, one.judge) for one in labels]
                found.append(TalkScores(tuple(given), tuple(dict.fromkeys(one.reason for one in failures))))
            return found

        return scores

    def _ask(self, plan: NextTurns | Questions, respondents: Sequence[Respondent]) -> None:
        """Ask what the ledger does not answer, within what is left of the budget."""
        self._ledger.catch_up()
        before = self._paid(plan, respondents)
        options = replace(self._options, spent=self.spent - before)  # what was paid for it before, `ask` counts
        try:
            asking.ask(plan, self._ledger, options, self._prices)
        finally:
            self.spent += self._paid(plan, respondents) - before

    def _paid(self, plan: NextTurns | Questions, respondents: Sequence[Respondent]) -> float:
        """USD that all attempts at what the plan asks have cost, or may have cost."""
        tally = Tally()
        plan.count(self._ledger, tally)
        bill = bill_of(respondents, tally, self._prices)
        return bill.known + bill.maybe


class Gathered(Generic[Asked, Found]):
    """Calls from many threads, answered together: `answer` is called, by one thread at a time that holds `lock`, with
    all that waited for it, and returns an item for each."""

    def __init__(self, answer: Callable[[Sequence[Asked]], Found], lock: threading.Lock) -> None:
        self._answer, self._lock = answer, lock
        self._guard = threading.Lock()
        self._waiting: list[tuple[Sequence[Asked], Future[Found]]] = []

    def ask(self, asked: Sequence[Asked]) -> Found:
        """An item for each of those asked for. Raises what `answer` raises for them."""
        future: Future[Found] = Future()
        with self._guard:
            self._waiting.append((asked, future))
        with self._lock:
            with self._guard:
                waiting, self._waiting = self._waiting, []
            self._settle(waiting)
        return future.result()

    def _settle(self, waiting: Sequence[tuple[Sequence[Asked], Future[Found]]]) -> None:
        """Answer all; where that fails, each alone, so that only who is to blame fails. Where a server is down, it is
        not asked again."""
        if not waiting:
            return
        try:
            found = self._answer([one for asked, _ in waiting for one in asked])
        except Exception as error:  # noqa: BLE001  whatever it is, who waits has to be told
            if len(waiting) == 1 or isinstance(error, Unavailable):
                for _, future in waiting:
                    future.set_exception(error)
            else:
                for one in waiting:
                    self._settle([one])
            return
        start = 0
        for asked, future in waiting:
            future.set_result(found[start : start + len(asked)])
            start += len(asked)
