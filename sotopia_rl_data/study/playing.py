"""The step that has two policies talk: as `rollout`, with the policies that other steps trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sotopia_rl_data.applications.local_policies import RewardScorer, local_player
from sotopia_rl_data.asking.estimate import Estimate
from sotopia_rl_data.asking.keys import without_api_keys
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.prompts import Layout
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.estimate import estimate_rollout
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.rollouts.policies import Player, is_model, player
from sotopia_rl_data.rollouts.rollout import plan_of, rollout
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.study.declared import Model, Plays
from sotopia_rl_data.study.steps import Inputs, StepResult, Workshop, reported
from sotopia_rl_data.study.training import base_model, linked

STAND_INS = "scripted:warm", "scripted:firm"
"""Who plays in an estimate where a policy is not trained yet: they cost nothing, as it will."""


@dataclass(frozen=True, slots=True)
class Side:
    """Who plays: a policy that is there, or the one that the step `trained` made from the model `base`; of `drafts`,
    the best by the reward model that the step `reward_model` made."""

    plays: Model = ""
    trained: str = ""
    base: str = ""
    drafts: int = 1
    reward_model: str = ""

    def identity(self, seed: int) -> Any:
        """What determines its answers, beside the weights that another step made."""
        if self.trained:
            return {"base": self.base, "drafts": self.drafts}
        with without_api_keys():
            one = player(self.plays, seed=seed, local=local_player)
        target = one.target
        return {"model": one.id, "provider": target.provider, "sampling": dict(target.sampling), "drafts": self.drafts}


@dataclass(frozen=True, slots=True)
class Rounds:
    """What is the same whoever plays: the scenes, the rules, the seed, how prompts are laid out."""

    plays: Plays
    scenes: Sequence[Scene]
    seed: int
    layout: Layout


class RolloutStep:
    """The episodes of one policy with one partner. Raises UsageError for what cannot be played."""

    asks = True

    def __init__(self, name: str, short: str, sides: tuple[Side, Side], rounds: Rounds) -> None:
        self.name, self._short, self._rounds = name, short, rounds
        self._a, self._b = sides
        needed = (self._a.trained, self._b.trained, self._a.reward_model)
        self.needs: tuple[str, ...] = tuple(dict.fromkeys(filter(None, needed)))
        self._identities = [side.identity(rounds.seed) for side in sides]
        with without_api_keys():
            self.episodes = len(self._plan(self._stand_ins(None, {}), None))

    def settings(self) -> dict[str, Any]:
        """Who plays, in which scenes, by which rules."""
        rounds, plays = self._rounds, self._rounds.plays
        return {
            "sides": self._identities,
            "scenes": sha256_of([asdict(scene) for scene in rounds.scenes]),
            "turns": plays.turns,
            "repeat": plays.repeat,
            "swap": plays.swap,
            "sampling": dict(plays.sampling),
            "seed": rounds.seed,
            "layout": rounds.layout,
        }

    def check_keys(self) -> None:
        """Raises KeyMissing."""
        for side in (self._a, self._b):
            if not side.trained:
                player(side.plays, seed=self._rounds.seed, local=local_player)

    def estimate(self, work: Workshop, inputs: Inputs) -> Estimate | None:
        """As `rollout --dry-run` says it. Scripts stand in for policies that are not trained yet, and for the reward
        model, whose weights need not be loaded for this."""
        scorer = player(STAND_INS[0]) if self._a.drafts > 1 else None
        with without_api_keys():
            plan = self._plan(self._stand_ins(work, inputs), scorer)
        with Ledger(work.options.ledger_in(work.store)) as ledger:
            return estimate_rollout(plan, ledger, work.options, work.options.price_list())

    def run(self, work: Workshop, inputs: Inputs, key: str) -> StepResult:
        """Play."""
        scorer = RewardScorer(inputs[self._a.reward_model].ref) if self._a.drafts > 1 else None
        plan = self._plan([self._spec(side, work, inputs) for side in (self._a, self._b)], scorer)
        with work.doing("playing", "episode") as advance:
            options = replace(work.options, progress=advance)
            return reported(rollout(work.store, plan, f"{work.title}/{self._short}", options=options))

    def _plan(self, specs: Sequence[Model], scorer: Player | None) -> RolloutPlan:
        (a, b), rounds, plays = specs, self._rounds, self._rounds.plays
        rules = Rules(
            turns=plays.turns,
            seed=rounds.seed,
            layout=rounds.layout,
            best_of=1 if scorer is None else self._a.drafts,
            scorer=scorer,
        )
        options: dict[str, Any] = {
            "swap": plays.swap and a != b,
            "repeat": plays.repeat,
            "local": local_player,
        }
        if plays.sampling and any(is_model(player(one, local=local_player)) for one in specs):
            options["sampling"] = plays.sampling
        return plan_of(rounds.scenes, rules, a=a, b=b, **options)

    def _spec(self, side: Side, work: Workshop, inputs: Inputs) -> Model:
        if not side.trained:
            return side.plays
        model = Path(inputs[side.trained].ref)
        if side.drafts > 1:  # another player than the policy itself, which may be its partner
            model = linked(model, model.with_name(f"{model.name}-drafting"))
        is_adapter = (model / "adapter_config.json").is_file()
        return f"transformers:{base_model(work, side.base)}+{model}" if is_adapter else f"transformers:{model}"

    def _stand_ins(self, work: Workshop | None, inputs: Inputs) -> list[Model]:
        """Who plays, with scripts for those who are not trained yet, or whose drafts are chosen from."""
        named = [
            self._spec(side, work, inputs) if work and side.trained in inputs and side.drafts == 1 else side.plays
            for side in (self._a, self._b)
        ]
        free = [script for script in STAND_INS if script not in named]
        found = [one or free.pop(0) for one in named]
        return [found[0], found[0]] if self._a == self._b else found
