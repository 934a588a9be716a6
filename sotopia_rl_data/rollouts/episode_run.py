"""One episode as a chain of requests: what an agent is asked next follows from what the last one answered.

An EpisodeRun hands out a TurnRequest, takes what became of it, and hands out the next, until its world is done: the
dispatcher of `asking/` asks it as a request with follow-ups, so that pacing, the ledger, Ctrl-C and the bill are as
for any other. It knows no model and does no I/O. What cannot be read is drawn again, then taken for a no-op that
is flagged as failed.

With best-of-N a turn is N drafts, one request each, and a last request that has them scored; the highest is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.importers.models import UNNAMED
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.prompts import Layout, Template, completion
from sotopia_rl_data.request import Hashed, Reply, Request, Target
from sotopia_rl_data.rollouts.action import FAILED, Action
from sotopia_rl_data.rollouts.dialects import DialectName
from sotopia_rl_data.rollouts.players import Player, is_model
from sotopia_rl_data.rollouts.policies import Asked
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.rollouts.world import World
from sotopia_rl_data.schema import Episode, Failure, Message, Turn
from sotopia_rl_data.thoughts import without_thought

TRIES = 3  # draws of an answer until one can be read
MOST_DRAFTS = 64  # of a turn
MOST_REPEATS = 1_000  # of a pairing
MOST_SEED = 2**31 // (TRIES * MOST_DRAFTS * MOST_REPEATS) - 1  # the ledger counts samples in 32 bits


@dataclass(frozen=True, slots=True)
class Rules:
    """What is the same for every episode of a run."""

    dialect: DialectName = "legacy"
    turns: int = 20
    layout: Layout = "single"
    template: Template | None = None
    seed: int = 0
    best_of: int = 1
    scorer: Player | None = None


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """An episode that is to be played: who meets where, who plays whom and with how many drafts a turn (both by place),
    and the how-manieth time."""

    episode_id: str
    scene: Scene
    players: tuple[Player, ...]
    drafts: tuple[int, ...]
    repetition: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """What who plays is called in the data, by place: with its drafts it is another one than without."""
        pairs = zip(self.players, self.drafts, strict=True)
        return tuple(player.id if drafts == 1 else f"{player.id} best-of-{drafts}" for player, drafts in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest(Hashed):
    """A Request that knows its game and whom it asks. `scores`: the drafts of a turn are to be scored."""

    game: EpisodeRun
    player: Player
    asked: Asked
    draft: int = 0
    attempt: int = 0
    scores: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """A prompt that was served, and the completion that was kept for it, without its thought."""

    agent: str
    turn: int
    prompt: Sequence[Message]
    completion: str


@dataclass(frozen=True, slots=True)
class Scored:
    """What the reward model said of one draft. `call_id` is the ledger key of the draft."""

    agent: str
    turn: int
    draft: int
    reward: float
    call_id: str


@dataclass(frozen=True, slots=True)
class _Draft:
    number: int
    action: Action
    text: str
    call_id: str
    wrong: str = ""


@dataclass(slots=True)
class EpisodeRun:
    """An episode while it is played. `lost` is what failed in it; `abandoned`, it has no end and is no episode."""

    match: EpisodeSpec
    rules: Rules
    served: list[Served] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    lost: list[Failure] = field(default_factory=list)
    abandoned: bool = False
    world: World = field(init=False)
    _actions: dict[str, Action] = field(default_factory=dict)
    _drafts: list[_Draft] = field(default_factory=list)

    def __post_init__(self) -> None:
        models = [player.id for player in self.match.players]
        self.world = World(self.match.scene, self.rules.dialect, max_turns=self.rules.turns, models=models)

    def first(self) -> TurnRequest:
        """The first request. Raises as `World.prompt` does."""
        return self._ask(self.world.acting[0])

    def accepts(self, move: TurnRequest, reply: Reply) -> bool:
        """Whether a reply can be used: an action that can be read, or a score for each draft."""
        try:
            if move.scores:
                _rewards(reply.text, len(self._readable()))
            else:
                self.world.read(move.asked.agent, reply.text)
        except BadAnswer:
            return False
        return True

    def take(self, move: TurnRequest, settled: Settled) -> TurnRequest | None:
        """What became of a request; the next one, or None where the game is over: abandoned, or its world is done."""
        if settled.reply is None:
            self._abandon(move, settled.error)
            return None
        if move.scores:
            return self._take_scores(move, settled.reply.text)
        return self._take_draft(move, settled.reply.text)

    def episode(self) -> Episode:
        """The episode that was played. `models` begins with its evaluator, who is not known yet."""
        return self.world.episode(self.match.episode_id, models=(UNNAMED, *self.match.names))

    def _take_draft(self, move: TurnRequest, text: str) -> TurnRequest | None:
        agent, wrong = move.asked.agent, ""
        try:
            text = without_thought(text)
            action = self.world.read(agent, text)
        except BadAnswer as error:
            if move.attempt + 1 < TRIES:
                return self._move(move.player, move.asked, move.draft, move.attempt + 1)
            action, wrong = FAILED, error.message
        self._drafts.append(_Draft(move.draft, action, text, move.key, wrong))
        wanted = self.match.drafts[self._place(agent)]
        if len(self._drafts) < wanted:
            return self._move(move.player, move.asked, len(self._drafts))
        readable = self._readable()
        if self.rules.scorer is not None and wanted > 1 and readable:
            return self._score(self.rules.scorer, move.asked, readable)
        return self._decide(move.asked, readable[0] if readable else self._drafts[0])

    def _take_scores(self, move: TurnRequest, text: str) -> TurnRequest | None:
        readable = self._readable()
        try:
            rewards = _rewards(text, len(readable))
        except BadAnswer as error:
            self._abandon(move, error.message)
            return None
        asked = move.asked
        self.scored += [
            Scored(asked.agent, asked.turn, one.number, reward, one.call_id)
            for one, reward in zip(readable, rewards, strict=True)
        ]
        return self._decide(asked, readable[max(range(len(rewards)), key=lambda i: (rewards[i], -i))])

    def _decide(self, asked: Asked, kept: _Draft) -> TurnRequest | None:
        """Let the agent act; the next who has to, in this turn or the next."""
        if kept.wrong:
            self.lost.append(self._failure(asked, f"{TRIES} answers could not be read: {kept.wrong}", kept.call_id))
        else:
            self.served.append(Served(asked.agent, asked.turn, asked.messages, kept.text))
        self._actions[asked.agent], self._drafts = kept.action, []
        waiting = [agent for agent in self.world.acting if agent not in self._actions]
        if not waiting:
            self.world.step(self._actions)
            self._actions = {}
            waiting = list(self.world.acting)
        return self._ask(waiting[0]) if waiting else None

    def _ask(self, agent: str) -> TurnRequest:
        asked = self.world.asked(agent, self.match.episode_id, self.rules.layout, self.rules.template)
        return self._move(self.match.players[self._place(agent)], asked, 0)

    def _place(self, agent: str) -> int:
        return self.match.scene.agents.index(agent)

    def _move(self, player: Player, asked: Asked, draft: int, attempt: int = 0) -> TurnRequest:
        target, sample = player.target, self._sample(draft, attempt)
        if not is_model(player):  # it is asked in an episode, and may answer by it
            target = replace(target, sampling={**target.sampling, "episode": self.match.episode_id})
        move = self._request(player, target, asked, asked.messages, sample)
        return replace(move, draft=draft, attempt=attempt)

    def _score(self, scorer: Player, asked: Asked, drafts: Sequence[_Draft]) -> TurnRequest:
        """The drafts, as the actions that they are read as: the form that a reward model is trained on."""
        now, done = self.world.episode(self.match.episode_id), [one.action for one in drafts]
        turns = [Turn(asked.turn, asked.agent, one.action_type, one.text, one.to) for one in done]
        said = [message for turn in turns for message in completion(now, turn)]
        return replace(self._request(scorer, scorer.target, asked, (*asked.messages, *said)), scores=True)

    def _request(
        self, player: Player, target: Target, asked: Asked, messages: Sequence[Message], sample: int = 0
    ) -> TurnRequest:
        hashes = Request(target, messages, None, sample).hashes
        return TurnRequest(
            target=target, messages=messages, sample=sample, game=self, player=player, asked=asked, hashes=hashes
        )

    def _sample(self, draft: int, attempt: int) -> int:
        """One number for each answer that may be drawn to one prompt: another seed, repetition, draft or try."""
        played = self.rules.seed * MOST_REPEATS + self.match.repetition
        return (played * MOST_DRAFTS + draft) * TRIES + attempt

    def _readable(self) -> list[_Draft]:
        return [one for one in self._drafts if not one.wrong]

    def _abandon(self, move: TurnRequest, reason: str) -> None:
        self.abandoned = True
        self.lost = [self._failure(move.asked, reason, move.key, move.player.id)]

    def _failure(self, asked: Asked, reason: str, call_id: str, judge: str = "") -> Failure:
        player = self.match.players[self._place(asked.agent)]
        return Failure(
            reason, self.match.episode_id, asked.agent, asked.turn, judge=judge or player.id, call_id=call_id
        )


def _rewards(text: str, drafts: int) -> list[float]:
    """One finite number for each draft. Raises BadAnswer."""
    try:
        rewards = json.loads(text)
    except ValueError as error:
        raise BadAnswer("The scores are not JSON.") from error
    if not isinstance(rewards, list) or len(rewards) != drafts:
        raise BadAnswer(f"There is not one score for each of {drafts} drafts.")
    if not all(isinstance(one, (int, float)) and math.isfinite(one) for one in rewards):
        raise BadAnswer("A score is no finite number.")
    return [float(one) for one in rewards]
