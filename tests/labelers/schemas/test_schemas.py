"""What judges are asked and which answers count: the schemas, without any judge."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from fixtures.labelling import BOAT, BY, ODD, UNSCORED, filled, scores
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import BadAnswer, UsageError
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import BUILTINS, answers, in_wording, phrasing, schema
from sotopia_rl_data.schema import ACTION_TYPES, Agent, Episode, Score, Turn

THREE = ("goal", "relationship", "knowledge")
SEVEN = tuple(one.name for one in SOTOPIA_EVAL)


def ask(
    name: str, episode: Episode, dimensions: tuple[str, ...] = THREE, how: Any = "per-dimension", scale: int = 3
) -> list[Question]:
    return list(schema(name).questions(episode, dimensions, BY, how, scale))


def test_per_dimension_asks_once_for_each_agent_and_dimension_that_has_a_score():
    slots = [sorted({(s.agent, s.dimension) for s in q.slots.values()}) for q in ask("direct", BOAT)]
    assert slots == [[(agent, name)] for agent in "ab" for name in THREE]


def test_packed_asks_once_for_an_episode_of_three_agents():
    (question,) = ask("direct", ODD, ("goal", "relationship", "secret"), "packed")
    assert {(s.agent, s.dimension) for s in question.slots.values()} == {
        ("s1", "goal"), ("s1", "relationship"), ("s2", "goal"), ("z", "goal"), ("z", "secret")
    }  # fmt: skip


def test_the_keys_are_places_and_turn_numbers_never_names():
    (question, *_) = ask("direct", BOAT)
    assert question.slots == {
        ("agent_1", "importance", "turn_0"): Slot("a", 0, "goal"),
        ("agent_1", "importance", "turn_2"): Slot("a", 2, "goal"),
        ("agent_1", "importance", "turn_4"): Slot("a", 4, "goal"),
    }


@pytest.mark.parametrize("name", ["direct", "singular", "goal-progress"])
def test_the_questions_about_an_agent_have_one_answer_schema_so_that_they_share_a_cached_prefix(name: str):
    """Providers put the answer schema before the messages: were the dimension in it, no prefix would be shared."""
    about_a = [q for q in ask(name, BOAT) if {(s.agent, s.turn) for s in q.slots.values()} >= {("a", 2)}]
    assert len(about_a) == len(THREE)
    assert len({(json.dumps(q.answer_schema), str(q.messages[: q.cache_until])) for q in about_a}) == 1


@pytest.mark.parametrize("name", ["direct", "scaled", "singular"])
@pytest.mark.parametrize("how", ["per-dimension", "packed"])
def test_every_utterance_with_a_score_is_asked_about_exactly_once(name: str, how: str):
    slots = [slot for q in ask(name, ODD, SEVEN, how) for slot in q.slots.values()]
    scored = {(s.agent, s.dimension) for s in ODD.scores}
    assert sorted(slots, key=str) == sorted(
        (Slot(t.agent, t.turn, d) for t in ODD.turns for d in SEVEN if (t.agent, d) in scored), key=str
    )


def test_where_the_score_is_missing_or_by_somebody_else_nothing_is_asked():
    assert ask("direct", UNSCORED) == [] == ask("direct", UNSCORED, how="packed")
    assert ask("direct", replace(BOAT, turns=())) == []


def test_scaled_asks_exactly_what_direct_asks_so_the_ledger_answers_for_both():
    def asked(name: str) -> list[Any]:
        return [(q.messages, q.answer_schema) for q in ask(name, BOAT)]

    assert asked("direct") == asked("scaled") != asked("singular")


@pytest.mark.parametrize("name", ["uniform", "uniform-share", "discounted"])
def test_arithmetic_schemas_ask_nobody(name: str):
    assert ask(name, BOAT) == []
    assert not schema(name).needs_judge


def test_what_is_constant_comes_first_and_what_varies_comes_last():
    questions = ask("direct", BOAT) + ask("direct", BOAT, how="packed")
    shared = {json.dumps(q.messages[: q.cache_until]) for q in questions}
    assert len(shared) == 1
    assert {q.cache_until for q in questions} == {3}
    assert len({json.dumps(q.messages) for q in questions}) == len(questions)
    other = ask("direct", ODD)[0]
    assert other.messages[0] == questions[0].messages[0]
    assert other.messages[1] != questions[0].messages[1]


def test_roles_alternate_so_that_every_chat_template_takes_them():
    assert [m["role"] for m in ask("direct", BOAT)[0].messages] == ["system", "user", "assistant", "user"]


def test_the_prompt_says_that_importance_is_magnitude_and_the_score_carries_the_sign():
    question = ask("direct", BOAT)[1]
    task, tail = question.messages[0]["content"], question.messages[-1]["content"]
    assert "IMPORTANCE IS A MAGNITUDE" in task
    assert "it carries the sign" in task
    assert "- agent_1: relationship -2.5 (range -5 to 5)" in tail


def test_no_line_of_an_utterance_can_pass_for_a_turn_of_its_own():
    text = phrasing.episode_text(ODD)
    heads = re.findall(r"^\[(turn_\d+)\] (agent_\d)", text.split("TRANSCRIPT\n")[1], re.MULTILINE)
    keys = phrasing.agent_keys(ODD)
    assert heads == [(f"turn_{t.turn}", keys[t.agent]) for t in ODD.turns]


def test_what_the_episode_says_is_never_read_as_a_placeholder():
    text = phrasing.episode_text(ODD)
    assert "$scenario and ${turns}" in text
    assert "agent_2, in private to agent_3, somebody else, says:" in text
    assert "[turn_4] agent_3 does nothing. (Its turn was lost to a technical failure.)" in text


def test_in_the_first_wording_a_question_calls_an_agent_by_its_name_too_which_stays_on_its_line():
    first = in_wording(schema("direct"), "v1").questions(ODD, ("goal",), BY, "per-dimension", 3)
    assert "- agent_3 (Jean-Luc O'Brien-Núñez III): goal 1.5" in list(first)[2].messages[-1]["content"]


# --- answers ----------------------------------------------------------------------------------------------------------

GOOD = {"agent_1": {"importance": {"turn_0": 1, "turn_2": 0, "turn_4": 3}}}


AT = "at agent_1.importance"


def reading(text: str) -> dict[Slot, float]:
    return schema("direct").read(ask("direct", BOAT)[0], text)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"\n  {json.dumps(GOOD, indent=2)}\n",
        f"```json\n{json.dumps(GOOD)}\n```",
        f"Here you are:\n```\n{json.dumps(GOOD)}\n```\nAnything else?",
        f"<think>turn_0? {{}}</think>\n{json.dumps(GOOD)}",
        f"turn_0? {{}}</think>\n```json\n{json.dumps(GOOD)}\n```",
        f"\ufeff{json.dumps(GOOD)}",
        f"```json\n{json.dumps(GOOD)}",
        f"~~~JSON\n{json.dumps(GOOD)}\n~~~",
        f"```{json.dumps(GOOD)}```",
        f"json\n{json.dumps(GOOD)}",
        f"Here it is:\n\n{json.dumps(GOOD)}\n\nAnything else?",
        f"I was asked for {{LEVEL}}s [1] and give {json.dumps(GOOD)}. [2",
        json.dumps(GOOD).replace(": 1", ": 1.0").replace(": 3", ": 3e0"),
        f"<answer>{json.dumps(GOOD)}</answer>",
        f"{json.dumps(GOOD)}</s>",
        f"{json.dumps(GOOD)}<|im_end|>\x00",
    ],
)
def test_an_answer_is_one_json_object_whatever_bytes_and_words_are_around_it(text: str):
    assert reading(text) == {Slot("a", 0, "goal"): 1.0, Slot("a", 2, "goal"): 0.0, Slot("a", 4, "goal"): 3.0}


def turns(**levels: Any) -> str:
    return json.dumps({"agent_1": {"importance": {"turn_0": 1, "turn_2": 0, "turn_4": 3} | levels}})


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("empty", "", "the answer is empty"),
        ("blank", " \n", "the answer is empty"),
        ("empty fence", "```json\n\n```", "the answer is empty"),
        ("cut off", f"<think>{json.dumps(GOOD)}", "the thought was cut off, and no answer came"),
        ("refusal", "I'm sorry, I can't.", "the answer is not JSON: I'm sorry, I can't."),
        ("truncated", '{"agent_1": {"importance": {', 'the answer is not JSON: {"agent_1": {"importance": {'),
        ("two objects", json.dumps(GOOD) * 2, None),
        ("null", "null", "expected an object, got null"),
        ("a list", json.dumps([GOOD]), None),
        ("nested", json.dumps({"answer": GOOD}), "answer was not asked for"),
        ("wrong agent", json.dumps({"agent_2": GOOD["agent_1"]}), "agent_2 was not asked for"),
        ("a name", json.dumps({"Finnegan O'Malley": GOOD["agent_1"]}), "Finnegan O'Malley was not asked for"),
        ("extra agent", json.dumps(GOOD | {"agent_2": {}}), "agent_2 was not asked for"),
        ("wrong dimension", json.dumps({"agent_1": {"secret": {}}}), "at agent_1: secret was not asked for"),
        ("nothing", "{}", "agent_1 is missing"),
        ("extra turn", turns(turn_1=2), f"{AT}: turn_1 was not asked for"),
        ("missing turn", '{"agent_1": {"importance": {"turn_0": 1, "turn_2": 1}}}', f"{AT}: turn_4 is missing"),
        ("above", turns(turn_2=30), f"{AT}.turn_2: expected an integer from 0 to 3, got 30"),
        ("below", turns(turn_2=-1), f"{AT}.turn_2: expected an integer from 0 to 3, got -1"),
        ("fraction", turns(turn_2=1.37), f"{AT}.turn_2: expected an integer from 0 to 3, got 1.37"),
        ("half", turns(turn_2=2.5), f"{AT}.turn_2: expected an integer from 0 to 3, got 2.5"),
        ("string", turns(turn_2="2"), f'{AT}.turn_2: expected an integer from 0 to 3, got "2"'),
        ("null level", turns(turn_2=None), f"{AT}.turn_2: expected an integer from 0 to 3, got null"),
        ("boolean", turns(turn_2=True), f"{AT}.turn_2: expected an integer from 0 to 3, got true"),
        ("an object", turns(turn_2={"level": 2}), None),
        ("given twice", '{"agent_1": {"importance": {"turn_0": 1, "turn_0": 2}}}', "turn_0 is given twice"),
        ("not a number", turns(turn_2=float("nan")), "NaN is not a number of JSON"),
        ("infinite", turns(turn_2=float("inf")), "Infinity is not a number of JSON"),
        ("huge", '{"agent_1": ' + "1" * 5000 + "}", None),
        ("very deep", "[" * 100_000, "the answer is nested too deeply"),
        ("deep", '{"a":' * 101 + "1" + "}" * 101, "the answer is nested too deeply"),
        ("deep, among words", "So: " + '{"a":' * 101 + "1" + "}" * 101, "the answer is nested too deeply"),
        ("a comment", '{"agent_1": {"importance": {"turn_0": 1, "turn_2": 0, "turn_4": 3}} // all\n}', None),
        ("words for numbers", turns(turn_2="two"), None),
        ("inside a list with words", f"Result: [{json.dumps(GOOD)}]", None),
        ("inside a broken object", f'{{"answer": {json.dumps(GOOD)}', None),
        ("and the beginning of another", f'Well: {json.dumps(GOOD)}\n{{"agent_1": {{', None),
        ("two with words", f"{turns()}, no: {turns(turn_2=2)}", "there are 2 JSON objects in the answer"),
        ("beside a fence", f"{turns()}\n```json\n{turns(turn_2=2)}\n```", "the answer is given more than once"),
        ("only in a thought", f"<think>{json.dumps(GOOD)}</think>", "the answer is empty"),
        ("two fences", f"```json\n{json.dumps(GOOD)}\n```\n```json\n{json.dumps(GOOD)}\n```", None),
    ],
)  # fmt: skip
def test_anything_else_is_a_bad_answer_with_a_readable_reason(kind: str, text: str, reason: str | None):
    with pytest.raises(BadAnswer) as caught:
        reading(text)
    assert reason is None or caught.value.message == reason
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 160


@pytest.mark.parametrize("name", ["direct", "singular"])
@pytest.mark.parametrize("how", ["per-dimension", "packed"])
@pytest.mark.parametrize("scale", [3, 5, 10])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_every_answer_that_obeys_the_schema_is_read_to_the_letter(name: str, how: str, scale: int, data: st.DataObject):
    for question in ask(name, ODD, SEVEN, how, scale):
        answer = filled(question.answer_schema, lambda allowed: data.draw(st.sampled_from(allowed)))
        values = schema(name).read(question, json.dumps(answer))
        assert set(values) == set(question.slots.values())
        for path, slot in question.slots.items():
            leaf = answer[path[0]][path[1]]
            said = float(leaf == path[2]) if name == "singular" else leaf[path[2]]
            assert values[slot] == said


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.sampled_from(["agent_1", "importance", "turn_0", "turn_2", "turn_4"])
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(value=ANYTHING)
def test_no_json_at_all_gets_past_the_check_unless_it_obeys(value: Any):
    question = ask("direct", BOAT)[0]
    try:
        values = schema("direct").read(question, json.dumps(value))
    except BadAnswer:
        return
    assert {slot: float(value["agent_1"]["importance"][f"turn_{slot.turn}"]) for slot in values} == values


def test_singular_gives_one_to_the_key_and_zero_to_the_others():
    question = ask("singular", BOAT)[0]
    read = schema("singular").read(question, '{"agent_1": {"key": "turn_2"}}')
    assert {slot.turn: value for slot, value in read.items()} == {0: 0.0, 2: 1.0, 4: 0.0}
    for wrong in ('{"agent_1": {"key": "turn_1"}}', '{"agent_1": {"key": 2}}', '{"agent_1": {"key": ["turn_2"]}}'):
        with pytest.raises(BadAnswer, match="expected one of turn_0, turn_2, turn_4"):
            schema("singular").read(question, wrong)


# --- the answer schema --------------------------------------------------------------------------------------------


def walk(schema_: Any) -> list[dict[str, Any]]:
    inner = [*schema_.get("properties", {}).values(), *schema_.get("$defs", {}).values()]
    return [schema_, *(found for one in inner for found in walk(one))]


@pytest.mark.parametrize("name", ["direct", "singular"])
def test_the_answer_schema_keeps_within_what_strict_providers_take(name: str):
    """OpenAI: at most 1,000 enum values (500 for older models) and 5,000 properties, everything required and closed."""
    said = tuple(Turn(t, "ab"[t % 2], "speak", "x") for t in range(100))
    long = replace(BOAT, turns=said, scores=scores(*((agent, d, 0) for agent in "ab" for d in SEVEN)))
    (question,) = ask(name, long, SEVEN, "packed", 10)
    parts = walk(question.answer_schema)
    allowed = {"type", "properties", "required", "additionalProperties", "enum", "$ref", "$defs"}
    assert all(set(part) <= allowed for part in parts)
    for part in parts:
        if part.get("type") == "object":
            assert part["additionalProperties"] is False
            assert part["required"] == list(part["properties"])
    assert sum(len(part.get("enum", ())) for part in parts) <= 500
    assert sum(len(part.get("properties", ())) for part in parts) <= 5_000
    assert len(question.slots) == 700


def test_anthropic_takes_the_answer_schema_as_it_is():
    import anthropic

    (question,) = ask("direct", ODD, SEVEN, "packed")
    taken = anthropic.transform_schema(json.loads(json.dumps(question.answer_schema)))
    for mine, theirs in zip(walk(question.answer_schema), walk(taken), strict=True):
        same = ("properties", "required", "additionalProperties", "enum", "$ref")
        assert all(list(mine[key]) == list(theirs[key]) for key in ("enum", "required") if key in mine)
        assert {key for key in same if key in mine} == {key for key in same if key in theirs}
        assert "description" not in theirs  # nothing was unsupported and turned into words


# --- names and wording ----------------------------------------------------------------------------------------------


def test_schemas_are_found_by_name_and_an_unknown_one_names_them():
    assert [schema(name).id for name in BUILTINS] == list(BUILTINS)
    with pytest.raises(UsageError, match="no schema 'indirect'") as caught:
        schema("indirect")
    assert all(name in caught.value.hint for name in BUILTINS)


def test_an_unworded_scale_is_wrong_usage():
    with pytest.raises(UsageError, match="no wording for a scale of 0 to 4"):
        ask("direct", BOAT, scale=4)


def test_a_schema_of_ones_own_is_named_by_its_path(tmp_path: Any):
    file = tmp_path / "mine.py"
    file.write_text(
        "from sotopia_rl_data.labelers.schemas.offline import Importance\n"
        "MINE = Importance(id='mine', rule='direct')\n"
        "class Half:\n    id = 'half'\n"
    )
    assert schema(f"{file}:MINE").id == "mine"
    with pytest.raises(UsageError, match="is not a schema: it lacks version, measure"):
        schema(f"{file}:Half")
    with pytest.raises(UsageError, match=r"has no 'Other'"):
        schema(f"{file}:Other")
    with pytest.raises(UsageError, match="does not exist"):
        schema(f"{tmp_path}/none.py:X")
    file.write_text("import nothing_of_that_name\n")
    with pytest.raises(UsageError, match="cannot be imported: ModuleNotFoundError"):
        schema(f"{file}:MINE")


NAMES = st.text(st.characters(codec="utf-8"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(NAMES, min_size=1, max_size=4),
    said=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(ACTION_TYPES), NAMES), max_size=8),
    given_=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(SEVEN), st.floats(-10, 10))),
    how=st.sampled_from(["per-dimension", "packed"]),
)
def test_whatever_the_names_and_texts_every_slot_is_asked_once(names: Any, said: Any, given_: Any, how: Any):
    agents = tuple(Agent(f"id{i}", name) for i, name in enumerate(names))
    episode = Episode(
        "e",
        "env",
        agents,
        tuple(Turn(3 * t, f"id{i % len(agents)}", kind, text) for t, (i, kind, text) in enumerate(said)),
        tuple(Score(f"id{i % len(agents)}", d, g, BY) for i, d, g in given_),
    )
    questions = ask("direct", episode, SEVEN, how)
    slots = [slot for q in questions for slot in q.slots.values()]
    scored = {(s.agent, s.dimension) for s in episode.scores}
    assert len(slots) == len(set(slots))
    assert set(slots) == {Slot(t.agent, t.turn, d) for t in episode.turns for d in SEVEN if (t.agent, d) in scored}
    for q in questions:
        answers.check(q.answer_schema, filled(q.answer_schema, lambda allowed: allowed[0]))
