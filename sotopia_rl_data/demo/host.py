"""What all talks of a demo share: scenes, policies, who rewards and evaluates, the ledger, and one budget.

Models are asked in one place at a time, so that the budget holds for all talks together. Whoever comes while others
wait for answers joins the next to be asked: what waits is asked together, as one plan, so that twenty talks wait little
longer than one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sotopia_rl_data.asking.local import BatchedModel
from sotopia_rl_data.asking.together import Gathered, Spending
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.evaluation.evaluating import evaluation_plan
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.plan import Elicitation, LabelPlan
from sotopia_rl_data.labelers.questions import LabelTally, QuestionPart, Questions
from sotopia_rl_data.prompts import Layout, prompts_of
from sotopia_rl_data.request import Reply, Request
from sotopia_rl_data.rollouts.episode_run import EpisodeSpec, Rules
from sotopia_rl_data.rollouts.next_turns import GatheredTurns
from sotopia_rl_data.rollouts.policies import Player
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.rollouts.world import World
from sotopia_rl_data.schema import Episode, Score, Turn
from sotopia_rl_data.serve.sources import ModelRewards, Scores
from sotopia_rl_data.store import Store


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
            raise UsageError(
                "A demo needs a scenario and a policy.", "name --scenarios samples and --policy scripted:firm"
            )
        for scene in self.scenes:
            World(scene, self.rules.dialect, max_turns=self.rules.turns)


class DemoHost:
    """Asks for all talks. `spending` says how, and from which budget; the judges among the sources share it.

    Raises UsageError where a cap cannot be kept, StoreError where no answer could be.
    """

    def __init__(self, store: Store, choices: DemoChoices, spending: Spending) -> None:
        self.store, self.choices, self.spending = store, choices, spending
        evaluations = {name: evaluation_plan(Elicitation(judges=[one])) for name, one in choices.judges.items()}
        spending.ledger.check()
        spending.check(choices.policies.values())
        for plan in evaluations.values():
            spending.check(Questions(QuestionPart(plan, lambda: ())).judges)
        self.saving = threading.Lock()
        self._turns = GatheredTurns(spending, choices.rules)
        self._rewards = {name: Gathered(one.of_last_turns, spending.lock) for name, one in choices.sources.items()}
        self._scores = {name: Gathered(self._evaluator(one), spending.lock) for name, one in evaluations.items()}

    def next_turns(self, specs: Sequence[EpisodeSpec]) -> list[Turn]:
        """What is done next in episodes that have begun. Raises AskingError where a policy gives no answer."""
        return self._turns.ask(specs)

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
        """Close the ledger."""
        self.spending.close()

    def _evaluator(self, plan: LabelPlan) -> Callable[[Sequence[Episode]], list[TalkScores]]:
        def scores(episodes: Sequence[Episode]) -> list[TalkScores]:
            questions = Questions(QuestionPart(plan, lambda: episodes))
            self.spending.ask(questions)
            found = []
            for labels, failures in questions.rows(self.spending.ledger, LabelTally()):
                given = [Score(one.agent, one.dimension, one.raw, one.judge) for one in labels]
                found.append(TalkScores(tuple(given), tuple(dict.fromkeys(one.reason for one in failures))))
            return found

        return scores
