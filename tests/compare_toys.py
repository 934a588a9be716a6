"""Toys of the comparison tests: runs of a method against a partner, with scores drawn from what is planted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from sotopia_rl_data.comparing.methods import Unit
from sotopia_rl_data.dimensions import SOTOPIA_EVAL, dimension
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


def drawn(
    seed: int,
    shift: float,
    size: tuple[int, int, int] = HARD,
    noise: float = 1.0,
    dimensions: Sequence[str] = ("goal",),
) -> np.ndarray:
    """Scores over scenarios × pairs × positions × dimensions. How hard a scenario (sd 1.5) and a pair of agents in it
    (sd 1) are is the same in every run; on top comes what one episode happens to give (sd `noise`, drawn by `seed`) and
    the method's `shift`. Scores are whole numbers within the dimension's range."""
    common, own = np.random.default_rng(7), np.random.default_rng(seed)
    low, high = np.array([(dimension(name).low, dimension(name).high) for name in dimensions]).T
    scenario = common.normal(0, 1.5, (size[0], 1, 1, len(dimensions)))
    pair = common.normal(0, 1.0, (*size, len(dimensions)))
    given = (low + high) / 2 + scenario + pair + own.normal(0, noise, pair.shape) + shift
    return np.clip(np.round(given), low, high)


def run(
    method: str,
    partner: str,
    *,
    shift: float = 0.0,
    seed: int = 0,
    size: tuple[int, int, int] = HARD,
    dimensions: Sequence[str] = ("goal",),
    evaluator: str = "gpt-4o",
) -> list[Episode]:
    """A run with `drawn` scores, of the method's agent alone; in every second episode it comes second."""
    made = []
    for (s, p, position), scores in by_place(drawn(seed, shift, size, dimensions=dimensions)):
        made.append(
            episode(
                f"{method}-{partner}-{s}-{p}-{position}",
                (method, partner) if position == 0 else (partner, method),
                {(position, name): value for name, value in zip(dimensions, scores, strict=True)},
                environment=f"env{s:02}",
                cast=(f"a{p}", f"b{p}"),
                evaluator=evaluator,
            )
        )
    return made


def units(number: int, method: str, seed: int, shift: float, dimensions: Sequence[str]) -> list[Unit]:
    """The same at the hard benchmark's size, as `compare` has it when it has read: many simulations are made of it."""
    made = []
    for (s, p, position), scores in by_place(drawn(seed, shift, dimensions=dimensions)):
        given = {"gpt-4o": dict(zip(dimensions, scores, strict=True))}
        cast = (f"a{p}", f"b{p}")
        id_, environment = f"{method}-{s}-{p}-{position}", f"env{s:02}"
        made.append(Unit(number, id_, environment, environment, cast, position, method, "P", 20, 10, 100, given))
    return made


def by_place(scores: np.ndarray) -> Iterator[tuple[tuple[int, int, int], list[float]]]:
    for place in np.ndindex(*scores.shape[:3]):
        yield place, scores[place].tolist()
