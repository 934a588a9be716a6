"""Everything that can be wrong with a label run, found before anything is asked or written; what is right is a Plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.dimensions import full_name, in_order
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers import judges as judging
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.plan import LabelPlan, check_can_ask
from sotopia_rl_data.labelers.requests import target_of
from sotopia_rl_data.labelers.schemas import Schema, own_dimensions
from sotopia_rl_data.labelers.schemas import schema as find_schema
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.labelers.selection import read_selection
from sotopia_rl_data.labelers.source import episodes_version
from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.rewards import preset as find_preset
from sotopia_rl_data.store import Store, Version

if TYPE_CHECKING:
    from sotopia_rl_data.prompts import Layout, Template

DEFAULT_PRESET = "sotopia-rl"
DEFAULT_SCHEMA = "direct"
DEFAULT_SCALE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Elicitation:
    """What judges are asked. None stands for the default of the command: what `label` asks without further words, or
    what the labels were asked by that an audit looks at.

    `judges` are specs ("gpt-4o", "openai:MODEL@URL" …) or Judge objects. `schema` says how credit is asked for.
    `dimensions` are by default those that the reward weighs (for `sotopia-rl`: goal, relationship, knowledge). `scale`
    is the top of the importance levels: 3, 5 or 10. `packing` is "per-dimension", one call for each agent and dimension
    as the paper asks, or "packed", one call an episode. `evaluator` names whose episode scores are attributed, where
    several gave some. `samples` repeats every question. `only` is a CSV that names what to ask about.
    `sampling` (temperature, max_tokens …) is laid over the judges' defaults.
    """

    judges: Sequence[str | Judge] = ()
    schema: str | None = None
    dimensions: Sequence[str] | None = None
    scale: int | None = None
    packing: Packing | None = None
    evaluator: str | None = None
    samples: int = 1
    only: Path | None = None
    sampling: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """What is made of the answers. `preset` names the reward recipe; None is `sotopia-rl` with the schema's own rule.
    `average` joins the opinions of judges and samples ("mean" or "median"; default: the preset's). `layout` and
    `template` say how the rows' prompts are written."""

    preset: str | None = None
    average: str | None = None
    layout: Layout = "single"
    template: Template | None = None


def prepare(asked: Elicitation, rewards: RewardSettings) -> tuple[LabelPlan, Recipe]:
    """The plan, but for its evaluator where none is named, and the reward recipe that goes with it.

    Raises UsageError and KeyMissing.
    """
    from sotopia_rl_data.prompts import layout_id

    chosen = find_schema(asked.schema or DEFAULT_SCHEMA)
    own = own_dimensions(chosen)
    named = own or None if asked.dimensions is None else asked.dimensions
    recipe = _recipe(chosen, rewards.preset, asked.evaluator, dimensions_of(named or (), own) if own else ())
    if rewards.average is not None:
        recipe = replace(recipe, average=rewards.average)  # type: ignore[arg-type]  # Recipe raises where it is none
    dimensions = dimensions_of(recipe.weighted if named is None else named, own)
    _check_weighted(recipe, dimensions, own)
    packing, scale = asked.packing or "per-dimension", DEFAULT_SCALE if asked.scale is None else asked.scale
    check_can_ask(packing, asked.samples)
    chosen.wording_sha256(scale)  # raises where the scale is not worded
    layout_id(rewards.layout, rewards.template)  # raises where the template is of another layout
    if asked.only is not None and not chosen.needs_judge:
        raise UsageError(f"The schema {chosen.id!r} asks nobody.", "leave --only out")
    only = None if asked.only is None else read_selection(asked.only, own)
    judges = _judges(chosen, asked.judges, asked.sampling)
    return LabelPlan(chosen, dimensions, asked.evaluator or "", judges, scale, packing, asked.samples, only), recipe


def with_episodes(plan: LabelPlan, store: Store, source: str | Path | None) -> tuple[Version, LabelPlan]:
    """The episodes to label, imported where they are a file, and the plan with the evaluator whose scores are traced.

    Raises NotFound, InputError, and UsageError where several evaluators scored them and none was named.
    """
    from sotopia_rl_data.rewards.resolve import choose_evaluator, evaluators

    def choose(found: Set[str]) -> str:
        return choose_evaluator(found, plan.evaluator or None, plan.dimensions, plan.needs_score)

    def check(scored: Set[tuple[str, str]] | None) -> None:
        choose({evaluator for name, evaluator in scored or () if name in plan.dimensions})

    version = episodes_version(store, source, check)
    files = [path for paths in version.files("episodes").values() for path in paths]
    return version, replace(plan, evaluator=choose(evaluators(files, plan.dimensions)))


def check_named(plan: LabelPlan, calls: int) -> None:
    """Raises UsageError where `only` leaves nothing to ask of anybody, so that all there is would have no reward."""
    if plan.only is not None and plan.judges and not calls:
        raise UsageError(
            "The list of --only names nothing that is asked about here.",
            'compare it with: sotopia-rl-data query REF "SELECT episode_id, agents, scores FROM episodes"',
        )


def _recipe(schema: Schema, preset: str | None, evaluator: str | None, own: Sequence[str]) -> Recipe:
    """The preset's recipe, reading this schema's attributions; without a preset, the default one's with its rule, and
    `own` dimensions, where the schema has some, weighed alike."""
    from sotopia_rl_data.rewards.rules import rule

    recipe = find_preset(preset or DEFAULT_PRESET)
    if preset is None:
        weights = dict.fromkeys(own, 1.0) or recipe.weights
        recipe = replace(recipe, rule=schema.rule, weights=weights)  # type: ignore[arg-type]  # Recipe raises
    measure = rule(recipe.rule).measure
    if measure is not None and (measure != schema.measure or not schema.needs_judge):
        raise UsageError(
            f"The preset {preset!r} reads {measure!r} attributions, and the schema {schema.id!r} yields none.",
            "leave --preset out, or name one that fits the schema",
        )
    return replace(recipe, evaluator=evaluator, schema=schema.id if measure else None)


def _check_weighted(recipe: Recipe, asked: Sequence[str], own: Sequence[str]) -> None:
    missing = [name for name in recipe.weighted if name not in asked]
    if not missing:
        return
    hint = f"ask about them too: --dimensions {','.join([*asked, *missing])}; or name another --preset"
    if own and not set(missing) <= set(own):
        hint = f"leave --preset out, or name a file of yours that weighs {', '.join(own)}"
    raise UsageError(f"The rewards weigh {', '.join(missing)}, about which no judge would be asked.", hint)


def dimensions_of(names: Sequence[str], own: Sequence[str] = ()) -> tuple[str, ...]:
    """Full names, each once, in order: how they were listed must not change what is asked. `own` are those of a schema
    that does not ask about SOTOPIA-EVAL's. Raises UsageError."""
    found = in_order(full_name(name, own) for name in names)
    if not found:
        raise UsageError("No dimension is named.", "name one or more, as in --dimensions goal,relationship,knowledge")
    return found


def _judges(schema: Schema, named: Sequence[str | Judge], sampling: Mapping[str, Any] | None) -> tuple[Judge, ...]:
    """The judges, made, so that a missing key is found now. Raises UsageError, KeyMissing."""
    if not schema.needs_judge:
        if named:
            raise UsageError(f"The schema {schema.id!r} asks nobody.", "leave --judge out")
        return ()
    return judges_of(named, sampling, own_dimensions(schema))


def judges_of(
    named: Sequence[str | Judge], sampling: Mapping[str, Any] | None, dimensions: Sequence[str] = ()
) -> tuple[Judge, ...]:
    """One judge or more, no two of one name, made; `dimensions` where they are asked about other than SOTOPIA-EVAL's.
    `sampling` is for those that sample: people beside a model have no temperature.

    Raises UsageError, KeyMissing."""
    if not named:
        raise UsageError("No judge is named.", f"add --judge: {judging.FORMS}")
    take = {one for one in named if isinstance(one, str) and judging.samples(one)}
    made = tuple(
        judging.judge(one, sampling if one in take or not take else None, dimensions) if isinstance(one, str) else one
        for one in named
    )
    ids = [judge.id for judge in made]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"Two judges are called {twice!r}, so their rows could not be told apart.", "name each once")
    for judge in made:
        target_of(judge)
    return made
