"""What the importers make of a record: who did what at which turn, what is missing, what is rejected and why."""

from __future__ import annotations

import json

import pytest
from fixtures.records import (
    ANN,
    NOTHING,
    SAM,
    TALK,
    acted,
    export,
    failures,
    lines,
    log,
    messages,
    only,
    opening,
)

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import read
from sotopia_rl_data.importers.library import split_secret
from sotopia_rl_data.importers.messages import parse_action, render_action
from sotopia_rl_data.importers.record import model_name
from sotopia_rl_data.schema import Agent, Episode, Score, Turn

# What an action says


@pytest.mark.parametrize(
    ("rendered", "action_type", "text", "to"),
    [
        ("did nothing", "none", "", ()),
        ("left the conversation", "leave", "", ()),
        ('said: ""', "speak", "", ()),
        ('said: "   well   "', "speak", "   well   ", ()),
        ('said: "She said, "no," and left."', "speak", 'She said, "no," and left.', ()),
        ('said: "You did nothing wrong."', "speak", "You did nothing wrong.", ()),
        ('said: "She left the conversation"', "speak", "She left the conversation", ()),
        ('said: "One.\n\nTwo."', "speak", "One.\n\nTwo.", ()),
        ('said: "[action] is a word"', "speak", "[action] is a word", ()),
        ('said: "said: "no""', "speak", 'said: "no"', ()),
        ('[action] said: "hm"', "action", 'said: "hm"', ()),
        ("[action] ", "action", "", ()),
        ("[non-verbal communication] nods", "non-verbal communication", "nods", ()),
        (" did nothing", "none", "", ()),
        (' said: "x"', "speak", "x", ()),
        ("[private to ['Ann Lee']]  said: \"x\"", "speak", "x", ("Ann Lee",)),
        (
            "[private to [\"Finnegan O'Malley\", 'Jean-Luc']]  [action] y",
            "action",
            "y",
            ("Finnegan O'Malley", "Jean-Luc"),
        ),
        (
            "[private to ['A ]] b', 'Ana-María Núñez']]  left the conversation",
            "leave",
            "",
            ("A ]] b", "Ana-María Núñez"),
        ),
        ("[private to ['Ann Lee']]  said: \"[private to ['B']]  x\"", "speak", "[private to ['B']]  x", ("Ann Lee",)),
    ],
)
def test_an_action_is_recognised_by_how_it_begins(rendered, action_type, text, to):
    action = parse_action(rendered)
    assert (action.action_type, action.text, action.to) == (action_type, text, to)
    assert render_action(action, spaced="]  " in rendered or rendered.startswith(" ")) == rendered  # and written back


@pytest.mark.parametrize(
    "rendered", ["", "says hi", 'said: "open', "did nothing.", "[private to []]  did nothing", "[private to [x]] x"]
)
def test_what_has_none_of_the_five_forms_is_refused(rendered):
    with pytest.raises(InputError):
        parse_action(rendered)


# Who acted


def test_a_no_op_of_the_one_whose_turn_it_is_is_chosen_and_those_of_the_others_are_forced(tmp_path):
    episode = only(lines(tmp_path / "a.jsonl", log([{ANN: 'said: "a"'}, {}, {ANN: 'said: "b"'}, {}])))
    assert acted(episode) == [
        (0, ANN, "speak", "a"),
        (1, SAM, "none", ""),
        (2, ANN, "speak", "b"),
        (3, SAM, "none", ""),
    ]
    assert {t.failed for t in episode.turns} == {None}


def test_one_speaker_twice_in_a_row_keeps_both_utterances_on_their_turns(tmp_path):
    episode = only(lines(tmp_path / "a.jsonl", log([{ANN: 'said: "a"'}, {ANN: 'said: "b"'}, {SAM: 'said: "c"'}])))
    assert acted(episode) == [(0, ANN, "speak", "a"), (1, ANN, "speak", "b"), (2, SAM, "speak", "c")]


def test_once_somebody_acted_out_of_order_a_turn_of_no_ops_has_no_actor(tmp_path):
    turns = [{ANN: 'said: "a"'}, {}, {ANN: 'said: "b"'}, {ANN: 'said: "c"'}, {}, {SAM: 'said: "d"'}]
    episode = only(lines(tmp_path / "a.jsonl", log(turns)))
    assert [(t.turn, t.action_type) for t in episode.turns] == [
        (0, "speak"),
        (1, "none"),
        (2, "speak"),
        (3, "speak"),
        (5, "speak"),
    ]


def test_two_who_act_in_one_turn_are_two_utterances(tmp_path):
    episode = only(lines(tmp_path / "a.jsonl", log([{ANN: 'said: "a"', SAM: 'said: "b"'}])))
    assert acted(episode) == [(0, ANN, "speak", "a"), (0, SAM, "speak", "b")]


def test_a_scripted_log_opens_with_observations_alone_and_its_turns_count_from_there(tmp_path):
    raw = messages([{ANN: 'said: "a"'}, {}])
    script = [raw[0][:2], raw[0], [*raw[1][:2], *raw[1][:1:-1]]]  # actions of turn 2 in another order
    episode = only(lines(tmp_path / "a.jsonl", log([], messages=script)))
    assert acted(episode) == [(1, ANN, "speak", "a"), (2, SAM, "none", "")]


def test_a_no_op_that_names_recipients_was_chosen(tmp_path):
    turns = [{ANN: ' said: "a"'}, {SAM: "[private to ['Ann Lee']]  did nothing"}]
    episode = only(lines(tmp_path / "a.jsonl", log(turns)))
    assert episode.turns[1] == Turn(1, "id-1", "none", "", ("id-0",))
    assert episode.dialect == "head"


def test_three_agents_take_turns_and_private_messages_name_ids(tmp_path):
    names = ["Sam Poe", "Sam Núñez", "Dr. Ana-María O'Malley"]
    turns = [
        {names[0]: ' said: "a"'},
        {names[1]: f'[private to {names[:1] + names[2:]!r}]  said: "b"'},
        {},
        {names[0]: " left the conversation"},
    ]
    episode = only(lines(tmp_path / "a.jsonl", log(turns, names)))
    assert acted(episode) == [
        (0, "Sam Poe", "speak", "a"),
        (1, "Sam Núñez", "speak", "b"),
        (2, "Dr. Ana-María O'Malley", "none", ""),
        (3, "Sam Poe", "leave", ""),
    ]
    assert episode.turns[1].to == ("id-0", "id-2")


def test_two_agents_of_the_same_name_and_id_are_told_apart_by_their_place(tmp_path):
    names = ["Sam Poe", "Sam Poe"]
    raw = messages([{}, {}], names)
    raw[0][2][2], raw[1][3][2] = 'said: "first"', 'said: "second"'
    episode = only(lines(tmp_path / "a.jsonl", log([], names, messages=raw, agents=["x", "x"])))
    assert [(t.turn, t.agent, t.text) for t in episode.turns] == [(0, "x", "first"), (1, "x#2", "second")]


def test_the_last_observations_are_kept_and_are_no_turn(tmp_path):
    episode = only(lines(tmp_path / "a.jsonl", log([{ANN: 'said: "a"'}])))
    assert [t.turn for t in episode.turns] == [0]
    assert [(o.turn, o.agent) for o in episode.observations] == [(0, "id-0"), (0, "id-1"), (1, "id-0"), (1, "id-1")]


def test_the_utterance_and_the_observation_of_it_are_both_kept(tmp_path):
    said = 'said: "<b>No</b>, <p viewer="agent_0">never</p>."'
    raw = messages([{ANN: said}])
    raw[1][1][2] = 'Turn #0: Ann Lee said: "No, ."\n'
    episode = only(lines(tmp_path / "a.jsonl", log([], messages=raw)))
    assert episode.turns[0].text == '<b>No</b>, <p viewer="agent_0">never</p>.'
    assert episode.observations[3].text == 'Turn #0: Ann Lee said: "No, ."\n'


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"messages": None}, "`messages` is null, not a list of messages."),
        ({"messages": []}, "its messages are empty."),
        ({"messages": [[["Environment", "Ann Lee"]]]}, "turn 0 has a message that is not [sender, receiver, text]."),
        ({"agents": ["a", "b", "c"]}, "it names 3 agents, but 2 take part in its messages."),
        ({"agents": []}, "`agents` is empty, not a list of ids."),
        ({"pk": ""}, "`pk` is blank."),
        ({"environment": None}, "`environment` is null, not text."),
        (
            {"messages": messages([{ANN: "mumbles"}])},
            "turn 0: the action 'mumbles' has none of the library's five forms.",
        ),
        (
            {"messages": messages([{ANN: "[private to ['Bob']]  did nothing"}])},
            "turn 0 is private to Bob, who is not among the agents.",
        ),
        (
            {"messages": [*messages([{}]), [["Bob", "Environment", NOTHING]]]},
            "turn 2 names 'Bob', who is not among the agents Ann Lee, Sam Poe.",
        ),
        (
            {"messages": [messages([{}])[0], [[ANN, "Environment", NOTHING]] * 2]},
            "turn 1 has two actions of 'Ann Lee'.",
        ),
    ],
)
def test_a_log_that_cannot_be_read_is_rejected_with_its_reason(tmp_path, change, reason):
    path = lines(tmp_path / "a.jsonl", log(TALK), log([{}]) | change)
    (failure,) = failures(path)
    assert failure.reason == reason
    assert (failure.source, failure.episode_id) == ("a.jsonl:2", None)
    assert failure.record == path.read_text().splitlines()[1][:10_000]


# What an agent is


def test_goal_background_and_secret_come_from_the_agents_own_opening(tmp_path):
    episode = only(lines(tmp_path / "a.jsonl", log(TALK)))
    assert episode.agents[1] == Agent(
        "id-1", SAM, "mine", "Win over everyone but Sam Poe", "Sam Poe is a baker.", "Sam Poe sleepwalks"
    )
    assert (episode.scenario, episode.codename, episode.relationship) == ("Two neighbours and one tree.", "", "")


def test_what_only_one_agent_may_see_of_the_scenario_is_not_everybodys(tmp_path):
    raw = messages(TALK)
    raw[0][0][2] = opening([ANN, SAM], ANN, "Two neighbours MARK-A and one tree.")
    raw[0][1][2] = opening([ANN, SAM], SAM, "Two neighbours and one MARK-B tree.")
    assert only(lines(tmp_path / "a.jsonl", log([], messages=raw))).scenario == "Two neighbours tree."


@pytest.mark.parametrize(
    ("background", "name", "expected"),
    [
        ("Jo Ann Lee is 30. Jo Ann's secrets: none of yours", "Jo Ann Lee", ("Jo Ann Lee is 30.", "none of yours")),
        ("Ann keeps Bo's secrets: none", "Ann Lee", ("Ann keeps Bo's secrets: none", "")),
        ("x Finnegan O'Malley's secrets: y", "Finnegan O'Malley", ("x", "y")),
        ("", "Ann Lee", ("", "")),
    ],
)
def test_a_background_ends_in_the_secrets_of_the_first_name(background, name, expected):
    assert split_secret(background, name) == expected


@pytest.mark.parametrize(
    ("logged", "name"),
    [
        ("custom/sim-judge@http://127.0.0.1:18433/v1", "sim-judge"),
        ("custom/org/model@https://user:password@host/v1", "org/model"),
        ("custom/mine", "mine"),
        ("gpt-4", "gpt-4"),
        ("together_ai/meta-llama/Llama-3-70b", "together_ai/meta-llama/Llama-3-70b"),
        ("openai/gpt@2024", "openai/gpt@2024"),
        ("http://user:password@host/v1", None),
        ("openai/http://host/v1", "openai"),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_a_model_keeps_its_name_and_loses_its_address(logged, name):
    assert model_name(logged) == name


def test_a_models_address_reaches_no_field(tmp_path):
    for path in (lines(tmp_path / "a.jsonl", log(TALK)), lines(tmp_path / "b.jsonl", export(TALK))):
        assert "10.0.0.1" not in repr(only(path))
        assert only(path).models == ("gpt-4", "mine", "mine")


# Scores


def test_a_bare_number_is_no_score_and_never_zero(tmp_path):
    rewards = [[5.0, {"goal": 0.0, "relationship": None, "overall_score": 5.0}], 0.0]
    episode = only(lines(tmp_path / "a.jsonl", log(TALK, rewards=rewards)))
    assert episode.scores == (Score("id-0", "goal", 0.0, "gpt-4"),)
    assert episode.score("id-0", "relationship", "gpt-4") is None
    assert episode.score("id-1", "goal", "gpt-4") is None


def test_scores_belong_to_the_agents_by_place_whatever_order_names_and_dimensions_come_in(tmp_path):
    first, second = {"goal": 1.0, "knowledge": 2.0}, {"knowledge": 4.0, "goal": 3.0}
    changes = {
        "raw_rewards": [[1.5, first], [3.5, second]],
        "social_goals": {SAM: "sam's", ANN: "ann's"},
        "agents_background": {SAM: "Sam.", ANN: "Ann."},
    }
    episode = only(lines(tmp_path / "a.jsonl", export(TALK, **changes)))
    assert {(s.agent, s.dimension): s.score for s in episode.scores} == {
        ("id-0", "goal"): 1.0,
        ("id-0", "knowledge"): 2.0,
        ("id-1", "goal"): 3.0,
        ("id-1", "knowledge"): 4.0,
    }
    assert [a.goal for a in episode.agents] == ["ann's", "sam's"]


@pytest.mark.parametrize("keys", [("agent_2", "agent_1"), ("id-1", "id-0"), (SAM, ANN)])
def test_rewards_under_keys_are_matched_by_key(tmp_path, keys):
    rewards = {keys[0]: [2.0, {"goal": 2.0}], keys[1]: {"goal": 1.0}}
    episode = only(lines(tmp_path / "a.jsonl", log(TALK, rewards=rewards)))
    assert [(s.agent, s.score) for s in episode.scores] == [("id-0", 1.0), ("id-1", 2.0)]


@pytest.mark.parametrize(
    ("rewards", "kept", "reasons"),
    [
        ([[1, {"goal": 11}], [1, {"goal": 10}]], 1, ["the goal score 11 lies outside 0 to 10, and was left out."]),
        ([[1, {"secret": 1}], 0.0], 0, ["the secret score 1 lies outside -10 to 0, and was left out."]),
        ([[1, {"goal": "7"}], None], 0, ["the goal score is text, not a number, and was left out."]),
        ([[1, {"goal": True}], None], 0, ["the goal score is true or false, not a number, and was left out."]),
        ([[1, {"goal": 7}]], 0, ["there are 1 rewards for 2 agents: whose they are is not known."]),
        ({"Bob": 1}, 0, ["the rewards name Bob, who is not among the agents."]),
        ("8", 0, ["the rewards are text, not a list."]),
        ([[1, 2, 3], [1, {"goal": 7}]], 1, ["a reward is a list, not [overall, {dimension: score}]."]),
        (None, 0, []),
    ],
)
def test_a_score_that_cannot_be_true_is_left_out_and_said_so(tmp_path, rewards, kept, reasons):
    path = lines(tmp_path / "a.jsonl", log(TALK, rewards=rewards))
    episode, *rest = read([path])
    assert isinstance(episode, Episode)
    assert len(episode.scores) == kept
    assert [f.reason for f in rest] == reasons
    assert all(f.episode_id == "E1" and f.source == "a.jsonl:1" for f in rest)


def test_nan_is_missing_and_a_dimension_of_ones_own_is_kept(tmp_path):
    path = lines(tmp_path / "a.jsonl", json.dumps(log(TALK, rewards=[[1, {"goal": float("nan"), "charm": 99}], 0.0])))
    assert only(path).scores == (Score("id-0", "charm", 99.0, "gpt-4"),)


# Dialects


@pytest.mark.parametrize(
    ("record", "dialect"),
    [
        (log(TALK), "legacy"),
        (log(TALK, reasoning=""), "legacy"),
        (log(TALK, reasoning="Environment comments: terminated: Too few active agents; \n"), "0.1.5"),
        (log([{ANN: 'said: "Too few active agents;"'}]), "legacy"),
        (
            log(TALK, reasoning="Environment comments: terminated: x; \nAgent 1 comments:\n…", rewards=[0.0, 0.0]),
            "0.1.5",
        ),
        (log(TALK, reasoning="Environment comments: terminated: x; \nAgent 1 comments:\n…"), "legacy"),
        (log(TALK, rewards=[0.0, 0.0]), "legacy"),
        (log([{ANN: 'said: "a"'}], [ANN, SAM, "Bo"]), "0.1.5"),
        (log([{ANN: ' said: "a"'}]), "head"),
        (log(TALK, agent_classes=[]), "head"),
    ],
)
def test_a_dialect_is_told_by_its_signs(tmp_path, record, dialect):
    assert only(lines(tmp_path / "a.jsonl", record)).dialect == dialect
