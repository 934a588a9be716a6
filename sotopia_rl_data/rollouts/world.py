"""The environment as a state machine: who acts, what each agent sees, when the episode ends. No I/O, clock or asyncio.

    world = World(scene, "legacy", max_turns=20)
    while not world.done:
        completions = {agent: ask(world.prompt(agent)) for agent in world.acting}
        world.step({agent: world.read(agent, text) for agent, text in completions.items()})
    episode = world.episode("e1")

In a turn all agents observe, those whose turn it is act, and the others are forced to do nothing. After the last turn
all observe once more. An episode is a function of the scene, the rules, the seed and the actions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sotopia_rl_data.errors import BadAnswer, UsageError
from sotopia_rl_data.prompts import Layout, Template, render
from sotopia_rl_data.rollouts.actions import FAILED, NOTHING, Action, DialectName, action_schema, dialect, read_action
from sotopia_rl_data.rollouts.markup import shown
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.schema import Agent, Episode, Message, Observation, Turn

Order = Literal["round-robin", "simultaneous", "random"]
Logged = tuple[str, str, str]
"""Sender, receiver, text: one message as an EpisodeLog holds it."""
ENVIRONMENT = "Environment"


@dataclass(frozen=True, slots=True)
class TurnPrompt:
    """What a policy is asked: the `messages` that `agent` sees before it acts at `turn` of the episode `episode_id`.

    `own` is the number of turns in which the agent has acted. `private`: the answer must say in `to` who may see the
    action (an empty list: all agents).
    """

    episode_id: str
    agent: str
    turn: int
    own: int
    messages: tuple[Message, ...]
    private: bool = False


class World:
    """One episode while it is played.

    It ends after `max_turns` (>= 1), or after more than `max_stale` (>= 0) silent actions in a row, which the dialect
    counts. `order` says who acts: the agent at place turn % k (round-robin), one drawn with `seed` (random), or all
    (simultaneous). `models` are the agents' models in speaking order, for templates that ask (`when: {model: …}`).
    Raises UsageError for rules that cannot be played, and for three agents or more in a dialect for two.
    """

    def __init__(
        self,
        scene: Scene,
        dialect_name: DialectName = "legacy",
        *,
        max_turns: int = 20,
        max_stale: int = 2,
        order: Order = "round-robin",
        seed: int = 0,
        models: Sequence[str] = (),
    ) -> None:
        self.scene = scene
        self._models = ("", *models)
        self.dialect = dialect(dialect_name)
        self._check(max_turns, max_stale, order)
        self._max_turns, self._max_stale, self._order = max_turns, max_stale, order
        self._random = random.Random(seed)
        self._names = {person.agent: person.name for person in scene.people}
        self._actions: list[Mapping[str, Action]] = []
        self._acted: list[tuple[str, ...]] = []
        self._seen = [[scene.opening(place, self.dialect) for place in range(len(scene.people))]]
        self._reasons: tuple[str, ...] = ()
        self.acting: tuple[str, ...] = self._due()

    def _check(self, max_turns: int, max_stale: int, order: str) -> None:
        if max_turns < 1 or max_stale < 0:
            raise UsageError(
                f"An episode cannot have {max_turns} turns, {max_stale} of them silent.", "allow 1 turn or more"
            )
        if order not in get_args(Order):
            raise UsageError(f"{order!r} is not an order of speaking.", f"name one of: {', '.join(get_args(Order))}")
        if self.dialect.two_only and len(self.scene.people) != 2:
            raise UsageError(
                f"The dialect {self.dialect.name!r} is for two agents; the scene has {len(self.scene.people)}.",
                "play it with --dialect 0.1.5 or --dialect head",
            )

    @property
    def turn(self) -> int:
        """The turn to be played, from 0; after the end, the number of turns that were played."""
        return len(self._actions)

    @property
    def done(self) -> bool:
        """True when the episode is over."""
        return bool(self._reasons)

    @property
    def ended(self) -> str:
        """Why the episode is over, as the library writes it into `reasoning`; "" while it goes on."""
        return f"{ENVIRONMENT} comments: terminated: {'; '.join(self._reasons)}; \n" if self._reasons else ""

    def prompt(self, agent: str, layout: Layout = "single", template: Template | None = None) -> list[Message]:
        """The messages for the policy of `agent` at this turn. Raises what `prompts.render` raises."""
        return render(self.episode("now", models=self._models), agent, self.turn, layout, template)

    def turn_prompt(
        self, agent: str, episode_id: str, layout: Layout = "single", template: Template | None = None
    ) -> TurnPrompt:
        """`prompt`, with all else that the policy of `agent` may use. Raises what `prompt` raises."""
        own = len([acted for acted in self._acted if agent in acted])
        messages = tuple(self.prompt(agent, layout, template))
        return TurnPrompt(episode_id, agent, self.turn, own, messages, self.dialect.private)

    def read(self, agent: str, completion: str) -> Action:
        """The action of `agent` in a completion. Raises BadAnswer where it has none."""
        return read_action(completion, self._partners(agent))

    def action_schema(self, agent: str) -> dict[str, Any]:
        """The JSON schema of an action of `agent`."""
        partners = self._partners(agent)
        return action_schema(None if partners is None else list(partners))

    def read_or_nothing(self, agent: str, completion: str) -> Action:
        """As `read`, but a completion without an action is a no-op that is flagged as failed."""
        try:
            return self.read(agent, completion)
        except BadAnswer:
            return FAILED

    def step(self, actions: Mapping[str, Action]) -> None:
        """Play one turn: exactly one action for each agent in `acting`. Raises UsageError for any other actions."""
        if self.done:
            raise UsageError("The episode is over: no further turn can be played.")
        if set(actions) != set(self.acting):
            due, given = ", ".join(self.acting), ", ".join(actions) or "nobody"
            raise UsageError(f"Turn {self.turn} needs an action of {due}; those given are of {given}.")
        acted = {agent: self._allowed(agent, actions[agent]) for agent in self.scene.agents if agent in actions}
        self._actions.append({agent: acted.get(agent, NOTHING) for agent in self.scene.agents})
        self._acted.append(self.acting)
        self._seen.append([self._observed(place) for place in range(len(self.scene.people))])
        self._reasons = self._ends()
        self.acting = () if self.done else self._due()

    def messages(self) -> list[list[Logged]]:
        """The messages so far, as an EpisodeLog holds them."""
        names = self._names.values()
        log = [[(ENVIRONMENT, name, text) for name, text in zip(names, seen, strict=True)] for seen in self._seen]
        for turn, actions in zip(log, self._actions, strict=False):
            written = [self.dialect.written(action, self._names) for action in actions.values()]
            turn += [(name, ENVIRONMENT, text) for name, text in zip(names, written, strict=True)]
        return log

    def episode(self, episode_id: str, *, models: Sequence[str] = (), tag: str = "") -> Episode:
        """The episode so far. `models` names the evaluator and then each agent's model, as an EpisodeLog does."""
        environment = self.scene.environment
        return Episode(
            episode_id=episode_id,
            environment_id=environment.environment_id,
            agents=self._agents(models),
            turns=tuple(self._turns()),
            observations=tuple(
                Observation(turn, agent, text)
                for turn, seen in enumerate(self._seen)
                for agent, text in zip(self.scene.agents, seen, strict=True)
            ),
            source="rollout",
            dialect=self.dialect.name,
            codename=environment.codename,
            scenario=environment.scenario,
            relationship=environment.relationship,
            models=tuple(models),
            tag=tag,
            reasoning=self.ended,
        )

    def _agents(self, models: Sequence[str]) -> tuple[Agent, ...]:
        known = len(models) == len(self.scene.people) + 1
        return tuple(
            Agent(
                agent=person.agent,
                name=person.name,
                model=models[place + 1] if known else None,
                goal=self.scene.environment.goals[place],
                background=person.background(place).strip(),
                secret=person.secret or "",
            )
            for place, person in enumerate(self.scene.people)
        )

    def _turns(self) -> list[Turn]:
        turns = []
        for turn, (acted, actions) in enumerate(zip(self._acted, self._actions, strict=True)):
            for agent in acted:
                action = actions[agent]
                turns.append(Turn(turn, agent, action.action_type, action.text, action.to, action.failed))
        return turns

    def _partners(self, agent: str) -> dict[str, str] | None:
        """The ids of the other agents by name; None where no action is private."""
        if not self.dialect.private:
            return None
        return {name: other for other, name in self._names.items() if other != agent}

    def _allowed(self, agent: str, action: Action) -> Action:
        """The action as this dialect allows it: without recipients where nothing is private."""
        if not self.dialect.private:
            return Action(action.action_type, action.text, (), action.failed)
        unknown = [other for other in action.to if other not in self._names or other == agent]
        if unknown:
            raise UsageError(f"An action of {agent} is private to {unknown[0]}, who is not one of the others.")
        return action

    def _observed(self, place: int) -> str:
        """What the agent at `place` sees of the turn that was just played."""
        viewer = self.scene.agents[place]
        actions = [
            f"{self._names[agent]} {self.dialect.written(action, self._names)}"
            for agent, action in self._actions[-1].items()
            if action.action_type != "none" and (not action.to or viewer in (agent, *action.to))
        ]
        return f"Turn #{self.turn - 1}: {shown(';'.join(actions), place)}\n"

    def _ends(self) -> tuple[str, ...]:
        counted = self._actions
        if not self.dialect.counts_forced:
            played = zip(self._acted, self._actions, strict=True)
            counted = [{agent: actions[agent] for agent in acted} for acted, actions in played]
        return self.dialect.reasons(self.scene.agents, counted, self._max_turns, self._max_stale)

    def _due(self) -> tuple[str, ...]:
        agents = self.scene.agents
        if self._order == "simultaneous":
            return agents
        if self._order == "random":
            return (self._random.choice(agents),)
        return (agents[self.turn % len(agents)],)
