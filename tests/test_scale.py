"""docs/scale.md: the recipes for SLURM and SkyPilot, word for word, under stand-ins of what they start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fixtures.flat_calls import label
from fixtures.labelling import BOAT, put, sim
from fixtures.places import ROOT

from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.importers import samples_path
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.schema import Episode, Turn
from sotopia_rl_data.store import Store


def recipe(section: str) -> list[str]:
    """The code blocks of a section."""
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found
    return re.findall(r"```\w*\n(.*?)```", found[1], re.DOTALL)


def programs(folder: Path, jobs: Path) -> str:
    """A PATH with `sbatch` and `sotopia-rl-data`."""
    folder.mkdir()
    jobs.mkdir()
    for name, command in (
        ("sbatch", f'"{sys.executable}" "{ROOT}/tests/fixtures/sbatch.py" "{jobs}"'),
        ("sotopia-rl-data", f'"{sys.executable}" "{ROOT}/cli.py"'),
    ):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def boat(number: int) -> Episode:
    turns = tuple(Turn(one.turn, one.agent, one.action_type, f"{one.text} ({number})") for one in BOAT.turns)
    return replace(BOAT, episode_id=f"boat {number}", turns=turns)


@pytest.mark.slow
def test_parts_that_are_imported_alone_and_then_together_are_one_import(tmp_path: Path):
    store, lines = Store(tmp_path / "store"), samples_path().read_text(encoding="utf-8").splitlines(keepends=True)
    for number, part in enumerate((lines[:12], lines[8:]), 1):  # four episodes are in both
        file = tmp_path / f"part-{number}.jsonl"
        file.write_text("".join(part), encoding="utf-8")
        import_dataset(store, [file], f"lab/part-{number}")
    joined = import_dataset(store, sorted(store.root.glob("lab/part-*/v1.0.0/episodes")), "lab/episodes")
    whole = import_dataset(store, [samples_path()], "lab/whole")
    assert (joined.episodes, joined.duplicates) == (32, 4)
    assert joined.version.digest == whole.version.digest


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [2, pytest.param(8, marks=pytest.mark.long)])
def test_the_recipe_for_slurm_makes_the_version_of_one_process(tasks: int, tmp_path: Path):
    script, finish, submit = recipe("SLURM")
    (tmp_path / "label.sbatch").write_text(script)
    (tmp_path / "finish.sbatch").write_text(finish)
    store, alone = Store(tmp_path / "store"), Store(tmp_path / "alone")
    for each in (store, alone):
        put(each, [boat(number) for number in range(3 * tasks)])
    with running() as provider:
        judge = sim(provider)
        environment = os.environ | {
            "PATH": programs(tmp_path / "bin", tmp_path / "jobs"),
            "SOTOPIA_RL_DATA_STORE": str(store.root),
            "SBATCH_ARRAY_INX": f"1-{tasks}",
        }
        submit = re.sub(r"^export JUDGE=.*$", f"export JUDGE={judge}", submit, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-e", "-c", submit], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        told = "".join(path.read_text() for path in sorted(tmp_path.glob("slurm-*.out")))
        assert done.stdout == "Submitted batch job 2\n", done.stderr + told
        assert store.names() == ["lab/episodes", "lab/episodes-rewards"], told
        log = provider.log()
        assert log["requests"] == log["distinct"] == 6 * 3 * tasks
        made = store.resolve("lab/episodes-rewards")
        assert made.digest == label(alone, "lab/episodes", judges=[judge]).digest
    assert len(list((tmp_path / "shards").iterdir())) == tasks


@pytest.mark.slow
def test_the_recipe_for_skypilot_merges_what_two_runs_of_a_machine_asked(tmp_path: Path):
    text, finish = recipe("SkyPilot")
    path = programs(tmp_path / "bin", tmp_path / "jobs")
    for name in ("vllm", "curl"):  # the server is there already
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    store = Store(tmp_path / "store")
    put(store, [boat(number) for number in range(4)])
    with running() as provider:

        def run(script: str, machine: str, **told: str) -> None:
            (tmp_path / machine).mkdir()
            script = script.replace("/shards", str(tmp_path / "shards"))
            script = re.sub(r"http://localhost:8000/v1", provider.openai_url, script)
            environment = os.environ | {"PATH": path, "SOTOPIA_RL_DATA_STORE": str(store.root)} | told
            done = subprocess.run(
                ["bash", "-e", "-c", script], cwd=tmp_path / machine, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr

        script = yaml.safe_load(text)["run"]
        run(script, "first", SKYPILOT_NODE_RANK="0", SKYPILOT_NUM_NODES="2")
        put(store, [boat(number) for number in range(8)])
        run(script, "second", SKYPILOT_NODE_RANK="0", SKYPILOT_NUM_NODES="2")
        run(script, "third", SKYPILOT_NODE_RANK="1", SKYPILOT_NUM_NODES="2")
        asked = provider.log()["requests"]
        run(finish, "whole")
        log = provider.log()
        assert log["requests"] == asked == log["distinct"]
    assert "lab/episodes-rewards" in store.names()
