"""One episode as a chain of requests: each request follows from the answers before it.

An EpisodeRun gives out a TurnRequest, takes the outcome, and gives out the next request, until its world is done. The
dispatcher of `asking/` treats them as one request with follow-ups, so that pacing, the ledger, Ctrl-C and the bill work
as for any other. It does no I/O. An answer that cannot be read is drawn again, at most twice; then the turn becomes a
no-op that is flagged as failed.

With best-of-N a turn has N drafts, one request each, and one more request to score them; the best draft is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.importers.record import UNNAMED
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.prompts import Layout, Template, completion
from sotopia_rl_data.request import Hashed, Reply, Request
from sotopia_rl_data.rollouts.actions import FAILED, NOTHING, Action, DialectName, action_object
from sotopia_rl_data.rollouts.policies import Exchange, Player, is_model, takes_schema
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.rollouts.world import TurnPrompt, World
from sotopia_rl_data.schema import Attribution, Episode, Failure, Turn, named_with_drafts
from sotopia_rl_data.secrets import without_server

BEST_OF_N = "best-of-n"  # the schema under which the drafts' scores are kept as attributions
TRIES = 3  # most answers drawn for one action until one can be read
MOST_DRAFTS = 64  # most drafts of one turn
MOST_REPEATS = 1_000  # most episodes of one scene and pair of policies
MOST_SEED = 2**31 // (TRIES * MOST_DRAFTS * MOST_REPEATS) - 1  # sample numbers in the ledger have 32 bits


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a run: the same for each of its episodes. `constrain`: models behind an API are sent the action's
    schema, as judges are sent theirs. More than `max_stale` silent actions in a row end an episode."""

    dialect: DialectName = "legacy"
    turns: int = 20
    layout: Layout = "single"
    template: Template | None = None
    seed: int = 0
    best_of: int = 1
    scorer: Player | None = None
    constrain: bool = False
    max_stale: int = 2


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """An episode to be played. `players` and their numbers of `drafts` for each turn are in speaking order;
    `repetition` counts the episodes of the same pairing from 0. It may have `begun`: actions by agent for each turn
    that was played. It has `until` so many turns at most (None: as the rules say)."""

    episode_id: str
    scene: Scene
    players: tuple[Player, ...]
    drafts: tuple[int, ...]
    repetition: int = 0
    begun: tuple[Mapping[str, Action], ...] = ()
    until: int | None = None
    planned: Mapping[str, Mapping[int, Action]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The players' names in the data, in speaking order. With best-of-N a policy has another name than without."""
        return tuple(named_with_drafts(one.id, drafts) for one, drafts in zip(self.players, self.drafts, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest(Hashed):
    """A Request that knows its episode and the player it is for. `scores`: it asks for scores of a turn's drafts."""

    run: EpisodeRun
    player: Player
    prompt: TurnPrompt
    draft: int = 0
    attempt: int = 0
    scores: bool = False


@dataclass(frozen=True, slots=True)
class _Draft:
    """The object in an answer, and the action read from it. `fault` says why it cannot be read, if it cannot."""

    number: int
    action: Action
    text: str
    call_id: str
    fault: str = ""


@dataclass(slots=True)
class EpisodeRun:
    """An episode while it is played.

    `served` has the prompts and the completions that were kept: the JSON objects, without thoughts and words around
    them. `scores` are the reward model's scores of drafts; their scale is the range within the turn. `abandoned`: the
    episode has no end, and does not become data.
    """

    spec: EpisodeSpec
    rules: Rules
    served: list[Exchange] = field(default_factory=list)
    scores: list[Attribution] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    abandoned: bool = False
    world: World = field(init=False)
    _actions: dict[str, Action] = field(default_factory=dict)
    _drafts: list[_Draft] = field(default_factory=list)

    def __post_init__(self) -> None:
        models = [player.id for player in self.spec.players]
        turns = self.rules.turns if self.spec.until is None else self.spec.until
        rules = self.rules
        self.world = World(self.spec.scene, rules.dialect, max_turns=turns, max_stale=rules.max_stale, models=models)
        for actions in self.spec.begun:
            self.world.step(actions)
        self._act_as_planned()

    def first(self) -> TurnRequest:
        """The first request. Raises as `World.prompt` does."""
        return self._ask(self.world.acting[0])

    def accepts(self, request: TurnRequest, reply: Reply) -> bool:
        """Whether a reply can be used."""
        return self.reading(request, reply) is not None

    def fault(self, request: TurnRequest, reply: Reply) -> str:
        """What is wrong with a reply that cannot be used."""
        try:
            self._read(request, reply)
        except BadAnswer as wrong:
            return wrong.message
        return "it was not accepted"

    def reading(self, request: TurnRequest, reply: Reply) -> Action | list[float] | None:
        """What a reply says: an action, or a score for each draft. None where it cannot be used."""
        try:
            return self._read(request, reply)
        except BadAnswer:
            return None

    def _read(self, request: TurnRequest, reply: Reply) -> Action | list[float]:
        if request.scores:
            return _rewards(reply.text, len(self._readable()))
        return self.world.read(request.prompt.agent, reply.answer)

    def take(self, request: TurnRequest, settled: Settled) -> TurnRequest | None:
        """Take the outcome of a request. Returns the next request, or None where the episode is over: it was abandoned,
        or played to its end."""
        if settled.reply is None:
            self._abandon(request, without_server(settled.error, request.target.base_url))
            return None
        if request.scores:
            return self._take_scores(request, settled.reply.text)
        return self._take_draft(request, settled.reply)

    def episode(self) -> Episode:
        """The episode that was played. The first of its `models`, the evaluator, is not known yet."""
        return self.world.episode(self.spec.episode_id, models=(UNNAMED, *self.spec.names))

    def _take_draft(self, request: TurnRequest, reply: Reply) -> TurnRequest | None:
        prompt, text = request.prompt, reply.text
        try:
            text, fault = action_object(reply.answer), ""
            action = self.world.read(prompt.agent, text)
        except BadAnswer as error:
            if request.attempt + 1 < TRIES:
                return self._draw(prompt, request.draft, request.attempt + 1)
            action, fault = FAILED, error.message
        self._drafts.append(_Draft(request.draft, action, text, request.key, fault))
        drafts = self.spec.drafts[self._place(prompt.agent)]
        if len(self._drafts) < drafts:
            return self._draw(prompt, len(self._drafts))
        readable = self._readable()
        if self.rules.scorer is not None and drafts > 1 and readable:
            return self._score(self.rules.scorer, prompt, readable)
        return self._act(prompt, readable[0] if readable else self._drafts[0])

    def _take_scores(self, request: TurnRequest, text: str) -> TurnRequest | None:
        prompt, readable = request.prompt, self._readable()
        try:
            rewards = _rewards(text, len(readable))
        except BadAnswer as error:
            self._abandon(request, error.message)
            return None
        self.scores += [
            Attribution(
                episode_id=prompt.episode_id,
                agent=prompt.agent,
                turn=prompt.turn,
                dimension="reward",
                schema=BEST_OF_N,
                measure="quality",
                judge=request.player.id,
                sample=draft.number,
                raw=reward,
                scale_min=min(rewards),
                scale_max=max(rewards),
                call_id=draft.call_id,
            )
            for draft, reward in zip(readable, rewards, strict=True)
        ]
        return self._act(prompt, readable[rewards.index(max(rewards))])

    def _act(self, prompt: TurnPrompt, kept: _Draft) -> TurnRequest | None:
        """Let the agent act as in the kept draft. Returns the request for the next agent, in this turn or the next."""
        if kept.fault:
            player = self.spec.players[self._place(prompt.agent)]
            reason = f"{TRIES} answers could not be read: {kept.fault}"
            self.failures.append(self._failure(prompt, player, reason, kept.call_id))
        else:
            self.served.append(Exchange(prompt, kept.text))
        self._actions[prompt.agent], self._drafts = kept.action, []
        waiting = [agent for agent in self.world.acting if agent not in self._actions]
        if not waiting:
            self.world.step(self._actions)
            self._actions = {}
            self._act_as_planned()
            waiting = list(self.world.acting)
        return self._ask(waiting[0]) if waiting else None

    def _act_as_planned(self) -> None:
        """Play the turns of those whose actions are planned, until another's turn comes."""
        while not self.world.done and self.world.acting[0] in self.spec.planned:
            agent = self.world.acting[0]
            self.world.step({agent: self.spec.planned[agent].get(self.world.turn, NOTHING)})

    def _ask(self, agent: str) -> TurnRequest:
        rules = self.rules
        return self._draw(self.world.turn_prompt(agent, self.spec.episode_id, rules.layout, rules.template), 0)

    def _draw(self, prompt: TurnPrompt, draft: int, attempt: int = 0) -> TurnRequest:
        """The request for one draft of the turn. Every answer to the same prompt has its own sample number, made of the
        seed, the repetition, the draft and the attempt."""
        player = self.spec.players[self._place(prompt.agent)]
        target = player.target
        if not is_model(player):  # a callable sees the episode's id, and its answer may depend on it
            target = replace(target, sampling={**target.sampling, "episode": self.spec.episode_id})
        repetition = self.rules.seed * MOST_REPEATS + self.spec.repetition
        sample = (repetition * MOST_DRAFTS + draft) * TRIES + attempt
        constrained = self.rules.constrain and takes_schema(player)
        schema = self.world.action_schema(prompt.agent) if constrained else None
        plain = Request(target, prompt.messages, schema, sample=sample)
        return self._request(plain, player, prompt, draft=draft, attempt=attempt)

    def _score(self, scorer: Player, prompt: TurnPrompt, drafts: Sequence[_Draft]) -> TurnRequest:
        """The request for scores. Drafts are sent as the actions read from them, as reward models are trained."""
        episode, messages = self.world.episode(self.spec.episode_id), list(prompt.messages)
        for draft in drafts:
            action = draft.action
            turn = Turn(prompt.turn, prompt.agent, action.action_type, action.text, action.to)
            messages += completion(episode, turn)
        return self._request(Request(scorer.target, tuple(messages)), scorer, prompt, scores=True)

    def _request(
        self, plain: Request, player: Player, prompt: TurnPrompt, draft: int = 0, attempt: int = 0, scores: bool = False
    ) -> TurnRequest:
        return TurnRequest(
            target=plain.target,
            messages=plain.messages,
            answer_schema=plain.answer_schema,
            schema_name="action",
            sample=plain.sample,
            hashes=plain.hashes,
            run=self,
            player=player,
            prompt=prompt,
            draft=draft,
            attempt=attempt,
            scores=scores,
        )

    def _place(self, agent: str) -> int:
        return self.spec.scene.agents.index(agent)

    def _readable(self) -> list[_Draft]:
        return [draft for draft in self._drafts if not draft.fault]

    def _abandon(self, request: TurnRequest, reason: str) -> None:
        self.abandoned = True
        self.failures = [self._failure(request.prompt, request.player, reason, request.key)]

    def _failure(self, prompt: TurnPrompt, player: Player, reason: str, call_id: str) -> Failure:
        return Failure(reason, prompt.episode_id, prompt.agent, prompt.turn, judge=player.id, call_id=call_id)


def _rewards(text: str, drafts: int) -> list[float]:
    """One finite number for each draft. Raises BadAnswer."""
    try:
        rewards = json.loads(text)
    except ValueError as error:
        raise BadAnswer("The scores are not JSON.") from error
    if not isinstance(rewards, list) or len(rewards) != drafts:
        raise BadAnswer(f"There is not one score for each of {drafts} drafts.")
    if not all(isinstance(reward, (int, float)) and math.isfinite(reward) for reward in rewards):
        raise BadAnswer("A score is not a finite number.")
    return [float(reward) for reward in rewards]
