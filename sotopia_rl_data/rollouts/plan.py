"""Which episodes a run plays: scenes, who plays whom, repetitions; each with an id that says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.prompts import layout_id
from sotopia_rl_data.rollouts.episode_run import MOST_DRAFTS, MOST_REPEATS, MOST_SEED, EpisodeSpec, Rules
from sotopia_rl_data.rollouts.policies import Player
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.rollouts.world import World

_ID = 24  # hex digits of an episode's id


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """`a` plays the first place and `b` all others; with `swap`, `a` plays each place in turn. `repeat` times each.
    Best-of-N is `a`'s: its partner answers once, unless it is `a` too.

    Raises UsageError for what cannot be played, or would be played twice the same.
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
            raise UsageError("There is no scene to play.", "name --scenarios samples, hard, all or a file")
        for what, value, most in (("repeat", self.repeat, MOST_REPEATS), ("best-of", rules.best_of, MOST_DRAFTS)):
            if not 1 <= value <= most:
                raise UsageError(f"--{what} {value} is out of range.", f"give a number from 1 to {most:,}")
        if not 0 <= rules.seed <= MOST_SEED:
            raise UsageError(f"--seed {rules.seed} is out of range.", f"give a number from 0 to {MOST_SEED:,}")
        if (rules.best_of > 1) != (rules.scorer is not None):
            raise UsageError("Best-of-N is N drafts and who scores them.", "give both --best-of N and --reward-model")
        if self.a is not self.b and self.a.id == self.b.id:
            raise UsageError(f"Two policies are called {self.a.id!r}.", "give one of them another name")
        if self.swap and self.a is self.b:
            raise UsageError("One policy plays both, so --swap would play the same twice.", "leave --swap out")
        layout_id(rules.layout, rules.template)  # raises where the template is of another layout
        for scene in self.scenes:
            World(scene, rules.dialect, max_turns=rules.turns)  # raises where it cannot be played by these rules

    def __len__(self) -> int:
        return sum(len(self._places(scene)) for scene in self.scenes) * self.repeat

    def players(self) -> list[Player]:
        """Whoever is asked, each once, the reward model included."""
        found = [self.a] if self.a is self.b else [self.a, self.b]
        return [*found, self.rules.scorer] if self.rules.scorer is not None else found

    def specs(self) -> Iterator[EpisodeSpec]:
        """The episodes, in order."""
        made = self._determines()
        for scene in self.scenes:
            for place in self._places(scene):
                players = tuple(self.a if i == place else self.b for i in range(len(scene.people)))
                drafts = tuple(self.rules.best_of if one is self.a else 1 for one in players)
                for repetition in range(self.repeat):
                    who = [scene.environment.environment_id, *scene.agents, place, repetition]
                    yield EpisodeSpec(sha256_of([made, who])[:_ID], scene, players, drafts, repetition)

    def recipe(self) -> dict[str, Any]:
        """What determines the rows, for the manifest. URLs are not in it. `seed` is that of the splits."""
        played = {"scenes": sha256_of(_contents(self.scenes)), "swap": self.swap, "repeat": self.repeat}
        return {"kind": "rollouts", "seed": 0, "rollout": self._determines() | played}

    def _places(self, scene: Scene) -> Sequence[int]:
        return range(len(scene.people)) if self.swap else (0,)

    def _determines(self) -> dict[str, Any]:
        rules = self.rules
        made: dict[str, Any] = {
            "a": _who(self.a),
            "b": _who(self.b),
            "dialect": rules.dialect,
            "turns": rules.turns,
            "seed": rules.seed,
            "prompts": layout_id(rules.layout, rules.template),
        }
        if rules.scorer is not None:
            made |= {"best_of": rules.best_of, "reward_model": rules.scorer.id}
        return made


def _who(player: Player) -> dict[str, Any]:
    return {"model": player.id, "provider": player.target.provider, "sampling": dict(player.target.sampling)}


def _contents(scenes: Iterable[Scene]) -> list[Any]:
    from dataclasses import asdict

    return [asdict(scene) for scene in scenes]
