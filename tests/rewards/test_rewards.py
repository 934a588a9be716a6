"""Rewards by example: a toy each, exact values. The laws are in test_properties.py."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fixtures.places import ROOT
from fixtures.rewarding import Toy, episode, judged, no_answers, prompts
from scipy.stats import rankdata

from sotopia_rl_data.errors import InputError, StoreError, UsageError
from sotopia_rl_data.prompts import prompts_of
from sotopia_rl_data.rewards import Recipe, preset
from sotopia_rl_data.rewards.normalise import KNOTS, TrainValues, fit
from sotopia_rl_data.rewards.texts import BATCH_BYTES, RenderedTexts, StoredTexts
from sotopia_rl_data.schema import Episode, Score, Turn
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import attribution_table, rewards_schema

GOAL = Recipe({"goal": 1}, normaliser="none")


def rewards(rows: list[dict[str, object]]) -> list[object]:
    return [row["reward"] for row in rows]


def one_agent(tmp_path: Path, recipe: Recipe, g: float, raws: list[float | None], **given: object) -> list[object]:
    """The rewards of one agent whose episode ended with `g` on goal."""
    e = episode("e", "a" * len(raws), {("a", "goal"): g})
    rows, _ = Toy(tmp_path, {"train": [e]}, judged(e, "a", "goal", raws, **given)).build(recipe)
    return rewards(rows["train"])


# --- rules -----------------------------------------------------------------------------------------------------------


def test_direct_is_raw_over_three_times_the_score_as_in_the_reference(tmp_path):
    assert one_agent(tmp_path, GOAL, 9.0, [0, 1, 2, 3]) == [0.0, 3.0, 6.0, 9.0]


def test_importance_is_read_on_its_own_scale(tmp_path):
    assert one_agent(tmp_path, GOAL, 8.0, [1, 3, 5], scale_min=1.0, scale_max=5.0) == [0.0, 4.0, 8.0]


def test_a_negative_score_makes_what_mattered_most_the_worst(tmp_path):
    e = episode("e", "aaa", {("a", "relationship"): -3.0})
    rows, _ = Toy(tmp_path, {"train": [e]}, judged(e, "a", "relationship", [0, 1, 3])).build(
        Recipe({"relationship": 1}, normaliser="none")
    )
    assert rewards(rows["train"]) == [0.0, -1.0, -3.0]
    assert str(rows["train"][0]["raw_relationship"]) == "0.0"  # never -0.0


def test_scaled_shares_the_score_out(tmp_path):
    assert one_agent(tmp_path, Recipe({"goal": 1}, "scaled", "none"), 8.0, [1, 3, 0]) == [2.0, 6.0, 0.0]


def test_scaled_gives_zero_where_nothing_mattered(tmp_path):
    assert one_agent(tmp_path, Recipe({"goal": 1}, "scaled", "none"), -8.0, [0, 0]) == [0.0, 0.0]


def test_a_share_of_an_unknown_sum_is_null(tmp_path):
    assert one_agent(tmp_path, Recipe({"goal": 1}, "scaled", "none"), 8.0, [1, None, 3]) == [None, None, None]


@pytest.mark.parametrize(
    ("raws", "wanted"),
    [
        ([0, 1, 0], [0.0, 7.0, 0.0]),
        ([None, 1, None], [0.0, 7.0, 0.0]),  # only the key has a row
        ([0, 0, 0], [0.0, 0.0, 0.0]),
        ([0, None, 0], [None, None, None]),  # the key may be the missing one
        ([1, 1, 0], [None, None, None]),  # two keys are no answer
    ],
)
def test_singular_gives_the_score_to_the_key_utterance(tmp_path, raws, wanted):
    recipe = Recipe({"goal": 1}, "singular", "none")
    assert one_agent(tmp_path, recipe, 7.0, raws, schema="singular", measure="key", scale_max=1.0) == wanted


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [("uniform", [8.0, 8.0, 8.0, 8.0]), ("uniform-share", [2.0] * 4), ("discounted", [1.0, 2.0, 4.0, 8.0])],
)
def test_rules_without_a_judge_need_no_attributions(tmp_path, rule, wanted):
    e = episode("e", "abab.aa", {("a", "goal"): 8.0})  # T and t count a's own utterances, not the turns
    toy = Toy(tmp_path, {"train": [e]})
    rows, built = toy.build(Recipe({"goal": 1}, rule, "none", gamma=0.5), attributions={})
    assert [r["reward"] for r in rows["train"] if r["agent"] == "a"] == wanted
    assert [r["reward"] for r in rows["train"] if r["agent"] == "b"] == [None, None]
    assert {(r["n_opinions"], r["spread"]) for r in rows["train"]} == {(0, None)}
    assert built.opinions == ()


# --- opinions --------------------------------------------------------------------------------------------------------


def test_each_opinion_goes_through_the_rule_before_they_are_averaged(tmp_path):
    e = episode("e", "aa", {("a", "goal"): 6.0})
    answers = judged(e, "a", "goal", [3, 0], judge="x") + judged(e, "a", "goal", [1, 1], judge="y")
    rows, _ = Toy(tmp_path, {"train": [e]}, answers).build(Recipe({"goal": 1}, "scaled", "none"))
    assert rewards(rows["train"]) == [(6.0 + 3.0) / 2, (0.0 + 3.0) / 2]  # not the shares of the average, 4.8 and 1.2


def test_opinions_are_judges_and_samples_and_the_median_is_another_average(tmp_path):
    e = episode("e", "a", {("a", "goal"): 3.0})
    answers = [a for s, raw in enumerate([0, 0, 3]) for a in judged(e, "a", "goal", [raw], sample=s)]
    answers += judged(e, "a", "goal", [2], judge="human")
    toy = Toy(tmp_path, {"train": [e]}, answers)
    mean, built = toy.build(GOAL)
    median, _ = toy.build(Recipe({"goal": 1}, normaliser="none", average="median"))
    assert built.opinions == (("gpt-4o", 0), ("gpt-4o", 1), ("gpt-4o", 2), ("human", 0))
    assert (mean["train"][0]["reward"], median["train"][0]["reward"]) == (1.25, 1.0)
    assert mean["train"][0]["n_opinions"] == 4
    assert mean["train"][0]["spread"] == pytest.approx(np.std([0, 0, 3, 2], ddof=1), abs=1e-15)


def test_an_opinion_counts_where_it_covers_every_weighted_dimension(tmp_path):
    e = episode("e", "aa", {("a", "goal"): 3.0, ("a", "knowledge"): 3.0})
    answers = judged(e, "a", "goal", [1, 1], judge="x") + judged(e, "a", "knowledge", [2, None], judge="x")
    answers += judged(e, "a", "goal", [3, 3], judge="y") + judged(e, "a", "knowledge", [None, 2], judge="y")
    rows, _ = Toy(tmp_path, {"train": [e]}, answers).build(Recipe({"goal": 1, "knowledge": 1}, normaliser="none"))
    assert [r["n_opinions"] for r in rows["train"]] == [1, 1]
    assert [r["spread"] for r in rows["train"]] == [None, None]
    assert rewards(rows["train"]) == [(2.0 + 2.0) / 2, (2.0 + 2.0) / 2]


# --- NULL ------------------------------------------------------------------------------------------------------------


def test_an_utterance_without_a_label_stays_as_a_row_of_nulls(tmp_path):
    e = episode("e", "aba", {("a", "goal"): 9.0, ("b", "goal"): 9.0})
    rows, built = Toy(tmp_path, {"train": [e]}, judged(e, "a", "goal", [3, None])).build(GOAL)
    assert [
        (r["agent"], r["turn"], r["raw_goal"], r["norm_goal"], r["reward"], r["n_opinions"]) for r in rows["train"]
    ] == [
        ("a", 0, 9.0, 9.0, 9.0, 1),
        ("a", 2, None, None, None, 0),
        ("b", 1, None, None, None, 0),
    ]
    assert (built.rows, built.unrewarded) == ({"train": 3}, {"train": 2})


def test_a_missing_episode_score_is_null_and_a_real_zero_is_zero(tmp_path):
    e = episode("e", "ab", {("a", "goal"): 0.0})
    answers = judged(e, "a", "goal", [3]) + judged(e, "b", "goal", [3])
    rows, _ = Toy(tmp_path, {"train": [e]}, answers).build(GOAL)
    assert rewards(rows["train"]) == [0.0, None]


def test_the_reward_is_null_where_a_weighted_dimension_is_and_others_do_not_matter(tmp_path):
    e = episode("e", "aa", {("a", d): 9.0 for d in ("goal", "knowledge", "secret")})
    answers = (
        judged(e, "a", "goal", [3, 3]) + judged(e, "a", "knowledge", [3, None]) + judged(e, "a", "secret", [None, 1])
    )
    toy = Toy(tmp_path, {"train": [e]}, answers)
    both, _ = toy.build(Recipe({"goal": 1, "knowledge": 1, "secret": 0}, normaliser="none"))
    assert rewards(both["train"]) == [9.0, None]
    assert list(both["train"][0]) == rewards_schema(["knowledge", "secret", "goal"]).names
    assert [r["raw_secret"] for r in both["train"]] == [None, 3.0]


def test_a_run_in_which_every_answer_failed_leaves_rows_of_nulls(tmp_path):
    e = episode("e", "ab", {("a", "goal"): 9.0})
    rows, built = Toy(tmp_path, {"train": [e]}).build(GOAL, attributions=no_answers(tmp_path), dimensions=("goal",))
    assert rewards(rows["train"]) == [None, None]
    assert built.unrewarded == {"train": 2}


def test_chosen_no_ops_three_agents_and_two_turns_in_a_row_are_utterances_like_any_other(tmp_path):
    e = episode("e", "abccab", {(who, "goal"): 3.0 for who in "abc"})
    e = Episode(e.episode_id, "v", e.agents, (*e.turns, Turn(7, "b", "none", failed=False)), e.scores)
    answers = judged(e, "a", "goal", [0, 1]) + judged(e, "b", "goal", [1, 2, 3]) + judged(e, "c", "goal", [2, 3])
    rows, _ = Toy(tmp_path, {"train": [e]}, answers).build(GOAL)
    assert [(r["agent"], r["turn"], r["reward"]) for r in rows["train"]] == [
        ("a", 0, 0.0), ("a", 4, 1.0), ("b", 1, 1.0), ("b", 5, 2.0), ("b", 7, 3.0), ("c", 2, 2.0), ("c", 3, 3.0),
    ]  # fmt: skip


def test_progress_times_score_is_the_step_times_the_score_and_missing_where_the_judge_failed(tmp_path):
    e = episode("e", "aaabb", {("a", "goal"): 5.0, ("b", "goal"): 0.0})
    levels = judged(e, "a", "goal", [2, 7, None], measure="progress", scale_max=10.0)
    levels += judged(e, "b", "goal", [4, None], measure="progress", scale_max=10.0)
    levels += [replace(levels[0], turn=-1, raw=1.0, agent=agent) for agent in "ab"]
    rows, _ = Toy(tmp_path, {"train": [e]}, levels).build(replace(GOAL, rule="progress-score"))
    assert rewards(rows["train"]) == pytest.approx([0.5, 2.5, None, 0.0, None], abs=1e-12)


def test_steps_of_progress_are_read_as_they_are(tmp_path):
    given = {"measure": "step", "scale_min": -10.0, "scale_max": 10.0}
    assert one_agent(tmp_path, replace(GOAL, rule="progress-score"), 8.0, [10, -5, None], **given) == [8.0, -4.0, None]
    assert one_agent(tmp_path, replace(GOAL, rule="progress"), 8.0, [10, -5, None], **given) == [1.0, -0.5, None]


def test_steps_of_an_episode_that_scored_0_give_0_though_the_file_cannot_tell_them(tmp_path):
    given = {"measure": "step", "scale_min": -10.0, "scale_max": 10.0}
    e = episode("e", "aabb", {("a", "goal"): 8.0, ("b", "goal"): 0.0})
    rows, _ = Toy(tmp_path, {"train": [e]}, judged(e, "a", "goal", [10, None], **given)).build(
        replace(GOAL, rule="progress-score")
    )
    assert rewards(rows["train"]) == [8.0, None, 0.0, 0.0]


def test_steps_are_read_beside_progress_where_the_recipe_names_their_schema(tmp_path):
    e = episode("e", "aa", {("a", "goal"): 8.0})
    levels = judged(e, "a", "goal", [2, 7], measure="progress", schema="goal-progress", scale_max=10.0)
    levels += [replace(levels[0], turn=-1, raw=1.0)]
    levels += judged(e, "a", "goal", [10, -5], measure="step", schema="steps", scale_min=-10.0, scale_max=10.0)
    toy = Toy(tmp_path, {"train": [e]}, levels)
    made = {
        schema: rewards(toy.build(replace(GOAL, rule="progress-score", schema=schema))[0]["train"])
        for schema in ("steps", "goal-progress")
    }
    assert made == {"steps": [8.0, -4.0], "goal-progress": pytest.approx([0.8, 4.0], abs=1e-12)}


def test_quality_is_multiplied_by_the_score_or_shares_it_out(tmp_path):
    assert one_agent(tmp_path, replace(GOAL, rule="quality-score"), 6.0, [0, 1, 3], measure="quality") == [
        0.0,
        2.0,
        6.0,
    ]
    assert one_agent(tmp_path, replace(GOAL, rule="quality-share"), 6.0, [0, 1, 2], measure="quality") == [
        0.0,
        2.0,
        4.0,
    ]


@pytest.mark.parametrize("knowledge", [[2, 2], [2, None]], ids=["as a grid", "row by row"])
def test_a_baseline_below_turn_zero_is_nobodys_label(tmp_path, knowledge):
    e = episode("e", "aaa", {("a", "goal"): 3.0, ("a", "knowledge"): 3.0})
    answers = judged(e, "a", "goal", [1, 2, None]) + judged(e, "a", "knowledge", [*knowledge, None])
    answers += [replace(a, turn=-1) for d in ("goal", "knowledge") for a in judged(episode("e", "a"), "a", d, [3])]
    rows, _ = Toy(tmp_path, {"train": [e]}, answers).build(GOAL)
    assert rewards(rows["train"]) == [1.0, 2.0, None]


def test_rows_that_only_look_like_a_grid_are_put_in_their_own_places(tmp_path):
    e = episode("e", "aaa", {("a", "goal"): 3.0, ("a", "knowledge"): 3.0})
    answers = judged(e, "a", "goal", [1, 2, None]) + judged(e, "a", "knowledge", [3, None, 1])
    rows, _ = Toy(tmp_path, {"train": [e]}, answers).build(GOAL)
    assert [(r["raw_goal"], r["raw_knowledge"]) for r in rows["train"]] == [(1.0, 3.0), (2.0, None), (None, 1.0)]


@pytest.mark.parametrize("secret", [[2, 2], [2, None]], ids=["as a grid", "row by row"])
def test_a_dimension_that_is_not_asked_for_is_left_out(tmp_path, secret):
    e = episode("e", "aa", {("a", d): 3.0 for d in ("goal", "secret")})
    answers = judged(e, "a", "goal", [1, None]) + judged(e, "a", "secret", secret)
    rows, _ = Toy(tmp_path, {"train": [e]}, answers).build(GOAL, dimensions=("goal",))
    assert rewards(rows["train"]) == [1.0, None]
    assert "raw_secret" not in rows["train"][0]


# --- normalising and aggregating -------------------------------------------------------------------------------------


def split_toy(tmp_path: Path) -> Toy:
    """Train's raw goal is 0 … 6, validation's 9; knowledge is 4 everywhere in train."""
    train = episode("t", "aaa", {("a", "goal"): 6.0, ("a", "knowledge"): 4.0})
    held_out = episode("v", "aa", {("a", "goal"): 9.0, ("a", "knowledge"): 8.0})
    answers = judged(train, "a", "goal", [0, 1, 3]) + judged(held_out, "a", "goal", [1, 3])
    answers += judged(train, "a", "knowledge", [3, 3, 3]) + judged(held_out, "a", "knowledge", [3, 0])
    return Toy(tmp_path, {"train": [train], "validation": [held_out]}, answers)


def test_min_max_is_fitted_on_train_and_what_lies_outside_is_counted_not_clipped(tmp_path):
    rows, built = split_toy(tmp_path).build(Recipe({"goal": 1}))
    assert rewards(rows["train"]) == [0.0, 2 / 6, 1.0]
    assert rewards(rows["validation"]) == [0.5, 1.5]
    assert built.outside == {"train": {"knowledge": 0, "goal": 0}, "validation": {"knowledge": 0, "goal": 1}}
    assert built.statistics["goal"].as_dict() == {
        "normaliser": "minmax", "low": 0.0, "high": 6.0, "count": 3, "source": "train",
    }  # fmt: skip


def test_it_is_fitted_on_all_splits_and_counts_to_ten_where_the_recipe_says_so(tmp_path):
    rows, built = split_toy(tmp_path).build(Recipe({"goal": 1}, fit="all", units="0-10"))
    assert rewards(rows["train"]) == [0.0, 10 * (2 / 9), 10 * (6 / 9)]
    assert rewards(rows["validation"]) == [10 * (3 / 9), 10.0]
    assert rows["validation"][1]["norm_goal"] == 1.0
    assert (built.statistics["goal"].source, built.outside["validation"]["goal"]) == ("all", 0)


def test_a_dimension_constant_in_train_is_normalised_by_its_declared_range_with_a_warning(tmp_path):
    rows, built = split_toy(tmp_path).build(Recipe({"knowledge": 1}))
    assert rewards(rows["train"]) == [0.4, 0.4, 0.4]
    assert rewards(rows["validation"]) == [0.8, 0.0]
    assert built.warnings == ("knowledge is 4 everywhere in train: normalised by its declared range 0 to 10",)
    assert built.statistics["knowledge"].source == "declared"


def test_what_differs_by_rounding_alone_is_constant():
    tally = TrainValues("minmax")
    tally.add(np.array([0.1 + 0.2, 0.3]))
    fitted, warnings = fit("minmax", {"goal": tally})
    assert fitted["goal"].apply(np.array([0.3])).tolist() == [0.03]
    assert warnings == ["goal is 0.3 everywhere in train: normalised by its declared range 0 to 10"]


def test_without_a_train_split_the_declared_ranges_are_used(tmp_path):
    e = episode("e", "a", {("a", "relationship"): 5.0})
    rows, built = Toy(tmp_path, {"test": [e]}, judged(e, "a", "relationship", [3])).build(Recipe({"relationship": 1}))
    assert rewards(rows["test"]) == [1.0]
    assert built.warnings == ("relationship has no value in train: normalised by its declared range -5 to 5",)


def test_the_reward_is_the_weighted_mean_of_the_normalised_dimensions(tmp_path):
    rows, _ = split_toy(tmp_path).build(Recipe({"goal": 3, "knowledge": 1}))
    assert rewards(rows["validation"]) == [(3 * 0.5 + 0.8) / 4, (3 * 1.5 + 0.0) / 4]
    assert [(r["norm_goal"], r["norm_knowledge"]) for r in rows["validation"]] == [(0.5, 0.8), (1.5, 0.0)]


def test_z_scores_are_numpys_and_ranks_are_scipys(tmp_path):
    values = np.random.default_rng(0).integers(0, 30, 1000) / 3
    for normaliser, wanted in (
        ("zscore", (values - values.mean()) / values.std()),
        ("rank", (rankdata(values) - 0.5) / len(values)),
    ):
        tally = TrainValues(normaliser)
        for chunk in np.array_split(values, 7):
            tally.add(chunk)
        fitted, _ = fit(normaliser, {"goal": tally})
        np.testing.assert_allclose(fitted["goal"].apply(values), wanted, rtol=0, atol=1e-12)
        json.dumps(fitted["goal"].as_dict(), allow_nan=False)


def test_ranks_of_many_distinct_values_are_kept_as_some_knots(tmp_path):
    values = np.random.default_rng(0).normal(size=20_000)
    tally = TrainValues("rank")
    tally.add(values)
    fitted = fit("rank", {"goal": tally})[0]["goal"]
    assert len(fitted.knots) == KNOTS
    assert np.abs(fitted.apply(values) - (rankdata(values) - 0.5) / len(values)).max() < 1 / (KNOTS - 1)
    assert fitted.apply(np.array([-99.0, 99.0])).tolist() == [fitted.ranks[0], fitted.ranks[-1]]


# --- who scored, what was asked --------------------------------------------------------------------------------------


def test_several_evaluators_and_none_named_is_an_error_that_names_them(tmp_path):
    e = episode("e", "a", {("a", "goal"): 6.0})
    e = Episode(e.episode_id, "v", e.agents, e.turns, (*e.scores, Score("a", "goal", 3.0, "human")))
    toy = Toy(tmp_path, {"train": [e]}, judged(e, "a", "goal", [3]))
    with pytest.raises(UsageError, match="gpt-4, human"):
        toy.build(GOAL)
    with pytest.raises(UsageError, match="No episode is scored by 'claude'"):
        toy.build(Recipe({"goal": 1}, evaluator="claude"))
    rows, built = toy.build(Recipe({"goal": 1}, normaliser="none", evaluator="human"))
    assert rewards(rows["train"]) == [3.0]
    assert built.recipe.as_dict()["evaluator"] == "human"


def test_a_score_named_twice_counts_once_the_first(tmp_path):
    e = episode("e", "a", {("a", "goal"): 6.0})
    e = Episode(e.episode_id, "v", e.agents, e.turns, (*e.scores, Score("a", "goal", 3.0, "gpt-4")))
    rows, _ = Toy(tmp_path, {"train": [e]}, judged(e, "a", "goal", [3])).build(GOAL)
    assert rewards(rows["train"]) == [e.score("a", "goal", "gpt-4")] == [6.0]


def test_an_evaluator_of_other_dimensions_is_not_in_the_way(tmp_path):
    e = episode("e", "a", {("a", "goal"): 6.0})
    e = Episode(e.episode_id, "v", e.agents, e.turns, (*e.scores, Score("a", "secret", 0.0, "human")))
    _, built = Toy(tmp_path, {"train": [e]}, judged(e, "a", "goal", [3])).build(GOAL)
    assert (built.recipe.evaluator, built.recipe.schema) == ("gpt-4", "direct")


def test_episodes_that_nobody_scored_are_an_error(tmp_path):
    e = episode("e", "a")
    with pytest.raises(InputError, match="No episode has a score on goal"):
        Toy(tmp_path, {"train": [e]}, judged(e, "a", "goal", [3])).build(GOAL)


def test_a_weighted_dimension_that_was_never_asked_is_an_error(tmp_path):
    with pytest.raises(
        UsageError, match="weighs relationship, but judges were asked only about knowledge, goal"
    ) as caught:
        split_toy(tmp_path).build(preset("sotopia-rl"))
    assert (
        caught.value.hint
        == "label with --dimensions knowledge,goal,relationship, or weigh only dimensions that were asked about"
    )


def test_a_rule_that_reads_other_answers_than_there_are_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="'singular' needs 'key' attributions, but there are only importance"):
        split_toy(tmp_path).build(Recipe({"goal": 1}, "singular"))
    with pytest.raises(UsageError, match="there are none"):
        split_toy(tmp_path).build(GOAL, attributions={})


def test_of_several_schemas_one_must_be_named_and_only_its_answers_are_read(tmp_path):
    e = episode("e", "aa", {("a", "goal"): 3.0})
    answers = judged(e, "a", "goal", [1, 2]) + judged(e, "a", "goal", [3, 3], schema="online")
    answers += judged(e, "a", "goal", [0, 1], schema="singular", measure="key", scale_max=1.0, judge="other")
    toy = Toy(tmp_path, {"train": [e]}, answers)
    with pytest.raises(UsageError, match="by the schemas direct, online"):
        toy.build(GOAL)
    for schema, wanted in (("direct", [1.0, 2.0]), ("online", [3.0, 3.0])):
        rows, built = toy.build(Recipe({"goal": 1}, normaliser="none", schema=schema))
        assert rewards(rows["train"]) == wanted
    assert built.opinions == (("gpt-4o", 0),)
    key, _ = toy.build(Recipe({"goal": 1}, "singular", "none"))
    assert rewards(key["train"]) == [0.0, 3.0]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmark_runs_and_dicts_give_the_same_numbers(tmp_path):
    script = ROOT / "benchmarks" / "rewards.py"
    command = [sys.executable, str(script), "--utterances", "2000", "--against-dicts", "3000", "--dir", str(tmp_path)]
    command += ["--times", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "`dicts` / `build`:" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_text_is_passed_through_untouched_and_gives_the_same_rows(tmp_path):
    toy = split_toy(tmp_path)
    rendered, _ = toy.build(Recipe({"goal": 1}))
    assert rendered["train"][1]["completion"] == [{"role": "assistant", "content": "t says 1"}]
    schema = rewards_schema(["knowledge", "goal"])
    stored = {
        s: [toy.put(f"rewards-{s}", pa.Table.from_pylist(rows, schema=schema), rows=2)] for s, rows in rendered.items()
    }
    assert toy.build(Recipe({"goal": 1}), texts=StoredTexts(stored))[0] == rendered


def test_rows_do_not_depend_on_the_size_of_chunks(tmp_path):
    episodes = [
        episode(f"e{i:02d}", "abcab"[: 1 + i % 5], {(w, "goal"): float(i % 11) for w in "ab"}) for i in range(40)
    ]
    answers = [
        a
        for e in episodes
        for w in "abc"
        for a in judged(e, w, "goal", [i % 4 for i, t in enumerate(e.turns) if t.agent == w])
    ]
    toy = Toy(tmp_path, {"train": episodes[:30], "test": episodes[30:]}, answers[3:])
    wanted, one = toy.build(Recipe({"goal": 1}, normaliser="zscore"))
    for cells in (1, 7, 64):
        again, other = toy.build(Recipe({"goal": 1}, normaliser="zscore"), cells=cells)
        assert again == wanted
        assert other == one


def test_attributions_out_of_order_or_of_other_episodes_are_refused(tmp_path):
    one, two = (episode(name, "ab", {("a", "goal"): 3.0}) for name in "ef")
    toy = Toy(tmp_path, {"train": [one, two]})
    right = judged(one, "a", "goal", [1]) + judged(two, "a", "goal", [2])
    foreign = judged(episode("ee", "a"), "a", "goal", [1])
    mistaken = judged(episode("e", ".a"), "a", "goal", [1])
    beyond = judged(episode("z", "a"), "a", "goal", [1])
    for rows, complaint in (
        (right[::-1], "no utterance|not sorted"),
        ([right[0], *foreign, right[1]], "'ee'"),
        (mistaken, "turn 1, which is not an utterance"),
        ([*right, *beyond], "'z', but no utterance of it is there"),
    ):
        files = {"train": [toy.put("wrong", attribution_table(rows), rows=1)]}
        with pytest.raises(StoreError, match=complaint):
            toy.build(GOAL, attributions=files)
        assert list((tmp_path / "scratch").iterdir()) == []


def test_utterances_out_of_order_are_refused(tmp_path):
    toy = split_toy(tmp_path)
    rows, _ = toy.build(GOAL)
    backwards = pa.Table.from_pylist(rows["train"][::-1], schema=rewards_schema(["knowledge", "goal"]))
    texts = StoredTexts({"train": [toy.put("texts", backwards)]})
    with pytest.raises(StoreError, match="not in key order"):
        toy.build(GOAL, texts=texts)


@pytest.mark.parametrize(
    ("wrong", "turn"),
    [(lambda given: given[1:], 0), (lambda given: given[:-1], 2), (lambda given: [*given, given[-1]], 2)],
    ids=["the first is missing", "the last is missing", "the last is there twice"],
)
def test_prompts_that_are_not_those_of_the_utterances_are_refused(wrong, turn, tmp_path):
    toy = split_toy(tmp_path)
    with pytest.raises(StoreError, match=f"do not match its utterances: see turn {turn}"):
        toy.build(GOAL, texts=RenderedTexts(toy.episodes, lambda e: wrong(list(prompts(e)))))


def test_the_prompts_of_a_long_episode_are_held_some_at_a_time(tmp_path):
    """All prompts of an episode are as long as the square of its turns: 320 MB for 2,000 turns of 20 words."""
    e = episode("e", "ab" * 150, {("a", "goal"): 3.0, ("b", "goal"): 4.0})
    long = replace(e, turns=tuple(replace(turn, text="word " * 200) for turn in e.turns))
    texts = RenderedTexts(Toy(tmp_path, {"train": [long]}).episodes, prompts_of)
    batches = list(texts.rows("train"))
    assert sum(batch.num_rows for batch in batches) == 300
    assert sum(batch.nbytes for batch in batches) > 4 * BATCH_BYTES
    assert max(batch.nbytes for batch in batches) < 1.1 * BATCH_BYTES


def test_a_damaged_or_missing_file_is_a_sentence(tmp_path):
    toy = split_toy(tmp_path)
    toy.attributions["train"][0].write_bytes(b"PAR1 this is not Parquet")
    with pytest.raises(StoreError, match="cannot be read"):
        toy.build(GOAL)
    toy.attributions["train"][0].unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        toy.build(GOAL)


def test_rewards_go_into_the_store_and_again_to_the_same_digest(tmp_path):
    toy = split_toy(tmp_path)
    store = Store(tmp_path / "store")
    committed = []
    for _ in range(2):
        with store.stage("org/toy") as stage:
            _, built = toy.build(Recipe({"goal": 1}), write=partial(stage.write, "rewards"))
            committed.append(stage.commit(built.recipe.as_dict(), built.provenance()))
    assert [c.created for c in committed] == [True, False]
    assert committed[0].version.manifest.provenance["statistics"]["goal"]["high"] == 6.0
