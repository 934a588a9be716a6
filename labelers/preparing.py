"""Everything that can be wrong with a label run, found before anything is asked or written; what is right is a Plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sotopia_rl_data.dimensions import full_name, in_order
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers import judges as judging
from sotopia_rl_data.labelers.judge import Judge
from sotopia_rl_data.labelers.judges.sending import target_of
from sotopia_rl_data.labelers.plan import Plan
from sotopia_rl_data.labelers.schemas import Schema, own_dimensions
from sotopia_rl_data.labelers.schemas import schema as find_schema
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.labelers.selection import read_selection
from sotopia_rl_data.labelers.source import episodes_version
from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.rewards import preset as find_preset
from sotopia_rl_data.store import Store, Version

if TYPE_CHECKING:
    from sotopia_rl_data.costs.prices import Prices
    from sotopia_rl_data.ledger.ledger import Ledger
    from sotopia_rl_data.prompts import Layout, Template
    from sotopia_rl_data.schema import Episode

DEFAULT_PRESET = "sotopia-rl"


def prepare(
    *,
    judges: Sequence[str | Judge],
    schema: str = "direct",
    dimensions: Sequence[str] | None = None,
    scale: int = 3,
    ask: Packing = "per-dimension",
    preset: str | None = None,
    evaluator: str | None = None,
    samples: int = 1,
    average: str | None = None,
    only: Path | None = None,
    sampling: Mapping[str, Any] | None = None,
    layout: Layout = "single",
    template: Template | None = None,
) -> tuple[Plan, Recipe]:
    """The plan, but for its evaluator where none is named, and the reward recipe that goes with it.

    Raises UsageError and KeyMissing.
    """
    from sotopia_rl_data.prompts import layout_id

    chosen = find_schema(schema)
    own = own_dimensions(chosen)
    named = own or None if dimensions is None else dimensions
    recipe = _recipe(chosen, preset, evaluator, dimensions_of(named or (), own) if own else ())
    if average is not None:
        recipe = replace(recipe, average=average)  # type: ignore[arg-type]  # Recipe raises where it is none
    asked = dimensions_of(recipe.weighted if named is None else named, own)
    _check_weighted(recipe, asked, own)
    if ask not in get_args(Packing):
        raise UsageError(f"{ask!r} is no way to ask.", f"use {' or '.join(get_args(Packing))}")
    if samples < 1:
        raise UsageError(f"There cannot be {samples} samples.", "ask for one or more")
    chosen.wording_sha256(scale)  # raises where the scale is not worded
    layout_id(layout, template)  # raises where the template is of another layout
    if only is not None and not chosen.needs_judge:
        raise UsageError(f"The schema {chosen.id!r} asks nobody.", "leave --only out")
    wanted = None if only is None else read_selection(only, own)
    plan = Plan(chosen, asked, evaluator or "", _judges(chosen, judges, sampling), scale, ask, samples, wanted)
    return plan, recipe


def with_episodes(plan: Plan, store: Store, source: str | Path | None) -> tuple[Version, Plan]:
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


def left_to_ask(
    plan: Plan, ledger: Ledger, episodes: Callable[[], Iterable[Episode]], prices: Prices, retry_failed: bool
) -> int:
    """How many of the plan's calls would go out."""
    from sotopia_rl_data.labelers.estimate import of_plan

    return sum(line.asked for line in of_plan(plan, ledger, episodes, prices, retry_failed).lines)


def check_named(plan: Plan, calls: int) -> None:
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
