"""Dialogues played anew by policies, as chains of requests: the branches of `label --schema counterfactual`, and what
those of `label --schema shapley` (`coalitions.py`) begin with.

    draws   the agent's policy speaks once at the turn, K times
    plays   each of these utterances, and what was said, is played on to the end, M times

A play is an episode of `rollouts/` that has begun: asked, kept and counted as any other. Plays of the same words with
the same number send the same requests. So an utterance that repeats what was said costs nothing more, and has the same
end: that is what common random numbers are where a model is the chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sotopia_rl_data.errors import SotopiaDataError, UsageError
from sotopia_rl_data.importers.profiles import RELATIONSHIPS
from sotopia_rl_data.rollouts.actions import NOTHING, Action
from sotopia_rl_data.rollouts.episode_run import MOST_REPEATS, EpisodeRun, EpisodeSpec, Rules
from sotopia_rl_data.rollouts.policies import Player
from sotopia_rl_data.rollouts.scene import Environment, Person, Scene
from sotopia_rl_data.schema import Episode, Turn

Begun = tuple[Mapping[str, Action], ...]
Kind = Literal["said", "drawn"]
Asking = Callable[[Sequence[EpisodeSpec], Callable[[EpisodeRun], None]], None]
"""Plays these dialogues, and hands on each of them as it ends."""
Scores = Mapping[tuple[str, str, str, str], float]
"""Of plays, by the id of the play, the agent, the dimension and the judge."""
Gaps = Mapping[tuple["CreditDraw", str, str], float]
"""What a turn changed, by draw, dimension and judge, in the judge's points."""


class PlaySettings(Protocol):
    """How dialogues are played anew, whichever the schema."""

    @property
    def schema(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def players(self) -> list[Player]: ...
    @property
    def rules(self) -> Rules: ...
    def recipe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    """How turns are re-played. `policy` speaks for the agent whose turn is credited, `partner` for the others. At each
    turn `alternatives` (K, 2 or more) utterances are drawn and each is played on `rollouts` (M) times. `rules` are
    those of the dialogue. Raises UsageError."""

    policy: Player
    partner: Player
    alternatives: int = 4
    rollouts: int = 4
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        if self.alternatives < 2 or self.rollouts < 1:
            raise UsageError(
                f"{self.alternatives} alternatives of {self.rollouts} rollouts give no interval.",
                "give --alternatives 2 or more, and --rollouts 1 or more",
            )
        if self.alternatives * self.rollouts > MOST_REPEATS:
            raise UsageError(
                f"{self.alternatives} alternatives of {self.rollouts} rollouts are {self.alternatives * self.rollouts} "
                f"plays of a turn, and {MOST_REPEATS} are the most.",
                "give fewer --alternatives or --rollouts",
            )

    @property
    def schema(self) -> str:
        """The schema that turns are credited by."""
        return "counterfactual"

    @property
    def samples(self) -> int:
        """How many opinions there are about a turn."""
        return self.alternatives

    @property
    def players(self) -> list[Player]:
        """The policies, each once."""
        return [self.policy] if self.policy is self.partner else [self.policy, self.partner]

    def recipe(self) -> dict[str, Any]:
        """What determines the credit, besides the episodes and the judges."""
        players = {"policy": self.policy, "partner": self.partner}
        named = {name: identity(one) for name, one in players.items()}
        rules = {"dialect": self.rules.dialect, "turns": self.rules.turns, "seed": self.rules.seed}
        return named | rules | {"alternatives": self.alternatives, "rollouts": self.rollouts}


def identity(policy: Player) -> dict[str, Any]:
    """What determines the policy's answers, for a recipe."""
    return {"model": policy.id, "sampling": dict(policy.target.sampling)}


@dataclass(frozen=True, slots=True)
class Juncture:
    """A turn that is re-played: the `scene`, what had `begun` before it, and the action that was `said`; the `split`
    of its episode, and how many turns that `lasted`."""

    episode_id: str
    agent: str
    turn: int
    split: str
    scene: Scene
    begun: Begun = field(compare=False)
    said: Action
    lasted: int

    def draw(self, settings: ReplaySettings, k: int) -> EpisodeSpec:
        """The agent's policy speaks at the turn, and the episode is over."""
        return self._spec(settings, f"draw-{k}", self.begun, k, self.turn + 1)

    def play(self, settings: ReplaySettings, kind: Kind, action: Action, k: int, m: int) -> EpisodeSpec:
        """The episode is played on after `action`."""
        begun = (*self.begun, {self.agent: action})
        return self._spec(settings, f"{kind}-{k}-{m}", begun, k * settings.rollouts + m, None)

    def _spec(self, settings: ReplaySettings, name: str, begun: Begun, number: int, until: int | None) -> EpisodeSpec:
        players = tuple(settings.policy if a == self.agent else settings.partner for a in self.scene.agents)
        name = f"{self.episode_id}-turn-{self.turn}-{name}"
        return EpisodeSpec(name, self.scene, players, (1,) * len(players), number, begun, until)


@dataclass(frozen=True, slots=True)
class CreditDraw:
    """The k-th opinion about a turn: with `counterfactual`, the k-th utterance that the policy drew there. `call_id` is
    the key of the first request for it."""

    juncture: Juncture
    k: int
    call_id: str

    @property
    def episode_id(self) -> str:
        """The episode of the turn."""
        return self.juncture.episode_id

    @property
    def agent(self) -> str:
        """Whose turn it is."""
        return self.juncture.agent

    @property
    def turn(self) -> int:
        """The turn's number."""
        return self.juncture.turn


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """Some branches as `rollouts` plays them. Those that are over as they begin ask nothing, and are not among
    `specs`."""

    settings: PlaySettings
    branches: tuple[EpisodeSpec, ...]

    @property
    def rules(self) -> Rules:
        """The rules of every branch."""
        return self.settings.rules

    def __len__(self) -> int:
        return sum(1 for _ in self.specs())

    def players(self) -> list[Player]:
        """The policies."""
        return self.settings.players

    def specs(self) -> Iterator[EpisodeSpec]:
        """The branches that have turns left, in order."""
        return (spec for spec in self.branches if not EpisodeRun(spec, self.rules).world.done)

    def ended(self) -> Iterator[EpisodeRun]:
        """The branches that are over as they begin."""
        runs = (EpisodeRun(spec, self.rules) for spec in self.branches)
        return (run for run in runs if run.world.done)


def junctures(
    episode: Episode, split: str, turns: Sequence[Turn], rules: Rules, *, whole: bool = False
) -> list[Juncture]:
    """These turns (1 or more) of the episode, ready to be re-played, but for those after the dialogue's end by the
    rules. Raises UsageError where the simulator cannot play what was said before them: nobody but the agents in their
    order may have acted, and the rules must have turns enough. `whole`: an agent's turns are credited together, so none
    can be left out alone."""
    scene = scene_of(episode)
    world = EpisodeRun(EpisodeSpec(episode.episode_id, scene, (), ()), rules).world
    found, begun, lasted = list[Juncture](), list[Mapping[str, Action]](), len(episode.turns)
    wanted = sorted(turn.turn for turn in turns)
    for place, turn in enumerate(episode.turns):
        due = scene.agents[place % len(scene.agents)]
        if turn.turn != place or turn.agent != due:
            raise UsageError(
                f"The episode {episode.episode_id} cannot be re-played: in turn {turn.turn} {turn.agent} acts, "
                f"and it would be the turn of {due}.",
                "re-play dialogues whose agents act in turn; name them with --only",
            )
        action = action_of(turn)
        if turn.turn == wanted[len(found)]:
            found.append(
                Juncture(episode.episode_id, turn.agent, turn.turn, split, scene, tuple(begun), action, lasted)
            )
            if len(found) == len(wanted):
                break
        begun.append({turn.agent: action})
        cannot = f"The episode {episode.episode_id} cannot be re-played from turn {wanted[len(found)]}: "
        try:
            world.step(begun[-1])
        except SotopiaDataError as error:
            left_out = "agent" if whole else "turn"
            raise UsageError(cannot + error.message, f"leave the {left_out} out with --only") from error
        if world.done and world.turn >= rules.turns:
            hint = "give more --turns" if whole else "give more --turns, or leave the turn out with --only"
            raise UsageError(f"{cannot}it is over by then.", hint)
        if world.done:
            break
    return found


def scene_of(episode: Episode) -> Scene:
    """What the episode started from, as the simulator has it."""
    people = tuple(
        Person(one.agent, one.name, introduction=one.background, secret=one.secret or None) for one in episode.agents
    )
    relationship = episode.relationship if episode.relationship in RELATIONSHIPS else RELATIONSHIPS[0]
    goals = tuple(one.goal for one in episode.agents)
    environment = Environment(episode.environment_id, episode.scenario, goals, episode.codename, relationship)
    return Scene(environment, people)


def action_of(turn: Turn) -> Action:
    """What an agent did, as the simulator has it."""
    return NOTHING if turn.action_type == "none" else Action(turn.action_type, turn.text, turn.to)
