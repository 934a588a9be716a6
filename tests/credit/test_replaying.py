"""Credit estimated by re-playing games: against the truth, which shares no code with it."""

from __future__ import annotations

import numpy as np
import pytest

from sotopia_rl_data.credit.game import AGENTS
from sotopia_rl_data.credit.haggling import Haggling
from sotopia_rl_data.credit.playing import draw_game, play
from sotopia_rl_data.credit.replaying import CreditEstimate, mean_of, replayed, replayed_shapley
from sotopia_rl_data.credit.shapley import coalition_values, shapley_values
from sotopia_rl_data.credit.simulating import simulator
from sotopia_rl_data.credit.solved import Step, solved
from sotopia_rl_data.errors import UsageError


def covered(count: int, draws: int, plays: int, seed: int) -> float:
    """How often the interval of one turn in each of so many games holds the truth."""
    held = 0
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        game, length = draw_game(rng)
        said, came = play(game, length, rng)
        turn = int(rng.integers(len(said)))
        truth = solved(game).credit(said, came[-1].state, length)[turn].advantage_true
        estimate = replayed(simulator(game), said[turn], turn, length, draws, plays, rng)
        assert estimate.high - estimate.low > 0.1
        held += estimate.low <= truth <= estimate.high
    return held / count


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    assert 0.90 <= covered(300, 16, 4, seed=4) <= 0.99


@pytest.mark.long
def test_95_percent_intervals_of_16_draws_hold_the_truth_in_93_to_96_percent_of_4000_games():
    assert 0.93 <= covered(4000, 16, 16, seed=2026) <= 0.96


def test_many_plays_come_to_the_true_values():
    game, length = Haggling(), 9
    state = game.starts()[0].state
    rng, simulated, known = np.random.default_rng(0), simulator(game), solved(game)
    for move in ("wait", "reason", "promise"):
        first = np.full(20_000, simulated.moves.index(move))
        ends = simulated.ends(state, 0, length, first, rng.random((20_000, length, 2)))
        truth = (known.step[0][move] @ known.values(length)[1])[known.index[state], 0]
        assert ends.mean() == pytest.approx(truth, abs=5 * ends.std() / np.sqrt(20_000))


def test_what_was_said_again_with_the_same_luck_changes_nothing():
    game = Haggling(mistakes=(0.0, 0.0))
    state = (0, 0, 0, 1, 3, 0, 0, 0)  # the prices meet, so whoever makes no mistake accepts
    assert {move for move, chance in game.policy(state, 0).items() if chance} == {"accept"}
    estimate = replayed(simulator(game), Step(state, "accept"), 0, 6, 4, 4, np.random.default_rng(0))
    assert estimate.credit == 0.0
    assert estimate.high > 0.0 > estimate.low


def test_the_interval_by_hand():
    # squares: 2 · 1 and one more of 0.4 points; error² = 2.16 / 1 / 2; t with one degree of freedom is 12.706
    estimate = mean_of(np.array([1.0, 3.0]))
    assert estimate.credit == 2.0
    assert estimate.error == pytest.approx((2.16 / 2) ** 0.5)
    assert estimate.high - 2.0 == pytest.approx(12.7062 * estimate.error, rel=1e-4)
    with pytest.raises(UsageError, match="2 utterances or more"):
        mean_of(np.array([1.0]))


@pytest.mark.slow
def test_shapley_values_by_random_orders_are_near_the_exact_ones():
    errors, halves = [], []
    for number in range(8):
        rng = np.random.default_rng([6, number])
        game, length = draw_game(rng)
        said, _ = play(game, length, rng)
        for agent in AGENTS:
            exact = shapley_values(coalition_values(solved(game), said, agent, length))
            estimates: list[CreditEstimate] = replayed_shapley(simulator(game), said, agent, length, 400, rng)
            errors += [one.credit - value for one, value in zip(estimates, exact, strict=True)]
            halves += [one.high - one.credit for one in estimates]
    assert np.mean(np.abs(errors) <= halves) >= 0.85
    assert np.abs(np.mean(errors)) < 0.05
