"""Two methods' units side by side: paired by environment, agents and position, as a matrix a column a dimension."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sotopia_rl_data.comparing.runs import Unit
from sotopia_rl_data.statistics import Floats

Key = tuple[str, tuple[str, ...], int]
"""(environment, the agents in speaking order, position); position -1: both, averaged."""

BOTH = -1


@dataclass(frozen=True, slots=True)
class Pairs:
    """`a` and `b` are (pairs, dimensions), NaN where a side has no score; `keys` says what each row is about.

    `alone` counts the units of a and of b that have no counterpart.
    """

    keys: tuple[Key, ...]
    a: Floats
    b: Floats
    alone: tuple[int, int]


def paired(a: Sequence[Unit], b: Sequence[Unit], evaluator: str, dimensions: Sequence[str]) -> Pairs:
    """The pairs of two methods. Repetitions of one key are averaged first.

    Where both agents of an episode count, they had one conversation and not two: they are averaged, and the pair is of
    environment and agents.
    """
    together = one_conversation(a) or one_conversation(b)
    sides = [_by_key(units, together) for units in (a, b)]
    keys = tuple(sorted(sides[0].keys() & sides[1].keys()))
    lone = [sum(len(some) for key, some in side.items() if key not in other) for side, other in (sides, sides[::-1])]
    values = [_values([side[key] for key in keys], evaluator, dimensions) for side in sides]
    return Pairs(keys, values[0], values[1], (lone[0], lone[1]))


def matrix(units: Iterable[Unit], evaluator: str, dimensions: Sequence[str]) -> Floats:
    """(units, dimensions) of scores, NaN where there is none."""
    scores = [[unit.score(evaluator, name) for name in dimensions] for unit in units]
    return np.array(scores, dtype=np.float64).reshape(len(scores), len(dimensions))


def key_of(unit: Unit, together: bool = False) -> Key:
    """What a unit is paired by."""
    return unit.environment, unit.cast, BOTH if together else unit.position


def one_conversation(units: Sequence[Unit]) -> bool:
    """Whether several agents of one episode are among these."""
    return len({(unit.run, unit.episode_id) for unit in units}) < len(units)


def _by_key(units: Iterable[Unit], together: bool) -> dict[Key, list[Unit]]:
    found: dict[Key, list[Unit]] = {}
    for unit in units:
        found.setdefault(key_of(unit, together), []).append(unit)
    return found


def _values(groups: Sequence[Sequence[Unit]], evaluator: str, dimensions: Sequence[str]) -> Floats:
    """The mean of each group, over the scores that there are."""
    scores = matrix((unit for some in groups for unit in some), evaluator, dimensions)
    if len(scores) == len(groups):
        return scores
    group = np.repeat(np.arange(len(groups)), [len(some) for some in groups])
    there = ~np.isnan(scores)
    total = np.zeros((len(groups), len(dimensions)))
    count = np.zeros_like(total)
    np.add.at(total, group, np.where(there, scores, 0.0))
    np.add.at(count, group, there)
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)
