"""Everybody's formats: what a chat, a table, a corpus, a simulation or a row of TRL becomes, however it is packed."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.formats import (
    CHAT,
    COMPLETION,
    CORPUS_ROWS,
    PREFERENCE,
    ROWS,
    SAID,
    SHAREGPT,
    SIMULATION,
    corpus,
    csv_text,
)
from fixtures.records import PLAIN, document, failures, lines, only

from sotopia_rl_data import open_dataset
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers import TrainingRow, plan, read
from sotopia_rl_data.importers.files import Source
from sotopia_rl_data.importers.formats import format_named
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.options import ImportOptions, parse_columns
from sotopia_rl_data.schema import Episode, Failure, Turn, environment_of
from sotopia_rl_data.store import Store


def said(episode: Episode) -> list[tuple[str, str]]:
    return [(turn.agent, turn.text) for turn in episode.turns]


# Chats


def test_a_chat_has_its_names_and_the_assistant_alone_reads_the_instructions(tmp_path):
    episode = only(lines(tmp_path / "a.jsonl", CHAT))
    assert said(episode) == [(who.replace("Bo", "assistant"), text) for who, text in SAID]
    assert [(a.agent, a.background) for a in episode.agents] == [("Mia", ""), ("assistant", "Sell the boat.")]
    assert episode.environment_id == environment_of("Sell the boat.")
    assert (episode.scenario, episode.source) == ("", "chat")
    assert (episode.meta, episode.turns[3].meta) == ('{"metadata": {"csat": 2}}', '{"weight": 0}')
    again = only(document(tmp_path / "b.json", {"data": [CHAT], "version": 1}))
    assert again == episode  # its id is a hash of its content


def test_a_sharegpt_conversation_is_its_own_environment_and_its_system_text_a_background(tmp_path):
    episode = only(document(tmp_path / "a.json", [SHAREGPT]))
    assert said(episode) == [(("human", "gpt")[i % 2], text) for i, (_, text) in enumerate(SAID)]
    assert (episode.episode_id, episode.environment_id) == ("boat-1", "boat-1")
    with_system = only(document(tmp_path / "b.json", [SHAREGPT | {"system": "Sell."}]))
    assert [a.background for a in with_system.agents] == ["", "Sell."]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"messages": None}, "`messages` is null, not a list of messages."),
        ({"messages": "hello"}, "`messages` is neither JSON nor a Python list, tuple or dictionary."),
        ({"messages": []}, "nobody says anything in it."),
        ({"messages": ["hello"]}, "messages[0] is text, not an object."),
        ({"messages": [{"content": "x"}]}, "messages[0] does not say who speaks: it has none of role, from, speaker"),
        ({"messages": [{"role": "user"}]}, "messages[0] has no text: it has none of content, value, text"),
        ({"messages": [{"role": "user", "content": [{"image": 1}]}]}, "messages[0] holds something other than text."),
    ],
)
def test_a_chat_that_is_wrong_is_rejected_with_its_reason(tmp_path, change, reason):
    (failure,) = failures(lines(tmp_path / "a.jsonl", CHAT, CHAT | change))
    assert failure.reason.startswith(reason)
    assert failure.source == "a.jsonl:2"


def test_a_simulation_is_an_episode_of_its_task_with_calls_of_tools_as_actions(tmp_path):
    whole = {"info": {"seed": 1}, "tasks": [{"id": "7", "description": "x"}], "simulations": [SIMULATION]}
    episode = only(document(tmp_path / "a.json", whole))
    assert (episode.episode_id, episode.environment_id) == ("sim-1", "task-7")
    assert [(t.agent, t.action_type, t.text) for t in episode.turns][2:4] == [
        ("assistant", "action", 'cancel({"order": 4})'),
        ("tool", "speak", "done"),
    ]
    assert json.loads(episode.meta)["reward_info"] == {"reward": 1.0}
    old = {"task_id": 3, "reward": 0.0, "info": {}, "traj": SIMULATION["messages"], "trial": 1}
    assert only(document(tmp_path / "b.json", [old])).environment_id == "task-3"


# One utterance a row


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "semicolons.csv", "a.jsonl", "a.parquet", "a.json"])
def test_a_table_of_utterances_is_the_same_episode_in_every_file(tmp_path, name):
    path = tmp_path / name
    match name:
        case "a.parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case "a.jsonl":
            lines(path, *ROWS)
        case "a.json":
            document(path, ROWS)
        case _:
            path.write_text(csv_text(ROWS, {"a.csv": ",", "a.tsv": "\t"}.get(name, ";")), encoding="utf-8")
    episode = only(path)
    assert said(episode) == SAID
    assert (episode.episode_id, episode.source) == ("boat-1", "utterances")
    csat = json.loads(episode.meta)["csat"]
    assert csat == ("2" if path.suffix in (".csv", ".tsv") else 2)  # a CSV has text alone
    assert episode.turns[1].meta == '{"mood": "m1"}'


def test_rows_in_any_order_are_put_in_the_order_of_their_turns_or_times(tmp_path):
    two = [row | {"conversation": "boat-2"} for row in ROWS]
    mixed = [row for pair in zip(ROWS, two, strict=True) for row in pair][::-1]
    episodes = list(read([lines(tmp_path / "a.jsonl", *mixed)]))
    assert sorted(e.episode_id for e in episodes) == ["boat-1", "boat-2"]
    assert all(said(episode) == SAID for episode in episodes)
    timed = [{k: v for k, v in row.items() if k != "turn"} | {"time": row["turn"] * 1.5} for row in ROWS]
    assert said(only(lines(tmp_path / "b.jsonl", *timed[::-1]))) == SAID


def test_a_row_that_is_wrong_costs_one_row_of_its_conversation(tmp_path):
    rows = [ROWS[0], ROWS[1] | {"turn": "one"}, ROWS[2] | {"text": None}, ROWS[3]]
    first, second, episode = read([lines(tmp_path / "a.jsonl", *rows)])
    assert (first.source, first.reason) == ("a.jsonl:2", "`turn` is 'one', not a whole number from 0.")
    assert (second.source, second.reason) == ("a.jsonl:3", "`text` is empty or missing.")
    assert [turn.turn for turn in episode.turns] == [0, 3]


def test_columns_of_any_name_are_told_by_a_map_or_by_their_spelling(tmp_path):
    renamed = {"conversation": "Call ID", "speaker": "Who", "text": "Said", "turn": "No"}
    rows = [{renamed.get(key, key): value for key, value in row.items()} for row in ROWS]
    path = tmp_path / "a.csv"
    path.write_text(csv_text(rows), encoding="utf-8")
    with pytest.raises(InputError) as error:
        plan([path])
    assert "it comes" in error.value.message or "they have Call ID, No, Who, Said" in error.value.message
    assert "--map" in error.value.hint
    with pytest.raises(
        InputError, match="they have Call ID, No, Who, Said, csat, mood, but not Caller, which --map names"
    ):
        plan([path], {"Caller": "speaker"})
    told = parse_columns("Call ID=conversation,Who=speaker,Said=text,No=turn")
    store = Store(tmp_path / "store")
    report = import_dataset(store, [path], "o/n", options=ImportOptions(columns=told))
    assert (report.episodes, report.utterances, report.failures) == (1, 4, 0)
    with pytest.raises(InputError, match="No record has anything in the column 'Where'"):
        import_dataset(store, [path], "o/m", options=ImportOptions(columns=told | {"Where": "scenario"}))
    assert store.names() == ["o/n"]
    spelled = [{"Conversation-ID": r["conversation"], "Speaker": r["speaker"], "Text": r["text"]} for r in ROWS]
    path.write_text(csv_text(spelled), encoding="utf-8")
    assert said(only(path)) == SAID


def test_the_first_line_is_named_where_only_a_map_makes_it_the_names_of_columns(tmp_path):
    path = tmp_path / "calls.csv"
    path.write_text("e1,0,alice,hello\ne1,1,bob,hi\n")
    told = {"e1": "conversation", "alice": "speaker", "hello": "text"}
    report = import_dataset(Store(tmp_path / "store"), [path], "o/n", options=ImportOptions(columns=told))
    assert report.warnings[0] == (
        "calls.csv: the first line is taken for the names of the columns: e1, 0, alice, hello"
    )
    path.write_text("episode,turn,speaker,text,note\ne1,0,alice,hello,x\n")  # is of a format without the map
    assert plan([path], {"note": "scenario"}).warnings == []
    assert only(path).episode_id == "e1"


@pytest.mark.parametrize("text", ["", "a", "a=", "=text", "a=text,b=text", "a=nothing"])
def test_a_map_that_is_wrong_says_how_one_is_written(text):
    with pytest.raises(UsageError) as error:
        parse_columns(text)
    assert "--map COLUMN=conversation" in error.value.hint


# ConvoKit


def test_a_corpus_has_the_meta_of_its_conversations_speakers_and_utterances(tmp_path):
    folder = corpus(tmp_path / "boats")
    assert plan([folder]).skipped == ()
    episode = only(folder)
    assert said(episode) == SAID
    assert (episode.tag, episode.source) == ("boats", "convokit")
    assert json.loads(episode.meta)["outcomes"]["Mia"] == {"points": 20}
    assert [a.meta for a in episode.agents] == ['{"age": 34}', None]
    assert json.loads(episode.turns[2].meta) == {"offer": 2, "id": "u2", "reply-to": "u1", "timestamp": 2}
    alone = lines(tmp_path / "b.jsonl", *CORPUS_ROWS)
    assert (only(alone).meta, said(only(alone))) == (None, SAID)


def test_a_damaged_companion_is_listed_and_the_corpus_is_still_read(tmp_path):
    folder = corpus(tmp_path / "boats")
    (folder / "conversations.json").write_text('{"c0": {"meta": ')
    failure, episode = read([folder])
    assert failure.source == "conversations.json[c0]"
    assert (episode.meta, said(episode)) == (None, SAID)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (
            b"PK\x03\x04",
            "it is a ZIP archive (as .xlsx and .docx are): save what is in it as JSON Lines, CSV or Parquet.",
        ),
        (bz2.compress(b'{"Mia": {"meta": {"age": 34}}}')[:-8], "its bzip2 packing is damaged from here on."),
    ],
)
def test_a_companion_of_which_nothing_can_be_read_is_listed_by_its_name(tmp_path, packed, reason):
    folder = corpus(tmp_path / "boats")
    (folder / "speakers.json").write_bytes(packed)
    failure, episode = read([folder])
    assert (failure.source, failure.reason) == ("speakers.json:1", reason)
    assert (said(episode), {agent.meta for agent in episode.agents}) == (SAID, {None})


def test_pipes_and_endless_files_in_the_place_of_companions_are_not_opened(tmp_path):
    folder = corpus(tmp_path / "boats")
    for name, stand_in in (("corpus", os.mkfifo), ("speakers", os.mkfifo), ("conversations", _endless)):
        (folder / f"{name}.json").unlink()
        stand_in(folder / f"{name}.json")
    episode = only(folder)
    assert (episode.tag, episode.meta, said(episode)) == ("", None, SAID)


def test_companions_that_are_links_out_of_the_corpus_are_not_read(tmp_path):
    folder = corpus(tmp_path / "boats")
    for name in ("corpus", "speakers", "conversations"):
        (folder / f"{name}.json").rename(tmp_path / f"{name}.json")
        (folder / f"{name}.json").symlink_to(tmp_path / f"{name}.json")
    episode = only(folder)
    assert (episode.tag, episode.meta, {agent.meta for agent in episode.agents}) == ("", None, {None})


def _endless(path):
    path.symlink_to("/dev/zero")


# Examples


def test_a_completion_has_its_reward_whatever_holds_it(tmp_path):
    as_messages = {
        "prompt": [{"role": "user", "content": COMPLETION["prompt"]}],
        "completion": [{"role": "assistant", "content": "600?"}],
        "reward": 0.25,
    }
    expected = TrainingRow(({"role": "user", "content": COMPLETION["prompt"]},), "600?", 0.25, "a boat")
    unlabelled = COMPLETION | {"reward": None}
    assert list(read([lines(tmp_path / "a.jsonl", COMPLETION, as_messages)])) == [expected, expected]
    assert [row.reward for row in read([lines(tmp_path / "b.jsonl", unlabelled, unlabelled | {"label": True})])] == [
        None,
        1,
    ]
    in_cells = {key: json.dumps(value) if isinstance(value, list) else value for key, value in as_messages.items()}
    (tmp_path / "c.csv").write_text(csv_text([in_cells, COMPLETION]), encoding="utf-8")
    assert list(read([tmp_path / "c.csv"])) == [expected, expected]


@pytest.mark.parametrize(("reward", "trainer"), [(None, "sft"), (0.25, "rm")])
def test_rows_without_rewards_are_for_behaviour_cloning(reward, trainer, tmp_path):
    from click.testing import CliRunner

    from sotopia_rl_data.cli.program import cli

    path = lines(tmp_path / "a.jsonl", COMPLETION | {"reward": reward})
    shown = CliRunner().invoke(cli, ["import", str(path), "--name", "o/rows", "--store", str(tmp_path / "store")])
    assert re.findall(r"sotopia-rl-data train (\w+)", shown.stderr) == [trainer]


def test_a_label_is_a_reward_in_every_spelling_and_another_word_is_listed(tmp_path):
    labels = ["True", "false", "1", "0", "perhaps"]
    path = tmp_path / "a.csv"
    path.write_text(csv_text([{"prompt": "p", "completion": "c", "label": label} for label in labels]))
    *rows, refused = read([path])
    assert [row.reward for row in rows] == [1.0, 0.0, 1.0, 0.0]
    assert refused.reason == "`label` is 'perhaps', not true or false."
    (row,) = read([lines(tmp_path / "b.jsonl", {"prompt": "p", "completion": "c", "label": 1})])
    assert row.reward == 1.0


def test_a_cell_that_begins_with_a_bracket_and_holds_no_messages_is_a_text(tmp_path):
    path = tmp_path / "a.csv"
    texts = ["[INST] Hi [/INST]", '[{"x": 1}] is what?', "[]", '[{"name": "f"}]']
    for cells in (texts, ["[{'role': 'user', 'content': 'Hi'}]", '[{"role": "assistant", "content": "Hi"}]']):
        path.write_text(csv_text([{"prompt": cell, "completion": "c"} for cell in cells]))
        assert [row.prompt[0]["content"] for row in read([path])] == (cells if cells is texts else ["Hi", "Hi"])
    path.write_text(csv_text([{"prompt": "p", "completion": cell} for cell in texts]))
    assert [row.completion for row in read([path])] == texts


def test_a_cell_of_messages_that_breaks_off_is_listed_and_not_a_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(csv_text([{"prompt": '[{"role": "user", "content": "Hi', "completion": "c"}]))
    assert [one.reason for one in failures(path)] == [
        "`prompt` is neither JSON nor a Python list, tuple or dictionary."
    ]


@pytest.mark.parametrize(
    "alone", ["Hi", {"content": "Hi"}, {"role": "gpt", "content": "Hi"}, {"role": "model", "content": "Hi"}]
)
def test_one_text_or_message_in_the_place_of_a_completion_is_the_assistants(tmp_path, alone):
    (row,) = read([lines(tmp_path / "a.jsonl", {"prompt": "p", "completion": [alone]})])
    assert row.completion == "Hi"
    (refused,) = failures(lines(tmp_path / "b.jsonl", {"prompt": "p", "completion": [alone, alone]}))
    assert refused.reason.endswith(("not an object.", "not system, user or assistant."))


def test_a_completion_that_calls_a_tool_is_listed_and_not_an_empty_text(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    (refused,) = failures(lines(tmp_path / "a.jsonl", {"prompt": "p", "completion": [call]}))
    assert refused.reason == "completion[0] calls a tool, which a row of text cannot hold."


def test_a_preference_is_two_examples_and_its_prompt_may_be_in_both_answers(tmp_path):
    chosen, rejected = read([lines(tmp_path / "a.jsonl", PREFERENCE)])
    assert [(row.completion, row.reward) for row in (chosen, rejected)] == [("600?", 1.0), ("Shut up.", 0.0)]
    whole = {key: PREFERENCE["prompt"] + PREFERENCE[key] for key in ("chosen", "rejected")}
    assert list(read([lines(tmp_path / "b.jsonl", whole)])) == [chosen, rejected]
    assert list(read([lines(tmp_path / "c.jsonl", whole | {"prompt": PREFERENCE["prompt"]})])) == [chosen, rejected]


def test_training_rows_of_a_csv_have_rewards_and_nan_is_none(tmp_path):
    text = "input,output,value\nScenario: a,o,0.5\nScenario: b,o,NaN\nScenario: c,o,\nScenario: d,o,much\n"
    (tmp_path / "a.csv").write_text(text)
    *rows, failure = read([tmp_path / "a.csv"])
    assert [row.reward for row in rows] == [0.5, None, None]
    assert failure.reason == "`value` is 'much', not a number."


def test_nan_and_huge_integers_cost_at_most_their_row_of_a_list(tmp_path):
    row = '{"input": "Scenario: a", "output": "o", "value": %s}'
    values = ["NaN", "0.5", "-Infinity", str(2**64), "1" * 5000, "1e999", "oh", '"a"', "0.75"]
    (tmp_path / "a.json").write_text("[" + ", ".join(row % value for value in values) + "]")
    items = list(read([tmp_path / "a.json"]))
    assert [item.reward for item in items if isinstance(item, TrainingRow)] == [None, 0.5, None, 2.0**64, 0.75]
    assert {item.source for item in items if isinstance(item, Failure)} == {f"a.json[{i}]" for i in (4, 5, 6, 7)}


# What `query` writes comes back


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "json"])
@pytest.mark.parametrize("config", ["episodes", "rewards"])
def test_what_a_query_writes_is_imported_again(tmp_path, config, ending):
    from sotopia_rl_data.results import write_result

    store = Store(tmp_path / "store")
    record = PLAIN | {"meta": {"csat": 3}} if config == "episodes" else COMPLETION
    first = import_dataset(store, [lines(tmp_path / "a.jsonl", record)], "o/n")
    path = tmp_path / f"b.{ending}"
    write_result(open_dataset("o/n", store).sql(f"SELECT * FROM {config}"), ending, path)
    again = import_dataset(store, [path], "o/m")
    assert (again.failures, again.version.digest) == (0, first.version.digest)


# Packings, encodings, folders


@pytest.mark.parametrize("packing", ["gzip", "zstd", "utf-16", "utf-16-le", "utf-8-sig"])
def test_a_packed_or_recoded_file_is_the_same(tmp_path, packing):
    text = csv_text(ROWS)
    if packing.startswith("utf"):
        path = tmp_path / "a.csv"
        path.write_bytes(text.encode(packing))
    else:
        path = tmp_path / ("a.csv.gz" if packing == "gzip" else "a.csv.zst")
        data = gzip.compress(text.encode()) if packing == "gzip" else pa.compress(text.encode(), "zstd", asbytes=True)
        path.write_bytes(data)
    (tmp_path / "b.csv").write_text(text)
    assert only(path) == only(tmp_path / "b.csv")


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_packing_that_breaks_off_gives_what_comes_before_and_a_failure(tmp_path, packing):
    import random

    rng = random.Random(3)
    rows = [SHAREGPT | {"id": i, "noise": rng.randbytes(200).hex()} for i in range(3000)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    data = gzip.compress(text) if packing == "gzip" else pa.compress(text, "zstd", asbytes=True)
    path = tmp_path / ("a.jsonl.gz" if packing == "gzip" else "a.jsonl.zst")
    path.write_bytes(data[: len(data) * 2 // 3])
    *episodes, failure = read([path])
    assert 100 < len(episodes) < 3000
    assert "packing is damaged from here on" in failure.reason or "not JSON" in failure.reason


def test_bytes_that_are_no_text_are_not_taken_for_utf_16(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(InputError) as error:
        plan([tmp_path / "a.jsonl"])
    assert "not UTF-8 text" in error.value.message or "not JSON" in error.value.message


def test_a_folder_of_save_to_disk_is_its_data_alone(tmp_path):
    data = datasets.DatasetDict({"train": datasets.Dataset.from_list([COMPLETION] * 3)})
    data.save_to_disk(tmp_path / "saved")
    assert [row.reward for row in read([tmp_path / "saved"])] == [0.25] * 3
    assert plan([tmp_path / "saved"]).skipped == (
        "dataset_dict.json",
        "train/dataset_info.json",
        "train/state.json",
    )
    chats = datasets.Dataset.from_list([SHAREGPT, SHAREGPT | {"id": "boat-2"}])
    chats.save_to_disk(tmp_path / "chats")
    assert [episode.episode_id for episode in read([tmp_path / "chats"])] == ["boat-1", "boat-2"]


def test_arrow_files_are_read_and_a_damaged_parquet_file_is_refused(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert said(only(tmp_path / "a.arrow")) == SAID
    pq.write_table(table, tmp_path / "b.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-30])
    with pytest.raises(InputError) as error:
        plan([tmp_path / "b.parquet"])
    assert "it cannot be read from row 0 on" in error.value.message


def test_a_parquet_nan_is_missing_and_a_time_is_text(tmp_path):
    import datetime

    rows = [{**COMPLETION, "reward": float("nan")}, COMPLETION]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [row.reward for row in read([tmp_path / "a.parquet"])] == [None, 0.25]
    when = datetime.datetime(2026, 1, 2, 3)
    pq.write_table(pa.Table.from_pylist([row | {"at": when} for row in ROWS]), tmp_path / "b.parquet")
    assert json.loads(only(tmp_path / "b.parquet").meta)["at"] == "2026-01-02T03:00:00"


@pytest.mark.parametrize(
    ("column", "read_as"),
    [
        (pa.array([timedelta(days=1, seconds=2)] * 4, pa.duration("s")), "1 day, 0:00:02"),
        (pa.array([{"took": timedelta(seconds=2)}] * 4), {"took": "0:00:02"}),
        (pa.array([[("of", date(2026, 1, 2))]] * 4, pa.map_(pa.string(), pa.date32())), [["of", "2026-01-02"]]),
        (pa.array([[("as", b"bytes")]] * 4, pa.map_(pa.string(), pa.binary())), [["as", "bytes"]]),
        (
            pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID(int=7).bytes] * 4, pa.binary(16))),
            "00000000-0000-0000-0000-000000000007",
        ),
    ],
    ids=["duration", "struct", "dates", "bytes", "uuid"],
)
def test_a_column_of_a_type_that_json_lacks_is_kept_as_text(tmp_path, column, read_as):
    pq.write_table(pa.Table.from_pylist(ROWS).append_column("more", column), tmp_path / "a.parquet")
    assert json.loads(only(tmp_path / "a.parquet").meta)["more"] == read_as


def test_a_folder_lists_every_file_that_it_passes_over(tmp_path):
    (tmp_path / "in").mkdir()
    lines(tmp_path / "in" / "a.jsonl", SHAREGPT)
    lines(tmp_path / "in" / "b.jsonl", COMPLETION)
    (tmp_path / "in" / "notes.md").write_text("hello")
    (tmp_path / "in" / "picture").write_bytes(b"\x89PNG")
    assert plan([tmp_path / "in"]).skipped == ("b.jsonl", "notes.md", "picture")
    assert [item.episode_id for item in read([tmp_path / "in"])] == ["boat-1"]


def test_a_format_that_is_named_is_not_detected_and_every_record_is_kept_or_listed(tmp_path):
    path = lines(tmp_path / "a.jsonl", ROWS[0], SHAREGPT)
    assert plan([path]).sources[0].kind == "utterances"
    named = plan([path], form=format_named("chat"))
    assert named.sources[0].kind == "chat"
    report = import_dataset(Store(tmp_path / "s"), [path], "o/n", options=ImportOptions(form="chat"))
    assert (report.episodes, report.failures) == (1, 1)
    with pytest.raises(UsageError, match="'chats' is not a format"):
        format_named("chats")


def test_the_lists_of_a_document_that_hold_no_records_are_not_records(tmp_path):
    value = {"tasks": [{"id": 1}, {"id": 2}], "train": [SHAREGPT], "test": [SHAREGPT | {"id": "boat-2"}]}
    items = list(read([document(tmp_path / "a.json", value)]))
    assert [item.episode_id for item in items] == ["boat-1", "boat-2"]


def test_a_record_nearly_of_a_format_names_it(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"conversation_id": "c", "speaker": "Mia", "said": "Hello"})
    with pytest.raises(InputError) as refused:
        plan([path])
    assert refused.value.message.endswith(
        "it comes nearest to utterances, for which it lacks `text` (or `body`, `content` …)."
    )
    assert refused.value.hint.startswith("say which column is what: --map COLUMN=text; ")
    told = ImportOptions(columns=parse_columns("said=text"))
    assert import_dataset(Store(tmp_path / "store"), [path], "o/n", options=told).utterances == 1


def test_meta_comes_into_columns_that_can_be_queried_and_without_any_there_are_no_such_columns(tmp_path):
    store = Store(tmp_path / "store")
    records = [PLAIN | {"episode_id": f"P{i}"} for i in range(300)]
    plain = import_dataset(store, [lines(tmp_path / "a.jsonl", *records)], "o/n")
    assert "meta" not in plain.version.manifest.columns["episodes"]
    records[250] |= {"meta": {"csat": 4}}
    report = import_dataset(store, [lines(tmp_path / "b.jsonl", *records)], "o/m")
    found = open_dataset("o/m", store).sql(
        "SELECT episode_id, (meta->>'csat')::INT AS csat FROM episodes WHERE meta IS NOT NULL"
    )
    assert (report.episodes, found.to_pylist()) == (300, [{"episode_id": "P250", "csat": 4}])
    episode = next(e for e in open_dataset("o/m", store).episodes() if e.meta)
    assert (episode.meta, episode.turns[0]) == ('{"csat": 4}', Turn(0, "a", "speak", "Hello."))


def test_a_source_that_has_no_size_is_not_opened(tmp_path):
    assert Source(Path("x"), "x", 0).usable is False


def test_a_dry_run_shows_the_first_episode_as_it_will_be_read_and_writes_nothing(tmp_path):
    from click.testing import CliRunner

    from sotopia_rl_data.cli.program import cli

    path = lines(tmp_path / "a.jsonl", SHAREGPT | {"conversations": 7}, SHAREGPT)
    command = ["import", str(path), "--dry-run", "--store", str(tmp_path / "store")]
    shown = CliRunner().invoke(cli, command)
    assert shown.exit_code == 0
    assert "chat" in shown.output
    assert SAID[1][1] in shown.output
    assert "a.jsonl:1: `conversations` is a number, not a list of messages." in shown.output
    told = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    assert (told["first"]["episode_id"], told["files"][0][1], len(told["rejected"])) == ("boat-1", "chat", 1)
    assert not (tmp_path / "store").exists()
