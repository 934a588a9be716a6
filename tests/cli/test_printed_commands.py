"""Every command that the code, the help or the documentation prints is one that the program takes as it stands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from fixtures.places import ROOT
from fixtures.printed import command_of, refusal

ROOMS = ("sotopia_rl_data", "labelers", "trainers", "cards")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(`?)(?:sotopia-rl-data|python cli\.py) (?!template )([a-z-](?:\\\n|[^`\n])+)")
SHELL = re.compile(r"\$\(\([^)]*\)+|\$\{?\w+\}?|\{\}")  # what a shell, or GNU parallel, puts in
KNOWN = {"kind": "rm", "self._repo": "lab/episodes"}  # what stands for a name that is put in; for all others it is a 1


def fault(line: str) -> str | None:
    """Why the program would not take a command line; None where it would."""
    try:
        words = shlex.split(SHELL.sub("1", line.replace("\\\n", " ")), comments=True)
    except ValueError as error:
        return str(error)
    words = list(takewhile(lambda word: word not in ("|", ">", "&&", ":::"), words))
    return refusal(words)


def texts(path: Path) -> Iterator[str]:
    """The texts of a file of code, docstrings too, with 1 where a value is put in."""
    tree = ast.parse(path.read_text("utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(put_in(part) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def put_in(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        return KNOWN.get(ast.unparse(part.value), "1")
    assert isinstance(part, ast.Constant)
    return str(part.value)


def faults(text: str) -> list[str]:
    """What is wrong with the commands of a text. In backticks a command's name may stand alone."""
    found = {line[2]: fault(line[2]) or "" for line in COMMAND.finditer(text) if not (line[1] and is_name(line[2]))}
    return [f"{line}: {why}" for line, why in found.items() if why and "No such file" not in why]


def is_name(text: str) -> bool:
    words = text.split()
    return command_of(words)[1] == len(words)


def test_a_command_that_would_be_refused_is_seen():
    assert fault("show demo/episodes") is None
    assert fault("label demo/episodes --judge gpt-4o --dry-run   # nothing is asked") is None
    assert fault("show demo/episodes and more words") is not None
    assert fault("label demo/episodes --jugde gpt-4o") is not None
    assert fault("curate demo/episodes") is not None


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_every_command_in_the_code_is_taken(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for path in sorted((ROOT / room).rglob("*.py")):
        wrong += [f"{path.relative_to(ROOT)}: {one}" for text in texts(path) for one in faults(text)]
    assert wrong == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_in_the_documentation_is_taken(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"(?ms)^```.*?\n(.*?)^```|(?:^    (\S.*\n?))", path.read_text("utf-8"))
    assert [one for fenced, indented in blocks for one in faults(fenced or indented)] == []
