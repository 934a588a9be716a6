"""How fast 1, 2 and 4 workers of a Ray cluster ask a provider whose answers take half a second, and what a call costs
in CPU time, in the workers and in what they share: the limiter and the driver.

    pip install -e '.[ray]'
    python benchmarks/scale_workers.py --calls 2000 --each 64

`--each` calls are in flight for each worker, so a worker alone asks at most twice as many a second. Where the cores are
too few for all workers at full speed, the CPU time of a call says the same: if what is shared takes no more of it with
four workers than with one, it is not what ends the growth.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import ray

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.cluster.on_ray import RayWorkers
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.labelers.labelling import ask_label
from sotopia_rl_data.labelers.plan import Elicitation, RewardSettings
from sotopia_rl_data.schema import Agent, Episode, Score, Turn, split_of
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import EPISODES, episode_table

LATENCY_S = 0.5


def episodes(count: int) -> list[Episode]:
    """Dialogues of a question for each of two agents."""
    made = []
    for number in range(count):
        turns = tuple(Turn(turn, "ab"[turn % 2], "speak", f"Line {turn} of {number}.") for turn in range(8))
        agents = (Agent("a", "Ann", goal="Sell it."), Agent("b", "Bob", goal="Buy it."))
        scores = tuple(Score(agent, "goal", 5.0, "gpt-4") for agent in "ab")
        made.append(
            Episode(
                episode_id=f"e{number}",
                environment_id=f"place {number}",
                scenario="A market.",
                agents=agents,
                turns=turns,
                scores=scores,
            )
        )
    return made


class CpuTimes:
    """CPU seconds of the driver, the limiter and the workers, looked at four times a second, since a process that has
    ended cannot be asked."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, float]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CpuTimes:
        self._before = self._now()
        self._driver = time.process_time()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._driver = time.process_time() - self._driver
        self._over.set()
        self._thread.join()

    def by_part(self) -> Counter[str]:
        """Seconds by part, since the beginning."""
        times = Counter[str]({"driver": self._driver})
        for pid, (part, seconds) in self._seen.items():
            times[part] += seconds - self._before.get(pid, ("", 0.0))[1]
        return times

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            for pid, (part, seconds) in self._now().items():
                known = self._seen.get(pid, ("", 0.0))[0]
                self._seen[pid] = "limiter" if "limiter" in (part, known) else "workers", seconds

    def _now(self) -> dict[int, tuple[str, float]]:
        found = {}
        for process in psutil.process_iter(["cmdline", "cpu_times"]):
            title = " ".join(process.info["cmdline"] or [])
            if title.startswith("ray::") and process.info["cpu_times"]:
                times = process.info["cpu_times"]
                found[process.pid] = "limiter" if "Limiter" in title else "workers", times.user + times.system
        return found


def measure(workers: int, calls: int, each: int) -> dict[str, Any]:
    """One run of so many workers."""
    ray.init(num_cpus=workers, log_to_driver=False, logging_level="error", include_dashboard=False)
    with TemporaryDirectory() as folder, running(latency=LATENCY_S) as provider:
        store = Store(Path(folder))
        for name, count in (("lab/first", 4 * workers), ("lab/episodes", calls // 2)):
            with store.stage(name) as stage:
                rows = episodes(count)
                splits = [split_of(one.environment_id, 0) for one in rows]
                for split in sorted(set(splits)):
                    own = [row for row, of_row in zip(rows, splits, strict=True) if of_row == split]
                    stage.write("episodes", split, episode_table(own, EPISODES))
                stage.commit({"kind": "episodes", "seed": 0})
        asked = Elicitation(judges=[f"openai:sim@{provider.openai_url}"])
        rewards = RewardSettings(preset="goal-only")
        options = AskOptions(workers=RayWorkers(), concurrency=each * workers)
        ask_label(store, "lab/first", asked, rewards, options=options)  # starts the processes
        times: list[tuple[float, int]] = []
        options = replace(options, progress=lambda done, *_: times.append((time.monotonic(), done)))
        with CpuTimes() as cpu:
            ask_label(store, "lab/episodes", asked, rewards, options=options)
        per_call = {part: 1_000 * seconds / calls for part, seconds in cpu.by_part().items()}
        most = provider.log()["most_in_flight"]
    ray.shutdown()
    first = next(at for at, done in times if done > 0.1 * calls), next(done for _, done in times if done > 0.1 * calls)
    last = next(at for at, done in times if done >= 0.9 * calls), next(done for _, done in times if done >= 0.9 * calls)
    return {"workers": workers, "rate": (last[1] - first[1]) / (last[0] - first[0]), "in flight": most, **per_call}


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2_000, help="calls of a run with one worker")
    parser.add_argument("--each", type=int, default=64, help="calls in flight for each worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    print("workers  calls/s  in flight  CPU ms a call: workers  limiter  driver")
    for workers in given.workers:
        row = measure(workers, given.calls * workers, given.each)
        print(
            f"{workers:7}  {row['rate']:7.0f}  {row['in flight']:9}  {row['workers']:22.2f}  "
            f"{row.get('limiter', 0.0):7.2f}  {row['driver']:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
