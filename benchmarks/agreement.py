"""Agreement between judges at scale: 1M utterances × 3 judges in under 10 s and 1 GB.

    python benchmarks/agreement.py [--utterances 1000000] [--judges 3] [--dimensions 3] [--resamples 1000]

Makes a version (random levels 0..3 that share a true one, a few missing) in a temporary store, then calls the function
that the command calls, in a child process, and prints its seconds, its CPU seconds and the memory at its peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import ATTRIBUTIONS

TURNS = 20
EPISODES_A_WRITE = 2_000


def make(store: Store, utterances: int, judges: int, dimensions: int, missing: float = 0.01) -> str:
    """A version of random attributions, in key order."""
    rng = np.random.default_rng(0)
    names = sorted(one.name for one in SOTOPIA_EVAL[-dimensions:])
    with store.stage("bench/agreement") as stage:
        for start in range(0, utterances // TURNS, EPISODES_A_WRITE):
            count = min(EPISODES_A_WRITE, utterances // TURNS - start)
            stage.write("attributions", "train", rows(rng, start, count, judges, names, missing))
        return stage.commit({"kind": "benchmark"}).version.ref


def rows(rng: np.random.Generator, start: int, count: int, judges: int, names: list[str], missing: float) -> pa.Table:
    """The attributions of `count` episodes."""
    episode, agent, turn, dimension, judge = (
        axis.ravel()
        for axis in np.meshgrid(
            np.arange(start, start + count),
            np.arange(2),
            np.arange(TURNS // 2),
            np.arange(len(names)),
            np.arange(judges),
            indexing="ij",
        )
    )
    true = rng.integers(0, 4, (len(episode) // judges, 1)).repeat(judges, axis=1).ravel()
    raw = np.clip(np.round(true + rng.normal(0, 1, len(true))), 0, 3)
    columns = {
        "episode_id": np.char.add("episode-", np.char.zfill(episode.astype(str), 8)),
        "agent": np.char.add("agent-", agent.astype(str)),
        "turn": (turn * 2 + agent).astype(np.int32),
        "dimension": np.array(names)[dimension],
        "schema": np.full(len(raw), "direct"),
        "measure": np.full(len(raw), "importance"),
        "judge": np.char.add("judge-", judge.astype(str)),
        "sample": np.zeros(len(raw), np.int32),
        "raw": raw,
        "scale_min": np.zeros(len(raw)),
        "scale_max": np.full(len(raw), 3.0),
        "call_id": np.full(len(raw), "0" * 64),
        "reasoning": pa.nulls(len(raw), pa.string()),
    }
    return pa.table(columns, schema=ATTRIBUTIONS).filter(pa.array(rng.random(len(raw)) >= missing))


def measure(store: str, ref: str, resamples: int) -> dict[str, float]:
    """In this process: the call, its time and its peak of memory."""
    from sotopia_rl_data.agreement import agreement

    began, cpu = time.perf_counter(), time.process_time()
    found = agreement([Store(store).resolve(ref)], resamples=resamples)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "units": found.together[-1].units,
        "pairs": len(found.pairs),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": round(peak_kb() / 1024),
    }


def peak_kb() -> int:
    """The most memory that this process has held since it began (ru_maxrss would count its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--judges", type=int, default=3)
    parser.add_argument("--dimensions", type=int, default=3)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--measure", nargs=2, metavar=("STORE", "REF"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.resamples)))
        return
    with tempfile.TemporaryDirectory() as folder:
        ref = make(Store(folder), options.utterances, options.judges, options.dimensions)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet")) / 1e6
        shape = f"{options.utterances:,} utterances × {options.judges} judges × {options.dimensions} dimensions"
        print(f"{shape}: {size:.0f} MB of Parquet")
        for resamples in dict.fromkeys((0, options.resamples)):
            command = [sys.executable, __file__, "--measure", folder, ref, "--resamples", str(resamples)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            told = json.loads(done.stdout)
            print(f"{resamples:>5} resamples: " + ", ".join(f"{name} {value:,}" for name, value in told.items()))


if __name__ == "__main__":
    main()
