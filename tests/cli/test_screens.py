"""Laws over every command's screens: no line wider than the screen, every value there, no flood; and six goldens."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from fixtures.screens import COMMANDS, WIDE, Shown, make_store, plain, show

from sotopia_rl_data.fake_provider.running import running

MOST_LINES = 60
ASKED_FOR = ("card", "show demo", "available schemas", "--help", "label --help", "agreement --help")  # whole texts
MAKING = ("label", "evaluate", "rollout", "rewards", "audit", "import --name")
COLOUR = re.compile(r"\x1b\[(\d;)*(3[0-8]|4[0-8]|9[0-7])")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A provider's URL; the working directory has the store."""
    folder, before = tmp_path_factory.mktemp("screens"), Path.cwd()
    os.chdir(folder)
    with running() as provider, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-none")
        make_store(folder, provider.openai_url)
        yield provider.openai_url
    os.chdir(before)


def run(command: str, url: str, *more: str, **terminal: int | bool | str) -> Shown:
    shutil.rmtree("sotopia", ignore_errors=True)  # what `export` makes
    words = [word.replace("~", " ").replace("URL", url) for word in command.split()]
    return show(*words, *more, **terminal)


def check(command: str, url: str, *terminals: dict[str, int | bool | str]) -> None:
    """The three laws for one command on these terminals."""
    everything = ["--wide"] if command.startswith(WIDE) else []
    if command.startswith(MAKING):
        run(command, url)  # what is made is made now
    wanted = words(run(command, url, *everything, columns=250).out)
    for terminal in terminals:
        shown = run(command, url, **terminal)
        lines = [line.rstrip() for line in plain(shown.out + shown.err).splitlines()]
        columns = terminal["columns"]
        assert [line for line in lines if len(line) > columns and not is_whole(line)] == [], terminal
        assert len(lines) <= MOST_LINES or command.startswith(ASKED_FOR), (terminal, len(lines))
        assert terminal["colour"] or not COLOUR.search(shown.out + shown.err), terminal
        narrow = run(command, url, *everything, **terminal) if everything else shown
        here = "".join(plain(narrow.out).split())
        if "thefirst" not in here:
            assert [word for word in wanted if word not in here] == [], terminal


def words(text: str) -> list[str]:
    """The words of a screen that every terminal has as they are, but not how long it took."""
    return [word for word in re.sub(r"(?m)^seconds .*", "", plain(text)).split() if word.isascii()]


def is_whole(line: str) -> bool:
    """A command, which can be pasted, or one long word."""
    return "sotopia-rl-data" in line or " " not in line.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_screen_fits_and_shows_every_value(command: str, url: str):
    check(
        command,
        url,
        {"columns": 40, "colour": True, "encoding": "ascii"},
        {"columns": 80, "colour": False, "encoding": "utf-8"},
    )


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_every_screen_fits_every_terminal(command: str, url: str):
    every = product((40, 80, 120), (False, True), ("ascii", "utf-8"))
    check(command, url, *(dict(zip(("columns", "colour", "encoding"), one, strict=True)) for one in every))
