"""The papers' tables of a comparison: columns and rows, for a terminal, a page or a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.comparing.methods import AVERAGE
from sotopia_rl_data.comparing.results import Comparison, ConditionResult, MethodContrast
from sotopia_rl_data.dimensions import SOTOPIA_EVAL

_SHORT = {one.name: one.short for one in SOTOPIA_EVAL} | {AVERAGE: "AVG"}


@dataclass(frozen=True, slots=True)
class Grid:
    """A title, the columns' names and the rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    spare: tuple[str, ...] = ()
    """The columns that a narrow screen can do without, the first to go first."""


def short(dimension: str) -> str:
    """GOAL for goal, AVG for the average; other dimensions as they are."""
    return _SHORT.get(dimension, dimension)


def legend(dimensions: Sequence[str]) -> str:
    """What the short names stand for: `BEL believability, …`."""
    return ", ".join(f"{short(name)} {name.replace('_', ' ')}" for name in dimensions if short(name) != name)


def signs(comparison: Comparison, shown: Set[str]) -> Iterator[str]:
    """What each sign means that the tables of conditions and effects show, in these of their columns."""
    contrasts = [each for condition in comparison.conditions for each in condition.contrasts if each.pairs]
    effects = [effect for contrast in contrasts for effect in contrast.effects]
    if any(value is not None for one in comparison.conditions for each in one.means for value in each.means.values()):
        yield "n: agents of episodes"
    if any(effect.significant for effect in effects):
        yield f"*: p < {comparison.alpha:g} after Holm, against {comparison.methods[0]}"
    if any(effect.low is not None for effect in effects):
        what = "pairs" if comparison.resample == "pair" else "scenarios"
        yield f"{comparison.level:.0%} intervals from {comparison.resamples:,} draws of {what}"
    if "d" in shown:
        yield "d: Cohen's d_z"
    for column, units in (("distinct-1", "words"), ("distinct-2", "word pairs"), ("distinct-3", "word triples")):
        if column in shown:
            yield f"{column}: of all {units} said, the share that are different"


def conditions(comparison: Comparison) -> Iterator[Grid]:
    """A table of means for each condition in which somebody was scored: a row a method, a column a dimension. A mean
    that differs from the first method's (p below alpha, after Holm) has a star."""
    for condition in comparison.conditions:
        rows = [
            (
                means.method,
                means.units,
                *(_mean(condition, means.method, name) for name in comparison.dimensions),
                _missing(means.missing),
            )
            for means in condition.means
            if any(value is not None for value in means.means.values())
        ]
        if rows:
            yield Grid(title(condition), ("method", "n", *map(short, comparison.dimensions), "missing"), tuple(rows))


def ablation(comparison: Comparison, dimensions: Sequence[str] = ("goal", AVERAGE)) -> Grid | None:
    """One table of all conditions: a row a method, and for each condition a column for each of these dimensions. None
    where there is one condition only."""
    names = [name for name in dimensions if name in comparison.dimensions]
    if len(comparison.conditions) < 2 or not names:
        return None
    columns = [(condition, name) for condition in comparison.conditions for name in names]
    rows = [(method, *(_mean(condition, method, name) for condition, name in columns)) for method in comparison.methods]
    heads = (f"{short(name)} {_distinction(comparison, condition)}".strip() for condition, name in columns)
    return Grid("all conditions", ("method", *heads), tuple(rows))


def effects(comparison: Comparison) -> Iterator[Grid]:
    """The contrast of every method with the first, in each condition."""
    columns = (
        "dimension",
        "pairs",
        "a",
        "b",
        "b−a",
        f"{comparison.level:.0%}",
        "t",
        "p",
        "adjusted",
        "d",
        "wins",
        "ties",
        "loses",
    )
    for condition in comparison.conditions:
        for contrast in [each for each in condition.contrasts if each.pairs]:
            rows = [
                (
                    short(e.dimension),
                    e.pairs,
                    e.mean_a,
                    e.mean_b,
                    e.difference,
                    between(e.low, e.high),
                    e.t,
                    e.p,
                    e.adjusted,
                    e.effect,
                    e.wins,
                    e.ties,
                    e.losses,
                )
                for e in contrast.effects
            ]
            heading = f"b = {contrast.b}  against  a = {contrast.a}   {title(condition)}"
            yield Grid(heading, columns, tuple(rows), ("t", "p", "loses", "ties", "pairs", "a", "b", "wins", "d"))


def scenarios(condition: ConditionResult, contrast: MethodContrast, dimension: str) -> Grid:
    """A row a scenario: the means of both sides on a dimension, the largest difference first."""
    rows = []
    for scenario in contrast.scenarios:
        a, b = scenario.a.get(dimension), scenario.b.get(dimension)
        rows.append((scenario.codename, scenario.pairs, a, b, None if a is None or b is None else b - a))
    rows.sort(key=lambda row: (row[4] is None, -(row[4] or 0.0), row[0]))
    heading = f"{short(dimension)} by scenario: b = {contrast.b}, a = {contrast.a}   {title(condition)}"
    return Grid(heading, ("scenario", "pairs", "a", "b", "b−a"), tuple(rows))


def talk(comparison: Comparison) -> Grid:
    """How much each method talks."""
    rows = [
        (
            talk.method,
            talk.scenarios,
            talk.partner,
            talk.episodes,
            talk.turns,
            talk.utterances,
            talk.words,
            talk.words_an_utterance,
            *(_figure(figure) for figure in talk.distinct),
        )
        for talk in comparison.talk
    ]
    columns = (
        "method",
        "scenarios",
        "partner",
        "episodes",
        "turns",
        "own utterances",
        "own words",
        "words an utterance",
        "distinct-1",
        "distinct-2",
        "distinct-3",
    )
    alike = [columns[place] for place in (1, 2) if len({row[place] for row in rows}) < 2]
    return Grid(
        "how much is said, means of episodes",
        columns,
        tuple(rows),
        ("distinct-3", "distinct-1", "own words", "turns", *alike, "distinct-2"),
    )


def agreement(comparison: Comparison) -> Grid | None:
    """Every two evaluators; None where there are not two."""
    if not comparison.agreement:
        return None
    rows = [
        (
            pair.a,
            pair.b,
            short(pair.dimension),
            pair.units,
            *(_figure(figure) for figure in (pair.pearson, pair.spearman, pair.alpha, pair.difference)),
        )
        for pair in comparison.agreement
    ]
    columns = ("a", "b", "dimension", "agents", "pearson", "spearman", "alpha", "a − b, of the range")
    return Grid("do the evaluators agree", columns, tuple(rows))


def title(condition: ConditionResult) -> str:
    """The condition in words."""
    return f"scenarios: {condition.scenarios} · partner: {condition.partner} · scored by {condition.evaluator}"


def between(low: float | None, high: float | None) -> str | None:
    """An interval."""
    return None if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _mean(condition: ConditionResult, method: str, dimension: str) -> str | None:
    """7.81, with a star where it differs significantly from the first method's."""
    value = next((means.means.get(dimension) for means in condition.means if means.method == method), None)
    if value is None:
        return None
    starred = any(contrast.b == method and contrast.effect(dimension).significant for contrast in condition.contrasts)
    return f"{value:.2f}*" if starred else f"{value:.2f}"


def _distinction(comparison: Comparison, condition: ConditionResult) -> str:
    """What distinguishes the condition from the others."""
    parts = []
    for name in ("scenarios", "partner", "evaluator"):
        if len({getattr(other, name) for other in comparison.conditions}) > 1:
            parts.append(getattr(condition, name))
    return ", ".join(parts)


def _missing(missing: Any) -> str | None:
    """`GOAL 3`: how many scores are missing; one number where every dimension lacks the same number, None for none."""
    counts = {short(name): n for name, n in missing.items() if n}
    if not counts:
        return None
    if len(set(missing.values())) == 1:
        return f"{next(iter(counts.values()))}"
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _figure(figure: Any) -> str | None:
    if figure.value is None:
        return None
    limits = between(figure.low, figure.high)
    return f"{figure.value:.2f} [{limits}]" if limits else f"{figure.value:.2f}"
