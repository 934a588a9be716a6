"""rm and undo on the command line: the question, the trash as it is listed, and that no other command sees it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.places import ROOT
from fixtures.promises import check_keys
from fixtures.stores import commit, episodes

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.store import Store


@pytest.fixture
def toys(tmp_path: Path) -> Store:
    """Two versions of org/toy, and a third that was made from the second."""
    store = Store(tmp_path / "store")
    for i in range(2):
        commit(store, {("episodes", "train"): episodes(i)})
    with store.stage("org/made") as stage:
        stage.write("episodes", "train", episodes(3))
        stage.commit({}, {"parents": [{"name": "org/toy", "version": "v1.1.0", "digest": "x"}]})
    return store


def run(store: Store, *arguments: str) -> tuple[str, str]:
    """What a command prints on stdout and on stderr."""
    done = CliRunner().invoke(cli, [*arguments, "--store", str(store.root)], standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.stdout, done.stderr


def listed(store: Store) -> list[str]:
    return [f"{one['name']}@{v}" for one in json.loads(run(store, "list", "--json")[0]) for v in one["versions"]]


def test_removed_listed_and_brought_back_by_the_commands_that_are_printed(toys: Store):
    _, told = run(toys, "rm", "org/toy@v1.1.0", "--yes")
    assert told.startswith("warning: made from what is to be removed, and staying: org/made@v1.0.0\n")
    assert listed(toys) == ["org/made@v1.0.0", "org/toy@v1.0.0"]
    assert "v1.1.0" not in run(toys, "log", "org/toy")[0] + "".join(run(toys, "verify", "org/toy", "org/made"))
    table, told = run(toys, "undo")
    assert "org/toy@v1.1.0" in table
    back, empty = (line.split()[1:] for line in told.split("next:\n")[1].splitlines())
    assert (back[:2], empty[:2]) == (["undo", "org/toy@v1.1.0"], ["rm", "--empty-trash"])
    CliRunner().invoke(cli, back, standalone_mode=False)
    assert listed(toys) == ["org/made@v1.0.0", "org/toy@v1.0.0", "org/toy@v1.1.0"]
    assert run(toys, "undo") == ("", "The trash is empty.\n")


def test_without_a_terminal_nothing_is_removed_unless_yes_is_said(toys: Store):
    for arguments in (["rm", "org/toy"], ["rm", "org/made", "--json"]):
        with pytest.raises(UsageError, match="There is no terminal to ask on") as refused:
            run(toys, *arguments)
        assert refused.value.hint == "add --yes"
    run(toys, "rm", "org/toy", "--yes")
    with pytest.raises(UsageError, match="for good"):
        run(toys, "rm", "--empty-trash")
    assert run(toys, "rm", "--empty-trash", "--yes")[1] == "2 versions deleted.\n"
    assert listed(toys) == ["org/made@v1.0.0"]


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "left"), [("n\n", 3), ("\n", 3), ("\x03", 3), ("\x04", 3), ("y\n", 2)])
def test_on_a_terminal_it_asks(toys: Store, answer: str, left: int):
    """No, just Return, Ctrl-C and Ctrl-D leave everything in place."""
    command = [sys.executable, "-m", "sotopia_rl_data", "rm", "org/made", "--store", str(toys.root)]
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(theirs, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    seen = ""
    while "[y/N]" not in seen:
        seen += os.read(ours, 1000).decode()
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        os.write(ours, answer.encode())  # again where it came in the moment before Python began to wait for it
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)  # a second Ctrl-C may hit Python as it ends
    assert process.returncode == (130 if answer in ("\x03", "\x04") else 0)
    seen += os.read(ours, 1000).decode()
    os.close(ours)
    assert ("Nothing was changed." in seen) == (left == 3)
    assert "Move org/made@v1.0.0 to the trash?" in seen
    assert len(listed(toys)) == left


def test_the_keys_of_json(toys: Store):
    removed = json.loads(run(toys, "rm", "org/toy", "--yes", "--json")[0])
    check_keys("rm", removed)
    assert (removed["removed"], removed["made_from"]) == (["org/toy@v1.0.0", "org/toy@v1.1.0"], ["org/made@v1.0.0"])
    check_keys("undo", json.loads(run(toys, "undo", "--json")[0]))
    assert json.loads(run(toys, "rm", "--empty-trash", "--yes", "--json")[0]) == {"deleted": removed["removed"]}
