"""What one process has found out about a server, the next one knows: it makes no call to find it out again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures.labelling import boats, put
from fixtures.places import ROOT

from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.store import Store

pytestmark = pytest.mark.slow


def run(*command: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "cli.py", "-q", *command, "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def model(at: Running, protocol: str) -> str:
    return f"{protocol}:sim@{at.openai_url if protocol == 'openai' else at.url}"


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_label_in_a_new_process_makes_no_call_and_others_begin_with_what_was_adopted(protocol: str, tmp_path: Path):
    store = Store(tmp_path)
    put(store, boats(6))
    put(store, boats(9)[6:], "lab/more")
    with running(habit="no_schema_compiler") as at:
        asked = ["--judge", model(at, protocol), "--preset", "goal-only", "--store", str(tmp_path)]
        first = run("label", "lab/episodes", *asked)
        log = at.log()
        assert first["asked"] == 12 < log["requests"] <= 12 + 8
        again = run("label", "lab/episodes", *asked)
        assert (again["asked"], again["digest"], at.log()["requests"]) == (0, first["digest"], log["requests"])
        assert run("label", "lab/more", *asked)["asked"] == 6
        assert at.log()["requests"] == log["requests"] + 6


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_so_does_rollout(protocol: str, tmp_path: Path):
    with running(habit="takes_no_system_message") as at:
        policy = model(at, protocol)
        play = ["rollout", "--a", policy, "--b", policy, "--pairs", "2", "--store", str(tmp_path), "--out"]
        first = run(*play, "lab/play", "--turns", "2")
        calls = at.log()["requests"]
        again = run(*play, "lab/play", "--turns", "2")
        assert (again["asked"], again["digest"], at.log()["requests"]) == (0, first["digest"], calls)
        more = run(*play, "lab/more", "--turns", "4")
        assert more["asked"] > 0
        assert at.log()["requests"] == calls + more["asked"]
