"""What pyproject.toml requires: everything that the package and its tests import."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest
from fixtures.lowest import minima

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "pyproject.toml").read_text("utf-8")
PROJECT = tomllib.loads(TEXT)["project"]
EVERY = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
PACKAGE = ("sotopia_rl_data", "labelers", "trainers", "cards")
EXTRAS = {  # what an extra brings that the package imports
    "train": {"torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "jinja2", "safetensors"},
    "serve": {"fastapi", "pydantic", "starlette", "uvicorn", "prometheus_client"},
    "demo": {"gradio", "fastapi", "starlette", "uvicorn"},
    "verifiers": {"verifiers"},
    "openenv": {"openenv", "pydantic"},
    "s3": {"obstore", "fsspec"},
    "ray": {"ray"},
}


def python_files(*folders: str) -> Iterable[Path]:
    """The Python files below these folders; a link into one of them is not followed."""
    for folder in folders:
        for where, _, names in os.walk(ROOT / folder):
            yield from (Path(where) / name for name in names if name.endswith(".py"))


def imported(files: Iterable[Path]) -> set[str]:
    """The top-level names that are imported anywhere in these files, in functions too, less the standard library."""
    found: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def undeclared(names: Iterable[str], requirements: Iterable[str]) -> set[str]:
    """Those of the imported names that no requirement's distribution has."""
    declared = {normal(re.split(r"[^\w.-]", text)[0]) for text in requirements}
    owners = {"openenv": ["openenv-core"]} | importlib.metadata.packages_distributions()  # too large for the tests
    owners["gradio_client"] = ["gradio"]  # which brings the one that it fits
    return {name for name in names if not declared & {normal(owner) for owner in owners.get(name, [name])}}


@pytest.mark.slow
def test_what_the_package_imports_is_required_by_it_or_by_an_extra():
    names = imported(python_files(*PACKAGE)) - {"sotopia_rl_data"}
    assert {"duckdb", "aiohttp", "httpx2", "yaml"} <= names
    assert undeclared(names - set.union(*EXTRAS.values()), PROJECT["dependencies"]) == set()
    for extra, brought in EXTRAS.items():
        assert undeclared(names & brought, PROJECT["optional-dependencies"][extra]) == set()


@pytest.mark.slow
def test_what_the_tests_import_is_required_by_the_package_or_an_extra():
    pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
    files = [path for path in python_files("tests") if path.parent.name != "servers"]  # these have their own packages
    ours = {name for path in (*files, *python_files("docs", "benchmarks")) for name in (path.stem, path.parent.name)}
    assert undeclared(imported(files) - ours - {"sotopia_rl_data"}, EVERY) == set()


def test_the_lowest_constraints_are_the_bounds_and_the_pinned_torch_is_one_of_them():
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fixtures" / "lowest.py"], capture_output=True, text=True, check=True
    )
    lowest = dict(line.split("==") for line in done.stdout.splitlines())
    assert len(lowest) == len({normal(re.split(r"[^\w-]", text)[0]) for text in EVERY})
    pinned = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert [f"{lowest['torch']}.0"] == pinned


@pytest.mark.parametrize(("bound", "instead"), [('"duckdb>=1.5"', '"duckdb"'), ('"click>=8.4.2"', '"click<9"')])
def test_a_requirement_without_a_lowest_version_is_refused(bound, instead):
    assert bound in TEXT
    with pytest.raises(ValueError, match="names no lowest version"):
        minima(TEXT.replace(bound, instead))


def test_the_classifiers_name_a_python_that_runs_this_test_by_default():
    named = [text for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert named == ["Programming Language :: Python :: 3.11"]
    assert PROJECT["requires-python"] == ">=3.11"
