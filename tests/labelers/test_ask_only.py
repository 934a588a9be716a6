"""`--shard I/N --ask-only`, then `ledger merge`, then the same command whole: one digest, and no question twice."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.flat_calls import evaluate, label
from fixtures.labelling import BOAT, UNSCORED, Highest, Scorer, Sulking, boats, put, sim
from fixtures.places import ROOT

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.labelers.evaluation.evaluating import ask_evaluation
from sotopia_rl_data.labelers.labelling import ask_label, estimate_label
from sotopia_rl_data.labelers.plan import Elicitation, RewardSettings
from sotopia_rl_data.ledger.merge import merge
from sotopia_rl_data.shards import Shard
from sotopia_rl_data.store import Store

GOAL = RewardSettings(preset="goal-only")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.slow
@pytest.mark.parametrize(("count", "episodes"), [(3, 30), pytest.param(8, 800, marks=pytest.mark.long)])
def test_shards_in_processes_with_ledgers_of_their_own_make_the_version_of_one_process(
    count: int, episodes: int, store: Store, tmp_path: Path
):
    put(store, boats(episodes))
    ledgers = [tmp_path / f"shard-{number + 1}" for number in range(count)]
    with running() as provider:
        command = [
            sys.executable,
            "cli.py",
            "label",
            "lab/episodes",
            "--judge",
            sim(provider),
            "--preset",
            "goal-only",
            "--json",
        ]
        command += ["--store", str(store.root)]
        runs = [
            subprocess.Popen(
                [*command, "--shard", f"{number + 1}/{count}", "--ask-only", "--ledger", str(ledger)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, ledger in enumerate(ledgers)
        ]
        reports = [json.loads(run.communicate()[0]) for run in runs]
        assert [run.returncode for run in runs] == [0] * count
        assert store.names() == ["lab/episodes"]  # a shard makes no version
        assert sum(report["episodes"] for report in reports) == episodes
        assert sum(report["asked"] for report in reports) == provider.log()["distinct"] == 2 * episodes
        assert max(report["asked"] for report in reports) < 1.5 * 2 * episodes / count
        merged = merge(tmp_path / "whole", ledgers)
        assert (merged.added, merged.asked_twice) == (2 * episodes, 0)
        whole = label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only", ledger=tmp_path / "whole")
        assert (whole.asked, whole.hits) == (0, 2 * episodes)
        assert provider.log()["requests"] == 2 * episodes
        other = Store(tmp_path / "one-process")
        put(other, boats(episodes))
        assert label(other, "lab/episodes", judges=[sim(provider)], preset="goal-only").digest == whole.digest


def test_an_evaluation_in_shards_is_the_evaluation_of_one_process(store: Store, tmp_path: Path):
    put(store, boats(9))
    judge, asked = Scorer(), 0
    for number in (1, 2):
        options = AskOptions(ledger=tmp_path / f"shard-{number}")
        told = Elicitation(judges=[judge], dimensions=["goal"])
        asked += ask_evaluation(store, "lab/episodes", told, shard=Shard(number, 2), options=options).asked
    merge(store.root / ".ledger", [tmp_path / "shard-1", tmp_path / "shard-2"])
    whole = evaluate(store, "lab/episodes", judges=[judge], dimensions=["goal"])
    assert (asked, whole.asked, whole.hits, judge.calls) == (9, 0, 9, 9)


def test_equal_prompts_in_two_shards_are_asked_twice_and_said(store: Store, tmp_path: Path):
    """Claims hold between processes of one machine; nothing holds between ledgers."""
    put(store, [BOAT, *(replace(BOAT, episode_id=f"boat again {number}") for number in range(9))])
    judge, ledgers = Highest(), [tmp_path / "one", tmp_path / "two"]
    for number, ledger in enumerate(ledgers, 1):
        asked = Elicitation(judges=[judge])
        ask_label(store, "lab/episodes", asked, GOAL, shard=Shard(number, 2), options=AskOptions(ledger=ledger))
    assert judge.calls == 4  # one question about each of two agents, in each shard
    assert merge(tmp_path / "whole", ledgers).asked_twice == 2


def test_a_dry_run_of_a_shard_counts_its_own_calls(store: Store):
    put(store, boats(20))
    parts = [
        estimate_label(store, "lab/episodes", Elicitation(judges=[Highest()]), GOAL, shard=Shard(number, 4))
        for number in range(1, 5)
    ]
    calls = [line.calls for part in parts for line in part.lines]
    assert sum(calls) == 40
    assert max(calls) <= 12


def test_a_shard_of_a_file_writes_nothing_into_the_store(store: Store, tmp_path: Path):
    report = ask_label(store, None, Elicitation(judges=[Highest()]), shard=Shard(1, 2))
    assert report.asked > 0
    assert store.names() == []


def test_only_questions_without_a_usable_answer_are_failures_of_a_shard(store: Store):
    put(store, [*boats(2), UNSCORED])
    good, bad = (
        ask_label(store, "lab/episodes", Elicitation(judges=[judge], evaluator="gpt-4"), GOAL)
        for judge in (Highest(), Sulking("b"))
    )
    assert (good.calls, good.failures) == (4, {})
    assert sum(bad.failures.values()) == 4  # two utterances of one agent in each of two episodes


@pytest.mark.slow
def test_a_shard_without_ask_only_is_refused_with_what_to_add(store: Store):
    command = [sys.executable, "cli.py", "label", "lab/episodes", "--judge", "lexical", "--shard", "1/2"]
    done = subprocess.run([*command, "--store", str(store.root)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "add --ask-only" in done.stderr


def test_a_shard_says_what_makes_the_version(store: Store, tmp_path: Path):
    put(store, boats(4))
    command = ["label", "lab/episodes", "--judge", "lexical", "--preset", "goal-only", "--store", str(store.root)]
    shard = [*command, "--shard", "1/2", "--ask-only"]
    whole = "When all shards are done, the same command without --shard and --ask-only makes the version."
    own, other = (CliRunner().invoke(cli, words) for words in (shard, [*shard, "--ledger", str(tmp_path / "one")]))
    assert own.exit_code == other.exit_code == 0
    assert whole in own.stderr
    assert "ledger merge" not in own.stderr  # it is the ledger in which that command looks
    assert f"ledger merge {tmp_path / 'one'}" in other.stderr
    merge_it = ["ledger", "merge", str(tmp_path / "one"), "--store", str(store.root)]
    merged, again = (CliRunner().invoke(cli, merge_it).stderr for _ in range(2))
    assert "4 calls were added to" in merged
    assert "4 equal questions were asked in more than one ledger." in merged
    assert "0 calls were added to" in again
    assert "; 4 others were there already." in again
