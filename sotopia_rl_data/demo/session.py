"""One person's dialogue with a policy: act, see the rewards of what was said, ask what best-of-N would have said, end
with SOTOPIA-EVAL.

    session = DemoSession(host, scene, place=0, policy="scripted:firm", source="lexical")
    session.start()
    session.act("speak", "Would you take 500 for the boat?")       # the policy answers
    session.reward()                                               # of each utterance that has none yet

What is done is on the session before anything is asked, so that a judge or a policy that is down costs no word: the
same call can be made again. Methods may be called from several threads.
"""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sotopia_rl_data.demo.host import DemoHost, TalkScores
from sotopia_rl_data.environments.playing import outside
from sotopia_rl_data.errors import SotopiaDataError, UsageError
from sotopia_rl_data.importers.record import UNNAMED, clean
from sotopia_rl_data.rollouts.actions import WORDLESS, Action
from sotopia_rl_data.rollouts.episode_run import EpisodeSpec
from sotopia_rl_data.rollouts.policies import Player
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.rollouts.world import World
from sotopia_rl_data.schema import ACTION_TYPES, ActionType, Episode, Turn
from sotopia_rl_data.serve.judging import JudgeRewards

PERSON = "human"
"""The model's name of the person's seat, in the data."""
MOST_CHARACTERS = 2_000
"""The longest utterance of a person."""


@dataclass(frozen=True, slots=True)
class TurnReward:
    """The reward of an utterance, and its parts by dimension; None where an answer could not be used."""

    reward: float | None
    parts: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A draft of best-of-N: what it does, its reward, and whether it is the one that best-of-N would have kept."""

    turn: Turn
    reward: TurnReward | None
    kept: bool = False


class DemoSession:
    """A dialogue in which the person has the seat at `place` of the scene and a policy all others.

    `source` names who rewards, "" for nobody. Raises UsageError for a place, policy or source that is not there.
    """

    def __init__(self, host: DemoHost, scene: Scene, place: int, policy: str, source: str = "") -> None:
        choices = host.choices
        if not 0 <= place < len(scene.people):
            raise UsageError(f"The scene has no place {place}.", f"choose one from 0 to {len(scene.people) - 1}")
        if policy not in choices.policies or (source and source not in choices.sources):
            raise UsageError("That policy, or who rewards, is not offered.", "choose one that is")
        self.id = f"talk-{uuid.uuid4().hex[:16]}"
        self.scene, self.agent, self.policy, self.source = scene, scene.agents[place], policy, source
        self.rewards: dict[tuple[int, str], TurnReward] = {}
        """By turn and agent."""
        self.scores: TalkScores | None = None
        self.trouble: dict[str, SotopiaDataError] = {}
        """What went wrong the last time, by what was tried: noted there by whoever shows it."""
        self.ended = False
        self.rules = choices.rules
        self._host = host
        self._acting, self._ending, self._rewarding = threading.RLock(), threading.Lock(), threading.Lock()
        player = choices.policies[policy]
        self._players: tuple[Player, ...] = tuple(_PERSON if i == place else player for i in range(len(scene.people)))
        self._everybody = (player,) * len(scene.people)
        self._world = World(
            scene, self.rules.dialect, max_turns=self.rules.turns, models=[one.id for one in self._players]
        )
        self._done: list[dict[str, Action]] = []

    @property
    def episode(self) -> Episode:
        """The dialogue so far, with its scores once it was evaluated."""
        models = (UNNAMED, *(one.id for one in self._players))
        episode = replace(self._world.episode(self.id, models=models, tag="demo"), source="demo")
        return episode if self.scores is None else replace(episode, scores=self.scores.scores)

    @property
    def rewarded_from_0_to_1(self) -> bool:
        """Whether the rewards are shares of a judge's scale, and not in the units of a model."""
        return isinstance(self._host.choices.sources.get(self.source), JudgeRewards)

    @property
    def over(self) -> bool:
        """Whether nobody can act any more: the scene is over, or the person has ended it."""
        return self.ended or self._world.done

    @property
    def is_yours(self) -> bool:
        """Whether it is the person's turn."""
        return not self.over and self.agent in self._world.acting

    def start(self) -> None:
        """Let the policy act until it is the person's turn. Raises AskingError where it gives no answer: call again."""
        with self._acting:
            while not self.over and not self.is_yours:
                (turn,) = self._host.next_turns([self._spec(self._done, self._players, self.id)])
                with self._ending:
                    if self.ended:  # while the policy was thinking
                        return
                    self._step(Action(turn.action_type, turn.text, turn.to, bool(turn.failed)), turn.agent)

    def say(self, action_type: str, text: str = "") -> None:
        """Do something; the policy has not answered then. Raises UsageError, before anything is done, where that is not
        an action or it is not the person's turn."""
        with self._acting, self._ending:
            if not self.is_yours:
                raise UsageError("It is not your turn.", "wait for the answer, or begin another dialogue")
            self._step(_action(action_type, text), self.agent)

    def act(self, action_type: str, text: str = "") -> None:
        """Do something, and let the policy answer. Raises what `say` and `start` raise."""
        self.say(action_type, text)
        self.start()

    def end(self) -> None:
        """End the dialogue here: what a policy is still thinking of is not said any more."""
        with self._ending:
            self.ended = True

    def unrewarded(self) -> list[Turn]:
        """The utterances without a reward."""
        turns = self._world.episode(self.id).turns
        return [one for one in turns if (one.turn, one.agent) not in self.rewards] if self.source else []

    def reward(self) -> None:
        """Ask for the reward of each utterance that has none. Raises AskingError, InputError: call again."""
        with self._rewarding:
            waiting = self.unrewarded()
            if waiting:
                found = self._rewarded([self._until(one) for one in waiting])
                new = {(one.turn, one.agent): reward for one, reward in zip(waiting, found, strict=True)}
                self.rewards = self.rewards | new  # another dictionary, since the page may be reading this one

    def best_of(self, turn: int, drafts: int = 4) -> list[Candidate]:
        """What the policy would have done at `turn` in the place of whoever acted, `drafts` times, each draft once and
        best first. Of a policy that samples and acted there itself, the first draft is what it did. Raises UsageError
        where nobody acted at the turn, AskingError."""
        if not 0 <= turn < len(self._done):
            raise UsageError(f"Nothing was said at turn {turn}.", "choose a turn of the dialogue")
        begun = self._done[:turn]
        ids = [self.id if draft == 0 else f"{self.id}-{draft}" for draft in range(drafts)]
        specs = [self._spec(begun, self._everybody, one, draft) for draft, one in enumerate(ids)]
        found = list(dict.fromkeys(self._host.next_turns(specs)))
        if not self.source:
            return [Candidate(one, None) for one in found]
        before = self._until(found[0]).turns[:-1]
        episodes = [replace(self.episode, turns=(*before, one)) for one in found]
        rewarded = sorted(zip(found, self._rewarded(episodes), strict=True), key=_by_reward)
        known = rewarded[0][1].reward is not None
        return [Candidate(one, reward, known and place == 0) for place, (one, reward) in enumerate(rewarded)]

    def evaluate(self, judge: str) -> TalkScores:
        """SOTOPIA-EVAL of the dialogue so far by a judge, which ends it. Raises UsageError where nothing was said,
        AskingError: call again."""
        if not self._done:
            raise UsageError("Nothing was said yet, so there is nothing to evaluate.", "say something first")
        self.end()
        self.scores = self._host.evaluate(judge, replace(self.episode, scores=()))
        return self.scores

    def _rewarded(self, episodes: Sequence[Episode]) -> list[TurnReward]:
        scores, rewards = self._host.rewards(self.source, episodes)
        targets = self._host.choices.sources[self.source].targets
        return [
            TurnReward(_or_none(reward), {name: _or_none(one) for name, one in zip(targets, row, strict=True)})
            for row, reward in zip(scores.tolist(), rewards.tolist(), strict=True)
        ]

    def _until(self, turn: Turn) -> Episode:
        """The episode up to and including an utterance."""
        episode = replace(self.episode, scores=())
        return replace(episode, turns=tuple(one for one in episode.turns if one.turn <= turn.turn))

    def _spec(
        self, begun: Sequence[Mapping[str, Action]], players: tuple[Player, ...], episode_id: str, repetition: int = 0
    ) -> EpisodeSpec:
        return EpisodeSpec(episode_id, self.scene, players, (1,) * len(players), repetition, tuple(begun))

    def _step(self, action: Action, agent: str) -> None:
        self._world.step({agent: action})
        self._done.append({agent: action})


_PERSON = outside(PERSON)


def _action(action_type: str, text: str) -> Action:
    """A person's action. Raises UsageError."""
    known: ActionType | None = next((one for one in ACTION_TYPES if one == action_type), None)
    if known is None:
        raise UsageError(f"{action_type!r} is not an action.", f"choose one of: {', '.join(ACTION_TYPES)}")
    if known in WORDLESS:
        return Action(known)
    text = clean(text).strip()
    if not text:
        raise UsageError("There are no words.", "write what you say or do")
    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            f"That is {len(text):,} characters long.", f"say it in {MOST_CHARACTERS:,} characters or fewer"
        )
    return Action(known, text)


def _by_reward(rewarded: tuple[Turn, TurnReward]) -> float:
    reward = rewarded[1].reward
    return math.inf if reward is None else -reward


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
