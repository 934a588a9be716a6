"""Toys of the comparison tests: runs of a method against a partner, with scores drawn from what is planted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.schema import Agent, Episode, Score, Turn

SEVEN = tuple(one.name for one in SOTOPIA_EVAL)
HARD = (14, 5, 2)
"""Scenarios, pairs of agents in each, positions: SOTOPIA-hard, 140 episodes a method."""


def episode(
    id_: str,
    models: tuple[str, str],
    scores: Mapping[tuple[int, str], float] | None = None,
    *,
    environment: str = "env",
    cast: tuple[str, str] = ("a", "b"),
    evaluator: str = "gpt-4o",
    said: Iterable[str] = ("hello there", "hi"),
) -> Episode:
    """A dialogue; `scores[position, dimension]`."""
    agents = tuple(Agent(who, f"Agent {who.upper()}", model=m, goal="win") for who, m in zip(cast, models, strict=True))
    turns = tuple(Turn(t, cast[t % 2], "speak", text) for t, text in enumerate(said))
    given = tuple(Score(cast[place], name, float(v), evaluator) for (place, name), v in (scores or {}).items())
    return Episode(
        id_, environment, agents, turns, given, models=("", *models), codename=f"the {environment}", scenario="A scene."
    )


def goals(first: float | None, second: float | None) -> dict[tuple[int, str], float]:
    return {(place, "goal"): value for place, value in enumerate((first, second)) if value is not None}


def run(
    method: str,
    partner: str,
    *,
    shift: float = 0.0,
    seed: int = 0,
    size: tuple[int, int, int] = HARD,
    noise: float = 1.0,
    dimensions: Iterable[str] = ("goal",),
    evaluator: str = "gpt-4o",
) -> list[Episode]:
    """A run over scenarios × pairs × positions. How hard a scenario (sd 1.5) and a pair of agents in it (sd 1) are is
    the same in every run; on top comes what one episode happens to give (sd `noise`, drawn by `seed`) and the method's
    `shift`. Scores are whole numbers within the dimension's range."""
    common, own = np.random.default_rng(7), np.random.default_rng(seed)
    scenarios, pairs, positions = size
    ranges = [(d.low, d.high) for d in SOTOPIA_EVAL if d.name in set(dimensions)]
    names = [d.name for d in SOTOPIA_EVAL if d.name in set(dimensions)]
    made = []
    for s in range(scenarios):
        hard = common.normal(0, 1.5, len(names))
        for p in range(pairs):
            level = hard + common.normal(0, 1.0, (2, len(names)))
            for position in range(positions):
                drawn = level[position] + own.normal(0, noise, len(names)) + shift
                scores = {
                    (position, name): float(np.clip(round((low + high) / 2 + value), low, high))
                    for name, (low, high), value in zip(names, ranges, drawn, strict=True)
                }
                models = (method, partner) if position == 0 else (partner, method)
                id_ = f"{method}-{partner}-{s}-{p}-{position}"
                cast = (f"a{p}", f"b{p}")
                made.append(episode(id_, models, scores, environment=f"env{s:02}", cast=cast, evaluator=evaluator))
    return made
