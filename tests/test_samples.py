"""The bundled samples: enough of them, odd in every way they should be, scored within range, the same in both files."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import pytest

from sotopia_rl_data import samples
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.exporters import samples as make
from sotopia_rl_data.importers import read, samples_path
from sotopia_rl_data.schema import Episode, split_of

SAMPLES = list(make.read_samples())
EPISODES = {s.episode.episode_id: s.episode for s in SAMPLES}
FAILED = "sample-tent-refund-2"
UTTERANCES = [t for e in EPISODES.values() for t in e.turns]


def _rows(format: samples.Format) -> list[dict[str, Any]]:
    return [json.loads(line) for line in samples.path(format).read_text(encoding="utf-8").splitlines()]


def _said(*parts: str) -> list[str]:
    return [t.text for t in UTTERANCES if t.action_type == "speak" and all(p in t.text for p in parts)]


# Enough of them, and different


def test_there_are_thirteen_scenarios_and_thirty_two_episodes_of_two_agents():
    assert len({e.environment_id for e in EPISODES.values()}) == 13
    assert len(SAMPLES) == len(EPISODES) == 32
    assert {len(e.agents) for e in EPISODES.values()} == {2}


def test_each_scenario_comes_out_in_at_least_two_ways():
    outcomes = defaultdict(set)
    for sample in SAMPLES:
        outcomes[sample.episode.environment_id].add(sample.outcome)
    assert all(len(ways) >= 2 for ways in outcomes.values())
    assert {way for ways in outcomes.values() for way in ways} == {"success", "compromise", "stalemate", "rupture"}


def test_a_dialogue_has_eight_to_twenty_turns_and_the_two_alternate():
    assert {len(e.turns) for e in EPISODES.values()} <= set(range(8, 21))
    assert min(len(e.turns) for e in EPISODES.values()) < 10 < 20 == max(len(e.turns) for e in EPISODES.values())
    for episode in EPISODES.values():
        assert [t.turn for t in episode.turns] == list(range(len(episode.turns)))
        assert all(t.agent == episode.agents[t.turn % 2].agent for t in episode.turns)


def test_every_split_has_episodes_under_the_default_seed():
    split = Counter(split_of(environment) for environment in {e.environment_id for e in EPISODES.values()})
    assert split == {"train": 10, "validation": 2, "test": 1}
    assert Counter(split_of(e.environment_id) for e in EPISODES.values()) == {"train": 26, "validation": 4, "test": 2}


def test_the_readme_lists_every_scenario_with_its_people_its_outcomes_and_its_split():
    readme = (samples.SCENARIOS.parent / "README.md").read_text(encoding="utf-8")
    outcomes: dict[str, list[str]] = defaultdict(list)
    for sample in SAMPLES:
        outcomes[sample.episode.environment_id].append(sample.outcome)
    people = {e.environment_id: ", ".join(a.name for a in e.agents) for e in EPISODES.values()}
    for environment, ways in outcomes.items():
        row = (
            rf"\| `{environment}` \| {people[environment]} \| [^|]+ \| {', '.join(ways)} \| {split_of(environment)} \|"
        )
        assert re.search(row, readme), environment


# The two files


@pytest.mark.parametrize(("format", "row"), [("export", make.export_row), ("plain", make.plain_row)])
def test_the_files_are_what_the_scenarios_make(format, row):
    made = make.jsonl(map(row, SAMPLES))
    assert samples.path(format).read_text(encoding="utf-8") == made, "run: python -m sotopia_rl_data.exporters.samples"


def test_both_files_import_to_exactly_the_episodes_that_were_written():
    written = list(EPISODES.values())
    assert list(read([samples.path("export")])) == written
    assert list(read([samples.path("plain")])) == [replace(e, source="plain") for e in written]


def test_the_export_has_the_columns_of_the_library_in_its_order():
    columns = (
        "episode_id environment_id agent_ids experiment_tag experiment_model_name_pairs raw_messages raw_rewards"
        " raw_rewards_prompt scenario codename agents_background social_goals social_interactions reasoning rewards"
    )
    assert {tuple(row) for row in _rows("export")} == {tuple(columns.split())}


def test_the_path_of_the_samples_is_where_the_importers_look():
    assert samples_path().samefile(samples.path())
    with pytest.raises(UsageError, match="'csv'"):
        samples.path("csv")


# Scores


def test_every_score_lies_in_its_range_and_has_a_reason():
    ranges = {d.name: (d.low, d.high) for d in SOTOPIA_EVAL}
    for episode in EPISODES.values():
        if episode.episode_id == FAILED:
            continue
        assert [(s.agent, s.dimension) for s in episode.scores] == [
            (a.agent, d) for a in episode.agents for d in ranges
        ]
        assert all(ranges[s.dimension][0] <= s.score <= ranges[s.dimension][1] for s in episode.scores)
        assert {s.evaluator for s in episode.scores} == {"sample-evaluator"}
        assert all(len(re.findall(rf"^{d}: \S+.*\.$", episode.reasoning, re.MULTILINE)) == 2 for d in ranges)


def test_no_dimension_is_constant_in_train():
    for dimension in SOTOPIA_EVAL:
        train = [e for e in EPISODES.values() if split_of(e.environment_id) == "train"]
        assert len({s.score for e in train for s in e.scores if s.dimension == dimension.name}) >= 4


def test_overall_score_is_the_mean_of_the_seven():
    overall = _rows("export")[0]["raw_rewards"][0]
    scores = [9, 4, 5, 0, 0, 3, 9]
    assert list(overall[1].values()) == [*scores, pytest.approx(30 / 7)]
    assert overall[0] == overall[1]["overall_score"]


def test_a_failed_evaluation_is_a_bare_zero_in_the_export_null_in_ours_and_missing_once_imported():
    export, plain = ({r["episode_id"]: r for r in _rows(f)} for f in ("export", "plain"))
    assert [key for key, row in export.items() if row["raw_rewards"] == [0.0, 0.0]] == [FAILED]
    assert [s["score"] for s in plain[FAILED]["scores"]] == [None] * 14
    assert EPISODES[FAILED].scores == ()


@pytest.mark.parametrize(
    ("episode", "agent", "score"),
    [
        ("sample-boat-sale-2", "finnegan-omalley", -10),
        ("sample-brothers-secret-1", "lea-fontaine", 0),
        ("sample-brothers-secret-2", "lea-fontaine", -10),
        ("sample-hidden-cat-2", "bartholomew-quill", 0),
        ("sample-last-tram-1", "matteo-ferri", -2),
    ],
)
def test_a_secret_that_is_kept_costs_nothing_and_one_that_is_told_costs_nearly_all(episode, agent, score):
    assert EPISODES[episode].score(agent, "secret", "sample-evaluator") == score


@pytest.mark.parametrize("environment", ["env-wedding-speech", "env-brothers-secret", "env-last-tram"])
def test_where_no_money_is_at_stake_the_material_score_is_zero(environment):
    scores = [s for e in EPISODES.values() if e.environment_id == environment for s in e.scores]
    assert {s.score for s in scores if s.dimension == "financial_and_material_benefits"} == {0.0}


# Every odd thing that a real log has


def test_names_have_apostrophes_hyphens_accents_and_titles():
    names = {a.name for e in EPISODES.values() for a in e.agents}
    assert {"Finnegan O'Malley", "Jean-Luc Moreau", "José Álvarez", "Dr. Ana-María Núñez", "Noor van Dijk"} <= names
    assert {"Mateusz Wiśniewski", "Ingrid Sætre", "Émile Beaumont"} <= names


def test_two_sams_share_a_first_name_but_neither_an_id_nor_a_secret():
    sams = EPISODES["sample-wedding-speech-1"].agents
    assert [a.name for a in sams] == ["Sam Whitfield", "Sam Carter"]
    assert len({a.agent for a in sams}) == len({a.secret for a in sams}) == 2
    assert all(a.secret and "secrets:" not in a.background for a in sams)


def test_every_type_of_action_is_used():
    types = Counter(t.action_type for t in UTTERANCES)
    assert set(types) == {"speak", "non-verbal communication", "action", "none", "leave"}
    assert min(types.values()) >= 15


def test_people_quote_others_in_the_middle_and_at_the_end_of_what_they_say():
    assert _said('asking, "Who\'s Paula? Is she here?"')
    assert _said('Say it once more without the word "it".')
    assert len(_said('"')) >= 15


def test_blank_lines_inside_speech_survive():
    assert len(_said("\n\n")) >= 4
    (letter,) = _said("You gave me a microphone")
    assert letter.split("\n\n")[0] == "It's in the boot. Washed. Badly."
    assert len(letter.split("\n\n")) == 4


def test_did_nothing_is_said_aloud_and_only_the_readable_column_loses_it():
    assert len(_said("did nothing")) == 3
    export = {r["episode_id"]: r for r in _rows("export")}["sample-school-mediation-1"]
    assert 'Write that down, please. "Did nothing."' in json.dumps(export["raw_messages"]).replace('\\"', '"')
    assert "Write that down" not in export["social_interactions"]


def test_there_are_emoji_also_one_of_several_code_points():
    assert _said("🍳🔥")
    assert _said("🤷\u200d♂️")
    assert any("🤷" in t.text for t in UTTERANCES if t.action_type == "non-verbal communication")


def test_a_silence_may_open_a_dialogue_and_silences_may_end_it():
    turns = EPISODES["sample-last-tram-2"].turns
    assert turns[0].action_type == "none"
    assert [t.action_type for t in turns[-3:]] == ["none"] * 3
    assert {t.agent for t in turns[-3:]} == {"rowan-achebe", "matteo-ferri"}


def test_some_leave_and_some_of_them_early():
    left = {key: len(e.turns) for key, e in EPISODES.items() if e.turns[-1].action_type == "leave"}
    assert len(left) >= 10
    assert left["sample-mothers-house-3"] == 9
    assert all(t.action_type != "leave" for e in EPISODES.values() for t in e.turns[:-1])


# What each one is told


@pytest.mark.parametrize("episode", EPISODES.values(), ids=EPISODES)
def test_an_agent_is_told_its_own_secret_and_goal_and_never_the_others(episode: Episode):
    for me, other in (episode.agents, episode.agents[::-1]):
        (told,) = (o.text for o in episode.observations if (o.turn, o.agent) == (0, me.agent))
        assert me.background in told
        assert me.secret in told
        assert _small_print(me.goal) in told
        assert other.secret not in told
        assert _small_print(other.goal) not in told
        assert other.goal.split(". ")[0] not in told
        assert "<" not in told


def _small_print(goal: str) -> str:
    found = re.search(r"<extra_info>(.*?)(?: <|</)", goal)
    assert found, goal
    return found[1]


def test_only_its_viewer_is_told_of_a_sound():
    told = {o.agent: o.text for o in EPISODES["sample-hidden-cat-1"].observations if o.turn == 0}
    assert "scratching" in told["bartholomew-quill"]
    assert "scratching" not in told["ingrid-saetre"]
    assert '<p viewer="agent_0">' in EPISODES["sample-hidden-cat-1"].scenario


def test_strangers_are_told_nothing_of_each_other_and_friends_what_they_know():
    for key, known in (("sample-boat-sale-1", False), ("sample-wedding-speech-1", True)):
        first, second = EPISODES[key].agents
        (told,) = (o.text for o in EPISODES[key].observations if (o.turn, o.agent) == (0, first.agent))
        assert (second.background in told) is known


# A scenario that breaks the rules


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("- sam: Hello.", "- kim: Hello.", "In e1, 'kim' acts in turn 0, which is the other agent's"),
        ("- kim: {leave}", "- kim: {sulk}", "the unknown action type 'sulk'"),
        ("goal: 7 | Said.", "goal: 7", "score of 'sam' on goal has no reason"),
    ],
)
def test_a_scenario_that_breaks_the_rules_is_refused(tmp_path, old, new, complaint):
    assert old in TOY
    (tmp_path / "toy.yaml").write_text(TOY)
    (toy,) = make.read_samples(tmp_path)
    assert [t.action_type for t in toy.episode.turns] == ["speak", "leave"]
    (tmp_path / "toy.yaml").write_text(TOY.replace(old, new))
    with pytest.raises(InputError, match=complaint):
        list(make.read_samples(tmp_path))


TOY = """
environment_id: env-toy
codename: toy
relationship: friend
scenario: Two meet.
agents:
  sam: {agent: sam, name: Sam Roe, called: Sam, background: A cook., secret: Cannot cook., goal: Be liked.}
  kim: {agent: kim, name: Kim Roe, called: Kim, background: A guest., secret: Is full., goal: Get away.}
episodes:
- id: e1
  outcome: stalemate
  dialogue:
  - sam: Hello.
  - kim: {leave}
  scores:
    sam: &same
      believability: 5 | Short.
      relationship: 0 | None.
      knowledge: 0 | None.
      secret: 0
      social_rules: 0
      financial_and_material_benefits: 0
      goal: 7 | Said.
    kim: *same
"""
