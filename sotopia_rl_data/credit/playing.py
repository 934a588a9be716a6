"""A game played: rules, moves and chance are drawn, and the dialogue becomes an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sotopia_rl_data.credit.errands import Errands
from sotopia_rl_data.credit.game import AGENTS, Consequence, Game, State
from sotopia_rl_data.credit.haggling import Haggling
from sotopia_rl_data.credit.saying import WORDINGS, Telling
from sotopia_rl_data.credit.solved import Step
from sotopia_rl_data.schema import Episode, Score, Turn

EVALUATOR = "game"
DIMENSION = "goal"
LEAST, MOST = 4, 20
"""A dialogue has so many turns, at the least and at the most."""


@dataclass(frozen=True, slots=True)
class Played:
    """One dialogue: the rules, the most turns it could have had, what was said and how, and where it ended."""

    game: Game
    length: int
    said: tuple[Step, ...]
    end: State
    wordings: tuple[str, ...]
    episode: Episode


def draw_game(rng: np.random.Generator) -> tuple[Game, int]:
    """Rules from a small number of sets of rules, and the most turns."""
    mistakes = (float(rng.choice([0.2, 0.5])), float(rng.choice([0.2, 0.5])))
    length = int(rng.integers(LEAST, MOST + 1))
    if rng.random() < 0.5:
        game: Game = Haggling(persuasion=float(rng.choice([0.5, 0.7])), mistakes=mistakes)
    else:
        game = Errands(luck=float(rng.choice([0.6, 0.8])), mistakes=mistakes)
    return game, length


def play(game: Game, length: int, rng: np.random.Generator) -> tuple[list[Step], list[Consequence]]:
    """Both agents follow their policies. Returns what was said and what came of it; the first outcome is the start."""
    came = [draw_outcome(game.starts(), rng)]
    said: list[Step] = []
    while len(said) < length and not game.over(came[-1].state):
        state, agent = came[-1].state, len(said) % 2
        said.append(Step(state, draw_move(game, state, agent, rng)))
        came.append(draw_outcome(game.outcomes(state, agent, said[-1].move), rng))
    return said, came


def draw_move(game: Game, state: State, agent: int, rng: np.random.Generator) -> str:
    """A move by the agent's policy."""
    policy = game.policy(state, agent)
    return list(policy)[_drawn(list(policy.values()), rng.random())]


def draw_outcome(outcomes: Sequence[Consequence], rng: np.random.Generator) -> Consequence:
    """What chance makes of it."""
    return outcomes[_drawn([outcome.probability for outcome in outcomes], rng.random())]


def _drawn(probabilities: Sequence[float], point: float) -> int:
    return min(int(np.searchsorted(np.cumsum(probabilities), point, side="right")), len(probabilities) - 1)


def played(number: int, seed: int) -> Played:
    """The dialogue with this number among those of `seed`: the same one whatever others are made."""
    rng = np.random.default_rng([seed, number])
    game, length = draw_game(rng)
    said, came = play(game, length, rng)
    telling = Telling.drawn(game, rng)
    wordings = [list(WORDINGS)[_drawn(list(WORDINGS.values()), rng.random())] for _ in said]
    turns = []
    for t, step in enumerate(said):
        text = telling.utterance(t, step.move, came[t], came[t + 1], wordings[t])
        leaves = step.move == "leave"
        turns.append(Turn(t, telling.names[t % 2], "leave" if leaves else "speak", "" if leaves else text))
    name = f"game-{seed}-{number:05d}"
    episode = Episode(
        episode_id=name,
        environment_id=name,
        agents=telling.agents(came[0].state),
        turns=tuple(turns),
        scores=tuple(Score(telling.names[a], DIMENSION, game.score(came[-1].state, a), EVALUATOR) for a in AGENTS),
        source="game",
        codename=telling.scene["codename"],
        scenario=telling.scenario(length),
        relationship="strangers" if game.kind == "haggling" else "friends",
        tag=game.kind,
    )
    return Played(game, length, tuple(said), came[-1].state, tuple(wordings), episode)
