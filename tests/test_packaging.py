"""What is built and installed: nothing is lost on the way from the tree to a wheel, by whichever road, and every name
at the top is this distribution's own."""

from __future__ import annotations

import ast
import os
import pydoc
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.environments import install_wheel, once, packages_of
from fixtures.places import ROOT

from sotopia_rl_data.cli.program import COMMANDS

LINKED = ("labelers", "trainers", "cards")  # at the top of the repository, and seen inside the package
TOPS = ("sotopia_rl_data", *LINKED)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def in_wheel(folder):
    """The files of the folder's only wheel."""
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(built):
    return in_wheel(built / "tree")


def below(folder):
    """The files below a folder of the repository, as paths from its root."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def in_tree():
    """The files that the package has, under the names that they are imported by."""
    return below("sotopia_rl_data") | {f"sotopia_rl_data/{name}" for folder in LINKED for name in below(folder)}


@pytest.mark.slow
def test_tree_sdist_and_both_wheels_have_the_same_files(built, wheel):
    tree = in_tree()
    assert {"sotopia_rl_data/labelers/judge.py", "sotopia_rl_data/cards/__init__.py"} <= tree
    assert {name for name in wheel if ".dist-info/" not in name} == tree
    assert in_wheel(built) == wheel
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in sdist if name.startswith("sotopia_rl_data/")} == tree
    for folder in (*LINKED, "tests", "docs", "examples", "benchmarks"):
        assert {name for name in sdist if name.startswith(f"{folder}/")} == below(folder)
    assert {
        "cli.py",
        "Makefile",
        "constraints.txt",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "LICENSE",
        "README.md",
    } <= sdist


@pytest.mark.slow
def test_every_top_level_name_of_the_wheel_is_ours(wheel):
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sotopia_rl_data"}


@pytest.mark.slow
def test_types_travel_in_the_wheel(wheel):
    for folder in TOPS:
        inside = "" if folder == "sotopia_rl_data" else "sotopia_rl_data/"
        assert f"{inside}{folder}/py.typed" in wheel


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an sdist has copies where the repository has links")
@pytest.mark.parametrize("folder", LINKED)
def test_a_folder_at_the_top_is_seen_inside_the_package_by_a_relative_link(folder):
    assert os.readlink(ROOT / "sotopia_rl_data" / folder) == f"../{folder}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "imported", ["labelers", "labelers.judge", "trainers", "trainers.data", "cards", "cards.numbers"]
)
def test_a_bare_name_is_told_the_whole_one_in_a_sentence(imported):
    """It would be a second copy of all classes, and somebody else's package where ours is installed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", f"import {imported}"], env=environment, capture_output=True, text=True)
    top = imported.partition(".")[0]
    said = f"ImportError: Import sotopia_rl_data.{top}: the folder {top}/ is a part of that package."
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, said)


OWN = ("cli.py", "cards/__init__.py", "trainers/__init__.py", "labelers/__init__.py")
FIRST_STEPS = (
    ["import", "--name", "demo/episodes"],
    ["label", "demo/episodes", "--judge", "lexical"],
    ["show", "demo/episodes-rewards"],
    ["query", "demo/episodes-rewards", "SELECT agent, avg(reward) FROM rewards GROUP BY agent"],
    ["rollout", "--pairs", "1", "--turns", "2", "--out", "demo/selfplay"],
    ["card", "demo/episodes-rewards"],
)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """An environment that has the wheel, and the dependencies that are installed here."""
    return once(tmp_path_factory, "installed", lambda folder: install_wheel(built, folder))


@pytest.fixture
def beside(installed, tmp_path):
    """Runs Python of that environment in the folder of a user whose own modules have the names of ours, and can see
    them first."""
    for name in OWN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('this is the user's own')\n")
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SOTOPIA_RL_DATA_STORE")}
    kept["PATH"] = f"{installed / 'bin'}{os.pathsep}{kept['PATH']}"  # as in an environment that is activated

    def run(*command, **environment):
        whole = [str(installed / "bin" / command[0]), *command[1:]]
        return subprocess.run(whole, cwd=tmp_path, env=kept | environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.slow
def test_the_wheel_adds_the_package_its_record_and_the_script(installed):
    new = (installed / "new.txt").read_text().split()
    assert [re.sub(r"-[\d.]+(?=\.dist-info)", "", name) for name in new] == [
        "sotopia-rl-data",
        "sotopia_rl_data",
        "sotopia_rl_data.dist-info",
    ]


@pytest.mark.slow
def test_installed_every_command_runs_beside_a_users_own_cli_cards_trainers_and_labelers(beside, installed, tmp_path):
    for command in [[], *([name] for section in COMMANDS.values() for name in section)]:
        told = beside("sotopia-rl-data", *command, "--help", PYTHONPATH=str(tmp_path))
        assert (told.returncode, told.stderr) == (0, ""), command
        assert told.stdout.startswith("Usage: sotopia-rl-data")
    for command in FIRST_STEPS:
        done = beside("python", "-m", "sotopia_rl_data", *command)
        assert done.returncode in (0, 3), done.stderr  # 3: one of the bundled evaluations failed on purpose
        assert "Traceback" not in done.stderr
    where = beside("python", "-c", "import sotopia_rl_data.labelers as ours; print(ours.__file__)", PYTHONPATH="")
    assert Path(where.stdout.strip()) == packages_of(installed) / "sotopia_rl_data" / "labelers" / "__init__.py"


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


@pytest.mark.slow
def test_nothing_that_is_said_names_a_file_that_only_the_repository_has():
    found = {(file, text) for file, text in said() if re.search(r"\b(docs|examples|benchmarks|tests)/", text)}
    assert found == set()


@pytest.mark.slow
def test_what_an_error_sends_to_pydoc_is_there_and_told():
    named = {name for _, text in said() for name in re.findall(r"python -m pydoc ([\w.]*\w)", text)}
    assert named == {"sotopia_rl_data.labelers.schemas.Schema", "sotopia_rl_data.request.Target"}
    assert all(pydoc.locate(name).__doc__ for name in named)


@pytest.mark.slow
def test_the_labelers_are_imported_when_they_are_first_used():
    code = (
        "import sys, sotopia_rl_data.labelers as labelers\n"
        "print([m for m in sys.modules if m.startswith('sotopia_rl_data.labelers.')])\n"
        "from sotopia_rl_data.labelers import Elicitation, RewardSettings, evaluate, label\n"
        "print(label.__module__, evaluate.__module__, hasattr(labelers, 'grade'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    homes = "sotopia_rl_data.labelers.labelling sotopia_rl_data.labelers.evaluation.evaluating"
    assert done.stdout.splitlines() == ["[]", f"{homes} False"]
