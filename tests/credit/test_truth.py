"""The true credit of known games: what brute force says, to 1e-12, and what must hold of any truth."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.games import coalition_value, imagined, shapley_by_orders, value, value_of_move

from sotopia_rl_data.credit.errands import Errands
from sotopia_rl_data.credit.game import AGENTS, NEUTRAL, Game
from sotopia_rl_data.credit.haggling import Haggling
from sotopia_rl_data.credit.making import pivotal_turn
from sotopia_rl_data.credit.playing import draw_game, play, played
from sotopia_rl_data.credit.shapley import coalition_values, shapley_values
from sotopia_rl_data.credit.solved import solved

GAMES: list[Game] = [Haggling(), Errands()]


@pytest.mark.slow
def test_values_are_those_of_every_continuation_on_50_small_games():
    rng = np.random.default_rng(1)
    for number in range(50):
        game, length = draw_game(rng)[0], int(rng.integers(2, 5)) if number % 10 else 5
        said, came = play(game, length, rng)
        for t, credit in enumerate(solved(game).credit(said, came[-1].state, length)):
            me, partner, state, move = t % 2, 1 - t % 2, said[t].state, said[t].move
            if length == 5 and t == 0:
                continue  # a quarter of a million continuations
            assert credit.v_true == pytest.approx(value(game, state, t, length, me), abs=1e-12)
            assert credit.q_true == pytest.approx(value_of_move(game, state, move, t, length, me), abs=1e-12)
            assert credit.partner_v_true == pytest.approx(value(game, state, t, length, partner), abs=1e-12)
            if t:
                held = imagined(game, said, me, t)
                v = sum(share * value(game, one, t, length, me) for one, share in held.items())
                q = sum(share * value_of_move(game, one, move, t, length, me) for one, share in held.items())
                assert (credit.v, credit.q) == (pytest.approx(v, abs=1e-12), pytest.approx(q, abs=1e-12))


def test_credit_and_chance_add_up_from_the_start_to_the_final_score():
    for number in range(60):
        one = played(number, seed=7)
        credit = solved(one.game).credit(one.said, one.end, one.length)
        for agent in AGENTS:
            total = credit[0].v_true if agent == 0 else credit[0].partner_v_true
            for t, turn in enumerate(credit):
                own = (turn.advantage_true, turn.chance_true)
                partners = (turn.partner_advantage_true, turn.partner_chance_true)
                total += sum(own if t % 2 == agent else partners)
            assert total == pytest.approx(one.game.score(one.end, agent), abs=1e-12)


@pytest.mark.slow
def test_what_an_agent_knows_is_right_on_the_average():
    """Over all dialogues, Q − V is 0 in the mean, with what is known as with what is true: the policy is its own
    average."""
    rng, known, true = np.random.default_rng(3), [], []
    for _ in range(400):
        game, length = draw_game(rng)
        said, came = play(game, length, rng)
        first = solved(game).credit(said, came[-1].state, length)[0]
        known.append(first.advantage)
        true.append(first.advantage_true)
    for values in (known, true):
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert not np.allclose(known, true)


@pytest.mark.slow
def test_shapley_values_are_the_mean_over_orders_in_games_of_up_to_8_turns():
    for number in range(12):
        rng = np.random.default_rng([5, number])
        game, length = draw_game(rng)[0], 4 + number % 5
        said, _ = play(game, length, rng)
        for agent in AGENTS:
            v = coalition_values(solved(game), said, agent, length)
            turns = list(range(agent, len(said), 2))
            for index in range(len(v)):
                kept = {turn for k, turn in enumerate(turns) if index >> k & 1}
                assert v[index] == pytest.approx(coalition_value(game, said, kept, agent, length), abs=1e-12)
            values = shapley_values(v)
            assert values == pytest.approx(shapley_by_orders(game, said, agent, length), abs=1e-12)
            assert values.sum() == pytest.approx(v[-1] - v[0], abs=1e-12)


@pytest.mark.parametrize("game", GAMES, ids=lambda game: game.kind)
def test_the_rules_are_whole(game: Game):
    for state in solved(game).states:
        if game.over(state):
            continue
        for agent in AGENTS:
            legal, policy = game.legal(state, agent), game.policy(state, agent)
            assert NEUTRAL in legal
            assert set(policy) <= set(legal) <= set(game.moves)
            assert sum(policy.values()) == pytest.approx(1, abs=1e-12)
            assert 0 <= game.score(state, agent) <= 10
            assert game.outcomes(state, agent, NEUTRAL)[0].state == state
            for move in legal:
                assert sum(came.probability for came in game.outcomes(state, agent, move)) == pytest.approx(1)
                assert all(0 <= came.probability <= 1 for came in game.outcomes(state, agent, move))


@pytest.mark.parametrize("game", GAMES, ids=lambda game: game.kind)
def test_an_agent_does_what_it_does_by_what_it_knows(game: Game):
    for agent in AGENTS:
        by_knowledge: dict[object, object] = {}
        for state in solved(game).states:
            if not game.over(state):
                policy = sorted(game.policy(state, agent).items()), sorted(game.legal(state, agent))
                assert by_knowledge.setdefault(game.knows(state, agent), policy) == policy
        assert len(by_knowledge) < sum(not game.over(state) for state in solved(game).states)


def test_no_dialogue_ends_before_its_fourth_turn():
    lengths = [len(played(number, seed=11).said) for number in range(150)]
    assert min(lengths) == 4
    assert 14 <= max(lengths) <= 20


def test_the_pivotal_turn_is_the_earliest_that_changed_most():
    assert pivotal_turn([0, 2, 4], [0.1, -0.5, 0.5]) == 2
    assert pivotal_turn([1, 3], [0.0, 1e-12]) is None
    assert pivotal_turn([], []) is None
