"""From a study to its steps, in an order in which each finds what it needs. What cannot be is found here.

What is trained is trained once for each seed, and what is trained from it or plays with it has the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.plan import Elicitation
from sotopia_rl_data.prompts import Layout
from sotopia_rl_data.rollouts.scenarios import scenes_of
from sotopia_rl_data.rollouts.scene import Scene
from sotopia_rl_data.study.declared import PolicySpec, Study, TableSpec
from sotopia_rl_data.study.playing import RolloutStep, Rounds, Side
from sotopia_rl_data.study.steps import DatasetStep, EvaluateStep, LabelStep, RewardsStep, StudyStep, at, label_step
from sotopia_rl_data.study.training import SideBySideStep, Trained, TrainStep
from sotopia_rl_data.trainers.row_index import check_where


def steps_of(study: Study) -> list[StudyStep]:
    """The steps of a study. Raises UsageError, InputError, QueryError and NotFound, with the line of what cannot be
    done."""
    return list(_Planner(study).steps())


def model_step(name: str, seed: int) -> str:
    """The step that trains a reward model."""
    return f"reward model {name}, seed {seed}"


def policy_step(name: str, seed: int) -> str:
    """The step that trains a policy."""
    return f"policy {name}, seed {seed}"


def scored_step(policy: str, partner: str, seed: int) -> str:
    """The step that scores the episodes of two policies."""
    return f"evaluate {policy} with {partner}, seed {seed}"


class _Planner:
    def __init__(self, study: Study) -> None:
        self._study = study
        self._sources: dict[str, DatasetStep] = {}
        self._labels: dict[str, LabelStep | RewardsStep] = {}

    def steps(self) -> Iterator[StudyStep]:
        study = self._study
        for name, source in study.datasets.items():
            with self._at("datasets", name):
                self._sources[name] = DatasetStep(name, source, study.place("datasets", name))
                yield self._sources[name]
        for name in _in_order({name: spec.origin for name, spec in study.labels.items()}):
            with self._at("labels", name):
                spec = study.labels[name]
                self._labels[name] = (
                    RewardsStep(name, spec, self._labels[spec.origin])
                    if spec.origin
                    else LabelStep(name, spec, self._sources[spec.dataset])
                )
                yield self._labels[name]
        for name, training in study.reward_models.items():
            for seed in study.seeds:
                with self._at("reward_models", name):
                    trained = Trained("rm", label_step(name), training, seed)
                    yield TrainStep(model_step(name, seed), f"rm-{name}-s{seed}", trained)
        for table in study.tables:
            if table.show == "reward-models":
                yield self._side_by_side(table)
        for name in _in_order({name: spec.origin for name, spec in study.policies.items()}):
            if study.policies[name].trainer:
                for seed in study.seeds:
                    with self._at("policies", name):
                        yield self._trained(name, study.policies[name], seed)
        if study.plays.partners:
            yield from self._plays()

    def _side_by_side(self, table: TableSpec) -> SideBySideStep:
        seeds = self._study.seeds
        models = {
            name if len(seeds) == 1 else f"{name}, seed {seed}": model_step(name, seed)
            for name in table.of
            for seed in seeds
        }
        with self._at("tables", table.name):
            if len(models) < 2:
                raise UsageError("One reward model alone cannot be set side by side.", "name a second in `of`")
            return SideBySideStep(table.name, models, label_step(table.on or table.of[0]), table.split)

    def _trained(self, name: str, spec: PolicySpec, seed: int) -> TrainStep:
        origin = policy_step(spec.origin, seed) if spec.origin else ""
        if origin and not self._study.policies[spec.origin].trainer:
            raise UsageError(
                f"{spec.origin!r} is not trained here, so nothing can be trained from it.", "leave `from` out"
            )
        if spec.where is not None:
            check_where(spec.where, self._labels[spec.labels].dimensions)
        model = model_step(spec.reward_model, seed) if spec.reward_model else ""
        trained = Trained(spec.trainer, label_step(spec.labels), spec.training, seed, origin, model, spec.where)
        return TrainStep(policy_step(name, seed), name, trained)

    def _plays(self) -> Iterator[StudyStep]:
        plays = self._study.plays
        scenes = scenes_of(plays.scenarios, plays.profiles, plays.pairs)
        asked = Elicitation(judges=plays.evaluators)
        played = {scene.environment.environment_id for scene in scenes}
        for name, environments in plays.subsets.items():
            with self._at("subsets", name):
                if not played & set(environments):
                    raise UsageError(
                        f"None of the environments of the subset {name!r} is played.",
                        f"name some of {', '.join(sorted(played)[:5])} …",
                    )
        for seed in self._study.seeds:
            for policy in plays.policies:
                for partner in plays.partners:
                    with self._at("policies", policy):
                        rollout = self._play(policy, partner, scenes, seed)
                    yield rollout
                    yield EvaluateStep(scored_step(policy, partner, seed), rollout.name, rollout.episodes, asked)

    def _play(self, policy: str, partner: str, scenes: Sequence[Scene], seed: int) -> RolloutStep:
        sides = self._side(policy, seed), self._side(partner, seed)
        if sides[1].drafts > 1:
            raise UsageError(
                f"The partner {partner!r} is the best of some drafts, and only policies can be.", "name another"
            )
        if sides[0].drafts > 1 and sides[0].plays and sides[0].plays == sides[1].plays:
            raise UsageError(
                f"{partner!r} would play the best of its drafts too, as it is the same model.", "name another"
            )
        name = f"play {policy} with {partner}, seed {seed}"
        short = f"play-{policy}-with-{partner}-s{seed}"
        return RolloutStep(name, short, sides, Rounds(self._study.plays, scenes, seed, self._layout(policy)))

    def _side(self, name: str, seed: int) -> Side:
        spec = self._study.policies[name]
        if spec.best_of > 1:
            drafted = self._side(spec.origin, seed)
            if drafted.drafts > 1:
                raise UsageError(f"{spec.origin!r} is the best of some drafts already.", "name the policy that drafts")
            model = model_step(spec.reward_model, seed)
            return Side(drafted.plays, drafted.trained, drafted.base, spec.best_of, model)
        if spec.trainer:
            return Side(trained=policy_step(name, seed), base=spec.training.model)
        return Side(plays=spec.plays)

    def _layout(self, policy: str) -> Layout:
        """That of the prompts that the policy was trained on."""
        spec = self._study.policies[policy]
        while spec.best_of > 1:
            spec = self._study.policies[spec.origin]
        label = self._study.labels[spec.labels] if spec.labels else None
        layout: Layout = label.recipe.get("layout", "single") if label else "single"
        return layout

    def _at(self, section: str, name: str) -> AbstractContextManager[None]:
        """What is wrong inside the block is told with the line of this name."""
        return at(self._study.place(section, name))


def _in_order(origins: dict[str, str]) -> list[str]:
    """The names, each after the one that it comes from."""
    found: list[str] = []
    for name in origins:
        way = [name]
        while origins[way[-1]]:
            way.append(origins[way[-1]])
        found += [each for each in reversed(way) if each not in found]
    return found
