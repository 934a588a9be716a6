"""A study's tables, read from what its steps made: no model is asked, loaded or run.

Every mean has a 95 % interval from resampled episodes, since what is said in one episode hangs together; distinct-n has
the jackknife's. Policies are compared as `compare` does it, several seeds of one as repetitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sotopia_rl_data import statistics
from sotopia_rl_data.agreement import OVERALL, agreement
from sotopia_rl_data.agreement.measure import Figure
from sotopia_rl_data.cards.model import in_words
from sotopia_rl_data.comparing import Comparison, ComparisonOptions, MethodContrast
from sotopia_rl_data.comparing.diversity import distinct
from sotopia_rl_data.comparing.measure import EVERYTHING, compare_units
from sotopia_rl_data.comparing.methods import Unit, read_methods, tested_in
from sotopia_rl_data.comparing.tables import short
from sotopia_rl_data.stats import stats
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.streams import read
from sotopia_rl_data.study.declared import Study, TableSpec
from sotopia_rl_data.study.planning import scored_step
from sotopia_rl_data.study.steps import StepResult, label_step
from sotopia_rl_data.study.training import side_by_side_step

BINS = 20
_INTERVALS = "In brackets, 95 % intervals from resampled episodes."
_MEASURES = ("pearson", "spearman", "alpha", "pair_accuracy")


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in a table, with its interval where it has one, and a mark behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of a picture: rows with a value and its interval (`dots`, from top to bottom; `steps`, over the numbers
    `at`), or shares by bin (`bars`)."""

    title: str
    labels: Sequence[str]
    cells: Sequence[Cell] = ()
    at: Sequence[float] = ()
    bars: Sequence[float] = ()
    edges: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class StudyTable:
    """A table, and the panels of its picture; no panels, no picture. `kind` says how they are drawn, `is_alike` whether
    all are in one unit, and have one scale."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()
    kind: str = "dots"
    panels: Sequence[Panel] = ()
    is_alike: bool = False


def tables_of(study: Study, results: Mapping[str, StepResult], store: Store) -> list[StudyTable]:
    """The tables that the study declares, in its order, and beside scores the evaluators' agreement. Raises UsageError
    where rows do not have what a table shows, StoreError."""
    made = _Tables(study, results, store)
    return [table for spec in study.tables for table in made.table(spec)]


class _Tables:
    def __init__(self, study: Study, results: Mapping[str, StepResult], store: Store) -> None:
        self._study, self._results, self._store = study, results, store

    def table(self, spec: TableSpec) -> Iterator[StudyTable]:
        if spec.show == "reward-models":
            yield self._reward_models(spec)
        elif spec.show == "agreement":
            yield self._agreement(spec)
        elif spec.show == "distributions":
            yield self._distributions(spec)
        elif spec.show == "scores":
            yield from self._scores(spec)
        elif spec.show == "best-of-n":
            yield self._best_of_n(spec)
        elif spec.show == "diversity":
            yield self._diversity(spec)
        else:
            yield self._cost(spec)

    def _labels(self, name: str) -> Version:
        return self._store.resolve(self._results[label_step(name)].ref)

    # --- labels and reward models -------------------------------------------------------------------------------------

    def _reward_models(self, spec: TableSpec) -> StudyTable:
        compared = self._results[side_by_side_step(spec.name)].facts
        metrics = list(compared["runs"][0]["metrics"])
        rows, panels = list[list[Any]](), list[Panel]()
        for number, run in enumerate(compared["runs"]):
            rows.append([run["run"], *(_measured(run["metrics"][name], number == 0) for name in metrics)])
        for column, name in enumerate(metrics, 1):
            panels.append(Panel(in_words(name), [row[0] for row in rows], [row[column] for row in rows]))
        return StudyTable(
            spec.name,
            spec.title,
            ("reward model", *map(in_words, metrics)),
            rows,
            (
                f"Each reward model, named by the labels that it is trained on, scores the {compared['split']} split "
                f"of the labels {spec.on or spec.of[0]}: {compared['rows']:,} utterances of {compared['episodes']:,} "
                f"episodes. {_INTERVALS} + and −: above and below the first in 95 % of the draws.",
                *compared["warnings"],
            ),
            panels=panels,
        )

    def _distributions(self, spec: TableSpec) -> StudyTable:
        rows, panels = list[list[Any]](), list[Panel]()
        for name in spec.of:
            version = self._labels(name)
            rewards, episodes = _rewards(version)
            one = stats(version).columns["reward"]["all"]
            mean = over_episodes(rewards, episodes)
            rows.append(
                [name, one.count, one.nulls, mean, *map(Cell, (one.sd, one.min, one.q25, one.median, one.q75, one.max))]
            )
            counts, edges = np.histogram(rewards, BINS, (min([0.0, *rewards]), max([1.0, *rewards])))
            bars = [count / len(rewards) for count in counts.tolist()] if rewards else []
            panels.append(Panel(name, (), bars=bars, edges=edges.tolist()))
        columns = ("labels", "utterances", "without", "mean", "sd", "min", "25 %", "median", "75 %", "max")
        return StudyTable(spec.name, spec.title, columns, rows, (_INTERVALS,), "bars", panels)

    def _agreement(self, spec: TableSpec) -> StudyTable:
        versions = [self._labels(name) for name in spec.of]
        result = agreement(versions)
        by_ref = {version.ref: name for name, version in zip(spec.of, versions, strict=True)}
        alone = [one.ref for one in result.opinions]
        names = {
            one.name: by_ref[one.ref] if alone.count(one.ref) == 1 else f"{by_ref[one.ref]}: {one.name}"
            for one in result.opinions
        }
        rows, panels = list[list[Any]](), list[Panel]()
        for pair in result.pairs:
            if pair.dimension == OVERALL or len(result.dimensions) == 1:
                cells = [_cell(pair.figures[measure]) for measure in _MEASURES]
                rows.append([names[pair.a], names[pair.b], pair.units, *cells])
        for column, measure in enumerate(_MEASURES, 3):
            labels = [f"{row[0]} · {row[1]}" for row in rows]
            panels.append(Panel(in_words(measure), labels, [row[column] for row in rows]))
        columns = ("labels", "and labels", "both judged", *map(in_words, _MEASURES))
        note = f"Over all dimensions: what judges and people said of the same utterances. {_INTERVALS}"
        return StudyTable(spec.name, spec.title, columns, rows, (note,), panels=panels)

    # --- policies -----------------------------------------------------------------------------------------------------

    def _units(self, spec: TableSpec) -> dict[str, list[Unit]]:
        """Those of each policy, with partners by their names in the study."""
        found: dict[str, list[Unit]] = {}
        run = 0
        for policy in spec.of:
            for partner in self._study.plays.partners:
                for seed in self._study.seeds:
                    version = self._store.resolve(self._results[scored_step(policy, partner, seed)].ref)
                    _, methods = read_methods([version], agents=[tested_in(version) or "first"])
                    units = [unit for some in methods.values() for unit in some]
                    found.setdefault(policy, []).extend(
                        replace(unit, run=run, model=policy, partner=partner) for unit in units
                    )
                    run += 1
        return found

    def _compared(self, spec: TableSpec, units: Mapping[str, Sequence[Unit]]) -> Comparison:
        everybody = [unit for some in units.values() for unit in some]
        evaluators = sorted({name for unit in everybody for name in unit.scores})
        sets = {name: frozenset(ids) for name, ids in self._study.plays.subsets.items()} | {EVERYTHING: None}
        return compare_units(
            units,
            refs=spec.of,
            evaluators=evaluators,
            sets=sets,
            dimensions=spec.dimensions,
            options=ComparisonOptions(),
            everybody=everybody,
        )

    def _scores(self, spec: TableSpec) -> Iterator[StudyTable]:
        units = self._units(spec)
        compared = self._compared(spec, units)
        names = compared.dimensions
        rows, panels = list[list[Any]](), list[Panel]()
        for condition in compared.conditions:
            contrasts = {contrast.b: contrast for contrast in condition.contrasts}
            place = f"{condition.scenarios}, with {condition.partner}, by {condition.evaluator}"
            for means in condition.means:
                some = _of_condition(
                    units[means.method], condition.partner, self._study.plays.subsets.get(condition.scenarios)
                )
                cells: list[Cell | None] = []
                for name in names:
                    cells.append(_mean_score(some, condition.evaluator, name))
                    cells.append(_difference(contrasts.get(means.method), name))
                head = (condition.scenarios, condition.partner, condition.evaluator, means.method, means.units)
                rows.append([*head, *cells])
            of_condition = rows[-len(condition.means) :]
            title = f"{short(names[0])}, {place}"
            panels.append(Panel(title, [row[3] for row in of_condition], [row[5] for row in of_condition]))
        heads = [head for name in names for head in (short(name), f"{short(name)} − {compared.methods[0]}’s")]
        notes = [
            f"n: agents of episodes. {_INTERVALS} The difference is that of pairs of the same scenario, agents and "
            f"position; *: p < {compared.alpha:g} after Holm.",
            *compared.remarks,
        ]
        columns = ("scenarios", "partner", "evaluator", "policy", "n", *heads)
        yield StudyTable(spec.name, spec.title, columns, rows, notes, panels=panels, is_alike=True)
        if compared.agreement:
            yield _evaluators(spec, compared)

    def _best_of_n(self, spec: TableSpec) -> StudyTable:
        units, name = self._units(spec), spec.dimensions[0]
        evaluators = sorted({one for some in units.values() for unit in some for one in unit.scores})
        rows, panels = list[list[Any]](), list[Panel]()
        for partner in self._study.plays.partners:
            for evaluator in evaluators:
                of_pair = []
                for policy in spec.of:
                    some = _of_condition(units[policy], partner, None)
                    mean = _mean_score(some, evaluator, name)
                    of_pair.append((self._study.policies[policy].best_of, policy, len(some), mean))
                of_pair.sort(key=lambda one: one[0])
                rows += [[partner, evaluator, policy, drafts, n, mean] for drafts, policy, n, mean in of_pair]
                title = f"{short(name)}, with {partner}, by {evaluator}"
                cells, at = [one[3] for one in of_pair], [float(one[0]) for one in of_pair]
                panels.append(Panel(title, [one[1] for one in of_pair], cells, at))
        columns = ("partner", "evaluator", "policy", "drafts", "n", short(name))
        return StudyTable(spec.name, spec.title, columns, rows, (_INTERVALS,), "steps", panels, is_alike=True)

    def _diversity(self, spec: TableSpec) -> StudyTable:
        units, rows = self._units(spec), list[list[Any]]()
        for partner in self._study.plays.partners:
            for policy in spec.of:
                some = _of_condition(units[policy], partner, None)
                episodes = [unit.episode for unit in some]
                spoken = [(text, unit.episode) for unit in some for text in unit.speech]
                words = over_episodes([float(len(text.split())) for text, _ in spoken], [one for _, one in spoken])
                turns = over_episodes([float(unit.turns) for unit in some], episodes)
                said = over_episodes([float(unit.utterances) for unit in some], episodes)
                grams = [_cell(distinct(some, n)) for n in (1, 2, 3)]
                rows.append([partner, policy, len(set(episodes)), turns, said, words, *grams])
        measures = ("turns", "own utterances", "words an utterance", "distinct-1", "distinct-2", "distinct-3")
        columns = ("partner", "policy", "episodes", *measures)
        labels = [f"{row[1]} with {row[0]}" for row in rows]
        panels = [Panel(columns[place], labels, [row[place] for row in rows]) for place in range(3, len(columns))]
        notes = (f"{_INTERVALS} Those of distinct-n leave out each episode in turn (jackknife).",)
        return StudyTable(spec.name, spec.title, columns, rows, notes, panels=panels)

    # --- cost ---------------------------------------------------------------------------------------------------------

    def _cost(self, spec: TableSpec) -> StudyTable:
        """What has a price, step by step; scripts, people and models of one's own have none."""
        rows: list[list[Any]] = []
        costs: dict[str, list[float | None]] = {}
        for step, made in self._results.items():
            for line in made.bill:
                usage, usd = line["usage"], line["total"]
                if usd != 0:
                    tokens = [usage[name] for name in ("input", "cached", "output")]
                    rows.append([step, line["judge"], line["calls"], *tokens, None if usd is None else Cell(usd)])
                    costs.setdefault(step, []).append(usd)
        by_step = {step: _sum(some) for step, some in costs.items()}
        sums = [sum(row[place] for row in rows) for place in (2, 3, 4, 5)]
        usd = _sum(list(by_step.values()))
        rows.append(["all", None, *sums, None if usd is None else Cell(usd)])
        panels = [Panel("USD", list(by_step), [Cell(usd) for usd in by_step.values()])] if any(by_step.values()) else []
        columns = ("step", "judge or policy", "calls", "tokens in", "cached", "tokens out", "USD")
        note = "All runs together, at the prices of the day on which each step was made, without training."
        return StudyTable(spec.name, spec.title, columns, rows, (note,), panels=panels)


def _sum(costs: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [usd for usd in costs if usd is not None]
    return sum(known) if len(known) == len(costs) else None


def over_episodes(values: Sequence[float], episodes: Sequence[str]) -> Cell:
    """The mean, with an interval from 1,000 draws of whole episodes."""
    if not len(values):
        return Cell(None)
    places = {episode: place for place, episode in enumerate(dict.fromkeys(episodes))}
    low, high = statistics.mean_interval(values, [places[episode] for episode in episodes]) or (None, None)
    return Cell(float(np.mean(values)), low, high)


def _mean_score(units: Sequence[Unit], evaluator: str, dimension: str) -> Cell:
    scored = [(score, unit.episode) for unit in units if (score := unit.score(evaluator, dimension)) is not None]
    return over_episodes([score for score, _ in scored], [episode for _, episode in scored])


def _difference(contrast: MethodContrast | None, dimension: str) -> Cell | None:
    """What `compare` says of a policy beside the first; None of the first itself, or where nothing makes a pair."""
    if contrast is None or not contrast.pairs:
        return None
    effect = contrast.effect(dimension)
    return Cell(effect.difference, effect.low, effect.high, "*" if effect.significant else "")


def _rewards(version: Version) -> tuple[list[float], list[str]]:
    """The rewards that there are, each with its episode."""
    values: list[float] = []
    episodes: list[str] = []
    for files in version.files("rewards").values():
        for batch in read(files, ("episode_id", "reward"), 1 << 16, encoded=False):
            for row in batch.to_pylist():
                if row["reward"] is not None:
                    values.append(row["reward"])
                    episodes.append(row["episode_id"])
    return values, episodes


def _of_condition(units: Sequence[Unit], partner: str, environments: Sequence[str] | None) -> list[Unit]:
    return [
        unit for unit in units if unit.partner == partner and (environments is None or unit.environment in environments)
    ]


def _evaluators(spec: TableSpec, compared: Comparison) -> StudyTable:
    rows: list[list[Any]] = [
        [
            one.a,
            one.b,
            short(one.dimension),
            one.units,
            *map(_cell, (one.pearson, one.spearman, one.alpha, one.difference)),
        ]
        for one in compared.agreement
    ]
    columns = (
        "evaluator",
        "and evaluator",
        "dimension",
        "both scored",
        "Pearson",
        "Spearman",
        "alpha",
        "a − b, of the range",
    )
    labels = [f"{row[0]} · {row[1]}, {row[2]}" for row in rows]
    panels = [Panel(columns[place], labels, [row[place] for row in rows]) for place in (4, 5, 6)]
    title = f"{spec.title}: do the evaluators agree?"
    return StudyTable(f"{spec.name}-evaluators", title, columns, rows, (_INTERVALS,), panels=panels)


def _cell(figure: Figure) -> Cell:
    return Cell(figure.value, figure.low, figure.high)


def _measured(figure: Mapping[str, float | None], is_first: bool) -> Cell:
    low, high = figure["difference_low"], figure["difference_high"]
    mark = ""
    if not is_first and low is not None and high is not None:
        mark = "+" if low > 0 else "−" if high < 0 else ""
    return Cell(figure["value"], figure["low"], figure["high"], mark)
