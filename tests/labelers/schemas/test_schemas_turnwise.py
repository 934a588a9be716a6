"""Schemas that ask view by view: what is shown, what is not, and what the rules make of the answers."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fixtures.flat_calls import label
from fixtures.labelling import BOAT, BY, ODD, UNSCORED, Highest, filled, put, rows

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import schema
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store

TURNWISE = ("direct-online", "goal-progress", "utterance-quality", "only-response", "leave-one-out")
WITH_BASELINE = ("goal-progress", "leave-one-out")
TWO = ("relationship", "goal")


def ask(name: str, episode: Episode, how: Any = "packed", dimensions: tuple[str, ...] = TWO) -> list[Question]:
    return list(schema(name).questions(episode, dimensions, BY, how, 3))


def shown(question: Question) -> list[str]:
    """The turns that a question shows."""
    transcript = question.messages[1]["content"].partition("TRANSCRIPT\n")[2]
    return [line.split("]")[0][1:] for line in transcript.splitlines() if line.startswith("[turn_")]


def by_slot(name: str, episode: Episode = BOAT) -> dict[tuple[str, int], list[str]]:
    """What is shown for each (agent, turn)."""
    return {(slot.agent, slot.turn): shown(q) for q in ask(name, episode) for slot in q.slots.values()}


UP_TO = {("a", 0): 1, ("b", 1): 2, ("a", 2): 3, ("b", 3): 4, ("a", 4): 5}


@pytest.mark.parametrize("name", ["direct-online", "utterance-quality", "goal-progress"])
def test_what_comes_after_the_utterance_is_not_shown(name: str):
    views = {key: len(turns) for key, turns in by_slot(name).items() if key[1] >= 0}
    assert views == UP_TO
    assert by_slot(name)["b", 1] == ["turn_0", "turn_1"]


def test_only_response_shows_the_reply_and_nothing_later():
    views = by_slot("only-response")
    assert views["a", 0] == ["turn_0", "turn_1"]
    assert views["b", 1] == ["turn_0", "turn_1", "turn_2"]
    assert views["a", 4] == ["turn_0", "turn_1", "turn_2", "turn_3", "turn_4"]  # nothing answered it


def test_leave_one_out_shows_the_whole_episode_and_each_time_all_but_one():
    views = by_slot("leave-one-out")
    assert views["a", -1] == views["b", -1] == [f"turn_{t}" for t in range(5)]
    for _, turn in UP_TO:
        assert views["ab"[turn % 2], turn] == [f"turn_{t}" for t in range(5) if t != turn]
    told = " ".join(m["content"] for q in ask("leave-one-out", BOAT) for m in q.messages)
    assert "left out" not in told  # the judge must not know


def test_progress_begins_with_nothing_said():
    first = ask("goal-progress", BOAT)[0]
    assert shown(first) == []
    assert {slot.turn for slot in first.slots.values()} == {-1}
    assert "Nothing has been said or done yet" in first.messages[1]["content"]


@pytest.mark.parametrize("name", TURNWISE)
def test_a_judge_without_hindsight_is_not_told_the_score(name: str):
    score = replace(BOAT, scores=tuple(replace(s, score=7.25) for s in BOAT.scores))
    assert all("7.25" not in m["content"] for q in ask(name, score) for m in q.messages)


@pytest.mark.parametrize("name", TURNWISE)
@pytest.mark.parametrize("how", ["packed", "per-dimension"])
def test_every_utterance_is_asked_about_once_a_dimension(name: str, how: Any):
    slots = [slot for q in ask(name, ODD, how) for slot in q.slots.values()]
    scored = {(s.agent, s.dimension) for s in ODD.scores}
    wanted = {(t.agent, t.turn, d) for t in ODD.turns for d in TWO}
    if name == "direct-online":
        wanted = {key for key in wanted if (key[0], key[2]) in scored}
    baselines = {(t.agent, -1, d) for t in ODD.turns for d in TWO} if name in WITH_BASELINE else set()
    assert sorted((s.agent, s.turn, s.dimension) for s in slots) == sorted(wanted | baselines)


@pytest.mark.parametrize("name", TURNWISE)
def test_a_packed_question_is_about_one_view_and_a_prefix_is_the_beginning_of_the_next(name: str):
    questions = ask(name, BOAT)
    assert len(questions) == 5 + (name in WITH_BASELINE)
    assert len({q.messages[0]["content"] for q in questions}) == 1
    if name == "direct-online":
        texts = [q.messages[1]["content"] for q in questions]
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def test_two_who_act_in_one_turn_see_no_further_than_themselves():
    views = by_slot("utterance-quality", ODD)
    assert views["z", 4] == ["turn_0", "turn_2", "turn_3", "turn_4"]
    assert views["s2", 4] == ["turn_0", "turn_2", "turn_3", "turn_4", "turn_4"]


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("direct-online", (0, 3)),
        ("goal-progress", (0, 3)),
        ("utterance-quality", (0, 3)),
        ("only-response", (0, 3)),
        ("leave-one-out", (-5, 5)),
    ],
)
def test_numbers_lie_on_the_levels_or_on_the_dimensions_own_range(name: str, bounds: tuple[int, int]):
    made = schema(name)
    assert made.bounds(3, "relationship") == bounds
    question = next(q for q in ask(name, BOAT, "per-dimension") if Slot("a", 2, "relationship") in q.slots.values())
    good = json.dumps({"agent_1": {made.measure: bounds[1]}})
    assert made.read(question, good) == {Slot("a", 2, "relationship"): float(bounds[1])}
    for wrong in (bounds[1] + 1, bounds[0] - 1, 1.5, None, "2"):
        with pytest.raises(BadAnswer, match=rf"expected an integer from {bounds[0]} to {bounds[1]}"):
            made.read(question, json.dumps({"agent_1": {made.measure: wrong}}))


# --- what the rules make of it ---------------------------------------------------------------------------------------


class Telling(Highest):
    """Answers with a number of its own for each slot."""

    def __init__(self, tell: Any) -> None:
        super().__init__("telling")
        self.tell = tell

    def say(self, question: Question) -> str:
        answer: dict[str, Any] = {}
        for (agent, name), slot in question.slots.items():
            answer.setdefault(agent, {})[name] = self.tell(slot)
        return json.dumps(answer)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def raws(store: Store, name: str, tell: Any, **options: Any) -> dict[tuple[str, int], float | None]:
    put(store, [BOAT])
    version = label(store, "lab/episodes", judges=[Telling(tell)], schema=name, **options).version
    return {(r["agent"], r["turn"]): r["raw_goal"] for r in rows(version, "rewards", store)}


LEVELS = {("a", -1): 1, ("a", 0): 1, ("a", 2): 3, ("a", 4): 0, ("b", -1): 0, ("b", 1): 2, ("b", 3): 2}


def test_progress_is_the_difference_to_the_turn_before_first_turns_too(store: Store):
    found = raws(store, "goal-progress", lambda slot: LEVELS[slot.agent, slot.turn], preset="progress")
    assert found == pytest.approx({("a", 0): 0, ("a", 2): 2 / 3, ("a", 4): -1, ("b", 1): 2 / 3, ("b", 3): 0})


def test_leave_one_out_is_what_the_score_loses_without_the_utterance(store: Store):
    told = {("a", -1): 8, ("a", 0): 8, ("a", 2): 9, ("a", 4): 3, ("b", -1): 5, ("b", 1): 0, ("b", 3): 5}

    def tell(slot: Slot) -> int:
        return told[slot.agent, slot.turn] - 5 * (slot.dimension == "relationship")

    found = raws(store, "leave-one-out", tell)
    assert found == pytest.approx({("a", 0): 0, ("a", 2): -0.1, ("a", 4): 0.5, ("b", 1): 0.5, ("b", 3): 0})


@pytest.mark.parametrize("name", ["utterance-quality", "only-response"])
def test_quality_is_the_judges_number_and_the_score_plays_no_part(store: Store, name: str):
    found = raws(store, name, lambda slot: LEVELS[slot.agent, slot.turn])
    assert found == pytest.approx({("a", 0): 1 / 3, ("a", 2): 1, ("a", 4): 0, ("b", 1): 2 / 3, ("b", 3): 2 / 3})


def test_direct_online_is_the_score_times_the_importance(store: Store):
    found = raws(store, "direct-online", lambda slot: LEVELS[slot.agent, slot.turn], preset="online")
    assert found == pytest.approx({("a", 0): 2 / 3, ("a", 2): 2, ("a", 4): 0, ("b", 1): 2, ("b", 3): 2})


def test_a_missing_number_is_null_in_both_differences_and_a_missing_baseline_in_the_first(store: Store):
    def told(slot: Slot) -> Any:
        return "?" if (slot.agent, slot.turn) in {("a", 2), ("b", -1)} else LEVELS[slot.agent, slot.turn]

    found = raws(store, "goal-progress", told, preset="progress", packing="per-dimension")
    assert found == {("a", 0): 0, ("a", 2): None, ("a", 4): None, ("b", 1): None, ("b", 3): 0}
    lost = rows("lab/episodes-rewards", "failures", store)
    assert [(r["agent"], r["turn"], r["dimension"]) for r in lost] == [("a", 2, "goal"), ("b", -1, "goal")]


@pytest.mark.slow
@pytest.mark.parametrize("name", TURNWISE)
def test_an_episode_without_scores_is_labelled_where_none_is_needed(store: Store, name: str):
    put(store, [BOAT, UNSCORED])
    done = label(store, "lab/episodes", judges=["lexical"], schema=name, evaluator=BY, preset=None)
    assert (done.failures == {}) == (name != "direct-online")
    assert done.rewarded == (5 if name == "direct-online" else 10)


@pytest.mark.parametrize("name", TURNWISE)
def test_every_answer_that_obeys_is_read(name: str):
    for question in ask(name, ODD, "packed"):
        answer = filled(question.answer_schema, lambda allowed: allowed[0])
        assert set(schema(name).read(question, json.dumps(answer))) == set(question.slots.values())
