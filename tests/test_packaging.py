"""What is in the wheel: every top-level name is this distribution's own, with its data files and its types."""

from __future__ import annotations

import ast
import pydoc
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import once

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("sotopia_rl_data", "labelers", "trainers", "cards")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


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
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sotopia_rl_data"}


@pytest.mark.slow
def test_data_files_and_types_travel_in_the_wheel(wheel):
    for folder in TOPS:
        data = [
            p for p in (ROOT / folder).rglob("*") if p.suffix in (".yaml", ".jsonl", ".md", ".typed", ".txt", ".json")
        ]
        inside = "" if folder == "sotopia_rl_data" else "sotopia_rl_data/"
        missing = {inside + p.relative_to(ROOT).as_posix() for p in data} - wheel
        assert not missing
        assert f"{inside}{folder}/py.typed" in wheel


@pytest.mark.slow
def test_an_installed_name_belongs_to_this_distribution_alone():
    import importlib.metadata

    owners = importlib.metadata.packages_distributions()
    for name in ("sotopia_rl_data",):
        if name in owners:  # an editable install lists them only through its finder
            assert set(owners[name]) == {"sotopia-rl-data"}


def said() -> Iterator[tuple[str, str]]:
    """Every text that the programs can show, with its file: all but the docstrings that are nobody's help."""
    for path in (ROOT / "cli.py", *(p for top in TOPS for p in (ROOT / top).rglob("*.py"))):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        silent = [n for n in nodes if isinstance(n, DOCUMENTED) and not getattr(n, "decorator_list", ())]
        unseen = {n.body[0].value for n in silent if ast.get_docstring(n) is not None}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in unseen:
                yield path.relative_to(ROOT).as_posix(), node.value


def test_nothing_that_is_said_names_a_file_that_only_the_repository_has():
    found = {(file, text) for file, text in said() if re.search(r"\b(docs|examples|benchmarks|tests)/", text)}
    assert found == set()


def test_what_an_error_sends_to_pydoc_is_there_and_told():
    named = {name for _, text in said() for name in re.findall(r"python -m pydoc ([\w.]*\w)", text)}
    assert named == {"sotopia_rl_data.labelers.schemas.Schema", "sotopia_rl_data.request.Target"}
    assert all(pydoc.locate(name).__doc__ for name in named)


def test_the_labelers_are_imported_when_they_are_first_used():
    code = (
        "import sys, sotopia_rl_data.labelers as labelers\n"
        "print([m for m in sys.modules if m.startswith('sotopia_rl_data.labelers.')])\n"
        "from sotopia_rl_data.labelers import evaluate, label\n"
        "print(label.__module__, evaluate.__module__, hasattr(labelers, 'grade'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    homes = "sotopia_rl_data.labelers.run sotopia_rl_data.labelers.evaluation.run"
    assert done.stdout.splitlines() == ["[]", f"{homes} False"]
