"""CONTRIBUTING.md: its examples are written beside a copy of the package as they stand, and their tests are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
FILES = dict(re.findall(r"^```python\n# file: (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
TESTS = [name for name in FILES if name.startswith("test_")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the page's files in it, and with the edits that the page describes."""
    target = tmp_path_factory.mktemp("contributed")
    for name in ("sotopia_rl_data", "labelers", "trainers", "cards"):
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (target / name).write_text(text, "utf-8")
    table = target / "sotopia_rl_data/importers/formats/__init__.py"
    edited = table.read_text("utf-8").replace("    export,\n", "    export,\n    forum,\n", 1)
    table.write_text(edited.replace("\nFORMATS = (", "\nFORMATS = (forum.FORMAT, "), "utf-8")
    return target


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
def test_an_example_works_as_it_stands_on_the_page(folder: Path, name: str):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", name]
    done = subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_shows_a_judge_a_schema_an_importer_and_a_reward_each_with_its_test():
    assert TESTS == ["test_longest.py", "test_warmth.py", "test_forum.py", "test_short.py"]
    assert {"longest.py", "warmth.py", "sotopia_rl_data/importers/formats/forum.py", "short.py"} < FILES.keys()


def test_the_files_that_the_page_names_are_there():
    named = re.findall(r"`((?:labelers|trainers|sotopia_rl_data)/[\w/.]+)`", PAGE) + re.findall(
        r"\]\((\S+\.md)\)", PAGE
    )
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
