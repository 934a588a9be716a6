"""Completion by the Tab key, in bash, zsh and fish themselves, where they are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.places import ROOT
from fixtures.stores import commit, episodes

from sotopia_rl_data.store import Store, trash

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a store of lab/boats (two versions, and a third in the trash), and the program in bin/."""
    store = Store(tmp_path / "store")
    for i in range(3):
        commit(store, {("episodes", "train"): episodes(i)}, name="lab/boats")
    trash.remove(store, trash.named(store, ["lab/boats@v1.2.0"]))
    program = tmp_path / "bin" / "sotopia-rl-data"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sotopia_rl_data "$@"\n')
    program.chmod(0o755)
    (tmp_path / "notes.txt").touch()
    return tmp_path


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    return {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(folder), "TERM": "dumb", "PS1": "$ ", **more}


CASES = [
    ("agr", "agreement "),
    ("list --js", "list --json "),
    ("show lab/b", "show lab/boats "),
    ("show lab/boats@v1.1", "show lab/boats@v1.1.0 "),
    ("undo lab/", "undo lab/boats@v1.2.0 "),
    ("train rm --dataset=lab/boats@v1.1", "train rm --dataset=lab/boats@v1.1.0 "),
    ("label --ask=pac", "label --ask=packed "),
    ("show ./no", "show ./notes.txt "),
    ("list --store ./sto", "list --store ./store/"),
    ("list --store=./sto", "list --store=./store/"),
]
"""What is typed, and what stands there after the Tab key: commands, options, values, datasets, versions, files."""


def here(shell: str) -> str:
    """The shell; skips the test where it is not installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}: apt-get install {shell}")
    return shell


@pytest.mark.parametrize(
    ("shell", "options", "before"),
    [
        ("bash", ["--norc", "--noprofile"], ""),
        ("zsh", ["-f"], "setopt no_auto_remove_slash; autoload -U compinit; compinit -u -D; "),
    ],
)
def test_the_tab_key_completes_lines_in(shell: str, options: list[str], before: str, folder: Path):
    """After the line that `completion --help` gives."""
    ours, theirs = pty.openpty()
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    command = [here(shell), *options, "-i"]
    process = subprocess.Popen(command, **streams, cwd=folder, env=environment(folder), start_new_session=True)  # type: ignore[call-overload]
    os.close(theirs)
    try:
        os.write(ours, f'{before}eval "$(sotopia-rl-data completion {shell})"; echo re""ady\n'.encode())
        read_until(ours, "\nready")
        for typed, completed in [*CASES, ("show lab/boats@", "show lab/boats@v1.")]:
            os.write(ours, f"sotopia-rl-data {typed}\t".encode())
            os.write(ours, b"\x01echo '\x05'\n")  # the line as it is then, as an argument of echo
            wanted = (
                completed if shell == "bash" else completed.rstrip()
            )  # zsh takes the space back where the line ends
            read_until(ours, f"\nsotopia-rl-data {wanted}\r\n")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_fish_finds_what_bash_and_zsh_find(folder: Path):
    """By its own `complete -C`, which tells what the Tab key would offer for a line."""
    asked = "".join(f"complete -C 'sotopia-rl-data {typed}'; echo ---; " for typed, _ in CASES)
    script = f"sotopia-rl-data completion fish | source; {asked} complete -C 'sotopia-rl-data agr'"
    command = [here("fish"), "--no-config", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    *found, described = done.stdout.split("---\n")
    offered = [[line.partition("\t")[0] for line in one.splitlines()] for one in found]
    assert offered == [[completed.split()[-1]] for _, completed in CASES]
    help_line = described.partition("\t")[2].strip().removesuffix("...")
    assert "," in help_line  # what follows a comma belongs to it


def read_until(handle: int, text: str) -> None:
    seen, deadline = "", time.monotonic() + 60
    while text not in seen:
        ready, _, _ = select.select([handle], [], [], deadline - time.monotonic())
        assert ready, repr(seen)
        seen += os.read(handle, 1000).decode()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_ends_with_the_line_that_sets_it_up_and_is_one_that_the_shell_reads(folder: Path, shell: str):
    asked = ["sotopia-rl-data", "completion", shell]
    script = subprocess.run(asked, env=environment(folder), capture_output=True, text=True, timeout=60).stdout
    assert f"sotopia-rl-data completion {shell}" in script.splitlines()[-1]
    done = subprocess.run([here(shell), "-n"], input=script, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_store_that_cannot_be_read_completes_nothing_and_says_nothing(folder: Path):
    shutil.rmtree(folder / "store")
    (folder / "store").write_text("a file")
    asked = environment(folder, _SOTOPIA_RL_DATA_COMPLETE="bash_complete", COMP_LINE="sotopia-rl-data show lab/")
    done = subprocess.run(["sotopia-rl-data"], env=asked, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
