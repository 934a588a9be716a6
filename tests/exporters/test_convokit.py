"""A ConvoKit corpus of our episodes: what was one comes back as it was, and rewards and scores are its meta."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from fixtures.formats import CORPUS_ROWS, SAID, corpus
from fixtures.records import PLAIN, lines

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.exporters.convokit import export_convokit
from sotopia_rl_data.importers import read
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store


def test_a_corpus_comes_back_with_its_ids_texts_replies_and_meta(tmp_path):
    store = Store(tmp_path / "store")
    version = import_dataset(store, [corpus(tmp_path / "boats")], "o/boats").version
    report = export_convokit(version, tmp_path / "out")
    assert (report.conversations, report.utterances, report.speakers) == (1, 4, 2)
    written = [json.loads(line) for line in (tmp_path / "out" / "utterances.jsonl").read_text().splitlines()]
    own = ("id", "conversation_id", "speaker", "text", "reply-to", "timestamp")
    assert [[row[key] for key in own] for row in written] == [[row[key] for key in own] for row in CORPUS_ROWS]
    assert written[2]["meta"] == {"offer": 2, "turn": 2, "action_type": "speak"}
    files = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert set(files) == {"speakers.json", "conversations.json", "corpus.json", "index.json"}
    assert files["speakers.json"] == {"Mia": {"meta": {"age": 34}, "vectors": []}, "Bo": {"meta": {}, "vectors": []}}
    assert files["conversations.json"]["c0"]["meta"]["outcomes"] == {"Mia": {"points": 20}, "Bo": {"points": 15}}
    assert files["index.json"]["utterances-index"]["offer"] == ["<class 'int'>"]
    (again,) = read([tmp_path / "out"])
    assert isinstance(again, Episode)
    assert [(turn.agent, turn.text) for turn in again.turns] == SAID


@pytest.mark.parametrize("times", [[300, None, 100, 200], [5, 4, 3, 2]], ids=["some missing", "not in order"])
def test_the_order_of_the_utterances_stays_whatever_their_times_say(tmp_path, times):
    rows = [
        {"episode_id": "E", "turn": i, "speaker": "AB"[i % 2], "text": str(i), "timestamp": time}
        for i, time in enumerate(times)
    ]
    version = import_dataset(Store(tmp_path / "store"), [lines(tmp_path / "a.jsonl", *rows)], "o/n").version
    export_convokit(version, tmp_path / "out")
    written = [json.loads(line) for line in (tmp_path / "out" / "utterances.jsonl").read_text().splitlines()]
    assert [row["timestamp"] for row in written] == [0, 1, 2, 3]
    assert [row["meta"].get("timestamp") for row in written] == times
    (again,) = read([tmp_path / "out"])
    assert isinstance(again, Episode)
    assert [turn.text for turn in again.turns] == ["0", "1", "2", "3"]


def test_rewards_and_scores_are_meta(tmp_path):
    store = Store(tmp_path / "store")
    records = [PLAIN | {"episode_id": f"P{i}", "environment_id": f"shop {i}"} for i in range(12)]
    import_dataset(store, [lines(tmp_path / "a.jsonl", *records)], "o/n")
    at = ["--store", str(store.root)]
    label = ["label", "o/n", "--judge", "lexical", "--weights", "goal=1"]
    assert CliRunner().invoke(cli, [*label, *at]).exit_code == 3  # one of the two agents has no score
    done = CliRunner().invoke(cli, ["export", "o/n-rewards", "--to", "convokit", "-o", str(tmp_path / "out"), *at])
    assert done.exit_code == 0, done.output
    written = [json.loads(line) for line in (tmp_path / "out" / "utterances.jsonl").read_text().splitlines()]
    rewards = open_dataset("o/n-rewards", store.root).sql("SELECT episode_id, agent, turn, reward FROM rewards")
    assert {(r["conversation_id"], r["speaker"], r["meta"]["turn"]): r["meta"]["reward"] for r in written} == {
        (row["episode_id"], row["agent"], row["turn"]): row["reward"] for row in rewards.to_pylist()
    }
    conversations = json.loads((tmp_path / "out" / "conversations.json").read_text())
    assert conversations["P3"]["meta"]["scores"] == [
        {"agent": "a", "dimension": "goal", "score": 7.0, "evaluator": "unknown"}
    ]


def test_a_folder_that_is_not_empty_and_an_evaluator_are_refused(tmp_path):
    version = import_dataset(Store(tmp_path / "store"), [lines(tmp_path / "a.jsonl", PLAIN)], "o/n").version
    with pytest.raises(UsageError, match="exists and is not an empty folder"):
        export_convokit(version, tmp_path)
    command = ["export", "o/n", "--to", "convokit", "--evaluator", "x", "-o", str(tmp_path / "out")]
    with pytest.raises(UsageError, match="--evaluator has no meaning for --to convokit"):
        CliRunner().invoke(cli, [*command, "--store", str(tmp_path / "store")], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
