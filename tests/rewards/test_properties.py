"""The laws that rewards obey, whatever the episodes, the answers and the recipe."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fixtures.rewarding import Toy, by_hand, episode, judged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.rewards.normalise import Statistic, TrainValues, average, fit, reward, spread
from sotopia_rl_data.rewards.rules import RULES, Floats, Turns, direct, scaled, singular

FINITE = st.floats(-20, 20)
SCORES = st.sampled_from([-10.0, -4.5, -1.0, 0.0, 0.3, 2.0, 7.0, 10.0])
IMPORTANCE = st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0])
NORMALISERS = ("minmax", "zscore", "rank", "none")


def one_agent(count: int) -> Turns:
    return Turns.of(np.arange(count) == 0)


def floats(values: list[float | None]) -> Floats:
    return np.array([math.nan if v is None else v for v in values], float)


# --- rules -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), SCORES)
def test_direct_is_monotone_in_importance_for_a_good_end_and_antitone_for_a_bad_one(importance, g):
    a = np.sort(np.array(importance))
    steps = np.diff(direct(a, np.full(len(a), g), one_agent(len(a)), 1.0))
    assert (steps >= 0).all() if g >= 0 else (steps <= 0).all()
    assert (steps == 0).all() or g != 0


@given(st.lists(st.lists(IMPORTANCE, min_size=1, max_size=12), min_size=1, max_size=5), st.data())
def test_scaled_sums_to_the_score_where_anything_mattered_and_to_zero_elsewhere(agents, data):
    scores = [data.draw(SCORES) for _ in agents]
    lengths = [len(a) for a in agents]
    turns = Turns.of(np.concatenate([np.arange(n) == 0 for n in lengths]))
    r = scaled(np.concatenate(agents), np.repeat(scores, lengths), turns, 1.0)
    for start, a, g in zip(turns.starts, agents, scores, strict=True):
        assert r[start : start + len(a)].sum() == pytest.approx(g if sum(a) > 0 else 0.0, abs=1e-12)


@given(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=1, max_size=12), SCORES)
def test_singular_is_non_zero_at_most_at_the_key(answers, g):
    a = floats(answers)
    r = singular(a, np.full(len(a), g), one_agent(len(a)), 1.0)
    assert not np.any((r != 0) & ~np.isnan(r) & (a != 1))
    assert np.count_nonzero((r != 0) & ~np.isnan(r)) <= 1
    assert np.isnan(r).all() or not np.isnan(r).any()


@given(
    st.sampled_from(sorted(name for name, one in RULES.items() if one.also_reads == "score")),
    st.lists(st.tuples(st.none() | IMPORTANCE, st.none() | SCORES), min_size=1, max_size=12),
)
def test_a_rule_never_makes_up_a_value_for_a_missing_score(rule, rows):
    a, g = floats([x for x, _ in rows]), floats([x for _, x in rows])
    r = RULES[rule].value(a, g, one_agent(len(rows)), 0.9)
    assert np.isnan(r[np.isnan(g)]).all()
    assert not np.isinf(r).any()
    assert (np.abs(r[~np.isnan(r)]) <= np.abs(g[~np.isnan(r)])).all()


# --- normalisers -----------------------------------------------------------------------------------------------------


def fitted(normaliser: str, values: list[float], dimension: str = "goal") -> Statistic:
    tally = TrainValues(normaliser)
    tally.add(np.array(values, float))
    return fit(normaliser, {dimension: tally})[0][dimension]


@given(st.sampled_from(NORMALISERS), st.lists(FINITE, max_size=30), st.lists(FINITE, min_size=2, max_size=30))
def test_fixed_statistics_preserve_order(normaliser, train, others):
    norm = fitted(normaliser, train).apply(np.sort(np.array(others)))
    assert (np.diff(norm) >= 0).all()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.sampled_from(["minmax", "rank"]))
def test_min_max_and_rank_keep_train_between_zero_and_one(values, normaliser):
    norm = fitted(normaliser, values).apply(np.array(values))
    assert ((norm >= 0) & (norm <= 1)).all()


@given(
    st.sampled_from(NORMALISERS),
    st.lists(st.none() | st.floats(-1e9, 1e9), max_size=30),
    st.lists(st.none() | FINITE, max_size=30),
)
def test_null_stays_null_and_nothing_becomes_nan_or_infinite(normaliser, train, others):
    statistic = fitted(normaliser, list(floats(train)))
    norm = statistic.apply(floats(others))
    assert np.array_equal(np.isnan(norm), np.isnan(floats(others)))
    assert not np.isinf(norm).any()


@given(
    st.sampled_from(NORMALISERS),
    st.lists(FINITE, min_size=1, max_size=40),
    st.randoms(use_true_random=False),
    st.integers(1, 7),
)
def test_statistics_do_not_depend_on_the_order_or_the_chunks_of_rows(normaliser, values, random, pieces):
    shuffled = random.sample(values, len(values))
    tally = TrainValues(normaliser)
    for chunk in np.array_split(np.array(shuffled), pieces):
        tally.add(chunk)
    assert fit(normaliser, {"goal": tally})[0]["goal"] == fitted(normaliser, values)


# --- opinions and dimensions -----------------------------------------------------------------------------------------


@given(
    st.sampled_from(["mean", "median"]),
    st.lists(st.lists(st.none() | FINITE, min_size=3, max_size=3), min_size=1, max_size=5),
)
def test_an_average_lies_between_its_opinions_and_is_null_only_where_all_are(kind, rows):
    opinions = np.array([floats(row) for row in rows])
    joined = average(kind, opinions)
    assert np.array_equal(np.isnan(joined), np.isnan(opinions).all(axis=0))
    for value, column in zip(joined, opinions.T, strict=True):
        known = column[~np.isnan(column)]
        assert not len(known) or known.min() - 1e-9 <= value <= known.max() + 1e-9


@given(st.lists(st.lists(st.none() | FINITE, min_size=2, max_size=2), min_size=1, max_size=6))
def test_spread_is_the_sample_deviation_of_two_or_more_opinions(rows):
    rewards = np.array([floats(row) for row in rows])
    for value, column in zip(spread(rewards), rewards.T, strict=True):
        known = column[~np.isnan(column)]
        assert math.isnan(value) if len(known) < 2 else value == pytest.approx(np.std(known, ddof=1), abs=1e-9)


@given(st.floats(0, 5), st.floats(0.1, 5), FINITE, st.none() | FINITE, FINITE)
def test_the_reward_is_null_exactly_where_a_weighted_dimension_is(light, heavy, one, two, three):
    norm = {"goal": floats([one, three]), "secret": floats([two, three])}
    r = reward({"secret": light, "goal": heavy}, norm)
    assert math.isnan(r[0]) == (light > 0 and two is None)
    assert r[1] == pytest.approx(three, abs=1e-9)


# --- the whole -------------------------------------------------------------------------------------------------------


@st.composite
def versions(draw):
    """Episodes of up to three agents in any order of speaking, with scores, answers and failures, in three splits."""
    dimensions = draw(st.lists(st.sampled_from([d.name for d in SOTOPIA_EVAL]), min_size=1, max_size=3, unique=True))
    judges = draw(
        st.lists(
            st.tuples(st.sampled_from(["gpt-4o", "human"]), st.integers(0, 2)), min_size=1, max_size=3, unique=True
        )
    )
    recipe = Recipe(
        {d: draw(st.sampled_from([1.0, 0.0, 2.5])) if d != dimensions[0] else 1.0 for d in dimensions},
        rule=draw(st.sampled_from(["direct", "scaled", "singular", "uniform", "uniform-share", "discounted"])),
        normaliser=draw(st.sampled_from(["minmax", "none"])),
        average=draw(st.sampled_from(["mean", "median"])),
    )
    splits = {split: [] for split in draw(st.sampled_from([("train",), ("train", "test"), ("validation", "test")]))}
    answers = []
    if RULES[recipe.rule].measure == "key":
        asked = {"schema": "singular", "measure": "key", "scale_max": 1.0}
        raws = st.sampled_from([0.0, 0.0, 1.0, None])
    else:
        asked, raws = {}, st.sampled_from([0.0, 1.0, 2.0, 3.0, None])
    for i in range(draw(st.integers(1, 6))):
        speakers = draw(st.text("abc.", min_size=1, max_size=7).filter(lambda s: s.strip(".")))
        agents = sorted(set(speakers) - {"."})
        scores = {(w, d): draw(SCORES) for w in agents for d in dimensions if draw(st.integers(0, 9))}
        e = episode(f"é{i % 2}{i}", speakers, scores)
        splits[draw(st.sampled_from(sorted(splits)))].append(e)
        for who in agents if RULES[recipe.rule].measure else ():
            for d in dimensions:
                for judge, sample in judges:
                    answers += judged(e, who, d, [draw(raws) for c in speakers if c == who], judge, sample, **asked)
    return recipe, dimensions, splits, answers


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(versions(), st.integers(1, 40))
def test_build_is_the_design_read_one_utterance_at_a_time(version, cells):
    recipe, dimensions, splits, answers = version
    if not any(e.scores for episodes in splits.values() for e in episodes):
        return
    with tempfile.TemporaryDirectory() as folder:
        given_ = {"dimensions": dimensions, "cells": cells}
        rows, built = Toy(Path(folder), splits, answers).build(recipe, **given_)
    wanted = by_hand(recipe, splits, answers, dimensions)
    found = {(r["episode_id"], r["agent"], r["turn"]): r for of in rows.values() for r in of}
    assert set(found) == set(wanted)
    for key, row in wanted.items():
        for column, value in row.items():
            assert found[key][column] == (value if value is None else pytest.approx(value, abs=1e-9)), (key, column)
    for of in rows.values():
        assert [(r["episode_id"], r["agent"], r["turn"]) for r in of] == sorted(
            (r["episode_id"], r["agent"], r["turn"]) for r in of
        )
    assert built.rows == {split: len(of) for split, of in rows.items()}
    assert built.unrewarded == {split: sum(r["reward"] is None for r in of) for split, of in rows.items()}
    if recipe.normaliser == "minmax":
        assert not any(built.outside.get("train", {}).values()) or built.warnings
