"""Recipes and presets: what a recipe may say, and that the files that ship say what the paper does."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
from fixtures.places import ROOT

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.rewards import Recipe, preset, presets
from sotopia_rl_data.rewards.recipe import Average, Normaliser
from sotopia_rl_data.rewards.rules import RULES, declared_range, rule

THREE = {"relationship": 1.0, "knowledge": 1.0, "goal": 1.0}


def test_the_default_preset_is_the_papers():
    assert preset("sotopia-rl") == Recipe(THREE, rule="direct", normaliser="minmax", average="mean")


def test_every_baseline_of_the_paper_ships_as_a_file():
    assert {name: (r.rule, dict(r.weights)) for name, r in presets().items()} == {
        "sotopia-rl": ("direct", THREE),
        "goal-only": ("direct", {"goal": 1.0}),
        "scaled": ("scaled", THREE),
        "singular": ("singular", THREE),
        "uniform": ("uniform", THREE),
        "uniform-share": ("uniform-share", THREE),
        "discounted": ("discounted", THREE),
        "online": ("direct", THREE),
        "progress": ("progress", {"goal": 1.0}),
        "reference": ("direct", THREE),
        "progress-score": ("progress-score", {"goal": 1.0}),
        "quality-score": ("quality-score", {"goal": 1.0}),
        "quality-share": ("quality-share", {"goal": 1.0}),
        "quality": ("quality", THREE),
        "counterfactual": ("counterfactual", THREE),
    }
    assert preset("discounted").gamma == 0.9
    assert {r.rule for r in presets().values()} == set(RULES)


def test_an_unknown_preset_or_rule_names_those_there_are():
    with pytest.raises(UsageError, match="'best' is not a preset") as caught:
        preset("best")
    assert "sotopia-rl" in caught.value.hint
    with pytest.raises(UsageError, match="'best' is not a rule"):
        rule("best")


def test_a_preset_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("weights: {GOAL: 2, REL: 1}\nnormaliser: zscore\n")
    assert preset(str(path)) == Recipe({"relationship": 1, "goal": 2}, normaliser="zscore")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("weights: {goal: 1", "not YAML"),
        ("- goal", "must be a mapping"),
        ("rule: direct", "must be a mapping with `weights`"),
        ("weights: [goal]", "must be a mapping of dimensions"),
        ("weights: {goal: 1}\ncolour: red", "no key 'colour'"),
        ("weights: {goal: many}", "weight of goal is 'many'"),
    ],
)
def test_a_file_that_is_no_preset_is_a_sentence(tmp_path, text, complaint):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises((InputError, UsageError), match=complaint):
        preset(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        preset(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"weights": {}}, "No dimension has a weight above 0"),
        ({"weights": {"goal": 0}}, "No dimension has a weight above 0"),
        ({"weights": {"goal": -1}}, "weight of goal is -1"),
        ({"weights": {"goal": float("nan")}}, "weight of goal is nan"),
        ({"weights": {"goal": 1, "GOAL": 2}}, "goal is weighted twice"),
        ({"weights": {"Charm!": 1}}, "cannot be the name of a dimension"),
        ({"weights": {"goal": 1}, "rule": "best"}, "'best' is not a rule"),
        ({"weights": {"goal": 1}, "normaliser": "l2"}, "'l2' is not a normaliser"),
        ({"weights": {"goal": 1}, "average": "mode"}, "'mode' is not an average"),
        ({"weights": {"goal": 1}, "gamma": 0}, "gamma is 0"),
        ({"weights": {"goal": 1}, "sample": -1}, "sample is -1"),
        ({"weights": {"goal": 1}, "fit": "test"}, "'test' is not a value of `fit`"),
        ({"weights": {"goal": 1}, "units": "0-100"}, "'0-100' is not a unit"),
        ({"weights": {"goal": 1}, "units": "0-10", "normaliser": "none"}, "gives no rewards from 0 to 1"),
        ({"weights": {"goal": 1}, "units": "0-10", "normaliser": "zscore"}, "gives no rewards from 0 to 1"),
        (
            {"weights": {"goal": 1}, "units": "0-10", "normaliser": "none", "rule": "progress"},
            "gives no rewards from 0",
        ),
        ({"weights": {"goal": 1}, "gamma": "0.9"}, "gamma is '0.9'"),
    ],
)
def test_a_recipe_refuses_what_it_cannot_compute(given, complaint):
    with pytest.raises(UsageError, match=complaint):
        Recipe(**given)


def test_a_recipe_survives_the_manifest_whatever_order_its_weights_come_in():
    recipe = Recipe({"goal": 2, "REL": 1}, rule="discounted", gamma=0.5, evaluator="gpt-4")
    assert list(recipe.weights) == ["relationship", "goal"]
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    assert not {"gamma", "judge", "sample", "fit", "units"} & set(Recipe({"goal": 1}).as_dict())
    chosen = Recipe({"goal": 1}, judge="a", sample=0, fit="all", units="0-10")
    assert Recipe.from_dict(chosen.as_dict()) == chosen


def test_declared_ranges_hold_zero_and_the_scores_ends():
    assert [declared_range(d) for d in ("goal", "relationship", "secret")] == [(0.0, 10.0), (-5.0, 5.0), (-10.0, 0.0)]
    assert [declared_range("goal", by) for by in ("quality", "progress", "counterfactual")] == [
        (0, 1),
        (-1, 1),
        (-1, 1),
    ]
    assert declared_range("relationship", "progress-score") == (-5, 5)
    assert declared_range("secret", "progress-score") == (-10, 10)


def test_the_documentation_names_every_rule_normaliser_and_preset():
    text = (ROOT / "docs" / "rewards.md").read_text("utf-8")
    names = [*RULES, *presets(), *get_args(Normaliser), *get_args(Average)]
    assert [name for name in names if f"`{name}`" not in text and f" {name} " not in text] == []


def test_recipes_are_read_without_anything_heavy():
    code = "import sys, sotopia_rl_data.rewards; print({'numpy', 'pyarrow', 'polars', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
