"""Completion by the Tab key: in a real bash, and by the protocol of each shell's script."""

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


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("sotopia-rl-data agr", "sotopia-rl-data agreement "),
        ("sotopia-rl-data list --js", "sotopia-rl-data list --json "),
        ("sotopia-rl-data show lab/b", "sotopia-rl-data show lab/boats "),
        ("sotopia-rl-data show lab/boats@", "sotopia-rl-data show lab/boats@v1."),
        ("sotopia-rl-data show lab/boats@v1.1", "sotopia-rl-data show lab/boats@v1.1.0 "),
        ("sotopia-rl-data undo lab/", "sotopia-rl-data undo lab/boats@v1.2.0 "),
        ("sotopia-rl-data train rm --dataset=lab/boats@v1.1", "sotopia-rl-data train rm --dataset=lab/boats@v1.1.0 "),
        ("sotopia-rl-data label --ask=pac", "sotopia-rl-data label --ask=packed "),
        ("sotopia-rl-data show ./no", "sotopia-rl-data show ./notes.txt "),
        ("sotopia-rl-data list --store ./sto", "sotopia-rl-data list --store ./store/"),
    ],
)
def test_in_bash_the_tab_key_completes(folder: Path, typed: str, completed: str):
    """After the line that `completion --help` gives: commands, options, values, datasets, versions and files."""
    ours, theirs = pty.openpty()
    command = ["bash", "--norc", "--noprofile", "-i"]
    bash = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment(folder), start_new_session=True
    )
    os.close(theirs)
    try:
        os.write(ours, b'eval "$(sotopia-rl-data completion bash)"; echo re""ady\n')
        read_until(ours, "\r\nready")
        os.write(ours, typed.encode() + b"\t" + b"\x01echo '\x05'\n")  # the line as it is then, as an argument of echo
        read_until(ours, f"\r\n{completed}\r\n")
    finally:
        bash.kill()
        bash.wait()
        os.close(ours)


def read_until(handle: int, text: str) -> None:
    seen, deadline = "", time.monotonic() + 20
    while text not in seen:
        ready, _, _ = select.select([handle], [], [], deadline - time.monotonic())
        assert ready, repr(seen)
        seen += os.read(handle, 1000).decode()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        (["sotopia-rl-data"], "agr", "agreement"),
        (["sotopia-rl-data", "show"], "lab/b", "lab/boats"),
        (["sotopia-rl-data", "show"], "lab/boats@v1.1", "lab/boats@v1.1.0"),
        (["sotopia-rl-data", "rollout"], "--ou", "--out"),
    ],
)
def test_zsh_and_fish_are_answered(folder: Path, shell: str, words: list[str], incomplete: str, found: str):
    """What their scripts ask for; the shells themselves are asked where they are installed."""
    told = {"COMP_WORDS": " ".join([*words, incomplete])}
    told["COMP_CWORD"] = str(len(words)) if shell == "zsh" else incomplete
    asked = environment(folder, _SOTOPIA_RL_DATA_COMPLETE=f"{shell}_complete", **told)
    done = subprocess.run(["sotopia-rl-data"], env=asked, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.split("\n")
    assert found in (lines[1::3] if shell == "zsh" else [line.partition(",")[2].split("\t")[0] for line in lines])
    script = subprocess.run(
        ["sotopia-rl-data", "completion", shell], env=environment(folder), capture_output=True, text=True, timeout=60
    ).stdout
    assert f"_SOTOPIA_RL_DATA_COMPLETE={shell}_complete" in script
    assert f"sotopia-rl-data completion {shell}" in script.splitlines()[-1]
    assert f"sotopia-rl-data completion {shell}" in script.splitlines()[-1]
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, timeout=60).returncode == 0


def test_a_store_that_cannot_be_read_completes_nothing_and_says_nothing(folder: Path):
    shutil.rmtree(folder / "store")
    (folder / "store").write_text("a file")
    asked = environment(folder, _SOTOPIA_RL_DATA_COMPLETE="bash_complete", COMP_LINE="sotopia-rl-data show lab/")
    done = subprocess.run(["sotopia-rl-data"], env=asked, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
