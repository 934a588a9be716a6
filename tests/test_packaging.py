"""What is in the wheel: every top-level name is this distribution's own, with its data files and its types."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from environments import once

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    (path,) = once(tmp_path_factory, "wheel", make_wheel).glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def make_wheel(out):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_top_level_name_of_the_wheel_is_ours(wheel):
    tops = {name.partition("/")[0] for name in wheel}
    folders = {p.name for p in ROOT.iterdir() if (p / "__init__.py").is_file() and p.name != "tests"}
    assert {top for top in tops if not top.endswith(".dist-info")} == folders | {"cli.py"}


@pytest.mark.slow
def test_data_files_and_types_travel_in_the_wheel(wheel):
    for folder in ("sotopia_rl_data", "labelers"):
        data = [
            p for p in (ROOT / folder).rglob("*") if p.suffix in (".yaml", ".jsonl", ".md", ".typed", ".txt", ".json")
        ]
        missing = {p.relative_to(ROOT).as_posix() for p in data} - wheel
        assert not missing
        assert f"{folder}/py.typed" in wheel


@pytest.mark.slow
def test_an_installed_name_belongs_to_this_distribution_alone():
    import importlib.metadata

    owners = importlib.metadata.packages_distributions()
    for name in ("sotopia_rl_data", "labelers", "cli"):
        if name in owners:  # an editable install lists them only through its finder
            assert set(owners[name]) == {"sotopia-rl-data"}
