"""What the importers make of a file: one episode in every wrapping, formats, damaged lines, whole files refused."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.places import ROOT
from fixtures.records import (
    ANN,
    PLAIN,
    SAM,
    TALK,
    document,
    export,
    failures,
    lines,
    log,
    only,
    table,
)

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers import TrainingRow, formats, plan, read
from sotopia_rl_data.importers.formats.format import Format, one_by_one
from sotopia_rl_data.importers.record import MAX_RECORD, nested
from sotopia_rl_data.refs import parse
from sotopia_rl_data.schema import Agent, Episode, Score, Turn

# The same episode in every wrapping

EPISODE = log(TALK)
KEY = ":sotopia.database.logs.EpisodeLog:E1"
OTHERS = {
    ":sotopia.database.persistent_profile.AgentProfile:id-0": {"pk": "id-0", "first_name": "Ann", "secret": "a spy"},
    ":sotopia.database.persistent_profile.EnvironmentProfile:ENV1": {
        "pk": "ENV1",
        "codename": "tree",
        "scenario": "A <p viewer='environment'>big</p> tree.",
        "agent_goals": ["own it", "fell it"],
        "relationship": 3,
    },
}
NAMELESS = {k: v for k, v in EPISODE.items() if k != "pk"}


@pytest.mark.parametrize(
    "value",
    [
        EPISODE,
        [EPISODE],
        {KEY: EPISODE},
        {KEY: NAMELESS},
        {KEY: json.dumps(NAMELESS)},
        {KEY: [NAMELESS]},
        {KEY: json.dumps([NAMELESS])},
        {"episode:E1": NAMELESS},
        [{"key": KEY, "value": NAMELESS}],
        [{"db": 0, "key": KEY, "ttl": -1, "type": "ReJSON-RL", "value": json.dumps(NAMELESS), "size": 9}],
        [{KEY: NAMELESS}],
        {"EpisodeLog": {"E1": NAMELESS}},
        {"data": [EPISODE]},
        json.dumps(EPISODE),
    ],
)
def test_a_log_is_the_same_in_every_wrapping_of_a_json_document(tmp_path, value):
    expected = only(lines(tmp_path / "a.jsonl", EPISODE))
    assert only(document(tmp_path / "a.json", value)) == expected


@pytest.mark.parametrize(
    "wrapped", [EPISODE, {"key": KEY, "value": NAMELESS}, {"key": KEY, "value": json.dumps(NAMELESS)}]
)
def test_and_on_a_line(tmp_path, wrapped):
    assert only(lines(tmp_path / "a.jsonl", wrapped)) == only(document(tmp_path / "a.json", EPISODE))
    assert only(lines(tmp_path / "a.json", wrapped, "")) == only(document(tmp_path / "b.json", EPISODE))


def test_lines_may_be_called_json_and_documents_may_follow_each_other(tmp_path):
    two = [EPISODE, log(TALK, pk="E2")]
    one = list(read([lines(tmp_path / "a.json", *two)]))
    (tmp_path / "b.json").write_text("\n".join(json.dumps(r, indent=2) for r in two), encoding="utf-8")
    assert [e.episode_id for e in one] == ["E1", "E2"]
    assert list(read([tmp_path / "b.json"])) == one


def _in_a_dump(tmp_path: Path) -> Path:
    return document(tmp_path / "dump.json", {KEY: NAMELESS, **OTHERS, ":x.Annotation:7": {"episode": "E1"}})


def _in_a_dump_of_lines(tmp_path: Path) -> Path:
    records = {KEY: NAMELESS, **OTHERS}
    return lines(tmp_path / "dump.jsonl", *[{"key": k, "value": json.dumps(v)} for k, v in records.items()])


def _in_the_local_backend(tmp_path: Path) -> Path:
    for folder, name, value in (
        ("EpisodeLog", "E1", EPISODE),
        ("AgentProfile", "id-0", next(iter(OTHERS.values()))),
        ("EnvironmentProfile", "ENV1", list(OTHERS.values())[1]),
        ("EnvAgentComboStorage", "c", {"pk": "c", "env_id": "ENV1"}),
    ):
        (tmp_path / "data" / folder).mkdir(parents=True)
        document(tmp_path / "data" / folder / f"{name}.json", value)
    return tmp_path / "data"


@pytest.mark.parametrize("place", [_in_a_dump, _in_a_dump_of_lines, _in_the_local_backend])
def test_profiles_beside_a_log_give_it_what_only_they_hold(tmp_path, place):
    episode = only(place(tmp_path))
    assert (episode.codename, episode.relationship) == ("tree", "friend")
    assert episode.scenario == "A <p viewer='environment'>big</p> tree."
    assert [(a.goal, a.secret) for a in episode.agents] == [("own it", "a spy"), ("fell it", "Sam Poe sleepwalks")]


def test_a_pipe_and_a_file_that_is_too_long_are_no_profiles(tmp_path):
    folder = _in_the_local_backend(tmp_path)
    (folder / "AgentProfile" / "id-0.json").unlink()
    os.mkfifo(folder / "AgentProfile" / "id-0.json")
    with (folder / "EnvironmentProfile" / "ENV1.json").open("a") as file:
        file.write(" " * MAX_RECORD)
    episode = only(folder)
    assert (episode.codename, [agent.secret for agent in episode.agents]) == (
        "",
        ["Ann Lee sleepwalks", "Sam Poe sleepwalks"],
    )


def test_links_out_of_a_folder_are_passed_over_so_that_nothing_private_comes_into_the_dataset(tmp_path):
    folder = _in_the_local_backend(tmp_path)
    document(tmp_path / "private.json", {"pk": "id-0", "secret": "mine"})
    for link in (folder / "AgentProfile" / "id-0.json", folder / "EpisodeLog" / "E2.json"):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / "private.json")
    (folder / "EpisodeLog" / "E3.json").symlink_to("E1.json")
    assert plan([folder]).skipped == ("EpisodeLog/E2.json",)
    assert [episode.agents[0].secret for episode in read([folder])] == ["Ann Lee sleepwalks"] * 2
    (folder / "EpisodeLog" / "E1.json").unlink()
    with pytest.raises(InputError) as error:
        read([folder])
    assert error.value.hint == "links that lead out of a folder are not followed: name the file that is meant"


@pytest.mark.parametrize("blob", [f"datasets--lab--talks/blobs/{'ab' * 20}", f"blobs/ab/{'ab' * 32}"])
def test_a_folder_of_the_hubs_cache_is_read_through_its_links(tmp_path, blob):
    snapshot = tmp_path / "datasets--lab--talks" / "snapshots" / "c0ffee"
    for folder in (snapshot, (tmp_path / blob).parent):
        folder.mkdir(parents=True)
    lines(tmp_path / blob, EPISODE)
    (snapshot / "a.jsonl").symlink_to(tmp_path / blob)
    assert only(snapshot).episode_id == "E1"


def test_a_damaged_log_of_a_dump_is_a_failure_and_other_collections_are_passed_over(tmp_path):
    broken = {k: v for k, v in EPISODE.items() if k != "messages"}
    path = document(tmp_path / "dump.json", {KEY: EPISODE, KEY + "2": broken, ":x.Annotation:7": {"episode": "E1"}})
    assert [f.reason for f in failures(path)] == ["`messages` is null, not a list of messages."]
    assert len(list(read([path]))) == 2


def test_the_log_folder_and_one_log_of_it_find_the_profiles_too(tmp_path):
    whole = only(_in_the_local_backend(tmp_path))
    assert only(tmp_path / "data" / "EpisodeLog") == whole
    assert only(tmp_path / "data" / "EpisodeLog" / "E1.json") == whole


def test_an_id_is_no_way_out_of_the_profiles_folder(tmp_path):
    place = _in_the_local_backend(tmp_path)
    document(tmp_path / "ENV2.json", list(OTHERS.values())[1])
    document(place / "EpisodeLog" / "E1.json", EPISODE | {"environment": "../../ENV2"})
    assert only(place).codename == ""


def test_the_export_is_the_same_episode_in_jsonl_and_csv_and_with_nested_text(tmp_path):
    row = export(TALK)
    expected = only(lines(tmp_path / "a.jsonl", row))
    nested_json = {k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in row.items()}
    assert only(table(tmp_path / "a.csv", row)) == expected
    assert only(lines(tmp_path / "b.jsonl", nested_json)) == expected
    assert only(table(tmp_path / "b.csv", nested_json)) == expected
    plain = only(lines(tmp_path / "c.jsonl", EPISODE))
    assert replace(plain, source="sotopia-export", codename="tree") == expected


def test_social_interactions_and_an_export_without_agent_ids(tmp_path):
    episode = only(lines(tmp_path / "a.jsonl", export(TALK, agent_ids=None, social_interactions="Bob said: x")))
    assert [a.agent for a in episode.agents] == [ANN, SAM]
    assert [t.agent for t in episode.turns] == [ANN, SAM, ANN, SAM]


# Plain records


def test_the_examples_of_the_documentation_are_accepted(tmp_path):
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert [plan([lines(tmp_path / f"{i}.jsonl", b)]).sources[0].kind for i, b in enumerate(blocks)] == [
        "episode-log",
        "annotated",
        "plain",
    ]
    assert not [
        f for i in range(3) for f in failures(tmp_path / f"{i}.jsonl") if "no row for this agent" not in f.reason
    ]
    episode = only(tmp_path / "2.jsonl")
    assert episode.turns[2] == Turn(2, "a1", "speak", "Between us: I can pay more.", ("a2",))
    assert episode.scores[1] == Score("a2", "relationship", -1.5, "human")
    assert episode.agents[1].name == "Finnegan O'Malley"


def test_every_other_example_of_the_documentation_is_imported_whole(tmp_path):
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(jsonl|csv)\n(.*?)```", text, re.DOTALL)
    kinds = []
    for i, (ending, block) in enumerate(blocks):
        (tmp_path / f"{i}.{ending}").write_text(block, encoding="utf-8")
        kinds.append(plan([tmp_path / f"{i}.{ending}"]).sources[0].kind)
        assert failures(tmp_path / f"{i}.{ending}") == []
    assert kinds == ["chat", "utterances", "convokit", "simulation", "completion", "preference"]


def test_a_plain_record_has_defaults(tmp_path):
    record = {
        "episode_id": 7,
        "scenario": "A  tree.",
        "agents": [{"name": "Sam"}, {"name": "Sam"}],
        "turns": [{"agent": "Sam#2"}],
    }
    episode = only(lines(tmp_path / "a.jsonl", record))
    same = only(lines(tmp_path / "b.jsonl", record | {"scenario": "A tree. "}))
    assert episode.agents == (Agent("Sam", "Sam"), Agent("Sam#2", "Sam"))
    assert episode.turns == (Turn(0, "Sam#2", "speak", ""),)
    assert (episode.episode_id, episode.source, episode.dialect) == ("7", "plain", "plain")
    assert episode.environment_id == same.environment_id == "scenario-" + episode.environment_id[-16:]


def test_a_plain_record_may_call_its_environment_as_old_scenario_files_do(tmp_path):
    record = {"environment" if key == "environment_id" else key: value for key, value in PLAIN.items()}
    assert only(lines(tmp_path / "a.jsonl", record)) == only(lines(tmp_path / "b.jsonl", PLAIN))
    both = failures(lines(tmp_path / "c.jsonl", PLAIN, PLAIN | {"environment": "e"}))
    assert both[0].reason.startswith("the record has the unknown key 'environment'")


def test_a_plain_record_may_refer_to_agents_by_name_and_act_several_at_a_turn(tmp_path):
    turns = [{"turn": 3, "agent": ANN, "to": [SAM]}, {"turn": 3, "agent": "b", "failed": True, "action_type": "none"}]
    episode = only(lines(tmp_path / "a.jsonl", PLAIN | {"turns": turns}))
    assert episode.turns == (Turn(3, "a", "speak", "", ("b",)), Turn(3, "b", "none", "", (), True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"episode_id": None}, "`episode_id` is null, not text."),
        ({"tunrs": []}, "the record has the unknown key 'tunrs'"),
        ({"agents": []}, "`agents` is empty."),
        ({"agents": [{"agent": "a"}, {"agent": "a"}]}, "two agents have the same id: a, a."),
        ({"agents": ["a"]}, "agent 0 is text, not an object."),
        ({"environment_id": None}, "`environment_id` and `scenario` are both missing"),
        ({"turns": [{"agent": "c"}]}, "turns[0] names 'c', which is not one of the agents a, b."),
        ({"turns": [{"agent": "a", "action_type": "sing"}]}, "turns[0] has the action type 'sing'"),
        ({"turns": [{"agent": "a", "action_type": "leave", "text": "bye"}]}, "turns[0] is a 'leave' with a text"),
        ({"turns": [{"agent": "a", "turn": 1}, {"agent": "b", "turn": 0}]}, "`turns` are not in ascending order."),
        ({"turns": [{"agent": "a", "turn": 1}, {"agent": "a", "turn": 1}]}, "agent a acts twice at turn 1."),
        ({"turns": [{"agent": "a", "turn": -1}]}, "turns[0] has a `turn` that is not a whole number from 0."),
        ({"turns": [{"agent": "a", "turn": 2**31}]}, "turns[0] has a `turn` that is not a whole number from 0."),
        ({"turns": [{"agent": "a", "failed": "no"}]}, "turns[0] has a `failed` that is text"),
        (
            {"scores": [{"agent": "a", "dimension": "charm", "score": 1}]},
            "'charm' is not a SOTOPIA-EVAL dimension; there are",
        ),
        ({"scores": [{"agent": "a", "dimension": "GOAL", "score": 1}] * 2}, "an evaluator scores an agent twice"),
        ({"observations": [{"agent": "a", "turn": 0, "text": ""}] * 2}, "an agent has two observations at one turn."),
        ({"dialect": "0.2"}, "`dialect` is '0.2'; there are plain, legacy, 0.1.5, head."),
    ],
)
def test_a_plain_record_that_is_wrong_is_rejected_with_its_reason(tmp_path, change, reason):
    (failure,) = failures(lines(tmp_path / "a.jsonl", PLAIN, PLAIN | change))
    assert failure.reason.startswith(reason)


def test_a_plain_score_that_is_null_is_missing_and_one_out_of_range_is_refused(tmp_path):
    scores = [{"agent": "a", "dimension": "REL", "score": None}, {"agent": "b", "dimension": "REL", "score": 6}]
    episode, refused = read([lines(tmp_path / "a.jsonl", PLAIN | {"scores": scores})])
    assert episode.scores == ()
    assert (refused.agent, refused.dimension) == ("b", "relationship")


# Training rows


def test_a_training_row_is_an_example_grouped_by_its_scenario(tmp_path):
    asked = "You are Ann.\nScenario: A tree.\nParticipants: Ann and Sam\n"
    rows = [
        {"input": asked, "output": "{}", "value": 2.5},
        {"input": asked + "Turn 1", "output": "{}", "value": -1.0},
        {
            "instruction": "Scenario: A fence.\nGo on.",
            "input": "",
            "output": "ok",
            "system": "Be Ann.",
            "history": [["a", "b"]],
        },
        {"instruction": "No scene.", "input": "Here.", "output": "ok"},
    ]
    examples = list(read([document(tmp_path / "a.json", rows)]))
    assert all(isinstance(e, TrainingRow) for e in examples)
    assert [e.reward for e in examples] == [2.5, -1.0, None, None]
    assert [e.scenario for e in examples] == ["A tree.", "A tree.", "A fence.", "No scene.\nHere."]
    assert [m["role"] for m in examples[2].prompt] == ["system", "user", "assistant", "user"]
    assert list(read([lines(tmp_path / "a.jsonl", *rows)])) == examples


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input": "", "output": "x"}, "`input` and `instruction` are both missing or empty."),
        ({"input": "x", "output": None}, "`output` is null, not text."),
        ({"input": "x", "output": "y", "value": "1"}, "`value` is text, not a number."),
        ('{"input": "x", "output": "y", "value": 1e999}', "`value` is not a finite number."),
        ({"input": "x", "output": "y", "value": 10**400}, "`value` is not a finite number."),
        ({"input": "x", "output": "y", "history": [1]}, "`history` is not a list of [asked, answered] pairs."),
    ],
)
def test_a_training_row_that_is_wrong_is_rejected(tmp_path, row, reason):
    (failure,) = failures(lines(tmp_path / "a.jsonl", {"input": "x", "output": "y"}, row))
    assert failure.reason == reason


# Damaged files


def test_one_bad_line_costs_one_line(tmp_path):
    path = lines(tmp_path / "a.jsonl", EPISODE, "{broken", "", "[" * 100_000, "7", json.dumps(log(TALK, pk="E2")))
    path.write_bytes(path.read_bytes() + b'{"pk": "\xff"}\n')
    found = {f.source: f.reason for f in failures(path)}
    assert [i.episode_id for i in read([path]) if isinstance(i, Episode)] == ["E1", "E2"]
    assert found == {
        "a.jsonl:2": "not JSON: Expecting property name enclosed in double quotes at character 2.",
        "a.jsonl:4": "nested too deeply.",
        "a.jsonl:5": "the record is a number, not an object.",
        "a.jsonl:7": "not UTF-8 text: byte 9.",
    }


@pytest.mark.slow
def test_a_line_longer_than_a_record_may_be_is_passed_over(tmp_path):
    path = lines(tmp_path / "a.jsonl", EPISODE, '"' + "x" * (64 * 2**20) + '"', log(TALK, pk="E2"))
    assert [(f.source, f.reason) for f in failures(path)] == [("a.jsonl:2", "longer than 67,108,864 bytes.")]
    assert len(list(read([path]))) == 3


def test_a_document_that_breaks_off_gives_what_comes_before(tmp_path):
    path = document(tmp_path / "a.json", [EPISODE, log(TALK, pk="E2"), log(TALK, pk="E3")])
    path.write_text(path.read_text()[:-200])
    (failure,) = failures(path)
    assert len(list(read([path]))) == 3
    broken = "not JSON: Expecting property name enclosed in double quotes at character 2297"
    assert (failure.source, failure.reason) == ("a.json[2]", f"{broken}, and nothing can be read from here on.")


def test_a_record_nested_too_deeply_in_a_document_is_rejected_alone(tmp_path):
    deep = "[" * 3000 + "]" * 3000
    text = f'[{json.dumps(EPISODE)}, {{"messages": {deep}}}, {json.dumps(log(TALK, pk="E2"))}]'
    (tmp_path / "a.json").write_text(text)
    assert [f.reason for f in failures(tmp_path / "a.json")] == ["nested too deeply."]
    assert len(list(read([tmp_path / "a.json"]))) == 3


def test_half_a_surrogate_pair_is_rejected_and_a_whole_one_is_a_character(tmp_path):
    path = lines(
        tmp_path / "a.jsonl", log([{ANN: 'said: "🙂"'}]), json.dumps(log([{ANN: 'said: "X"'}])).replace("X", "\\ud83d")
    )
    assert [f.reason for f in failures(path)] == ["its text holds half of a surrogate pair, which is not Unicode."]
    assert next(read([path])).turns[0].text == "🙂"


def test_a_bad_row_of_a_table_costs_one_row(tmp_path):
    path = table(tmp_path / "a.csv", export(TALK), export(TALK, episode_id="E2", raw_messages="[(' "))
    with path.open("a") as file:
        file.write("just,three,cells\n")
    found = failures(path)
    assert [f.reason for f in found] == [
        "`raw_messages` is neither JSON nor a Python list, tuple or dictionary.",
        "it has 3 cells where the header has 15.",
    ]
    assert [f.source for f in found] == ["a.csv:4", "a.csv:6"]  # a cell of the first row holds a line break


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "(" * 65 + ")" * 65,
        "-" * 100_000 + "1",
        "1" + "-1" * 50_000,
        "1" + " - 1" * 50_000,
        "__import__('os').system('true')",
        "[x for x in (1,)]",
        "{**{}}",
        "f'{1}'",
        "b'x'",
        "9" * 5000,
        "[1, 2",
        "('a' 'b')",
        "{[]: 1}",
        "lambda: 1",
        "1 if 1 else 2",
        "'\\ud83d'",
    ],
)
def test_text_that_is_no_literal_is_refused_before_a_parser_sees_it(text):
    with pytest.raises(InputError):
        nested(text, "it")


@pytest.mark.parametrize(
    "value", [[("a", 1, -2.5e-7, None, True)], {"it's": 'say "x"', "n": []}, (), "é\n\\n\x00", 3, [[("\u2028", "🙂")]]]
)
def test_a_python_literal_comes_back_as_it_was(value):
    assert nested(repr(value), "it") == (value if not isinstance(value, str) else nested(repr(value), "it"))


def test_a_folder_passes_over_what_holds_no_format_and_reads_what_is_damaged(tmp_path):
    (tmp_path / "in").mkdir()
    document(tmp_path / "in" / "b.json", EPISODE)
    document(tmp_path / "in" / "manifest.json", [{"episode": "E1"}])
    lines(tmp_path / "in" / "served.jsonl", {"prompt": "x", "completion": "y"})
    (tmp_path / "in" / "c.json").write_text('{"pk": ')
    (tmp_path / "in" / "d.json").write_text("")
    (tmp_path / "in" / "notes.txt").write_text("hello")
    assert plan([tmp_path / "in"]).skipped == ("manifest.json", "notes.txt", "served.jsonl")
    broken = "not JSON: Expecting value at character 8, and nothing can be read from here on."
    assert [(f.source, f.reason) for f in failures(tmp_path / "in")] == [
        ("c.json:1", broken),
        ("d.json:1", "it is empty."),
    ]
    assert len(list(read([tmp_path / "in"]))) == 3


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", "hello\nworld\n", "cannot be imported: not JSON: Expecting value at character 1."),
        ("a.json", "hello", "cannot be imported: not JSON: Expecting value at character 1"),
        ("a.json", "{}", "cannot be imported: its records are of none of the formats."),
        (
            "a.jsonl",
            '{"prompt": 1}\n',
            "cannot be imported: its records are of none of the formats; it comes nearest to completion, for which it "
            "lacks `completion`.",
        ),
        ("a.csv", "a,b\n1,2\n", "cannot be imported: its records are of none of the formats; they have a, b."),
        ("a.json", "", "cannot be imported: it is empty."),
        (
            "a.rdb",
            "REDIS0011\x00",
            "cannot be imported: it is neither JSON, nor a table with the columns of one of the",
        ),
        ("a.csv", "conversation,speaker,text\n", "cannot be imported: it has no records."),
        ("a.csv", "text,speaker,text\n1,2,3\n", "cannot be imported: its header names the column 'text' twice; give"),
        ("a.pdf", "%PDF-1.7", "cannot be imported: it is a PDF: save what is in it as JSON Lines, CSV or Parquet."),
        (
            "a.xlsx",
            "PK\x03\x04",
            "cannot be imported: it is a ZIP archive (as .xlsx and .docx are): save what is in it",
        ),
        (
            "a.json",
            '[{"id": 1, "items": [{"role": "user", "content": "a"}]}]',
            "cannot be imported: its records are of",
        ),
    ],
)
def test_a_file_that_holds_nothing_to_import_is_an_error_before_anything_is_read(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        read([tmp_path / name])
    assert f"{name} {sentence}" in error.value.message
    assert "import --help" in error.value.hint


def test_what_columns_cannot_mend_is_not_answered_with_a_map(tmp_path):
    for name, content in (
        ("a.jsonl", b""),
        ("a.jsonl", b"\x93\xff\x00\n"),
        ("a.dat", b"\x93\xff\nabc\n"),
        ("a.csv", b"conversation,speaker,text,Stra\xdfe\ne1,alice,hello,x\n"),
        ("a.json", b'{"conversation": "a", "spea'),
        ("a.parquet", b"PAR1xxxxxxxx"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as error:
            read([tmp_path / name])
        assert (
            error.value.hint
            == "check that the file is whole and its text UTF-8; sotopia-rl-data import --help has the formats"
        )


def test_a_pipe_that_is_written_as_a_dataset_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd").mkdir()
    os.mkfifo("odd/pipe.jsonl")
    with pytest.raises(UsageError, match="a file with this name exists"):
        parse("odd/pipe.jsonl")


def test_an_empty_folder_is_not_answered_with_a_map(tmp_path):
    with pytest.raises(InputError) as error:
        read([tmp_path])
    assert error.value.hint == "put files in it, or name another folder"


def test_a_pipe_and_a_device_are_not_called_empty(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InputError) as error:
            read([path])
        assert error.value.message == f"{path} cannot be imported: it is not a regular file."


def test_a_missing_path_no_path_and_an_empty_folder_are_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    for paths, sentence in (
        ([tmp_path / "nowhere.json"], "There is no "),
        ([], "There is no path to import from."),
        ([tmp_path / "empty"], "has no file in a format that can be imported."),
    ):
        with pytest.raises(InputError) as error:
            read(paths)
        assert sentence in error.value.message


def test_progress_counts_bytes_up_to_the_whole(tmp_path):
    seen = []
    path = lines(tmp_path / "a.jsonl", *[log(TALK, pk=f"E{i}") for i in range(300)])
    assert len(list(read([path], on_progress=lambda done, total: seen.append((done, total))))) == 300
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_a_new_format_is_one_file_and_one_line_in_the_table(tmp_path, monkeypatch):
    def read_poem(record, _):
        if not isinstance(record.value["verses"], list):
            raise InputError("`verses` is not a list.")
        prompt = ({"role": "user", "content": record.value["title"]},)
        return [TrainingRow(prompt, verse, None, "a poem") for verse in record.value["verses"]]

    poem = Format("poem", keys=(frozenset({"verses"}), frozenset({"title"})), reader=one_by_one(read_poem))
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, poem))
    rain = {"title": "Rain", "verses": ["It rains.", "It pours."]}
    path = lines(tmp_path / "a.jsonl", rain, {"title": "Snow", "verses": 1})
    assert plan([path]).formats == {poem}
    first, second, failure = read([path])
    assert (first.completion, second.completion) == ("It rains.", "It pours.")
    assert (failure.reason, failure.source) == ("`verses` is not a list.", "a.jsonl:2")
