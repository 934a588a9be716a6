"""The paper's study in small, whole: killed four times on the way, it ends in the bytes of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.places import ROOT

from sotopia_rl_data.fake_provider.running import running

pytest.importorskip("trl", reason="needs the train extra")
pytestmark = [pytest.mark.train, pytest.mark.long]

MOMENTS = ("labels online", "reward model goal, seed 0", "policy rl, seed 0", "play sim with bc, seed 0")
TABLES = (
    "attribution", "dimensions", "online-offline", "judges", "rewards", "policies", "policies-evaluators", "best-of-n",
    "diversity", "cost",
)  # fmt: skip


class Place:
    """A folder of its own in which the study runs, with the provider at `url`."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        (folder / "examples").symlink_to(ROOT / "examples")
        text = (ROOT / "examples/paper/tiny.yaml").read_text().replace("http://127.0.0.1:8765", url)
        (folder / "tiny.yaml").write_text(text)
        self.folder = folder

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "sotopia_rl_data", "study", "tiny.yaml"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (self.folder / "told").open("wb") as told:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=told, stderr=told)

    def told(self) -> str:
        return (self.folder / "told").read_text()

    def finish(self) -> dict[str, bytes]:
        """What a run to the end has written."""
        assert self.start().wait(3_000) == 3, self.told()  # some utterances of the samples have no score to attribute
        assert "Traceback" not in self.told()
        made = self.folder / "studies" / "tiny"
        return {str(path.relative_to(made)): path.read_bytes() for path in made.rglob("*") if path.is_file()}

    def kill_at(self, step: str) -> None:
        """Run until this step has begun, and kill -9."""
        run, deadline = self.start(), time.monotonic() + 1_500
        while f"{step} …" not in self.told():
            assert run.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.05)
        time.sleep(1)  # into the step
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert not (self.folder / "studies").exists()


def test_the_papers_study_in_small_is_killed_and_resumed_and_ends_in_the_same_bytes(tmp_path: Path):
    with running(cache=0) as provider:  # how much a prompt cache saves depends on who asks first
        whole = Place(tmp_path / "whole", provider.url)
        files = whole.finish()
        pictures = {f"figures/{name}.png" for name in TABLES}
        texts = {f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "tex")}
        assert files.keys() == pictures | texts | {"README.md", "study.json"}

        killed = Place(tmp_path / "killed", provider.url)
        for moment in MOMENTS:
            killed.kill_at(moment)
        resumed = killed.finish()
    assert {name for name in files if files[name] != resumed[name]} == set()
