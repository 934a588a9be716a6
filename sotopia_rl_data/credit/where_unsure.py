"""`label --where-unsure`: judges are asked where reward models are unsure, and what is not asked has their word.

    score      reward models score each utterance whose environment they have not seen    held_out.py
    measure    how far off they are, by what they say, in such environments               unsure.py
    draw       each unit with a known chance, as many as the budget allows                units.py, unsure.py
    ask        `label`, about what was drawn: the ledger, the cap, the rules              labelers/
    correct    means of all rows, by environment and by policy                            unsure.py
    commit     a version that says of each row whose reward it has, and its chance        unsure_rows.py

A unit is drawn by a hash and a chance that hang on nothing but the command, the episodes, the models and the price
list, so that the command goes on after a crash, and asks a superset under a higher budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.asking import ask as asking
from sotopia_rl_data.asking.keys import without_api_keys
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.credit.held_out import (
    FoldModels,
    FoldRun,
    RunScores,
    check_all_unseen,
    check_layout,
    prediction,
)
from sotopia_rl_data.credit.units import PLURALS, Units, unit_key, units_of
from sotopia_rl_data.credit.unsure import LEAST, AskedRows, chances, errors_by_prediction
from sotopia_rl_data.credit.unsure_rows import UnsureVersion
from sotopia_rl_data.display import Silent
from sotopia_rl_data.errors import BudgetSpent, UsageError
from sotopia_rl_data.labelers.coverage import Coverage
from sotopia_rl_data.labelers.labelling import estimate_label, label
from sotopia_rl_data.labelers.plan import Elicitation, LabelPlan, RewardSettings, prepare, with_episodes
from sotopia_rl_data.labelers.report import LabelReport
from sotopia_rl_data.labelers.requests import asked_judges
from sotopia_rl_data.labelers.wordings import JudgedEstimate, OtherWording
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.outputs import guarded
from sotopia_rl_data.prompts import layout_id
from sotopia_rl_data.refs import check_name
from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.store import Store, Version

Floats = NDArray[np.float64]
_FEWEST = 10  # units to measure uncertainty by
_DEVIATIONS = 2.0  # the budget holds what is spent on average, and so many standard deviations more


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsureSettings:
    """`reward_models` are folders that `train rm` wrote. `rows` is how many utterances are asked about on average;
    None: as many as the budget allows. Another `seed` draws others."""

    reward_models: tuple[str, ...]
    rows: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Draw:
    """The utterances, what the models say of them, and who is asked: `chance` and `asked` are (U,), by unit."""

    units: Units
    scores: list[RunScores]
    predicted: Floats
    chance: Floats
    asked: NDArray[np.bool_]
    models: list[str]
    warnings: list[str]

    @property
    def rows_asked(self) -> int:
        """How many utterances are asked about."""
        return int(self.asked[self.units.code].sum())

    @property
    def sentence(self) -> str:
        """What is asked, in words."""
        units, rows = self.units, len(self.units.rows)
        drawn = f"{int(self.asked.sum()):,} of {len(units.keys):,} {PLURALS[units.of]} are drawn"
        return drawn if units.of == "utterance" else f"{drawn}, {self.rows_asked:,} of {rows:,} utterances"


@dataclass(frozen=True, slots=True)
class GroupMean:
    """The mean reward of the rows of a `group` ("all", a policy, an environment), corrected by 1 / chance, with its
    interval over environments such as these (of an environment, over its episodes); None where too few were answered.
    `n` rows, `asked` of them answered by a judge. `gain`: how many times as many would have to be asked evenly and
    without a model."""

    by: str
    group: str
    n: int
    asked: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    gain: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsureReport(LabelReport):
    """The report of `label --where-unsure`: of `rows` utterances that could be asked about, `rows_asked` were, in
    `units_asked` of the `units` of the kind `unit`."""

    unit: str
    units: int
    units_asked: int
    rows: int
    rows_asked: int
    means: list[GroupMean]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        means = [{each.name: getattr(one, each.name) for each in fields(one)} for one in self.means]
        return super(UnsureReport, self).as_dict() | {"means": means}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsureEstimate(JudgedEstimate):
    """What the drawn questions would cost."""

    drawn: str

    @property
    def sentences(self) -> tuple[str, ...]:
        """What to say before the figures."""
        return (self.drawn, *super(UnsureEstimate, self).sentences)

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON holds it."""
        return {**super(UnsureEstimate, self).as_dict(), "drawn": self.drawn}


def label_where_unsure(
    store: Store,
    source: str | Path | None,
    settings: UnsureSettings,
    asked: Elicitation,
    rewards: RewardSettings | None = None,
    *,
    out: str | None = None,
    options: AskOptions | None = None,
    announce: Callable[[Any], object] | None = None,
) -> UnsureReport:
    """Have judges label what is drawn, take the reward models' word for the rest, and estimate the means of all.

    `source`, `asked`, `rewards`, `out`, `options` and `announce` are as in `labelers.label`. Raises what that raises;
    NotFound, UsageError and InputError for reward models whose environments are not known or that have seen all of
    them; BudgetSpent where the cap ended the asking: what was answered is kept, and nothing is committed.
    """
    rewards, options = rewards or RewardSettings(), options or AskOptions()
    plan, recipe, parent, runs = _prepared(store, source, settings, asked, rewards, options)
    name = check_name(out or f"{parent.name}-rewards")
    with Ledger(options.ledger_in(store)) as ledger:
        models = FoldModels(runs, ledger, store.display)
        draw = _draw(plan, recipe, rewards, parent, models, settings, options, store)
    if announce is not None:
        announce(draw)
    # a stage that is never committed holds the labels until they are in the version, and is removed after a crash
    with store.stage(name) as scratch, _only(draw) as only:
        inner = Store(scratch.dir / "labels", display=Silent())
        try:
            report = label(
                inner,
                str(parent.dir.resolve()),
                replace(asked, only=only),
                rewards,
                out=name,
                options=replace(options, ledger=options.ledger_in(store)),
                announce=None if announce is None else lambda told: announce(told) if _is_new(told) else None,
            )
        except BudgetSpent as spent:
            raise BudgetSpent(spent.message, _hint(draw, options)) from spent
        version = UnsureVersion(report.committed.version, parent, draw.units, draw.scores)
        rows = AskedRows(draw.predicted, version.answers(), draw.chance[draw.units.code], draw.units.code)
        means = list(_means(rows, draw.units))
        silent = draw.rows_asked - int(rows.asked.sum())
        warnings = [*draw.warnings, *report.warnings]
        if not rows.has_line:
            warnings.append(
                f"{int(rows.asked.sum()):,} answers are too few to put what the models say in the judges' units: rows "
                "without an answer have no reward"
            )
        elif silent:
            warnings.append(
                f"{silent:,} of {draw.rows_asked:,} rows that were asked about have no answer: the means are right if "
                "these are like others of which the models say the same"
            )
        facts = {"reward_models": draw.models, "unit": draw.units.of, "seed": settings.seed, "least": LEAST}
        committed = version.commit(store, name, rows, rewards.layout, facts)
    return UnsureReport(
        **{each.name: getattr(report, each.name) for each in fields(report)}
        | {"committed": committed, "warnings": warnings},
        unit=draw.units.of,
        units=len(draw.units.keys),
        units_asked=int(draw.asked.sum()),
        rows=len(draw.units.rows),
        rows_asked=draw.rows_asked,
        means=means,
    )


def estimate_where_unsure(
    store: Store,
    source: str | Path | None,
    settings: UnsureSettings,
    asked: Elicitation,
    rewards: RewardSettings | None = None,
    options: AskOptions | None = None,
) -> UnsureEstimate:
    """What `label_where_unsure` would ask and cost. The models score, and nothing is kept."""
    rewards, options = rewards or RewardSettings(), options or AskOptions()
    with without_api_keys():
        plan, recipe, parent, runs = _prepared(store, source, settings, asked, rewards, options)
        with Ledger(options.ledger_in(store)) as ledger:
            models = FoldModels(runs, ledger, store.display, keeps=False)
            draw = _draw(plan, recipe, rewards, parent, models, settings, options, store)
        with _only(draw) as only:
            known = estimate_label(store, str(parent.dir.resolve()), replace(asked, only=only), rewards, options)
    return UnsureEstimate(**{each.name: getattr(known, each.name) for each in fields(known)}, drawn=draw.sentence)


def _prepared(
    store: Store,
    source: str | Path | None,
    settings: UnsureSettings,
    asked: Elicitation,
    rewards: RewardSettings,
    options: AskOptions,
) -> tuple[LabelPlan, Recipe, Version, list[FoldRun]]:
    """Everything that can be wrong is found here, before a model is loaded."""
    plan, recipe = prepare(asked, rewards)
    if not plan.judges:
        raise UsageError(
            f"The schema {plan.schema.id!r} asks no judge, so there is nothing to draw.", "leave --where-unsure out"
        )
    if settings.rows is None and options.budget is None:
        raise UsageError(
            "Neither a budget nor a number of rows says how many are to be asked about.",
            "add a sum in USD with --budget, or a number of utterances with --rows",
        )
    if settings.rows is not None and not settings.rows > 0:
        raise UsageError(f"{settings.rows:g} rows cannot be asked about.", "give --rows a number above 0")
    asking.check(asked_judges(plan.judges), options, options.price_list())
    runs = [FoldRun.read(path, store) for path in settings.reward_models]
    check_layout(runs, layout_id(rewards.layout, rewards.template))
    parent, plan = with_episodes(plan, store, source)
    return plan, recipe, parent, runs


def _is_new(told: Coverage | OtherWording) -> bool:
    """Whether it says more than the draw: how many utterances can be rewarded is known by then."""
    return isinstance(told, OtherWording)


def _hint(draw: Draw, options: AskOptions) -> str:
    """What to do where the cap ended the asking: the same draw, with more money."""
    rows = float(draw.chance @ draw.units.sizes)
    return (
        f"calls cost more than was estimated: raise --budget {options.budget:g} and add --rows {rows!r}, which draws "
        "the same; what was answered is kept"
    )


def _draw(
    plan: LabelPlan,
    recipe: Recipe,
    rewards: RewardSettings,
    parent: Version,
    models: FoldModels,
    settings: UnsureSettings,
    options: AskOptions,
    store: Store,
) -> Draw:
    units = units_of(plan, recipe, rewards, parent, options.price_list())
    if not units.rows:
        raise UsageError(
            f"The schema {plan.schema.id!r} asks about no utterance of {parent.ref} that could be rewarded.",
            f"see why: sotopia-rl-data show {parent.ref}",
        )
    scores = models.scores(units.rows)
    predicted = prediction(scores)
    check_all_unseen(units.rows, predicted, models.runs)
    uncertainty, warnings = _uncertainty(units, predicted, models, store.address)
    chance = _chances(units, uncertainty, settings, options.budget or 0.0)
    is_asked = units.draws(settings.seed) < chance
    if not is_asked.any():
        raise UsageError("The draw asks about no row.", "raise --budget or --rows, or draw by another --seed")
    return Draw(units, scores, predicted, chance, is_asked, models.identities, warnings)


def _uncertainty(units: Units, predicted: Floats, models: FoldModels, store: str) -> tuple[Floats, list[str]]:
    """(U,) the standard deviation of the models' error about each unit's sum: their error where they can be measured,
    by what they say, times the root of the unit's rows. And warnings."""
    rows = models.labelled_rows(store)
    truth = np.array([row.reward for row in rows], dtype=np.float64)
    root = np.sqrt(units.sizes)
    keys = [unit_key(units.of, row.episode_id, row.agent, row.turn or 0) for row in rows]
    if len(set(keys)) < _FEWEST:
        return root, [
            f"the reward models can be measured on {len(set(keys)):,} labelled units only, in environments that one of "
            "them has not seen: all chances are even"
        ]
    said = prediction(models.scores(rows))
    code = np.unique([repr(key) for key in keys], return_inverse=True)[1]
    own = np.bincount(units.code, weights=predicted) / units.sizes
    return errors_by_prediction(said, truth, code, own) * root, []


def _chances(units: Units, uncertainty: Floats, settings: UnsureSettings, budget: float) -> Floats:
    """(U,) by the number of rows, or by the budget: as high as leaves room for chance and for a call's reservation."""
    is_free = not units.cost.any()
    cost = units.sizes if is_free else np.maximum(units.cost, 1e-12)
    if settings.rows is not None:
        if settings.rows > len(units.rows):
            raise UsageError(
                f"{settings.rows:g} rows cannot be asked about: there are {len(units.rows):,}.",
                f"give --rows at most {len(units.rows)}",
            )
        return chances(uncertainty, settings.rows, cost=cost, amounts=units.sizes)
    if is_free:
        raise UsageError(
            "The judge costs nothing, so the budget does not say how many are to be asked about.",
            "add a number of utterances with --rows",
        )
    whole, free = float(cost.sum()), budget - units.dearest

    def chance_at(share: float) -> Floats:
        return chances(uncertainty, share * whole, cost=cost, amounts=cost)

    def spent(chance: Floats) -> float:
        return float(chance @ cost + _DEVIATIONS * np.sqrt((cost**2) @ (chance * (1 - chance))))

    if whole <= free:
        return np.ones(len(cost))
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(chance_at(middle)) <= free else (low, middle)
    if low * whole < _FEWEST * float(cost.mean()):
        raise UsageError(
            f"A budget of {budget:g} USD is too low for a draw: one call may cost {units.dearest:.2g} USD, and the "
            f"whole about {whole:.2g}.",
            "raise --budget, or limit the answers with --max-tokens",
        )
    return chance_at(low)


def _means(rows: AskedRows, units: Units) -> Iterator[GroupMean]:
    """Of all rows and of each policy, by environments; of each environment, by its episodes."""
    environments = np.array([row.environment_id for row in units.rows])
    episodes = np.array([row.episode_id for row in units.rows])
    policies = np.array([policy or "" for policy in units.policies])
    yield _mean(rows, "all", "all", environments, np.ones(len(environments), dtype=bool))
    for policy in sorted(set(policies) - {""}):
        yield _mean(rows, "policy", policy, environments, policies == policy)
    for environment in sorted(set(environments)):
        yield _mean(rows, "environment", environment, episodes, environments == environment)


def _mean(rows: AskedRows, by: str, group: str, clusters: NDArray[np.generic], among: NDArray[np.bool_]) -> GroupMean:
    empty = GroupMean(by, str(group), int(among.sum()), int((among & rows.asked).sum()))
    try:
        found = rows.mean(clusters, among)
    except UsageError:
        return empty
    return replace(empty, mean=found.mean, low=found.low, high=found.high, gain=rows.gain(among))


@contextmanager
def _only(draw: Draw) -> Iterator[Path]:
    """The list of `--only` that names what is drawn."""
    import csv

    with TemporaryDirectory(prefix="sotopia-rl-data-") as folder:
        path = Path(folder) / "drawn.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["episode_id", "agent", "turn"])
            for key, is_asked in zip(draw.units.keys, draw.asked, strict=True):
                if is_asked:
                    writer.writerow(["" if part is None else guarded(str(part)) for part in key])
        yield path
