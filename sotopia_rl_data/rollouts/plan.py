"""Which episodes a run plays: scenes, who plays whom, repetitions. An episode's id is a hash of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.prompts import layout_id
from sotopia_rl_data.rollouts.episode_run import MOST_DRAFTS, MOST_REPEATS, MOST_SEED, EpisodeSpec, Rules
from sotopia_rl_data.rollouts.policies import Player, takes_schema
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.rollouts.world import World
from sotopia_rl_data.shards import Shard

_ID = 24  # hex digits of an episode's id


class EpisodePlan(Protocol):
    """Some episodes to be played, by one set of rules."""

    @property
    def rules(self) -> Rules: ...
    def __len__(self) -> int: ...
    def players(self) -> list[Player]: ...
    def specs(self) -> Iterator[EpisodeSpec]: ...


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """`a` plays the first agent and `b` all others; with `swap`, `a` plays each agent in turn. Each is played `repeat`
    times. Best-of-N is only for `a`: its partner writes one draft, unless `a` plays both.

    Raises UsageError for a plan that cannot be played, or that would play the same episode twice.
    """

    scenes: tuple[Scene, ...]
    a: Player
    b: Player
    rules: Rules
    swap: bool = False
    repeat: int = 1

    def __post_init__(self) -> None:
        rules = self.rules
        if not self.scenes:
            raise UsageError("There is no scenario to play.", "name --scenarios samples, hard, all or a file")
        for what, value, most in (("repeat", self.repeat, MOST_REPEATS), ("best-of", rules.best_of, MOST_DRAFTS)):
            if not 1 <= value <= most:
                raise UsageError(f"--{what} {value} is out of range.", f"give a number from 1 to {most:,}")
        if not 0 <= rules.seed <= MOST_SEED:
            raise UsageError(f"--seed {rules.seed} is out of range.", f"give a number from 0 to {MOST_SEED:,}")
        if (rules.best_of > 1) != (rules.scorer is not None):
            raise UsageError(
                "Best-of-N needs both a number of drafts and a reward model.",
                "give both --best-of and --reward-model",
            )
        if rules.constrain and not (takes_schema(self.a) or takes_schema(self.b)):
            raise UsageError(
                f"Neither {self.a.id} nor {self.b.id} is a model that --constrain could apply to.",
                "leave --constrain out",
            )
        if self.a is not self.b and self.a.id == self.b.id:
            raise UsageError(f"Two policies are called {self.a.id!r}.", "give one of them another name")
        if self.swap and self.a is self.b:
            raise UsageError(
                "The same policy plays both sides, so --swap would play each episode twice.", "leave --swap out"
            )
        layout_id(rules.layout, rules.template)  # raises UsageError if the template is for another layout
        for scene in self.scenes:
            World(scene, rules.dialect, max_turns=rules.turns)  # raises UsageError if the rules do not fit the scene

    def __len__(self) -> int:
        return sum(len(self._places(scene)) for scene in self.scenes) * self.repeat

    def players(self) -> list[Player]:
        """Everything that is asked, each once: the policies, and the reward model if there is one."""
        players = [self.a] if self.a is self.b else [self.a, self.b]
        if self.rules.scorer is not None:
            players.append(self.rules.scorer)
        return players

    def specs(self) -> Iterator[EpisodeSpec]:
        """The episodes, in order."""
        conditions = self._conditions()
        for scene in self.scenes:
            for place in self._places(scene):
                players = tuple(self.a if i == place else self.b for i in range(len(scene.people)))
                drafts = tuple(self.rules.best_of if player is self.a else 1 for player in players)
                for repetition in range(self.repeat):
                    pairing = [scene.environment.environment_id, *scene.agents, place, repetition]
                    yield EpisodeSpec(sha256_of([conditions, pairing])[:_ID], scene, players, drafts, repetition)

    def part(self, shard: Shard) -> Callable[[str], bool]:
        """Whether an episode is in the shard, by its id. How long an episode gets is not known before: each counts the
        same."""
        return shard.of((spec.episode_id, 0) for spec in self.specs())

    def recipe(self) -> dict[str, Any]:
        """What determines the rows, for the manifest; without URLs. `seed` is the seed of the splits."""
        scenes = sha256_of([asdict(scene) for scene in self.scenes])
        rollout = self._conditions() | {"scenes": scenes, "swap": self.swap, "repeat": self.repeat}
        return {"kind": "rollouts", "seed": 0, "rollout": rollout}

    def _places(self, scene: Scene) -> Sequence[int]:
        """The places in the speaking order at which `a` plays."""
        return range(len(scene.people)) if self.swap else (0,)

    def _conditions(self) -> dict[str, Any]:
        """What is the same for all episodes and determines them: the policies and the rules."""
        rules = self.rules
        conditions: dict[str, Any] = {
            "a": _identity(self.a),
            "b": _identity(self.b),
            "dialect": rules.dialect,
            "turns": rules.turns,
            "seed": rules.seed,
            "prompts": layout_id(rules.layout, rules.template),
        }
        if rules.scorer is not None:
            conditions |= {"best_of": rules.best_of, "reward_model": rules.scorer.id}
        if rules.constrain:
            conditions["constrain"] = True
        return conditions


def _identity(player: Player) -> dict[str, Any]:
    return {"model": player.id, "provider": player.target.provider, "sampling": dict(player.target.sampling)}
