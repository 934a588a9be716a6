"""What a person is told of a run: rejected records, cut prompts, a model that changed, reasons from behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.batches import PROVIDERS, QUICK, judge
from fixtures.flat_calls import label
from fixtures.labelling import boats, put

from sotopia_rl_data.cards.dataset import dataset_card
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.samples import path
from sotopia_rl_data.store import Store, readme


def test_label_tells_of_rejected_records_as_import_does(tmp_path: Path):
    good = path().read_text("utf-8").splitlines()[0]
    file = tmp_path / "three.jsonl"
    file.write_text(good + "\n{}\nnonsense\n")
    command = ["label", str(file), "--judge", "lexical", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 3
    assert "three.jsonl:2 was not imported" in done.stderr
    assert "three.jsonl:3 was not imported" in done.stderr
    again = CliRunner().invoke(cli, [*command, "--json"])
    assert json.loads(again.stdout)["rejected"] == 2
    whole = tmp_path / "whole.jsonl"
    whole.write_text(good + "\n")
    assert CliRunner().invoke(cli, ["label", str(whole), *command[2:]]).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("habit", ["prompt_cut_in_silence", "context_of_100_tokens"])
@pytest.mark.parametrize("batching", [None, QUICK])
def test_a_prompt_that_was_cut_is_a_warning(provider: str, habit: str, batching: object, tmp_path: Path):
    store = Store(tmp_path)
    put(store, boats(6))
    with running(habit=habit) as at:
        done = label(store, "lab/episodes", judges=[judge(provider, at)], preset="goal-only", batching=batching)
    (told,) = [warning for warning in done.warnings if "far fewer tokens" in warning]
    assert told.startswith("12 prompts to sim ")


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_prompts_that_are_read_whole_are_no_warning(provider: str, tmp_path: Path):
    store = Store(tmp_path)
    put(store, boats(6))
    with running() as at:
        done = label(store, "lab/episodes", judges=[judge(provider, at)], preset="goal-only")
    assert done.warnings == []


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_that_changes_during_the_run_is_a_warning_and_stands_on_the_card(provider: str, tmp_path: Path):
    store = Store(tmp_path)
    put(store, boats(20))
    with running(habit="another_snapshot") as at:
        done = label(store, "lab/episodes", judges=[judge(provider, at)], preset="goal-only")
    (told,) = [warning for warning in done.warnings if "changed in the midst" in warning]
    assert told.startswith("sim changed in the midst of the run: its answers came from sim-2026-01-01 (")

    card = readme.merge(dataset_card(done.committed.version), "")
    assert "sim-2026-02-02 (" in card
    assert "More than one model answered for the judge" in card


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("habit", "reason"),
    [
        ("upstream_in_raw", "Provider returned an error: The context of 512 tokens is too short for this."),
        ("upstream_in_causes", "Bad gateway answer: the worker wants fp8 weights"),
    ],
)
def test_the_reason_of_the_server_behind_a_router_is_told(provider: str, habit: str, reason: str, tmp_path: Path):
    store = Store(tmp_path)
    put(store, boats(4))
    with running(habit=habit) as at:
        done = label(store, "lab/episodes", judges=[judge(provider, at)], preset="goal-only")
    assert all(reason in told for told in done.failures), done.failures
