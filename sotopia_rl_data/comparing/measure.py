"""compare(): methods side by side, as in the papers' tables, with the tests that say how much of it is noise.

A condition is (scenarios, partner, evaluator): each gives a table of means, and a contrast of every method with the
first. The formulas are in `sotopia_rl_data.statistics`; docs/evaluation.md says what each figure means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sotopia_rl_data import statistics
from sotopia_rl_data.comparing.evaluators import agreed
from sotopia_rl_data.comparing.pairing import Pairs, matrix, paired
from sotopia_rl_data.comparing.results import Comparison, Condition, Contrast, Effect, How, Means, Scenario, Talk
from sotopia_rl_data.comparing.runs import AVERAGE, SEVEN, Unit, units_of
from sotopia_rl_data.comparing.whose import by_partner, methods, tested_in
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.statistics import Floats
from sotopia_rl_data.statistics.bootstrap import percentile_interval
from sotopia_rl_data.store import Version

EVERYTHING = "all"
_TIE = 1e-9


def compare(
    versions: Sequence[Version],
    *,
    agents: Sequence[str] = (),
    partners: Sequence[str] = (),
    any_partner: bool = False,
    evaluators: Sequence[str] = (),
    sets: Mapping[str, Iterable[str]] | None = None,
    dimensions: Sequence[str] | None = None,
    how: How | None = None,
) -> Comparison:
    """Compare the methods of these runs, every one with the first.

    `agents`, `partners` and `any_partner` say whose agent counts and against whom (see `whose.py`). `evaluators` are by
    default those that scored every run; `sets` names environments that are compared by themselves too; `dimensions` are
    full names (default: the seven, and their average). `how.resample` "scenario" takes scenarios' means for what is
    independent, instead of pairs.

    Raises UsageError where it is not clear what is compared, or nothing can be.
    """
    units, found = read_methods(versions, agents, partners)
    refs = [version.ref for version in versions]
    chosen = _evaluators(found, evaluators)
    groups = {name: frozenset(some) for name, some in (sets or {}).items()} | {EVERYTHING: None}
    return compare_units(
        found,
        refs=refs,
        evaluators=chosen,
        sets=groups,
        any_partner=any_partner,
        dimensions=dimensions,
        how=how or How(),
        everybody=units,
    )


def read_methods(
    versions: Sequence[Version], agents: Sequence[str] = (), partners: Sequence[str] = ()
) -> tuple[list[Unit], dict[str, list[Unit]]]:
    """All units of the runs, and those of each method. Raises as `compare` does."""
    units = units_of(versions)
    tested = [None if partners else tested_in(version) for version in versions]
    return units, methods(units, [version.ref for version in versions], agents, partners, tested)


def compare_units(
    found: Mapping[str, Sequence[Unit]],
    *,
    refs: Sequence[str],
    evaluators: Sequence[str],
    sets: Mapping[str, frozenset[str] | None],
    any_partner: bool = False,
    dimensions: Sequence[str] | None = None,
    how: How,
    everybody: Sequence[Unit] = (),
) -> Comparison:
    """The same of units that were read already; `everybody` are those whose evaluators' agreement is asked for."""
    names = _scored(found, evaluators, dimensions)
    conditions: list[Condition] = []
    talk: list[Talk] = []
    for label, environments in sets.items():
        kept = {
            name: [u for u in some if environments is None or u.environment in environments]
            for name, some in found.items()
        }
        if not any(kept.values()):
            raise UsageError(f"No episode is set in the environments of {label!r}.", "see which there are: `query`")
        for partner, sides in sorted(by_partner(kept, any_partner).items()):
            conditions += [_condition(label, partner, who, sides, names, how) for who in evaluators]
            talk += [_talk(label, partner, method, some) for method, some in sides.items() if some]
    return Comparison(
        tuple(refs),
        tuple(found),
        tuple(names),
        tuple(conditions),
        tuple(talk),
        agreed(everybody, names, how.resamples, how.seed) if len({e for u in everybody for e in u.scores}) > 1 else (),
        how.level,
        how.alpha,
        how.resamples,
        how.resample,
        how.seed,
        tuple(dict.fromkeys(remark for one in conditions for remark in _remarks(one))),
    )


def _remarks(one: Condition) -> Iterator[str]:
    """What was not compared."""
    where = f"with the partner {one.partner}" + f" in {one.scenarios}" * (one.scenarios != EVERYTHING)
    for contrast in one.contrasts:
        if not contrast.pairs:
            yield f"{contrast.a} and {contrast.b} have no pair {where}: no environment, agents and position in common"
        elif any(contrast.alone):
            yield (
                f"{contrast.alone[0]:,} of {contrast.a} and {contrast.alone[1]:,} of {contrast.b} have no counterpart "
                f"{where}"
            )


def _evaluators(found: Mapping[str, Sequence[Unit]], wanted: Sequence[str]) -> list[str]:
    """Whose scores are compared. Raises UsageError where nobody scored every method, or the one that is named did not
    score any."""
    by = [{evaluator for unit in units for evaluator in unit.scores} for units in found.values()]
    anybody = sorted(set().union(*by))
    odd = [name for name in wanted if name not in anybody]
    if odd:
        raise UsageError(f"No episode is scored by {odd[0]!r}.", f"name one of: {', '.join(anybody) or 'none yet'}")
    everywhere = sorted(set.intersection(*by)) if by else []
    if not wanted and not everywhere:
        raise UsageError(
            f"No evaluator scored every method; the episodes are scored by {', '.join(anybody) or 'nobody'}.",
            "score them all alike: sotopia-rl-data evaluate REF --judge SPEC",
        )
    return list(dict.fromkeys(wanted)) or everywhere


def _scored(found: Mapping[str, Sequence[Unit]], evaluators: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """The dimensions with any score, in SOTOPIA-EVAL's order, the average last."""
    there = {
        name for units in found.values() for unit in units for who in evaluators for name in unit.scores.get(who, ())
    }
    names = [name for name in (*SEVEN, *sorted(there - set(SEVEN))) if name in there]
    names += [AVERAGE] * (set(SEVEN) <= there)
    odd = [name for name in wanted or () if name not in names]
    if odd:
        raise UsageError(f"Nobody scored {odd[0]!r}.", f"name one of: {', '.join(names)}")
    return [name for name in names if wanted is None or name in wanted]


def _condition(
    label: str, partner: str, evaluator: str, sides: Mapping[str, Sequence[Unit]], names: Sequence[str], how: How
) -> Condition:
    means = tuple(_means(method, units, evaluator, names) for method, units in sides.items())
    (first, of_first), *others = sides.items()
    contrasts = tuple(contrast(first, of_first, name, units, evaluator, names, how) for name, units in others)
    return Condition(label, partner, evaluator, means, contrasts)


def _means(method: str, units: Sequence[Unit], evaluator: str, names: Sequence[str]) -> Means:
    scores = matrix(units, evaluator, names)
    columns = {name: column[~np.isnan(column)] for name, column in zip(names, scores.T, strict=True)}
    return Means(
        method,
        len(units),
        {name: float(some.mean()) if len(some) else None for name, some in columns.items()},
        {
            name: float(some.std(ddof=1) / np.sqrt(len(some))) if len(some) > 1 else None
            for name, some in columns.items()
        },
        {name: len(units) - len(some) for name, some in columns.items()},
    )


def contrast(
    first: str, a: Sequence[Unit], second: str, b: Sequence[Unit], evaluator: str, names: Sequence[str], how: How
) -> Contrast:
    """Every figure of two methods in one condition."""
    pairs = paired(a, b, evaluator, names)
    codenames = {unit.environment: unit.codename for unit in (*a, *b)}
    return Contrast(
        first,
        second,
        len(pairs.keys),
        pairs.alone,
        bool(pairs.keys) and pairs.keys[0][2] < 0,
        _effects(pairs, names, how),
        tuple(_scenario(environment, codenames[environment], pairs, names) for environment in _environments(pairs)),
    )


def _effects(pairs: Pairs, names: Sequence[str], how: How) -> tuple[Effect, ...]:
    """On every dimension, with p-values corrected for their number."""
    difference = pairs.b - pairs.a
    independent = _by_scenario(pairs, difference) if how.resample == "scenario" else difference
    columns = [column[~np.isnan(column)] for column in independent.T]
    tests = [statistics.paired_t_test(column, how.level) for column in columns]
    adjusted = _adjusted([test.p for test in tests])
    drawn = _drawn(independent, how)
    return tuple(
        Effect(
            dimension=name,
            **_sides(pairs, place),
            difference=tests[place].difference,
            **_limits(drawn[:, place], len(columns[place]), how.level),
            t=tests[place].t,
            p=tests[place].p,
            adjusted=adjusted[place],
            significant=_below(adjusted[place], how.alpha),
            effect=statistics.standardised_shift(columns[place]),
        )
        for place, name in enumerate(names)
    )


def _below(p: float | None, alpha: float) -> bool:
    return p is not None and p < alpha


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """After Holm, over those there are."""
    there = [p for p in p_values if p is not None]
    found = iter(statistics.holm(there).tolist() if there else [])
    return [None if p is None else next(found) for p in p_values]


def _sides(pairs: Pairs, column: int) -> dict[str, Any]:
    """The pairs that have both scores: how many, the means, and who won."""
    a, b = pairs.a[:, column], pairs.b[:, column]
    both = ~np.isnan(a) & ~np.isnan(b)
    d = (b - a)[both]
    wins, losses = int(np.sum(d > _TIE)), int(np.sum(d < -_TIE))
    ties = len(d) - wins - losses
    return {
        "pairs": len(d),
        "mean_a": _mean(a[both]),
        "mean_b": _mean(b[both]),
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "win_rate": (wins + ties / 2) / len(d) if len(d) else None,
    }


def _limits(drawn: Floats, clusters: int, level: float) -> dict[str, Any]:
    low, high = percentile_interval(drawn, clusters, level) or (None, None)
    return {"low": low, "high": high}


def _drawn(independent: Floats, how: How) -> Floats:
    """The mean of each resample: (resamples, dimensions), NaN where it drew no score."""
    there = ~np.isnan(independent)
    sums = np.concatenate([np.where(there, independent, 0.0), there], axis=1)
    found = statistics.resampled(sums, resamples=how.resamples, seed=how.seed)
    half = independent.shape[1]
    with np.errstate(invalid="ignore"):
        drawn: Floats = found[:, :half] / found[:, half:]
    return drawn


def _by_scenario(pairs: Pairs, values: Floats) -> Floats:
    """The mean of each environment's rows: (environments, columns), NaN where none is there."""
    places = {environment: place for place, environment in enumerate(_environments(pairs))}
    code = np.array([places[key[0]] for key in pairs.keys], dtype=np.intp)
    columns = values.reshape(len(pairs.keys), -1)
    there = ~np.isnan(columns)
    total, count = np.zeros((len(places), columns.shape[1])), np.zeros((len(places), columns.shape[1]))
    np.add.at(total, code, np.where(there, columns, 0.0))
    np.add.at(count, code, there)
    means: Floats = np.where(count > 0, total / np.maximum(count, 1.0), np.nan)
    return means


def _environments(pairs: Pairs) -> list[str]:
    return sorted({key[0] for key in pairs.keys})


def _scenario(environment: str, codename: str, pairs: Pairs, names: Sequence[str]) -> Scenario:
    mine = np.array([key[0] == environment for key in pairs.keys], dtype=bool)
    both = ~np.isnan(pairs.a) & ~np.isnan(pairs.b)
    sides = [
        {name: _mean(side[mine & both[:, column], column]) for column, name in enumerate(names)}
        for side in (pairs.a, pairs.b)
    ]
    return Scenario(environment, codename, int(mine.sum()), sides[0], sides[1])


def _talk(label: str, partner: str, method: str, units: Sequence[Unit]) -> Talk:
    said = sum(unit.utterances for unit in units)
    return Talk(
        label,
        partner,
        method,
        len({(unit.run, unit.episode_id) for unit in units}),
        float(np.mean([unit.turns for unit in units])),
        said / len(units),
        sum(unit.words for unit in units) / len(units),
        sum(unit.words for unit in units) / said if said else None,
    )


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
