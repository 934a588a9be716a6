"""Many shards are one commit of `main`, and many bytes are little memory."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fixtures.stores import episode, reward_row, rewards

from sotopia_rl_data.store import Store
from sotopia_rl_data.store.parts import Limits
from sotopia_rl_data.store.stage import Stage
from sotopia_rl_data.tables import EPISODES, episode_row

MANY = 300


def many_shards(store, repo, reward):
    """A version of 300 shards, a row each."""
    with Stage(store.root, repo, Limits(group_rows=1, shard_bytes=1)) as stage:
        stage.write("rewards", "train", rewards(*(reward_row(i, reward) for i in range(MANY))))
        return stage.commit({}).version


def heavy(store, repo, megabytes):
    """A version of one config with about so many megabytes of text that does not compress."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)
    with store.stage(repo) as stage:
        for i in range(megabytes):
            row = episode_row(episode(i))
            text = letters[rng.integers(0, len(letters), 1 << 20)]
            text[::9] = ord(" ")  # words too short for a key
            row["reasoning"] = text.tobytes().decode()
            stage.write("episodes", "train", pa.Table.from_pylist([row], schema=EPISODES))
        return stage.commit({}).version


@pytest.mark.slow
def test_three_hundred_shards_reach_main_in_one_step(hub, tmp_path, capsys):
    repo, store = hub.repo("many"), Store(tmp_path)
    first = many_shards(store, repo, 0.5)
    assert len(first.files("rewards")["train"]) == MANY
    began = time.monotonic()
    hub.push(first)
    seconds = time.monotonic() - began
    assert hub.release(repo) == ("v1.0.0", "whole")
    assert hub.titles(repo) == ["Release v1.0.0 (#1)", "initial commit"]  # two commits on a pull request, one merge
    second = many_shards(store, repo, 0.25)
    hub.server.fault("/commit/refs%2Fpr%2F2", intrude={"notes.md": "another writer, while the pull request grows"})
    hub.server.fault("/discussions/3/merge", status=403)
    assert hub.push(second, check=False).code == 1
    assert hub.release(repo) == ("v1.0.0", "whole")
    done = hub.push(second).json  # goes on with the pull request that is there
    assert (len(done["adds"]), len(done["deletes"])) == (MANY + 2, 0)  # 300 shards, a picture, croissant.json
    assert hub.titles(repo)[:2] == ["Release v1.1.0 (#3)", "someone else's commit"]
    assert hub.release(repo) == ("v1.1.0", "whole")
    assert hub.tags(repo)["v1.1.0"] == hub.head(repo)
    pulls = hub.server.get(f"/api/datasets/{repo}/discussions")["discussions"]
    assert {one["num"]: one["status"] for one in pulls} == {1: "merged", 2: "closed", 3: "merged"}
    with capsys.disabled():
        print(f"\n{MANY} shards over {'Xet' if hub.xet else 'LFS'}: {seconds:.1f} s")


@pytest.mark.alone
@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_pushed(hub, tmp_path):
    store = Store(tmp_path)
    peaks = []
    for megabytes in (96, 192):  # from 96 on, what is held at a time is full
        version = heavy(store, hub.repo("heavy"), megabytes)
        process = hub.run.start("push-to-hub", version.ref, "--store", store.root, "--check", "files")
        peaks.append(peak(process))
    more = (
        220 if hub.xet else 64
    )  # MB; hf_xet fills buffers of its own, up to a bound (docs/benchmarks.md has a gigabyte)
    assert peaks[1] - peaks[0] < more << 20, [p >> 20 for p in peaks]


def peak(process: subprocess.Popen[str]) -> int:
    """The most memory that a process held, in bytes; it has to end well."""
    most, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it ended between the two looks
            high = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())  # a mark that only rises: the last look has it
            most = max(most, int(high[1]) << 10 if high else 0)
        time.sleep(0.02)
    assert process.wait() == 0, process.stderr.read()
    return most
