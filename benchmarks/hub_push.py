"""How much memory and time a release takes.

    python benchmarks/hub_push.py --gigabytes 1

Pushes episodes to a Hub server on this machine, over plain LFS and over Xet, with the full check (`load_dataset` in a
process of its own). Prints, for each: seconds, and the most memory that the command held, alone and with its children;
the server's is not counted. The text does not compress, so the bytes on the disk are the bytes sent.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures.hub_client import HubClient
from fixtures.hub_server.running import HubServer

from sotopia_rl_data.schema import Agent, Episode, Observation, Turn
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.tables import EPISODES, episode_row

_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .", np.uint8)
_TURNS, _SAID, _SEEN = 20, 400, 1600  # utterances an episode, characters an utterance and an observation
_BATCH = 64
_BITS = 0.755  # bytes on the disk for a character of these, in zstd


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1.0, help="Of Parquet.")
    parser.add_argument(
        "--over", choices=["lfs", "xet"], nargs="+", default=["lfs", "xet"], help="Which ways of transfer."
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hub-push-") as folder:
        began = time.monotonic()
        version = make(Store(Path(folder) / "store"), given.gigabytes * 1e9)
        files = [file for splits in version.manifest.configs.values() for one in splits.values() for file in one.files]
        size, rows = sum(file.size for file in files), version.manifest.configs["episodes"]["train"].rows
        made = f"{rows:,} episodes, {size / 1e9:.2f} GB in {len(files)} shards"
        print(f"{made} of at most {max(f.size for f in files) / 1e6:.0f} MB, made in {time.monotonic() - began:.0f} s")
        for way in given.over:
            push(version, Path(folder), way == "xet")


def push(version: Version, folder: Path, xet: bool) -> None:
    with HubServer(folder / f"server-{xet}", xet) as server:
        client = HubClient(server.url, folder / f"hf-{xet}", xet)
        began = time.monotonic()
        process = client.start("push-to-hub", version.ref, "--store", version.dir.parents[2])
        alone, together = watch(psutil.Process(process.pid))
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(said)
        held = f"{alone / 1e6:.0f} MB alone, {together / 1e6:.0f} MB with its children"
        print(f"{'Xet' if xet else 'LFS'}: {time.monotonic() - began:.0f} s, {held}")


def watch(process: psutil.Process) -> tuple[int, int]:
    """The most memory (resident, shared pages counted once a process) that it held, alone and with its children."""
    alone = together = 0
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            own = process.memory_info().rss
            others = sum(child.memory_info().rss for child in process.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
        alone, together = max(alone, own), max(together, own + others)
        time.sleep(0.02)
    return alone, together


def make(store: Store, wanted: float) -> Version:
    """Episodes of two people who talk nonsense, about `wanted` bytes of Parquet."""
    rng = np.random.default_rng(0)
    count = int(wanted / (_TURNS * (_SAID + _SEEN) * _BITS))
    with store.stage("lab/heavy") as stage:
        for start in range(0, count, _BATCH):
            rows = [episode_row(episode(i, rng)) for i in range(start, min(start + _BATCH, count))]
            stage.write("episodes", "train", pa.Table.from_pylist(rows, schema=EPISODES))
        return stage.commit({"kind": "episodes"}).version


def episode(i: int, rng: np.random.Generator) -> Episode:
    def text(length: int) -> str:
        return _LETTERS[rng.integers(0, len(_LETTERS), length)].tobytes().decode()

    turns = tuple(Turn(t, "ab"[t % 2], "speak", text(_SAID)) for t in range(_TURNS))
    seen = tuple(Observation(t, "ab"[t % 2], text(_SEEN)) for t in range(_TURNS))
    return Episode(f"e{i:08}", f"env{i % 100}", (Agent("a", "Sam"), Agent("b", "Mia")), turns, observations=seen)


if __name__ == "__main__":
    main()
