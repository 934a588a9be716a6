"""Episodes in which one seat is played from outside, step by step, and the others by policies.

They are the episodes of `rollout`: what a partner is asked, with which seed, and what becomes of an answer are the
same, so the same answers from outside give the same episode. Partners are asked through the ledger, as there: an answer
that it has is not asked for again. An answer from outside that cannot be read is a no-op that is flagged as failed; it
is not drawn again.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.together import Spending
from sotopia_rl_data.environments.rewards import TurnRewards
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.request import Target
from sotopia_rl_data.rollouts.actions import Action
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec, Rules
from sotopia_rl_data.rollouts.next_turns import GatheredTurns
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.rollouts.policies import Called
from sotopia_rl_data.rollouts.world import TurnPrompt
from sotopia_rl_data.schema import Episode, Turn
from sotopia_rl_data.store import Store


async def _nobody(prompt: TurnPrompt) -> str:
    raise UsageError("The seat is played from outside.", "answer by `act`")


def outside(name: str = "outside") -> Called:
    """The policy of the seat that is played from outside, under the name that it has in the data."""
    return Called(name, _nobody, Target("outside", name))


class Partners:
    """The policies of the other seats of a plan, for all its tables, from any thread.

    Those who wait at the same time are asked about together. The answers are kept in the ledger of `store` (default:
    the store), or in that of the `options`, whose `budget` is a cap in USD on all that is asked. Raises UsageError
    where a cap cannot be kept, StoreError where the ledger cannot be read.
    """

    def __init__(self, plan: RolloutPlan, options: AskOptions | None = None, store: Path | None = None) -> None:
        self.spending = Spending.at(Store.of(store), options or AskOptions())
        self.spending.check([plan.b])
        self._turns = GatheredTurns(self.spending, plan.rules)
        self.close = weakref.finalize(self, self.spending.close)
        """Close the ledger: at the latest when nobody has these partners any more."""

    def next_turn(self, spec: EpisodeSpec) -> Turn:
        """What a partner does next in an episode that has begun. Raises AskingError where it gives no answer."""
        (turn,) = self._turns.ask([spec])
        return turn


class SeatedEpisode:
    """One episode. `prompt` is what the seat sees before it acts; None when the episode is over, or broke off as a
    partner gave no answer."""

    def __init__(self, spec: EpisodeSpec, rules: Rules, place: int, partners: Partners) -> None:
        self.agent, self.prompt = spec.scene.agents[place], None
        self._spec, self._rules, self._partners = spec, rules, partners
        self._run = EpisodeRun(spec, rules)
        self._begun: tuple[Mapping[str, Action], ...] = ()

    prompt: TurnPrompt | None

    @property
    def episode(self) -> Episode:
        """The episode so far."""
        return self._run.episode()

    def start(self) -> None:
        """Play until it is the seat's turn. Raises AskingError where a partner gives no answer."""
        self._play_others()

    def act(self, text: str) -> None:
        """Play the seat's turn, and then until it is its turn again. Raises UsageError after the end, AskingError."""
        if self.prompt is None:
            raise UsageError("The episode is over, or broke off.", "begin another with `reset`")
        self._play(self.agent, self._run.world.read_or_nothing(self.agent, text))
        self._play_others()

    def _play_others(self) -> None:
        world, self.prompt = self._run.world, None  # where a partner gives no answer, nobody can go on
        while not world.done and world.acting != (self.agent,):
            turn = self._partners.next_turn(replace(self._spec, begun=self._begun))
            self._play(turn.agent, Action(turn.action_type, turn.text, turn.to, bool(turn.failed)))
        if not world.done:
            rules = self._rules
            self.prompt = world.turn_prompt(self.agent, self._spec.episode_id, rules.layout, rules.template)

    def _play(self, agent: str, action: Action) -> None:
        self._run.world.step({agent: action})
        self._begun += ({agent: action},)


class Table:
    """Where one episode after the other is played, by `reset` and `act`, from any thread and without an event loop.

    `plan` says which episodes, in the layout `chat`: `a` is the seat, `b` its partner. `rewards` gives the reward of
    the seat's utterance as soon as it was said. Tables of one plan share their `partners`. Raises UsageError for
    another layout, and what `Partners` raises.
    """

    def __init__(self, plan: RolloutPlan, rewards: TurnRewards, partners: Partners | None = None) -> None:
        if plan.rules.layout != "chat":
            raise UsageError("An environment shows its episodes as chats.", "give the rules layout='chat'")
        self.specs = list(plan.specs())
        self._plan, self._rewards, self._partners = plan, rewards, partners or Partners(plan)
        self.number = -1
        self.seated: SeatedEpisode | None = None
        self.turn_rewards: dict[int, float | None] = {}

    def reset(self, number: int | None = None) -> TurnPrompt | None:
        """Begin an episode of the plan, the next one where no number is given. Returns what the seat sees; None where
        the episode ended before its turn came. Raises AskingError where the partner gives no answer."""
        self.number = (self.number + 1 if number is None else number) % len(self.specs)
        spec = self.specs[self.number]
        place = spec.players.index(self._plan.a)
        self.seated, self.turn_rewards = SeatedEpisode(spec, self._plan.rules, place, self._partners), {}
        self.seated.start()
        return self.seated.prompt

    def act(self, text: str) -> float | None:
        """Play the seat's turn; returns the reward of its utterance, None where there is none. Raises UsageError before
        `reset` and after the end, AskingError."""
        if self.seated is None or self.seated.prompt is None:
            raise UsageError("There is no episode to act in.", "begin one with `reset`")
        turn = self.seated.prompt.turn
        self.turn_rewards[turn] = None  # unknown, and not left out, where what follows raises
        self.seated.act(text)
        episode = self.seated.episode
        until = replace(episode, turns=tuple(one for one in episode.turns if one.turn <= turn))
        self.turn_rewards[turn] = self._rewards(until, self.seated.agent).get(turn)
        return self.turn_rewards[turn]

    @property
    def mean_reward(self) -> float | None:
        """The mean of the rewards so far; None where nothing was said, or one is missing."""
        known = [reward for reward in self.turn_rewards.values() if reward is not None]
        return sum(known) / len(known) if known and len(known) == len(self.turn_rewards) else None
