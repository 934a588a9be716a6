"""A terminal or a pipe whose encoding lacks a character: it is written in ASCII on screens, and data stays UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.places import ROOT

TOY = {
    "episode_id": "e1",
    "environment_id": "harbour",
    "scenario": "Zoë – “aye” – pays €5 ± 1 … 漢",
    "agents": [{"agent": "a", "name": "José"}, {"agent": "b", "name": "Ben"}],
    "turns": [{"turn": 0, "agent": "a", "text": "Olá…"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encodings")
    (folder / "toy.jsonl").write_text(json.dumps(TOY), encoding="utf-8")
    assert call(folder, "utf-8", "import", "toy.jsonl", "--name", "lab/toy").returncode == 0
    return folder


def call(folder: Path, encoding: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "sotopia_rl_data", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "scenario", "said"),
    [
        ("utf-8", "Zoë – “aye” – pays €5 ± 1 … 漢", "José  Olá…"),
        ("latin-1", 'Zoë - "aye" - pays EUR5 ± 1 ... \\u6f22', "José  Olá..."),
        ("ascii", 'Zoe - "aye" - pays EUR5 +/- 1 ... \\u6f22', "Jose  Ola..."),
    ],
)
def test_what_an_encoding_lacks_is_written_in_ascii(folder: Path, encoding: str, scenario: str, said: str):
    shown = call(folder, encoding, "show", "lab/toy", "e1")
    assert shown.returncode == 0, shown.stderr
    lines = [line.strip() for line in shown.stdout.decode(encoding).splitlines()]
    assert scenario in lines
    assert any(said in line for line in lines)
    wrong = call(folder, encoding, "show", "lab/toy", "漢")
    assert (wrong.returncode, wrong.stderr.decode(encoding)[:7]) == (2, "error: ")
    assert "Usage: " in call(folder, encoding, "label", "--help").stdout.decode(encoding)


@pytest.mark.slow
def test_data_is_utf_8_whatever_the_encoding_is(folder: Path):
    query = ("query", "lab/toy", "SELECT scenario, agents FROM episodes", "--format", "csv")
    table = call(folder, "ascii", *query).stdout
    assert table == call(folder, "utf-8", *query).stdout
    assert TOY["scenario"] in table.decode()
    assert (
        json.loads(call(folder, "ascii", "show", "lab/toy", "e1", "--json").stdout)["episode"]["scenario"]
        == TOY["scenario"]
    )
