"""Hints and next commands are literal: a person can paste them, in any folder, also with the package from a wheel."""

from __future__ import annotations

import ast
import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.places import ROOT
from fixtures.screens import plain, show

from sotopia_rl_data import code, errors
from sotopia_rl_data.cli.program import cli

ROOMS = ("sotopia_rl_data", "labelers", "trainers", "cards")
PLACEHOLDER = re.compile(r"sotopia-rl-data [a-z-]+[^`]*\b(REF|SPEC|NAME|FILE|DIR)\b")
ONLY_IN_A_CLONE = re.compile(r"\.\[train|\bcli\.py|\b(docs|examples)/\S+|--upgrade sotopia")


FOND = """
import json
from sotopia_rl_data.labelers.schemas import answers
class Fond:
    id = "fond"
    async def answer(self, question):
        return json.dumps(answers.compose(question.answer_schema, lambda form, path: max(form["enum"])))
"""


def texts(path: Path) -> Iterator[str]:
    """The texts of a file that are not docstrings, with {} where a value is put in."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation | inside:
            yield node.value


@pytest.mark.slow
def test_no_command_that_is_printed_has_a_placeholder_or_needs_a_clone():
    found = []
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for text in texts(path):
            if PLACEHOLDER.search(text) or (" " in text and ONLY_IN_A_CLONE.search(text)):
                found.append(f"{path.relative_to(ROOT)}: {text}")
    assert found == []
    assert PLACEHOLDER.search("label it: sotopia-rl-data label lab/x --judge SPEC")  # it would be seen
    assert ONLY_IN_A_CLONE.search("pip install '.[train]'")


def test_without_an_installation_the_extra_is_installed_from_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import importlib.metadata

    environment(tmp_path, monkeypatch)
    with pytest.raises(errors.UsageError) as told:
        code.check_installed("Training", "no_such_library")
    installed = {found.metadata["Name"] for found in importlib.metadata.distributions()}
    clone = f"pip install -e '{ROOT}[train]'"
    assert told.value.hint == ("pip install 'sotopia-rl-data[train]'" if "sotopia-rl-data" in installed else clone)


def environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An activated environment: its pip is the first on PATH."""
    (folder / "pip").write_text("#!/bin/sh\n")
    (folder / "pip").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("sys.executable", str(folder / "python"))


def test_what_lacks_is_installed_where_the_program_runs_and_not_by_another_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    environment(tmp_path, monkeypatch)
    monkeypatch.setattr("sys.executable", str(tmp_path / "my env" / "bin" / "python"))
    with pytest.raises(errors.UsageError) as told:
        code.check_installed("A plot", "no_such_a", "no_such_b", "no_such_c", hint="pip install matplotlib")
    assert told.value.message == "A plot needs no_such_a, no_such_b and no_such_c, which are not installed."
    assert told.value.hint == f"'{tmp_path}/my env/bin/python' -m pip install matplotlib"


def test_the_command_that_installs_what_lacks_is_on_one_line_of_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    environment(tmp_path, monkeypatch)
    monkeypatch.setattr("sys.executable", str(tmp_path / "my env" / "bin" / "python"))
    monkeypatch.setitem(sys.modules, "ray", None)
    said = plain(show("import", "--name", "lab/e", "--on", "ray", "--store", str(tmp_path / "store")).err)
    (line,) = (line for line in said.splitlines() if "pip install" in line)
    assert line.startswith(f"'{tmp_path}/my env/bin/python' -m pip install ")
    assert line.endswith("[ray]'")


@pytest.mark.slow
def test_the_commands_that_follow_run_as_they_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Over curate and export, in a folder with nothing but a store."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, [*arguments], standalone_mode=False)
        assert done.exit_code in (0, 3), (arguments, done.exception)
        return done.stderr

    lexical = ("--judge", "lexical", "--dimensions", "goal")
    run("import", "--name", "lab/e")
    run("label", "lab/e", *lexical, "--preset", "goal-only")
    (tmp_path / "fond.py").write_text(FOND)
    run("label", "lab/e", "--judge", "fond.py:Fond", *lexical[2:], "--preset", "goal-only", "--out", "lab/other")
    (label, template) = following(run("curate", "lab/e-rewards", "lab/other", "-o", "disputed.csv"))
    scored = ("--evaluator", "sample-evaluator", "--weights", "goal=1.0")
    assert label == ["label", "lab/e", "--only", "disputed.csv", *scored, "--judge", "gpt-4o"]
    run(*label[:-1], "lexical", "--dry-run")
    run(*template)
    (again,) = following(run("export", "lab/e", "--to", "sotopia", "-o", "sotopia"))
    assert again[-2:] == ["--name", "lab/e-again"]
    run(*again)
    Path("annotations.csv").unlink()
    run("evaluate", "lab/e", *lexical)  # a second evaluator
    for judge, out in (("lexical", "lab/one"), ("fond.py:Fond", "lab/two")):
        named = ("--evaluator", "sample-evaluator", "--preset", "goal-only")
        run("label", "lab/e", "--judge", judge, *lexical[2:], *named, "--out", out)
    (label, template) = following(run("curate", "lab/one", "lab/two", "-o", "disputed.csv"))
    run(*label[:-1], "lexical", "--dry-run")
    run(*template)
    (back,) = following(run("annotate", "export", "lab/e", "-o", "form.csv"))
    fill(tmp_path / "form.csv", score="0")
    run(*back)


def fill(path: Path, score: str) -> None:
    """Write this score into every line of a form."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row | {"score": score} for row in csv.DictReader(file)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def following(told: str) -> list[list[str]]:
    """The commands below `next:`, without the program's name."""
    return [line.split()[1:] for line in told.split("next:")[1].strip().splitlines()]
