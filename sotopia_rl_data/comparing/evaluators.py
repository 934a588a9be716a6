"""Do the evaluators of episodes agree, people among them? Their scores as opinions, measured as labels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sotopia_rl_data.agreement import OVERALL
from sotopia_rl_data.agreement.measure import Figure, agreement_of
from sotopia_rl_data.agreement.opinions import Opinion, Opinions
from sotopia_rl_data.comparing.runs import AVERAGE, Unit
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import UsageError

_RANGES = {one.name: (one.low, one.high) for one in SOTOPIA_EVAL}


@dataclass(frozen=True, slots=True)
class Agreed:
    """Two evaluators on one dimension (or "overall"): the agents of episodes that both scored, and the figures with
    their intervals from resampled episodes. `difference` is the mean of a - b, in parts of the dimension's range."""

    a: str
    b: str
    dimension: str
    units: int
    episodes: int
    pearson: Figure
    spearman: Figure
    alpha: Figure
    difference: Figure


def agreed(units: Sequence[Unit], dimensions: Sequence[str], resamples: int, seed: int) -> tuple[Agreed, ...]:
    """The agreement of every two evaluators; none where no two scored anything in common."""
    made = opinions(units, [name for name in dimensions if name != AVERAGE])
    try:
        found = agreement_of(made, resamples=resamples, seed=seed)
    except UsageError:  # nothing in common, or one evaluator only: there is nothing to say
        return ()
    single = len(made.dimensions) == 1
    return tuple(
        Agreed(
            pair.a,
            pair.b,
            pair.dimension,
            pair.units,
            pair.episodes,
            *(pair.figures[name] for name in ("pearson", "spearman", "alpha", "mean_difference")),
        )
        for pair in found.pairs
        if not (single and pair.dimension == OVERALL)
    )


def opinions(units: Sequence[Unit], dimensions: Sequence[str]) -> Opinions:
    """The matrix of evaluators by (episode, agent, dimension): each score as a part of its dimension's range, so that
    dimensions of different ranges can be laid together."""
    evaluators = sorted({evaluator for unit in units for evaluator in unit.scores})
    episodes = {name: i for i, name in enumerate(dict.fromkeys(f"{unit.run} {unit.episode_id}" for unit in units))}
    agents = {name: i for i, name in enumerate(dict.fromkeys(unit.agent for unit in units))}
    rows = [(unit, d) for unit in units for d in range(len(dimensions))]
    values = np.full((len(evaluators), len(rows)), np.nan)
    for column, (unit, d) in enumerate(rows):
        low, high = _RANGES.get(dimensions[d], (0.0, 1.0))
        for row, evaluator in enumerate(evaluators):
            score = unit.score(evaluator, dimensions[d])
            if score is not None:
                values[row, column] = (score - low) / (high - low)
    return Opinions(
        tuple(Opinion("", evaluator) for evaluator in evaluators),
        tuple(evaluators),
        tuple(dimensions),
        tuple(episodes),
        tuple(agents),
        np.array([episodes[f"{unit.run} {unit.episode_id}"] for unit, _ in rows], np.int32),
        np.array([agents[unit.agent] for unit, _ in rows], np.int32),
        np.zeros(len(rows), np.int32),
        np.array([d for _, d in rows], np.int32),
        values,
        None,
    )
