"""Rubrics: dimensions of one's own, from a YAML file to the columns of the rewards; and conversation-behaviour."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.flat_calls import label
from fixtures.labelling import BOAT, ODD, UNSCORED, Highest, filled, put, rows
from fixtures.places import ROOT

from sotopia_rl_data.errors import BadAnswer, InputError, UsageError
from sotopia_rl_data.labelers.annotation import write_template
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.plan import Elicitation
from sotopia_rl_data.labelers.schemas import rubric, schema
from sotopia_rl_data.labelers.schemas.rubric import Criterion, Rubric, schema_of
from sotopia_rl_data.report import contents
from sotopia_rl_data.rewards import Recipe, preset
from sotopia_rl_data.rewards.build import remake
from sotopia_rl_data.store import Store

EXAMPLE = ROOT / "examples" / "rubric.yaml"
TOY = """\
name: toy
dimensions:
  warmth:
    description: Whether it is warm.
    levels: {1: cold, 2: polite, 3: warm}
  harm:
    description: How much harm it does.
    range: [-4, 0]
  length:
    description: Whether it is short.
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def toy(tmp_path: Path) -> str:
    (tmp_path / "toy.yaml").write_text(TOY)
    return f"rubric:{tmp_path / 'toy.yaml'}"


class Levels(Highest):
    """Gives every slot what a function says."""

    def __init__(self, told: Any) -> None:
        super().__init__("levels")
        self.told = told

    def say(self, question: Question) -> str:
        answer: dict[str, Any] = {}
        for (agent, name), slot in question.slots.items():
            answer.setdefault(agent, {})[name] = self.told(slot)
        return json.dumps(answer)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_rubric_is_read_to_the_letter():
    assert rubric.parse(TOY, "toy.yaml") == Rubric(
        "toy",
        (
            Criterion("warmth", "Whether it is warm.", (1, 3), ((1, "cold"), (2, "polite"), (3, "warm"))),
            Criterion("harm", "How much harm it does.", (-4, 0)),
            Criterion("length", "Whether it is short."),
        ),
    )


@pytest.mark.parametrize("scale", [3, 5, 10])
def test_a_dimension_has_its_levels_its_range_or_the_scale(toy: str, scale: int):
    one = schema(toy)
    assert [one.bounds(scale, name) for name in ("warmth", "harm", "length")] == [(1, 3), (-4, 0), (0, scale)]
    with pytest.raises(UsageError, match="no wording for a scale of 0 to 4"):
        one.wording_sha256(4)


DIMENSION = "dimensions: {warmth: {description: d}}"
WRONG = [
    ("", "is empty"),
    ("name: [", ":1: this is not YAML"),
    ("[" * 9_999, ": this is not YAML: maximum recursion"),
    ("- name", ":1: the rubric must be a mapping"),
    (DIMENSION, ":1: the rubric lacks `name`"),
    ("name: toy\n", ":1: the rubric lacks `dimensions`"),
    (f"name: My Rubric\n{DIMENSION}", ":1: the name 'My Rubric' may hold only"),
    (f"name: 3\n{DIMENSION}", ":1: `name` must be a text, not '3'"),
    (f"name: toy\ncolour: red\n{DIMENSION}", ":2: the rubric cannot have the key 'colour'"),
    (f"name: toy\nname: toy\n{DIMENSION}", ":2: the rubric has the key 'name' twice"),
    (f"name: toy\nshows: future\n{DIMENSION}", ":2: `shows` must be history or reply or episode, not 'future'"),
    ("name: toy\ndimensions: {}", ":2: there are 0 dimensions"),
    ("name: toy\ndimensions: [warmth]", ":2: `dimensions` must be a mapping"),
    (TOY.replace("  harm", "  warmth"), ":6: `dimensions` has the key 'warmth' twice"),
    (TOY.replace("  harm", "  Harm Done"), ":6: the dimension 'Harm Done' may hold only"),
    (TOY.replace("  harm", "  goal"), ":6: the dimension 'goal' already has a meaning"),
    (TOY.replace("  harm", "  rel"), ":6: the dimension 'rel' already has a meaning"),
    (TOY.replace("  harm", "  reward"), ":6: the dimension 'reward' already has a meaning"),
    (TOY.replace("    description: How much harm it does.\n", ""), ":7: `harm` lacks `description`"),
    (TOY.replace("How much harm it does.", "''"), ":7: `description` must be a text, not nothing"),
    (TOY.replace("How much harm it does.", "5"), ":7: `description` must be a text, not '5'"),
    (TOY.replace("range", "rnage"), ":8: `harm` cannot have the key 'rnage'"),
    (TOY.replace("[-4, 0]", "4"), ":8: `range` must be a pair"),
    (TOY.replace("[-4, 0]", "[-4, 0, 4]"), ":8: `range` must be a pair"),
    (TOY.replace("[-4, 0]", "[-4, none]"), ":8: 'none' is not a whole number"),
    (TOY.replace("[-4, 0]", "[-4, 0.5]"), ":8: '0.5' is not a whole number"),
    (TOY.replace("[-4, 0]", "[0, 0]"), ":8: harm goes from 0 to 0"),
    (TOY.replace("[-4, 0]", "[3, 0]"), ":8: harm goes from 3 to 0"),
    (TOY.replace("[-4, 0]", "[0, 100]"), ":8: harm goes from 0 to 100"),
    (TOY.replace("[-4, 0]", "[-4, 0]\n    levels: {1: none}"), ":9: level 1 of harm lies outside -4 to 0"),
    (TOY.replace("{1: cold", "{1: cold, 01: icy"), ":5: the level 1 is given twice"),
    (TOY.replace("{1: cold, 2: polite, 3: warm}", "{1: cold}"), ":5: warmth goes from 1 to 1"),
    (TOY.replace("{1: cold, 2: polite, 3: warm}", "[cold, polite]"), ":5: `levels` must be a mapping"),
    (TOY.replace("1: cold", "low: cold"), ":5: 'low' is not a whole number"),
    (TOY.replace("1: cold", "[1]: cold"), ":5: a sequence is not a whole number"),
    ("name: toy\ndimensions:\n" + "".join(f"  d{i}: {{description: x}}\n" for i in range(21)), ":3: there are 21"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said for _, said in WRONG])
def test_every_mistake_in_a_rubric_is_named_by_its_line_before_anything_is_asked(
    store: Store, tmp_path: Path, text: str, said: str
):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    put(store, [BOAT])
    toy = Highest()
    with pytest.raises(InputError) as caught:
        label(store, "lab/episodes", judges=[toy], schema=f"rubric:{path}")
    assert caught.value.message.startswith(f"{path}{said}" if said[0] == ":" else f"{path} {said}")
    assert "\n" not in caught.value.message
    assert caught.value.hint.startswith(f"begin with {rubric.SHORTEST}; ")
    assert toy.calls == 0
    assert [str(name) for name in store.names()] == ["lab/episodes"]


def test_the_rubric_that_a_hint_begins_with_is_one():
    only = Criterion("empathy", "Takes up what the other feels.")
    assert rubric.parse(rubric.SHORTEST, "the hint") == Rubric("mine", (only,), "", "history")


def test_a_rubric_that_is_not_there_is_a_sentence(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        schema(f"rubric:{tmp_path / 'none.yaml'}")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(InputError, match="it is not UTF-8"):
        schema(f"rubric:{tmp_path / 'latin.yaml'}")
    with pytest.raises(UsageError, match="'rubric:' needs a file"):
        schema("rubric:")
    with pytest.raises(UsageError, match="not a schema's name") as caught:
        schema("examples/rubric.yaml")
    assert caught.value.hint == "if the file holds a rubric, write rubric:examples/rubric.yaml"


# --- what is asked ----------------------------------------------------------------------------------------------------


def shown(question: Question) -> int:
    return question.messages[1]["content"].count("\n[turn_")


@pytest.mark.parametrize(
    ("shows", "turns"), [("history", [1, 2, 3, 4, 5]), ("reply", [2, 3, 4, 5, 5]), ("episode", [5] * 5)]
)
def test_a_judge_sees_as_much_of_the_episode_as_the_rubric_says(shows: Any, turns: list[int]):
    asks = schema_of(replace(rubric.read(EXAMPLE), shows=shows))
    questions = list(asks.questions(BOAT, asks.dimensions, None, "packed", 3))
    assert [shown(q) for q in questions] == turns
    assert [next(iter(q.slots.values())).turn for q in questions] == [0, 1, 2, 3, 4]


def test_the_prompt_has_the_users_own_words_and_no_dimension_of_sotopia_eval():
    asks = schema(f"rubric:{EXAMPLE}")
    (question, *_) = asks.questions(BOAT, ("empathy", "pressure"), None, "packed", 5)
    task, tail = question.messages[0]["content"], question.messages[-1]["content"]
    assert "Somebody who is good company" in task
    assert "- empathy, 0 to 3: Whether the utterance takes up what the other feels.\n  0: passes over it" in task
    assert "- brevity, 0 to 5: " in task
    assert "- pressure, -5 to 0: " in task
    assert "believability" not in task
    assert "- agent_1: empathy, 0 to 3\n- agent_1: pressure, -5 to 0\n" in tail


@pytest.mark.parametrize("how", ["packed", "per-dimension"])
@pytest.mark.parametrize("name", ["conversation-behaviour", f"rubric:{EXAMPLE}"])
def test_every_utterance_is_asked_about_once_a_dimension_and_what_obeys_is_read(name: str, how: Any):
    asks = schema(name)
    slots: list[Slot] = []
    for question in asks.questions(ODD, asks.dimensions, None, how, 3):  # type: ignore[attr-defined]
        answer = filled(question.answer_schema, lambda allowed: allowed[0])
        read = asks.read(question, json.dumps(answer))
        slots += read
        with pytest.raises(BadAnswer):
            asks.read(question, json.dumps(filled(question.answer_schema, lambda allowed: allowed[-1] + 1)))
    wanted = [Slot(t.agent, t.turn, d) for t in ODD.turns for d in asks.dimensions]  # type: ignore[attr-defined]
    assert sorted(slots, key=str) == sorted(wanted, key=str)


# --- rewards ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rubrics_numbers_become_columns_and_are_weighed_alike_without_any_episode_score(store: Store, toy: str):
    put(store, [UNSCORED])
    told = {"warmth": 2, "harm": -1, "length": 3}
    done = label(store, "lab/episodes", judges=[Levels(lambda slot: told[slot.dimension])], schema=toy)
    assert (done.failures, done.rewarded, done.labels) == ({}, 5, 15)
    columns = {key for key in rows(done.version, "rewards", store)[0] if key.startswith(("raw_", "norm_"))}
    assert columns == {f"{kind}_{name}" for kind in ("raw", "norm") for name in told}
    for row in rows(done.version, "rewards", store):
        assert (row["raw_warmth"], row["raw_harm"], row["raw_length"]) == (0.5, 0.75, 1.0)
        assert row["reward"] == pytest.approx((0.5 + 0.75 + 1.0) / 3)  # constant in train: the declared range
    found = rows(done.version, "attributions", store)
    assert {(r["schema"], r["measure"], r["dimension"], r["scale_min"], r["scale_max"], r["raw"]) for r in found} == {
        ("rubric:toy", "quality", "warmth", 1.0, 3.0, 2.0),
        ("rubric:toy", "quality", "harm", -4.0, 0.0, -1.0),
        ("rubric:toy", "quality", "length", 0.0, 3.0, 3.0),
    }
    shown = contents(store.resolve(done.version))  # the report's page
    assert dict(zip(shown["dimensions"], shown["scales"], strict=True)) == {
        "harm": (-4, 0),
        "length": (0, 3),
        "warmth": (1, 3),
    }
    assert {name: of[0] for name, of in zip(shown["dimensions"], shown["utterances"]["said"][0], strict=True)} == told


@pytest.mark.slow
def test_rewards_weigh_custom_dimensions_anew_without_a_call(store: Store, toy: str):
    put(store, [BOAT])
    judge = Levels(lambda slot: {"warmth": 1 + slot.turn % 3, "harm": -4, "length": slot.turn % 4}[slot.dimension])
    done = label(store, "lab/episodes", judges=[judge], schema=toy)
    source = store.resolve("lab/episodes-rewards")
    own = Recipe.from_dict(source.manifest.recipe["rewards"])
    assert dict(own.weights) == {"harm": 1, "length": 1, "warmth": 1}
    made = remake(store, source, replace(own, weights={"warmth": 3, "length": 1}))
    for row in rows(made.version, "rewards", store):
        assert row["reward"] == pytest.approx((3 * row["norm_warmth"] + row["norm_length"]) / 4)
    assert (made.version.version, done.labels) == ("v1.1.0", 15)
    with pytest.raises(UsageError, match="weighs gaol, but judges were asked only about harm, length, warmth"):
        remake(store, source, replace(own, weights={"gaol": 1}))
    with pytest.raises(InputError, match="No episode has a score on harm"):
        remake(store, source, replace(own, rule="uniform", schema=None))


def test_a_preset_of_ones_own_weighs_some_of_the_rubrics_dimensions(store: Store, toy: str, tmp_path: Path):
    put(store, [BOAT])
    (tmp_path / "mine.yaml").write_text("rule: quality\nweights: {warmth: 2, length: 1}\nnormaliser: none\n")
    mine = str(tmp_path / "mine.yaml")
    judge = Levels(lambda slot: {"warmth": 3, "harm": 0, "length": 0}[slot.dimension])
    done = label(store, "lab/episodes", judges=[judge], schema=toy, preset=mine)
    assert {row["reward"] for row in rows(done.version, "rewards", store)} == {2 / 3}
    with pytest.raises(
        UsageError, match="weigh relationship, knowledge, goal, but this run would label only harm, length, warmth"
    ) as caught:
        label(store, "lab/episodes", judges=[judge], schema=toy, preset="quality")
    assert caught.value.hint == "leave --preset out, or name a preset file of yours that weighs warmth, harm, length"
    with pytest.raises(UsageError, match="weigh length, but this run would label only warmth") as caught:
        label(store, "lab/episodes", judges=[judge], schema=toy, preset=mine, dimensions=["warmth"])
    assert caught.value.hint.startswith("label all of them: --dimensions warmth,length")
    with pytest.raises(UsageError, match="'goal' is not one of the dimensions") as caught:
        label(store, "lab/episodes", judges=[judge], schema=toy, dimensions=["goal"])
    assert caught.value.hint == "name one of: warmth, harm, length"


def test_some_dimensions_of_a_rubric_alone_are_asked_and_weighed(store: Store, toy: str):
    put(store, [BOAT])
    done = label(store, "lab/episodes", judges=[Highest()], schema=toy, dimensions=["warmth"], packing="packed")
    assert (done.labels, done.calls) == (5, 5)
    assert store.resolve("lab/episodes-rewards").manifest.recipe["rewards"]["weights"] == {"warmth": 1.0}


@pytest.mark.slow
def test_the_content_of_a_rubric_is_in_the_recipe_and_its_path_is_not(store: Store, toy: str, tmp_path: Path):
    put(store, [BOAT])
    first = label(store, "lab/episodes", judges=[Highest()], schema=toy)
    recipe = store.resolve("lab/episodes-rewards").manifest
    read = rubric.parse(TOY, "toy.yaml")
    assert recipe.recipe["labels"]["rubric_sha256"] == read.sha256
    assert recipe.provenance["rubric"] == json.loads(json.dumps(read.as_dict()))
    assert str(tmp_path) not in json.dumps([recipe.recipe, recipe.provenance])
    (tmp_path / "elsewhere.yml").write_text("# a remark\n" + TOY.replace("{1: cold, ", "{  1: 'cold', "))
    moved = label(store, "lab/episodes", judges=[Highest()], schema=f"rubric:{tmp_path / 'elsewhere.yml'}")
    assert (moved.digest, moved.created, moved.asked) == (first.digest, False, 0)
    (tmp_path / "elsewhere.yml").write_text(TOY.replace("polite", "civil"))
    other = label(store, "lab/episodes", judges=[Highest()], schema=f"rubric:{tmp_path / 'elsewhere.yml'}")
    assert (other.created, other.asked) == (True, 15)


@pytest.mark.slow
def test_people_annotate_by_the_rubric_and_read_what_its_levels_mean(store: Store, toy: str, tmp_path: Path):
    put(store, [BOAT])
    path = tmp_path / "mine.csv"
    assert write_template(store, "lab/episodes", path, Elicitation(schema=toy)) == 15
    with path.open(encoding="utf-8", newline="") as file:
        filled_in = [row | {"raw": "-2" if row["dimension"] == "harm" else "2"} for row in csv.DictReader(file)]
    allowed = {row["dimension"]: row["allowed"] for row in filled_in}
    assert allowed["warmth"] == "1 to 3: Whether it is warm.\n  1: cold\n  2: polite\n  3: warm"
    assert {row["episode_score"] for row in filled_in} == {""}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(filled_in[0]))
        writer.writeheader()
        writer.writerows(filled_in)
    done = label(store, "lab/episodes", judges=[f"human:{path}"], schema=toy, only=path)
    assert (done.failures, done.labels, done.rewarded) == ({}, 15, 5)
    with pytest.raises(InputError, match=r"'(harm|length|warmth)' is not a SOTOPIA-EVAL dimension"):
        label(store, "lab/episodes", judges=[f"human:{path}"])


def test_conversation_behaviour_is_a_schema_like_the_others(store: Store):
    put(store, [BOAT, UNSCORED])
    done = label(store, "lab/episodes", judges=["lexical"], schema="conversation-behaviour", packing="packed")
    names = ["attentiveness", "character", "clarity", "novelty", "respect"]
    assert (done.calls, done.labels, done.rewarded, done.failures) == (10, 50, 10, {})
    made = store.resolve("lab/episodes-rewards").manifest
    assert made.recipe["labels"]["dimensions"] == names
    assert list(made.recipe["rewards"]["weights"]) == names
    assert made.recipe["rewards"]["rule"] == "quality"
    assert {r["schema"] for r in rows(done.version, "attributions", store)} == {"conversation-behaviour"}


def test_a_recipe_may_weigh_dimensions_of_ones_own_by_any_rule():
    assert list(Recipe({"warmth": 1, "goal": 1, "able": 1}, "quality").weights) == ["goal", "able", "warmth"]
    with pytest.raises(UsageError, match="'Warm-th' cannot be the name of a dimension"):
        Recipe({"Warm-th": 1}, "quality")
    assert preset("quality").rule == "quality"
