"""The bench: every schema × rule × judge of some labels, and reward models, against the truth of known games.

What is measured is what a trainer would get: each rule of `rewards/` applied to what a judge said, before any
normaliser. Each line has its ceiling beside it: the oracle (`planted.py`) that answers the same schema inside its
scale, under the same rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sotopia_rl_data.agreement.opinions import REWARD_MODEL
from sotopia_rl_data.credit.measuring import Nearness, nearness
from sotopia_rl_data.credit.planted import Planted
from sotopia_rl_data.credit.playing import DIMENSION, EVALUATOR
from sotopia_rl_data.credit.truth import Floats, Truth, truth_of
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.labelers.plan import DEFAULT_SCALE, LabelPlan, episodes_of
from sotopia_rl_data.labelers.schemas import BUILTINS, own_dimensions, schema
from sotopia_rl_data.rewards.build import Sources, widened
from sotopia_rl_data.rewards.recipe import Recipe
from sotopia_rl_data.rewards.resolve import Files, distinct, resolve
from sotopia_rl_data.rewards.rules import RULES
from sotopia_rl_data.rewards.texts import RenderedTexts
from sotopia_rl_data.schema import Attribution
from sotopia_rl_data.store import Version

WITHOUT_JUDGE = tuple(name for name, one in RULES.items() if one.measure is None)
COUNTERFACTUAL, SHAPLEY = "counterfactual", "shapley"
PLAYED = (COUNTERFACTUAL, SHAPLEY)
"""The schemas that play dialogues anew. An oracle has nothing to answer there, so they have no ceiling."""
AS_SCORED = "as scored"
"""What stands for the rule of a reward model, whose scores are taken as they are."""


@dataclass(frozen=True, slots=True)
class CreditMethod:
    """Where credit comes from. `calls` and `usd` are what the judge's answers about this schema took, over all rules
    together; None where that is not known. `labels` is the reference of the version that holds them, "" for what was
    made up for this bench and for rules that need no judge."""

    schema: str
    rule: str
    judge: str
    calls: int | None = None
    usd: float | None = None
    labels: str = ""


@dataclass(frozen=True, slots=True)
class BenchLine:
    """A method and how near it came. The ceilings are the oracle's tau and hit for the same schema and rule."""

    method: CreditMethod
    nearness: Nearness
    ceiling_tau: float | None = None
    ceiling_hit: float | None = None

    @property
    def found(self) -> float:
        """How many pivotal turns it found."""
        return (self.nearness.hit.value or 0.0) * self.nearness.groups

    def per_found(self, spent: float | None) -> float | None:
        """What one pivotal turn that it found took of what was `spent`."""
        return spent / self.found if spent is not None and self.found else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        each = {name: self.per_found(getattr(self.method, name)) for name in ("calls", "usd")}
        return {
            **asdict(self.method),
            **asdict(self.nearness),
            "ceiling_tau": self.ceiling_tau,
            "ceiling_hit": self.ceiling_hit,
            "leans_on": self.nearness.leans_on,
            "calls_per_found": each["calls"],
            "usd_per_found": each["usd"],
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """All lines, the best tau first. `games` and `labels` are references of versions, `planted` the planted judges."""

    games: str
    labels: tuple[str, ...]
    episodes: int
    utterances: int
    lines: tuple[BenchLine, ...]
    resamples: int
    seed: int
    planted: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("games", "labels", "episodes", "utterances", "resamples", "seed", "planted")
        known = {name: getattr(self, name) for name in names}
        return known | {"lines": [line.as_dict() for line in self.lines]}


def bench(
    games: Version,
    labels: Sequence[Version] = (),
    planted: Iterable[str] = (),
    schemas: Iterable[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Bench:
    """Measure the opinions of `labels` (versions that were labelled or scored from `games`), the rules that need no
    judge, and these `planted` judges under these `schemas` (None: those of the labels; of none, all that are built in).

    Calls no model. Raises UsageError where `games` has no truth, InputError where labels are of other episodes."""
    truth, planted = truth_of(games), list(planted)
    held = [(label, _judged(games, label)) for label in labels]
    found = {schema for _, judged in held for schema, *_ in judged if schema not in (REWARD_MODEL, *PLAYED)}
    usual = sorted(found) or ([] if held and not planted else default_schemas())
    asked = list(dict.fromkeys(usual if schemas is None else schemas))
    lines: list[BenchLine] = []
    with TemporaryDirectory(prefix="sotopia-rl-data-") as folder:
        ceilings: dict[tuple[str, str], Nearness] = {}
        judges = [Planted(kind, truth.groups(), seed) for kind in dict.fromkeys(["oracle", *planted])]
        for number, name in enumerate(asked):
            plan = _plan(name, judges)
            files = planted_files(plan, games, Path(folder) / str(number))
            for method, credit in _methods(games, files, truth):
                near = nearness(truth, credit, resamples=resamples, seed=seed)
                if method.judge == "oracle":
                    ceilings[method.schema, method.rule] = near
                if method.judge in planted:
                    lines.append(BenchLine(method, near))
        for label, _ in held:
            for method, credit in _methods(games, label.files("attributions"), truth, label):
                own = _estimated(truth, method.schema)
                lines.append(BenchLine(method, nearness(own, credit, resamples=resamples, seed=seed)))
    for method, credit in _unjudged(games, truth):
        lines.append(BenchLine(method, nearness(truth, credit, resamples=resamples, seed=seed)))
    known = [_with_ceiling(line, ceilings.get((line.method.schema, line.method.rule))) for line in lines]
    known.sort(key=lambda line: -2.0 if line.nearness.tau.value is None else line.nearness.tau.value, reverse=True)
    episodes = int(truth.episode.max()) + 1
    refs, faulty = tuple(label.ref for label in labels), tuple(dict.fromkeys(planted))
    return Bench(games.ref, refs, episodes, len(truth), tuple(known), resamples, seed, faulty)


def check_named(planted: Iterable[str], schemas: Iterable[str]) -> None:
    """Raises UsageError for a planted judge or a schema that cannot be measured, whatever the games."""
    for kind in planted:
        Planted(kind, {})
    for name in schemas:
        chosen = schema(name)
        if own_dimensions(chosen):
            raise UsageError(
                f"The schema {chosen.id!r} asks about dimensions of its own, and games have scores on {DIMENSION} "
                "alone.",
                f"name schemas such as {' and '.join(default_schemas()[:2])}",
            )


def check_bench(games: Version, labels: Sequence[Version]) -> None:
    """Raises what `bench` would raise about these versions, so that no judge is asked before."""
    truth_of(games)
    for label in labels:
        _judged(games, label)


def _estimated(truth: Truth, schema: str) -> Truth:
    """The truth that credit of the schema estimates. Playing anew begins from all that is true, not from what the agent
    knew of it."""
    own = {COUNTERFACTUAL: truth.credit_true, SHAPLEY: truth.shapley}
    return truth.by(own[schema]) if schema in own else truth


def _with_ceiling(line: BenchLine, oracle: Nearness | None) -> BenchLine:
    return line if oracle is None else replace(line, ceiling_tau=oracle.tau.value, ceiling_hit=oracle.hit.value)


def default_schemas() -> list[str]:
    """The built-in schemas that ask a judge about SOTOPIA-EVAL's dimensions, but for those that ask what another one
    asks."""
    chosen = [name for name in BUILTINS if schema(name).needs_judge and not own_dimensions(schema(name))]
    return [name for name in chosen if name != "scaled"]


def _judged(games: Version, label: Version) -> set[tuple[Any, ...]]:
    """The (schema, measure, judge, sample) of a version's attributions. Raises UsageError, InputError."""
    if "attributions" not in label.manifest.configs:
        raise UsageError(f"{label.ref} has no attributions.", "name versions that `label` or `score` made of the games")
    mine, theirs = (
        {name: split.digest for name, split in version.manifest.configs.get("episodes", {}).items()}
        for version in (games, label)
    )
    if mine != theirs:
        raise InputError(
            f"{label.ref} is not about the episodes of {games.ref}.",
            f"label them: sotopia-rl-data label {games.ref} --judge lexical --weights goal=1",
        )
    files = [path for paths in label.files("attributions").values() for path in paths]
    held = _of_games(files, ("measure", "judge", "sample"))
    if not held:
        raise UsageError(
            f"{label.ref} has no labels on {DIMENSION}, on which games are scored.",
            f"label them: sotopia-rl-data label {games.ref} --judge lexical --weights {DIMENSION}=1",
        )
    return held


def _of_games(files: Sequence[Path], more: Sequence[str]) -> set[tuple[Any, ...]]:
    """The schema, and what `more` columns hold with it, of the attributions on the dimension of games and of those by
    reward models."""
    return {
        (name, *others)
        for name, dimension, *others in distinct(files, ("schema", "dimension", *more))
        if dimension == DIMENSION or name == REWARD_MODEL
    }


def _costs(label: Version) -> dict[str, tuple[int | None, float | None]]:
    """Calls and dollars of each judge, as the manifest tells them."""
    told = label.manifest.provenance.get("judges", [])
    return {one["judge"]: (one.get("calls"), one.get("cost_usd")) for one in told}


def _methods(
    games: Version,
    files: Files,
    truth: Truth,
    label: Version | None = None,
) -> Iterator[tuple[CreditMethod, Floats]]:
    """Every schema × rule × judge of these attributions, which are of the version `label` if of any, with its credit,
    samples averaged."""
    costs = _costs(label) if label else {}
    ref = label.ref if label else ""
    paths = [path for of_split in files.values() for path in of_split]
    held = distinct(paths, ("schema", "measure", "judge", "dimension"))
    for name, measure, judge in sorted({of[:3] for of in held}):
        spent = costs.get(judge, (None, None))
        if name == REWARD_MODEL:
            targets = sorted({of[3] for of in held if of[:3] == (name, measure, judge)})
            for target in targets:
                scored = AS_SCORED if len(targets) == 1 else f"{AS_SCORED}: {target}"
                yield CreditMethod(name, scored, judge, *spent, ref), _scores(files, truth, judge, target)
            continue
        for rule in RULES.values():
            if rule.measure is not None and rule.over([measure]).measure == measure:
                recipe = Recipe({DIMENSION: 1.0}, rule.id, "none", evaluator=EVALUATOR, schema=name, judge=judge)  # type: ignore[arg-type]
                yield CreditMethod(name, rule.id, judge, *spent, ref), _credit(recipe, games, files, truth)


def _unjudged(games: Version, truth: Truth) -> Iterator[tuple[CreditMethod, Floats]]:
    """The rules that need no judge."""
    for name in WITHOUT_JUDGE:
        recipe = Recipe({DIMENSION: 1.0}, name, "none", evaluator=EVALUATOR)  # type: ignore[arg-type]
        yield CreditMethod(name, name, "", 0, 0.0), _credit(recipe, games, {}, truth)


def _credit(recipe: Recipe, games: Version, attributions: Files, truth: Truth) -> Floats:
    """What the recipe's rule makes of each utterance, in the truth's order: the mean over samples."""
    episodes = games.files("episodes")
    resolved = resolve(recipe, episodes, attributions)
    sources = Sources(episodes, attributions, RenderedTexts(episodes, lambda episode: ()))
    credit = np.full(len(truth), np.nan)
    for split, rows in truth.splits.items():
        chunks = [r[:, resolved.dimensions.index(DIMENSION)] for r in widened(resolved, split, sources)]
        credit[rows] = np.concatenate(chunks, axis=1).mean(axis=0)
    return credit


def _scores(files: Files, truth: Truth, judge: str, target: str) -> Floats:
    """A reward model's scores, as it gave them."""
    import pyarrow.parquet as pq

    columns = ["episode_id", "agent", "turn", "schema", "judge", "dimension", "raw"]
    given = {
        (row["episode_id"], row["agent"], row["turn"]): row["raw"]
        for paths in files.values()
        for path in paths
        for row in pq.read_table(path, columns=columns).to_pylist()
        if (row["schema"], row["judge"], row["dimension"]) == (REWARD_MODEL, judge, target)
    }
    return np.array([given.get(key, np.nan) for key in truth.keys])


# --- planted judges ---------------------------------------------------------------------------------------------------


def _plan(name: str, judges: Sequence[Planted]) -> LabelPlan:
    return LabelPlan(schema(name), (DIMENSION,), EVALUATOR, tuple(judges), DEFAULT_SCALE, "packed")


def planted_files(plan: LabelPlan, games: Version, folder: Path) -> Files:
    """The plan's planted judges asked about all episodes, without a ledger: what they say is free and made up. Returns
    the attributions' files by split."""
    import pyarrow.parquet as pq

    from sotopia_rl_data.tables import attribution_table

    folder.mkdir(parents=True)
    files: dict[str, list[Path]] = {}
    for split, paths in games.files("episodes").items():
        rows = [row for episode in episodes_of(paths) for row in _opinions(plan, episode)]
        rows.sort(key=lambda row: (row.episode_id, row.agent, row.turn, row.dimension, row.judge))
        files[split] = [folder / f"{split}.parquet"]
        pq.write_table(attribution_table(rows), files[split][0])
    return files


def _opinions(plan: LabelPlan, episode: Any) -> Iterator[Attribution]:
    low, high = plan.schema.bounds(plan.scale, DIMENSION)
    for question in plan.questions(episode):
        for judge in plan.judges:
            assert isinstance(judge, Planted)
            for slot, value in plan.read(question, judge.text(question)).items():
                place = (episode.episode_id, slot.agent, slot.turn, DIMENSION)
                yield Attribution(
                    *place, plan.schema.id, plan.schema.measure, judge.id, 0, value, low, high, call_id="planted"
                )
