"""A stranger's first hour: from the wheel to a trained reward model and its report, by nothing but what is printed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from fixtures.environments import install_wheel, once, python_of

pytest.importorskip("trl", reason="needs the train extra")
pytestmark = [pytest.mark.train, pytest.mark.long]

# What the stranger wants next, in the words that begin one of the commands that were printed last.
WISHES = (
    "import",
    "label demo/episodes --judge lexical",  # the one that says that it needs no key
    "report",
    "train rm",
    "inspect",
    "score",
    "report",
)


class Stranger:
    """Somebody with the wheel, an empty folder, no key, no Hub, and no other instruction than what is printed."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
        nobody = "http://127.0.0.1:9"  # asking it for anything would be an error
        self.environment = {"PATH": path, "HOME": str(folder), "HF_ENDPOINT": nobody, "COLUMNS": "80"}
        self.environment["OMP_NUM_THREADS"] = "1"  # many threads on a busy machine wait for each other
        self.offered: list[str] = []

    def types(self, line: str) -> None:
        """A line into the shell; the commands it offers are kept, beside those before."""
        done = subprocess.run(
            line, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode in (0, 3), (line, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        _, _, following = done.stderr.partition("next:\n")
        self.offered = [one.strip() for one in following.splitlines() if one.startswith("  ")] + self.offered

    def follows(self, wish: str) -> str:
        """Types the newest of the offered commands that begins so, as it was printed; returns it."""
        line = next((one for one in self.offered if one.startswith(f"sotopia-rl-data {wish}")), "")
        assert line, f"nothing of {self.offered} begins with {wish!r}"
        self.types(line)
        return line


def test_from_the_wheel_to_a_trained_reward_model_and_its_report_by_the_printed_commands(
    built: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
):
    environment = once(tmp_path_factory, "trainer", lambda folder: install_wheel(built, folder, extra="train"))
    stranger = Stranger(tmp_path, python_of(environment))
    stranger.types("sotopia-rl-data list")
    lines = [stranger.follows(wish) for wish in WISHES]
    assert lines[4] == "sotopia-rl-data inspect runs/rm-episodes-rewards"
    assert (tmp_path / "runs" / "rm-episodes-rewards" / "run.json").is_file()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert lines[-1] == "sotopia-rl-data report demo/episodes-rewards@v1.1.0 -o report.html"
    assert "rm-episodes-rewards" in page  # the reward model is one of the judges that the page compares
