"""A version is there whole or not at all: under kill -9 at any moment, and with several writers at once."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from fixtures.stores import commit, episodes, python

from sotopia_rl_data.store import Store
from sotopia_rl_data.store.verify import verify

pytestmark = pytest.mark.slow

# Imports once, then forks a writer for every line it reads: a life costs no interpreter start.
_WRITERS = """
import os, random, sys
from pathlib import Path
from sotopia_rl_data.store.parts import Limits
from sotopia_rl_data.store.stage import Stage
from sotopia_rl_data.store import Store
from fixtures.stores import episodes, reward_row, rewards

def write_forever(draw):
    while True:
        ids = draw.sample(range(10_000), 30)
        with Stage(Path(sys.argv[1]), "org/toy", Limits(group_rows=10)) as stage:
            stage.write("episodes", "train", episodes(*ids))
            stage.write("rewards", "train", rewards(*(reward_row(i) for i in ids)))
            stage.commit({})
        print(os.getpid(), flush=True)

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        write_forever(random.Random(int(line)))
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""

_WRITE_TEN = """
import sys
from sotopia_rl_data.store import Store
from fixtures.stores import commit, episodes
writer = int(sys.argv[2])
for i in range(10):
    commit(Store(sys.argv[1]), {("episodes", "train"): episodes(writer * 100 + i)})
"""


@pytest.mark.alone
@pytest.mark.parametrize("lives", [20, pytest.param(200, marks=pytest.mark.long)])
def test_kill_9_at_any_moment_leaves_only_whole_versions(lives: int, tmp_path: Path) -> None:
    store, draw = Store(tmp_path / "store"), random.Random(7)
    launcher, kills_in_the_act = python(_WRITERS, store.root), 0
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    for life in range(lives):
        launcher.stdin.write(f"{life}\n")
        launcher.stdin.flush()
        writer = int(launcher.stdout.readline())  # its first commit is done
        if life % 2:
            time.sleep(draw.uniform(0.0, 0.3))
        else:  # at the very moment a version shows itself
            folder = store.root / "org/toy"
            there = set(os.listdir(folder))
            while set(os.listdir(folder)) == there:
                pass
        os.kill(writer, signal.SIGKILL)
        while launcher.stdout.readline() != "dead\n":
            pass
        kills_in_the_act += any((store.root / ".staging").glob("*/*"))
    launcher.communicate()
    versions = store.versions("org/toy")
    assert versions == [f"v1.{i}.0" for i in range(len(versions))]
    assert sorted(path.name for path in (store.root / "org/toy").iterdir()) == sorted(versions)
    assert len(versions) > lives  # each life committed at least once before it was killed in the midst of another
    assert kills_in_the_act >= 3
    for version in versions:
        assert verify(store.version("org/toy", version)).problems == ()
    commit(store, {("episodes", "train"): episodes(0)})
    assert list((store.root / ".staging").iterdir()) == []


def test_four_writers_at_once_lose_nothing_and_share_no_number(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    writers = [python(_WRITE_TEN, store.root, str(i)) for i in range(4)]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    versions = store.versions("org/toy")
    assert versions == [f"v1.{i}.0" for i in range(40)]
    whole = [store.version("org/toy", version) for version in versions]
    assert len({version.digest for version in whole}) == 40
    assert [p for version in whole for p in verify(version).problems] == []


def test_two_writers_of_the_same_content_make_one_version(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    code = "import sys; from fixtures.stores import *; commit(Store(sys.argv[1]), {('episodes', 'train'): episodes(1)})"
    writers = [python(code, store.root) for _ in range(4)]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert store.versions("org/toy") == ["v1.0.0"]
