"""compare(): methods side by side, as in the papers' tables, with tests that say which differences are noise.

A condition is (scenarios, partner, evaluator): each gives a table of means, and a contrast of every method with the
first. The formulas are in `sotopia_rl_data.statistics`; docs/evaluation.md says what each figure means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from sotopia_rl_data import statistics
from sotopia_rl_data.agreement import OVERALL
from sotopia_rl_data.agreement.measure import agreement_of
from sotopia_rl_data.agreement.opinions import Opinion, Opinions
from sotopia_rl_data.comparing.diversity import distinct
from sotopia_rl_data.comparing.methods import (
    AVERAGE,
    BOTH,
    EACH_OTHER,
    ITSELF,
    SEVEN,
    PairedScores,
    Unit,
    by_partner,
    matrix,
    mean_by_group,
    pair_up,
    read_methods,
)
from sotopia_rl_data.comparing.results import (
    Comparison,
    ComparisonOptions,
    ConditionResult,
    Effect,
    EvaluatorAgreement,
    Means,
    MethodContrast,
    Scenario,
    Talk,
)
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.statistics import Floats
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
    options: ComparisonOptions | None = None,
) -> Comparison:
    """Compare the methods of these runs, every one with the first.

    `agents`, `partners` and `any_partner` say which agents count and against which partners (see `methods.py`).
    `evaluators` are by default those that scored every run; `sets` names environments that are also compared by
    themselves; `dimensions` are full names (default: the seven, and their average). `options` says how differences are
    tested.

    Raises UsageError where it is not clear what to compare, or nothing can be compared.
    """
    units, methods = read_methods(versions, agents, partners)
    refs = [version.ref for version in versions]
    _check_scored(units, refs)
    chosen = _evaluators(methods, evaluators)
    groups = {name: frozenset(some) for name, some in (sets or {}).items()} | {EVERYTHING: None}
    return compare_units(
        methods,
        refs=refs,
        evaluators=chosen,
        sets=groups,
        any_partner=any_partner,
        dimensions=dimensions,
        options=options or ComparisonOptions(),
        everybody=units,
    )


def compare_units(
    methods: Mapping[str, Sequence[Unit]],
    *,
    refs: Sequence[str],
    evaluators: Sequence[str],
    sets: Mapping[str, frozenset[str] | None],
    any_partner: bool = False,
    dimensions: Sequence[str] | None = None,
    options: ComparisonOptions,
    everybody: Sequence[Unit] = (),
) -> Comparison:
    """The comparison of units that were read already, by their methods. The evaluators' agreement is measured over the
    units `everybody`."""
    names = _scored(methods, evaluators, dimensions)
    conditions: list[ConditionResult] = []
    talk: list[Talk] = []
    for label, environments in sets.items():
        kept = {
            name: [u for u in some if environments is None or u.environment in environments]
            for name, some in methods.items()
        }
        if not any(kept.values()):
            raise UsageError(
                f"No episode is set in the environments of {label!r}, which --subset names.",
                "name ids of environments in which the compared episodes are set",
            )
        for partner, sides in sorted(by_partner(kept, any_partner).items()):
            conditions += [_condition(label, partner, name, sides, names, options) for name in evaluators]
            talk += [_talk(label, partner, method, some, options.level) for method, some in sides.items() if some]
    return Comparison(
        refs=tuple(refs),
        methods=tuple(methods),
        dimensions=tuple(names),
        conditions=tuple(conditions),
        talk=tuple(talk),
        agreement=evaluator_agreement(everybody, names, options),
        level=options.level,
        alpha=options.alpha,
        resamples=options.resamples,
        resample=options.resample,
        seed=options.seed,
        remarks=tuple(dict.fromkeys(remark for condition in conditions for remark in _remarks(condition))),
    )


def _remarks(condition: ConditionResult) -> Iterator[str]:
    """Remarks about what could not be compared."""
    where = {ITSELF: "when each plays with itself", EACH_OTHER: "when they play with each other"}.get(
        condition.partner, f"with the partner {condition.partner}"
    )
    if condition.scenarios != EVERYTHING:
        where += f" in {condition.scenarios}"
    for contrast in condition.contrasts:
        if not contrast.pairs:
            yield (
                f"{contrast.a} and {contrast.b} cannot be compared {where}: no scenario has both of them, with the "
                "same agents and in the same position"
            )
        elif any(contrast.alone):
            yield (
                f"{contrast.alone[0]:,} of {contrast.a} and {contrast.alone[1]:,} of {contrast.b} have no counterpart "
                f"{where}"
            )


def _check_scored(units: Sequence[Unit], refs: Sequence[str]) -> None:
    """Raises UsageError for a run of which no episode is scored."""
    scored = {unit.run for unit in units if unit.scores}
    missing = [ref for run, ref in enumerate(refs) if run not in scored]
    if missing:
        raise UsageError(
            f"No episode of {missing[0]} is scored.", f"sotopia-rl-data evaluate {missing[0]} --judge gpt-4o"
        )


def _evaluators(methods: Mapping[str, Sequence[Unit]], wanted: Sequence[str]) -> list[str]:
    """The evaluators whose scores are compared. Raises UsageError where none scored every method, or a named evaluator
    scored nothing."""
    by_method = [{evaluator for unit in units for evaluator in unit.scores} for units in methods.values()]
    anybody = sorted(set().union(*by_method))
    unknown = [name for name in wanted if name not in anybody]
    if unknown:
        raise UsageError(f"No episode is scored by {unknown[0]!r}.", f"name one of: {', '.join(anybody)}")
    everywhere = sorted(set.intersection(*by_method)) if by_method else []
    if not wanted and not everywhere:
        raise UsageError(
            f"No evaluator scored every method; evaluators of only some methods: {', '.join(anybody)}.",
            "score all runs by the same judge, with `sotopia-rl-data evaluate`",
        )
    return list(dict.fromkeys(wanted)) or everywhere


def _scored(
    methods: Mapping[str, Sequence[Unit]], evaluators: Sequence[str], wanted: Sequence[str] | None
) -> list[str]:
    """The dimensions with any score, in SOTOPIA-EVAL's order, the average last."""
    there = {
        name
        for units in methods.values()
        for unit in units
        for evaluator in evaluators
        for name in unit.scores.get(evaluator, ())
    }
    names = [name for name in (*SEVEN, *sorted(there - set(SEVEN))) if name in there]
    if set(SEVEN) <= there:
        names.append(AVERAGE)
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        raise UsageError(f"No episode has a score on the dimension {unknown[0]!r}.", f"name one of: {', '.join(names)}")
    return [name for name in names if wanted is None or name in wanted]


def _condition(
    label: str,
    partner: str,
    evaluator: str,
    sides: Mapping[str, Sequence[Unit]],
    names: Sequence[str],
    options: ComparisonOptions,
) -> ConditionResult:
    means = tuple(_means(method, units, evaluator, names) for method, units in sides.items())
    (first, of_first), *others = sides.items()
    contrasts = tuple(contrast(first, of_first, name, units, evaluator, names, options) for name, units in others)
    return ConditionResult(label, partner, evaluator, means, contrasts)


def _means(method: str, units: Sequence[Unit], evaluator: str, names: Sequence[str]) -> Means:
    scores = matrix(units, evaluator, names)
    columns = {name: column[~np.isnan(column)] for name, column in zip(names, scores.T, strict=True)}
    return Means(
        method=method,
        units=len(units),
        means={name: _mean(some) for name, some in columns.items()},
        errors={
            name: float(some.std(ddof=1) / np.sqrt(len(some))) if len(some) > 1 else None
            for name, some in columns.items()
        },
        missing={name: len(units) - len(some) for name, some in columns.items()},
    )


def contrast(
    first: str,
    a: Sequence[Unit],
    second: str,
    b: Sequence[Unit],
    evaluator: str,
    names: Sequence[str],
    options: ComparisonOptions,
) -> MethodContrast:
    """Every figure of two methods in one condition."""
    pairs = pair_up(a, b, evaluator, names)
    codenames = {unit.environment: unit.codename for unit in (*a, *b)}
    return MethodContrast(
        a=first,
        b=second,
        pairs=len(pairs.keys),
        alone=pairs.alone,
        together=bool(pairs.keys) and pairs.keys[0][2] == BOTH,
        effects=_effects(pairs, names, options),
        scenarios=tuple(
            _scenario(environment, codenames[environment], pairs, names) for environment in _environments(pairs)
        ),
    )


def _effects(pairs: PairedScores, names: Sequence[str], options: ComparisonOptions) -> tuple[Effect, ...]:
    """The effect on every dimension, with p-values corrected for the number of dimensions."""
    difference = pairs.b - pairs.a
    independent = _by_scenario(pairs, difference) if options.resample == "scenario" else difference
    columns = [column[~np.isnan(column)] for column in independent.T]
    tests = [statistics.paired_t_test(column, options.level) for column in columns]
    adjusted = _adjusted([test.p for test in tests])
    drawn = _drawn(independent, options)
    effects = []
    for place, (name, column, test, p) in enumerate(zip(names, columns, tests, adjusted, strict=True)):
        both = ~np.isnan(difference[:, place])
        count, shift = int(np.count_nonzero(both)), difference[both, place]
        wins, losses = int(np.sum(shift > _TIE)), int(np.sum(shift < -_TIE))
        ties = count - wins - losses
        low, high = statistics.percentile_interval(drawn[:, place], len(column), options.level) or (None, None)
        effects.append(
            Effect(
                dimension=name,
                pairs=count,
                mean_a=_mean(pairs.a[both, place]),
                mean_b=_mean(pairs.b[both, place]),
                difference=test.difference,
                low=low,
                high=high,
                t=test.t,
                p=test.p,
                adjusted=p,
                significant=p is not None and p < options.alpha,
                effect=statistics.standardised_shift(column),
                wins=wins,
                ties=ties,
                losses=losses,
                win_rate=(wins + ties / 2) / count if count else None,
            )
        )
    return tuple(effects)


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values corrected after Holm; None stays None."""
    there = [p for p in p_values if p is not None]
    found = iter(statistics.holm(there).tolist() if there else [])
    return [None if p is None else next(found) for p in p_values]


def _drawn(independent: Floats, options: ComparisonOptions) -> Floats:
    """The mean of each resample: (resamples, dimensions), NaN where it drew no score."""
    there = ~np.isnan(independent)
    sums = np.concatenate([np.where(there, independent, 0.0), there], axis=1)
    found = statistics.resampled(sums, resamples=options.resamples, seed=options.seed)
    half = independent.shape[1]
    with np.errstate(invalid="ignore"):
        drawn: Floats = found[:, :half] / found[:, half:]
    return drawn


def _by_scenario(pairs: PairedScores, values: Floats) -> Floats:
    """The mean of each environment's rows: (environments, columns), NaN where there is no value."""
    places = {environment: place for place, environment in enumerate(_environments(pairs))}
    code = np.array([places[key[0]] for key in pairs.keys], dtype=np.intp)
    return mean_by_group(values, code, len(places))


def _environments(pairs: PairedScores) -> list[str]:
    return sorted({key[0] for key in pairs.keys})


def _scenario(environment: str, codename: str, pairs: PairedScores, names: Sequence[str]) -> Scenario:
    mine = np.array([key[0] == environment for key in pairs.keys], dtype=bool)
    both = ~np.isnan(pairs.a) & ~np.isnan(pairs.b)
    sides = [
        {name: _mean(side[mine & both[:, column], column]) for column, name in enumerate(names)}
        for side in (pairs.a, pairs.b)
    ]
    return Scenario(environment, codename, int(mine.sum()), sides[0], sides[1])


def _talk(label: str, partner: str, method: str, units: Sequence[Unit], level: float) -> Talk:
    utterances, words = sum(unit.utterances for unit in units), sum(unit.words for unit in units)
    return Talk(
        scenarios=label,
        partner=partner,
        method=method,
        episodes=len({unit.episode for unit in units}),
        turns=float(np.mean([unit.turns for unit in units])),
        utterances=utterances / len(units),
        words=words / len(units),
        words_an_utterance=words / utterances if utterances else None,
        distinct=tuple(distinct(units, n, level) for n in (1, 2, 3)),
    )


def evaluator_agreement(
    units: Sequence[Unit], dimensions: Sequence[str], options: ComparisonOptions
) -> tuple[EvaluatorAgreement, ...]:
    """The agreement of every two evaluators (people too), measured like that of labels; empty where no two scored the
    same episodes."""
    if len({evaluator for unit in units for evaluator in unit.scores}) < 2:
        return ()
    opinions = _evaluators_as_opinions(units, [name for name in dimensions if name != AVERAGE])
    try:
        found = agreement_of(opinions, resamples=options.resamples, seed=options.seed)
    except UsageError:  # no two evaluators scored the same agents
        return ()
    single = len(opinions.dimensions) == 1
    return tuple(
        EvaluatorAgreement(
            a=pair.a,
            b=pair.b,
            dimension=pair.dimension,
            units=pair.units,
            episodes=pair.episodes,
            pearson=pair.figures["pearson"],
            spearman=pair.figures["spearman"],
            alpha=pair.figures["alpha"],
            difference=pair.figures["mean_difference"],
        )
        for pair in found.pairs
        if not (single and pair.dimension == OVERALL)
    )


def _evaluators_as_opinions(units: Sequence[Unit], dimensions: Sequence[str]) -> Opinions:
    """The matrix of evaluators by (episode, agent, dimension): each score as a part of its dimension's range, so that
    dimensions of different ranges can be laid together."""
    evaluators = sorted({evaluator for unit in units for evaluator in unit.scores})
    episodes = {name: i for i, name in enumerate(dict.fromkeys(unit.episode for unit in units))}
    agents = {name: i for i, name in enumerate(dict.fromkeys(unit.agent for unit in units))}
    ranges = {one.name: (one.low, one.high) for one in SOTOPIA_EVAL}
    rows = [(unit, d) for unit in units for d in range(len(dimensions))]
    values = np.full((len(evaluators), len(rows)), np.nan)
    for column, (unit, d) in enumerate(rows):
        low, high = ranges.get(dimensions[d], (0.0, 1.0))
        for row, evaluator in enumerate(evaluators):
            score = unit.score(evaluator, dimensions[d])
            if score is not None:
                values[row, column] = (score - low) / (high - low)
    return Opinions(
        opinions=tuple(Opinion("", evaluator) for evaluator in evaluators),
        names=tuple(evaluators),
        dimensions=tuple(dimensions),
        episodes=tuple(episodes),
        agents=tuple(agents),
        episode=np.array([episodes[unit.episode] for unit, _ in rows], np.int32),
        agent=np.array([agents[unit.agent] for unit, _ in rows], np.int32),
        turn=np.zeros(len(rows), np.int32),
        dimension=np.array([d for _, d in rows], np.int32),
        values=values,
        scale=None,
    )


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
