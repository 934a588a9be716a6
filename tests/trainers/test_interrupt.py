"""Ctrl-C in the middle of a training: what is kept is said, and the printed command goes on from there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow]

from fixtures.places import ROOT  # noqa: E402
from fixtures.training import make_dataset  # noqa: E402

from sotopia_rl_data.trainers.tiny import make_tiny  # noqa: E402


def interrupted(words: list[str], begun: str) -> str:
    """What the program says when it is interrupted as soon as there is a file that `begun` matches."""
    command = [sys.executable, "-m", "sotopia_rl_data", *words]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as in an installation
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": path}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 400
        while not list(Path().glob(begun)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert (process.returncode, "Traceback" in said) == (130, False), said
    return said


@pytest.mark.parametrize(
    ("strategy", "begun", "sentence", "hint"),
    [
        (
            "no",
            "rm/metrics.jsonl",
            "Interrupted before a checkpoint was saved.",
            "run the same command again: it starts",
        ),
        ("steps", "rm/checkpoint-*/run.json", "is kept.", "go on from there: sotopia-rl-data train rm --dataset toys/"),
    ],
)
def test_an_interrupted_training_says_what_is_kept_and_how_to_go_on(
    strategy: str, begun: str, sentence: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "store", episodes=20, turns=2)
    make_tiny(tmp_path / "model", hidden=16, layers=1)
    words = ["train", "rm", "--dataset", "toys/rewards", "--model", "./model", "--preset", "tiny", "-o", "rm"]
    words += ["--set", "max_steps=1000000", "--set", "eval_strategy=no", "--set", f"save_strategy={strategy}"]
    said = interrupted(words, begun)
    told = said.partition("error: ")[2]
    assert (sentence in told, f"\n hint: {hint}" in told) == (True, True), said
    assert told.strip().endswith(" --resume") == (strategy == "steps")
    assert {path.parent.name for path in tmp_path.glob("rm/*/run.json")} >= set(
        re.findall(r"rm/(checkpoint-\d+)", told)
    )
