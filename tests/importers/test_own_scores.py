"""Scores on dimensions of a source's own: declared, found, checked, stored with their range, weighed, labelled."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.formats import CHAT, ROWS, corpus, csv_text
from fixtures.records import PLAIN, lines

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers.importing import ImportReport, import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.importers.own_scores import DeclaredScore, parse_score
from sotopia_rl_data.schema import Score
from sotopia_rl_data.store import Store


def imported(tmp_path: Path, path: Path, *scores: str) -> ImportReport:
    options = ImportOptions(scores=tuple(map(parse_score, scores)))
    return import_dataset(Store(tmp_path / "store"), [path], "o/n", options=options)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Runs the program on a store of its own; returns what it printed and what it said, or raises its error."""

    def call(*arguments: str) -> tuple[str, str]:
        done = CliRunner().invoke(cli, [*arguments, "--store", str(tmp_path / "store")], catch_exceptions=False)
        assert done.exit_code in (0, 3), done.output  # 3: something has no label
        return done.stdout, done.stderr

    return call


def scores_of(tmp_path: Path) -> list[Score]:
    return [score for episode in open_dataset("o/n", tmp_path / "store").episodes() for score in episode.scores]


def test_a_dialogues_score_is_everybodys_or_one_agents(tmp_path):
    (tmp_path / "a.csv").write_text(csv_text(ROWS))
    assert imported(tmp_path, tmp_path / "a.csv", "csat=1..5").scored == ("csat",)
    assert scores_of(tmp_path) == [Score(who, "csat", 2.0, "unknown", 1.0, 5.0) for who in ("Mia", "Bo")]
    imported(tmp_path, tmp_path / "a.csv", "csat@Bo=1..5")
    assert scores_of(tmp_path) == [Score("Bo", "csat", 2.0, "unknown", 1.0, 5.0)]
    imported(tmp_path, lines(tmp_path / "b.jsonl", CHAT), "csat@assistant=1..5")
    assert scores_of(tmp_path) == [Score("assistant", "csat", 2.0, "unknown", 1.0, 5.0)]


def test_outcomes_by_agent_are_each_agents_own(tmp_path):
    imported(tmp_path, corpus(tmp_path / "boats"), "points=0..36", "age=0..120")
    assert {(s.agent, s.dimension, s.score) for s in scores_of(tmp_path)} == {
        ("Mia", "points", 20.0),
        ("Bo", "points", 15.0),
        ("Mia", "age", 34.0),
    }


def test_a_score_of_each_utterance_is_an_attribution_that_the_rule_quality_rewards(tmp_path):
    rows = [row | {"helpful": row["turn"]} for row in ROWS]
    imported(tmp_path, lines(tmp_path / "a.jsonl", *rows), "helpful=0..4")
    found = open_dataset("o/n", tmp_path / "store").sql("SELECT agent, turn, measure, raw, scale_max FROM attributions")
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        ("Bo", 1, "quality", 1.0, 4.0),
        ("Bo", 3, "quality", 3.0, 4.0),
        ("Mia", 0, "quality", 0.0, 4.0),
        ("Mia", 2, "quality", 2.0, 4.0),
    ]
    command = ["rewards", "o/n", "--rule", "quality", "--weights", "helpful=1", "--normaliser", "none"]
    assert CliRunner().invoke(cli, [*command, "--store", str(tmp_path / "store")]).exit_code == 0
    rewards = open_dataset("o/n", tmp_path / "store").sql("SELECT reward FROM rewards ORDER BY turn").column(0)
    assert rewards.to_pylist() == [0.0, 0.25, 0.5, 0.75]


def test_a_score_that_is_out_of_range_or_no_number_is_listed_and_left_out(tmp_path):
    chats = [CHAT | {"id": i, "metadata": {"csat": value}} for i, value in enumerate((9, "good", True, None, "4"))]
    report = imported(tmp_path, lines(tmp_path / "a.jsonl", *chats), "csat=1..5")
    assert [score.score for score in scores_of(tmp_path)] == [1.0, 1.0, 4.0, 4.0]
    assert sorted({failure.reason for failure in report.rejected}) == [
        "the csat score 9 lies outside 1 to 5, and was left out.",
        "the csat score is 'good', not a number, and was left out.",
    ]
    assert {failure.source for failure in report.rejected} == {"a.jsonl:1", "a.jsonl:2"}


def test_a_plain_record_may_be_scored_on_a_declared_dimension_or_declare_it_itself(tmp_path):
    charm = {"agent": "a", "dimension": "charm", "score": 3, "evaluator": "Eve"}
    path = lines(tmp_path / "a.jsonl", PLAIN | {"scores": [charm]})
    assert imported(tmp_path, path, "charm=0..4").failures == 0
    assert scores_of(tmp_path) == [Score("a", "charm", 3.0, "Eve", 0.0, 4.0)]
    path = lines(tmp_path / "a.jsonl", PLAIN | {"scores": [charm | {"low": 0, "high": 9}]})
    assert imported(tmp_path, path).failures == 0
    assert scores_of(tmp_path) == [Score("a", "charm", 3.0, "Eve", 0.0, 9.0)]


@pytest.mark.parametrize("text", ["csat", "csat=1", "csat=5..1", "CSAT!=1..5", "reward=0..1", "goal=0..5", "x=a..b"])
def test_a_declaration_that_is_wrong_is_refused_with_a_hint(text):
    with pytest.raises(UsageError) as error:
        parse_score(text)
    assert error.value.hint
    assert parse_score("goal=0..10") == DeclaredScore("goal", 0, 10)


def test_label_says_before_a_call_what_can_be_rewarded_and_which_weights_fit(run, tmp_path):
    scored = [PLAIN | {"episode_id": f"P{i}", "environment_id": f"shop {i}"} for i in range(6)]
    half = {"agent": "b", "dimension": "goal", "score": 2}
    scored[0] |= {"scores": [*PLAIN["scores"], half]}

    run("import", str(lines(tmp_path / "a.jsonl", *scored)), "--name", "lab/e")
    with pytest.raises(UsageError, match="No utterance would get a reward") as refused:
        run("label", "lab/e", "--judge", "lexical")
    assert refused.value.hint == "weigh what is scored: --weights goal=1"
    _, told = run("label", "lab/e", "--judge", "lexical", "--weights", "goal=1")
    assert "7 of 12 utterances will get a reward" in told
    assert "no score on goal (5)" in told
    printed, _ = run("label", "lab/e", "--judge", "lexical", "--weights", "goal=1", "--dry-run", "--json")
    assert json.loads(printed)["rewards"] == {
        "utterances": 12,
        "rewardable": 7,
        "lacking": {"goal": 5},
        "scored": {"goal": 7},
    }


@pytest.mark.slow
def test_a_csv_of_calls_with_csat_is_labelled_and_weighed(run, tmp_path):
    rows = [
        row | {"conversation": f"call-{i}", "csat": i % 5 + 1, "text": f"{row['text']} {i}"}
        for i in range(20)
        for row in ROWS
    ]
    (tmp_path / "a.csv").write_text(csv_text(rows))

    run("import", str(tmp_path / "a.csv"), "--name", "lab/calls", "--score", "csat=1..5", "--license", "mit")
    with pytest.raises(InputError, match="No episode has a score on relationship or knowledge or goal") as unscored:
        run("label", "lab/calls", "--judge", "lexical")
    assert unscored.value.hint == "weigh what is scored: --weights csat=1"
    with pytest.raises(UsageError, match="is not a SOTOPIA-EVAL dimension, and no episode has a score on it"):
        run("label", "lab/calls", "--judge", "lexical", "--weights", "csatt=1")
    _, told = run("label", "lab/calls", "--judge", "lexical", "--weights", "csat=1")
    assert "80 of 80 utterances will get a reward" in told
    made = open_dataset("lab/calls-rewards", tmp_path / "store")
    (row,) = made.sql("SELECT count(reward) AS rewarded, max(raw_csat) AS highest FROM rewards").to_pylist()
    assert row == {"rewarded": 80, "highest": 5.0}
    assert made.manifest.recipe["license"] == "mit"
    sheet = tmp_path / "sheet.csv"
    run("annotate", "template", "lab/calls", "-o", str(sheet), "--dimensions", "csat", "--questions", "2")
    filled = [row | {"raw": "2"} for row in csv.DictReader(sheet.open(newline=""))]
    sheet.write_text(csv_text(filled))
    people = ["--judge", f"human:{sheet}", "--only", str(sheet), "--out", "lab/people", "--weights", "csat=1"]
    run("label", "lab/calls", *people)
    labels = open_dataset("lab/people", tmp_path / "store").sql("SELECT dimension, raw FROM attributions").to_pylist()
    assert labels == [{"dimension": "csat", "raw": 2.0}] * len(filled)
    sheet.write_text(csv_text([row | {"dimension": "csatt"} for row in filled]))
    with pytest.raises(InputError, match="'csatt' is not one of the dimensions that are asked about") as unknown:
        run("label", "lab/calls", *people)
    assert "goal, csat" in unknown.value.hint


def test_an_evaluation_leaves_imported_scores_their_ranges(run, tmp_path):
    (tmp_path / "a.csv").write_text(csv_text(ROWS))
    imported(tmp_path, tmp_path / "a.csv", "csat=1..5")
    run("evaluate", "o/n", "--judge", "lexical")
    kept = [score for score in scores_of(tmp_path) if score.evaluator == "unknown"]
    assert kept == [Score(who, "csat", 2.0, "unknown", 1.0, 5.0) for who in ("Mia", "Bo")]
    run("label", "o/n", "--judge", "lexical", "--weights", "csat=1")  # an error, where a score has no range


def test_rewards_that_leave_nothing_rewarded_exit_with_3(tmp_path):
    one = {"agent": "a", "dimension": "knowledge", "score": 2}
    records = [PLAIN | {"scores": [PLAIN["scores"][0]], "turns": PLAIN["turns"][1:]}]
    records.append(PLAIN | {"episode_id": "P2", "scores": [one], "turns": PLAIN["turns"][1:]})
    imported(tmp_path, lines(tmp_path / "a.jsonl", *records))
    command = ["rewards", "o/n", "--preset", "uniform", "--weights", "goal=1", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 3
    assert "no utterance has a reward" in done.stderr


def test_an_import_without_scores_says_what_gives_some(tmp_path):
    path = lines(tmp_path / "a.jsonl", {key: value for key, value in CHAT.items() if key != "metadata"})
    done = CliRunner().invoke(cli, ["import", str(path), "--name", "lab/e", "--store", str(tmp_path / "store")])
    assert "no episode has a score" in done.output
    assert "evaluate lab/e" in done.output
    assert "--schema utterance-quality" in done.output
