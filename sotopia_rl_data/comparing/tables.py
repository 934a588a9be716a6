"""The papers' tables of a comparison: columns and rows, for a terminal, a page or a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def short(dimension: str) -> str:
    """GOAL for goal, AVG for the average; other dimensions as they are."""
    return _SHORT.get(dimension, dimension)


def conditions(comparison: Comparison) -> Iterator[Grid]:
    """A table of means for each condition: a row a method, a column a dimension. A mean that differs from the first
    method's (p below alpha, after Holm) has a star."""
    for one in comparison.conditions:
        rows = [
            (
                means.method,
                means.units,
                *(_mean(one, means.method, name) for name in comparison.dimensions),
                _missing(means.missing),
            )
            for means in one.means
        ]
        yield Grid(title(one), ("method", "n", *map(short, comparison.dimensions), "missing"), tuple(rows))


def ablation(comparison: Comparison, dimensions: Sequence[str] = ("goal", AVERAGE)) -> Grid | None:
    """One table of all conditions: a row a method, and for each condition a column for each of these dimensions. None
    where there is one condition only."""
    names = [name for name in dimensions if name in comparison.dimensions]
    if len(comparison.conditions) < 2 or not names:
        return None
    columns = [(one, name) for one in comparison.conditions for name in names]
    rows = [(method, *(_mean(one, method, name) for one, name in columns)) for method in comparison.methods]
    heads = (f"{short(name)} {_distinction(comparison, one)}".strip() for one, name in columns)
    return Grid("all conditions", ("method", *heads), tuple(rows))


def effects(comparison: Comparison) -> Iterator[Grid]:
    """The contrast of every method with the first, in each condition."""
    columns = (
        "dimension",
        "pairs",
        "a",
        "b",
        "b − a",
        f"{comparison.level:.0%}",
        "t",
        "p",
        "adjusted",
        "d",
        "b wins",
        "ties",
        "loses",
    )
    for one in comparison.conditions:
        for contrast in [each for each in one.contrasts if each.pairs]:
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
            yield Grid(f"b = {contrast.b}  against  a = {contrast.a}   {title(one)}", columns, tuple(rows))


def scenarios(condition: ConditionResult, contrast: MethodContrast, dimension: str) -> Grid:
    """A row a scenario: the means of both sides on a dimension, the largest difference first."""
    rows = []
    for one in contrast.scenarios:
        a, b = one.a.get(dimension), one.b.get(dimension)
        rows.append((one.codename, one.pairs, a, b, None if a is None or b is None else b - a))
    rows.sort(key=lambda row: (row[4] is None, -(row[4] or 0.0), row[0]))
    heading = f"{short(dimension)} by scenario: b = {contrast.b}, a = {contrast.a}   {title(condition)}"
    return Grid(heading, ("scenario", "pairs", "a", "b", "b − a"), tuple(rows))


def talk(comparison: Comparison) -> Grid:
    """How much each method talks."""
    rows = [
        (
            one.method,
            one.scenarios,
            one.partner,
            one.episodes,
            one.turns,
            one.utterances,
            one.words,
            one.words_an_utterance,
        )
        for one in comparison.talk
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
    )
    return Grid("how much is said, means of episodes", columns, tuple(rows))


def agreement(comparison: Comparison) -> Grid | None:
    """Every two evaluators; None where there are not two."""
    if not comparison.agreement:
        return None
    rows = [
        (
            one.a,
            one.b,
            short(one.dimension),
            one.units,
            *(_figure(figure) for figure in (one.pearson, one.spearman, one.alpha, one.difference)),
        )
        for one in comparison.agreement
    ]
    columns = ("a", "b", "dimension", "agents", "pearson", "spearman", "alpha", "a − b, of the range")
    return Grid("do the evaluators agree", columns, tuple(rows))


def title(one: ConditionResult) -> str:
    """The condition in words."""
    return f"scenarios: {one.scenarios} · partner: {one.partner} · scored by {one.evaluator}"


def between(low: float | None, high: float | None) -> str | None:
    """An interval."""
    return None if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _mean(one: ConditionResult, method: str, dimension: str) -> str | None:
    """7.81, with a star where it differs from the first's."""
    value = next((means.means.get(dimension) for means in one.means if means.method == method), None)
    starred = any(contrast.b == method and contrast.effect(dimension).significant for contrast in one.contrasts)
    return None if value is None else f"{value:.2f}*" if starred else f"{value:.2f}"


def _distinction(comparison: Comparison, one: ConditionResult) -> str:
    """What tells the condition from the others."""
    parts = []
    for name in ("scenarios", "partner", "evaluator"):
        if len({getattr(other, name) for other in comparison.conditions}) > 1:
            parts.append(getattr(one, name))
    return ", ".join(parts)


def _missing(missing: Any) -> str | None:
    """`GOAL 3`: what lacks a score, where anything does; one number where all dimensions lack the same."""
    counts = {short(name): n for name, n in missing.items() if n}
    if not counts:
        return None
    if len(set(missing.values())) == 1:
        return f"{next(iter(counts.values()))}"
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _figure(figure: Any) -> str | None:
    limits = between(figure.low, figure.high)
    return None if figure.value is None else f"{figure.value:.2f}" + (f" [{limits}]" if limits else "")
