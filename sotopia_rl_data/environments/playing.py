"""Episodes in which one seat is played from outside, step by step, and the others by a policy.

It is the EpisodeRun that `rollout` plays: what the partner is asked, with which seed, and what becomes of an answer are
the same, so the same answers from outside give the same episode. An answer from outside that cannot be read is a no-op
that is flagged as failed; it is not drawn again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from sotopia_rl_data.environments.rewards import TurnRewards
from sotopia_rl_data.errors import Unavailable, UsageError
from sotopia_rl_data.ledger.attempt import answered
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.request import Reply, Target
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec, Rules, TurnRequest
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.rollouts.policies import Called
from sotopia_rl_data.rollouts.world import TurnPrompt
from sotopia_rl_data.schema import Episode

T = TypeVar("T")
_TRIES, _LONGEST_S = 4, 30.0  # of a partner that gives no answer, and the longest wait before it is asked again


async def _nobody(prompt: TurnPrompt) -> str:
    raise UsageError("The seat is played from outside.", "answer by `act`")


def outside(name: str = "outside") -> Called:
    """The policy of the seat that is played from outside, under the name that it has in the data."""
    return Called(name, _nobody, Target("outside", name))


class SeatedEpisode:
    """One episode. `prompt` is what the seat has to answer now."""

    def __init__(self, spec: EpisodeSpec, rules: Rules, place: int) -> None:
        self._run = EpisodeRun(spec, rules)
        self.agent = spec.scene.agents[place]
        self._request: TurnRequest | None = None

    @property
    def prompt(self) -> TurnPrompt | None:
        """What the seat sees before it acts; None when the episode is over, or broke off as the partner gave no
        answer."""
        return None if self._request is None else self._request.prompt

    @property
    def episode(self) -> Episode:
        """The episode so far."""
        return self._run.episode()

    async def start(self) -> None:
        """Play until it is the seat's turn. Raises AskingError where the partner gives no answer."""
        await self._play_others(self._run.first())

    async def act(self, text: str) -> None:
        """Play the seat's turn, and then until it is its turn again. Raises UsageError after the end, AskingError."""
        request = self._request
        if request is None:
            raise UsageError("The episode is over, or broke off.", "begin another with `reset`")
        turn, reply = request.prompt.turn, Reply(text)
        following: TurnRequest | None = request
        while following is not None and self._is_ours(following) and following.prompt.turn == turn:
            following = self._run.take(following, _settled(following, reply))  # as often as it would be drawn again
        await self._play_others(following)

    async def _play_others(self, request: TurnRequest | None) -> None:
        self._request = None  # the seat's turn was taken: where the partner gives no answer, nobody can go on
        while request is not None and not self._is_ours(request):
            request = self._run.take(request, _settled(request, await _sent(request)))
        self._request = request

    def _is_ours(self, request: TurnRequest) -> bool:
        return request.prompt.agent == self.agent


def _settled(request: TurnRequest, reply: Reply) -> Settled:
    question, key = request.hashes
    return Settled(answered(request, key, question, reply, 0.0), request.run.accepts(request, reply), True)


async def _sent(request: TurnRequest) -> Reply:
    """The partner's answer. It is asked again, after a while, where it gives none."""
    tries = 0
    while True:
        try:
            return await request.player.send(request)
        except Unavailable as error:
            tries += 1
            if tries == _TRIES:
                raise
            await asyncio.sleep(min(error.retry_after or 2.0**tries, _LONGEST_S))


class Table:
    """Where one episode after the other is played, by `reset` and `act`, from any thread and without an event loop.

    `plan` says which episodes, in the layout `chat`: `a` is the seat, `b` its partner. `rewards` gives the reward of
    the seat's utterance as soon as it was said. Raises UsageError for another layout.
    """

    def __init__(self, plan: RolloutPlan, rewards: TurnRewards) -> None:
        if plan.rules.layout != "chat":
            raise UsageError("An environment shows its episodes as chats.", "give the rules layout='chat'")
        self.specs = list(plan.specs())
        self._plan, self._rewards = plan, rewards
        self.number = -1
        self.seated: SeatedEpisode | None = None
        self.turn_rewards: dict[int, float | None] = {}

    def reset(self, number: int | None = None) -> TurnPrompt | None:
        """Begin an episode of the plan, the next one where no number is given. Returns what the seat sees; None where
        the episode ended before its turn came. Raises AskingError where the partner gives no answer."""
        self.number = (self.number + 1 if number is None else number) % len(self.specs)
        spec = self.specs[self.number]
        self.seated, self.turn_rewards = SeatedEpisode(spec, self._plan.rules, spec.players.index(self._plan.a)), {}
        _wait(self.seated.start())
        return self.seated.prompt

    def act(self, text: str) -> float | None:
        """Play the seat's turn; returns the reward of its utterance, None where there is none. Raises UsageError before
        `reset` and after the end, AskingError."""
        if self.seated is None or self.seated.prompt is None:
            raise UsageError("There is no episode to act in.", "begin one with `reset`")
        turn = self.seated.prompt.turn
        self.turn_rewards[turn] = None  # unknown, and not left out, where what follows raises
        _wait(self.seated.act(text))
        episode = self.seated.episode
        until = replace(episode, turns=tuple(one for one in episode.turns if one.turn <= turn))
        self.turn_rewards[turn] = self._rewards(until, self.seated.agent).get(turn)
        return self.turn_rewards[turn]

    @property
    def mean_reward(self) -> float | None:
        """The mean of the rewards so far; None where nothing was said, or one is missing."""
        known = [reward for reward in self.turn_rewards.values() if reward is not None]
        return sum(known) / len(known) if known and len(known) == len(self.turn_rewards) else None


@cache
def _partners() -> asyncio.AbstractEventLoop:
    """The loop in which the partners of all tables are asked: their clients belong to one."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="partners", daemon=True).start()
    return loop


def _wait(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(coroutine, _partners()).result()
