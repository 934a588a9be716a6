"""How much memory and time the trainers need before their first step, and `score` in all, by the size of the dataset.

    python benchmarks/trainers_at_size.py --make --sizes 0.1,0.25,0.5,1 --folder /scratch
    python benchmarks/trainers_at_size.py --sizes 0.1,0.25,0.5,1 --folder /scratch --command rm
    python benchmarks/trainers_at_size.py --sizes 1 --folder /scratch --command loads

Utterances are of 20-turn episodes, with prompts of 1,000 to 4,000 characters (`--words 0.1`: a tenth; `--turns 4`:
episodes of four); the words are random. The model is tiny, and for `score` one that only counts, so that what is
measured is the data. Each run is a process of its own; a size is run twice, the first time with an empty cache. Memory
is the peak of the process's own (anonymous) pages and of all its pages, with those of mapped files, which the kernel
drops when it needs them. `loads` finds the rows twenty times, each time with an empty cache.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT = (
    "we could maybe share the character and swap outfits between screenings because fairness matters to me although I "
    "really want this role today so let us find a compromise that works for both of us and keeps the tradition alive"
)
TURNS = 20  # of an episode


def say(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(TEXT.split(), k=count))


def episode_rows(number: int, words: float = 1.0, turns: int = TURNS) -> Iterator[dict[str, Any]]:
    """The rewards rows of one episode, in key order; with `words` times as many words as usual in each turn."""
    rng = random.Random(number)
    scene, goal, background = (say(rng, round(count * words)) for count in (50, 40, 45))
    scene = f"Scenario {number // 100}: {scene}.\nMia's goal: {goal}\nBen's background: {background}"
    lengths = [round(rng.randrange(12, 40) * words) for _ in range(turns)]
    said = [f"Turn #{t}: {('Mia', 'Ben')[t % 2]} said: {say(rng, lengths[t])}" for t in range(turns)]
    for turn in sorted(range(turns), key=lambda t: (t % 2, t)):
        prompt = "\n".join([f"You are {('Mia', 'Ben')[turn % 2]}. {scene}", *said[:turn], f"You are at Turn #{turn}."])
        action = '{"action_type": "speak", "argument": "' + said[turn].partition("said: ")[2] + '"}'
        yield {
            "episode_id": f"ep-{number:08d}",
            "environment_id": f"env-{number // 100:06d}",
            "agent": f"agent-{turn % 2}",
            "turn": turn,
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": action}],
            "reward": rng.random(),
            "n_opinions": 1,
            "spread": None,
        }


def make(folder: Path, utterances: int, words: float = 1.0, turns: int = TURNS) -> None:
    """A version with this many utterances in the store at `folder`."""
    import pyarrow as pa

    from sotopia_rl_data.schema import split_of
    from sotopia_rl_data.store import Store
    from sotopia_rl_data.tables import rewards_schema

    schema = rewards_schema(())
    with Store(folder).stage(f"size/{utterances}") as stage:
        waiting: dict[str, list[dict[str, Any]]] = {}
        for number in range(utterances // turns):
            rows = list(episode_rows(number, words, turns))
            of_split = waiting.setdefault(split_of(rows[0]["environment_id"]), [])
            of_split += rows
            if len(of_split) >= 4000:
                stage.write("rewards", split_of(rows[0]["environment_id"]), pa.Table.from_pylist(of_split, schema))
                of_split.clear()
        for split, rows in waiting.items():
            if rows:
                stage.write("rewards", split, pa.Table.from_pylist(rows, schema))
        stage.commit({"rule": "direct"})


COMMANDS = {
    "rm": ["train", "rm", "--set", "eval_strategy=no"],
    "sft": ["train", "sft", "--set", "eval_strategy=no"],
    "grpo": ["train", "grpo", "--set", "num_generations=2", "--set", "max_completion_length=8"],
}
LOAD = "import sys; from sotopia_rl_data.trainers.data import load_rows; load_rows(sys.argv[1], store=sys.argv[2])"
SCORE = """
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from sotopia_rl_data.trainers.score import score_dataset

class Counting:
    identity, head, encoder = "counting@1", SimpleNamespace(targets=("reward",)), SimpleNamespace(plain=list)
    def conditions(self):
        return {}
    def score_heads(self, dialogues):
        return np.array([[len(completion[-1]["content"])] for _, completion in dialogues])

folder, ref = Path(sys.argv[1]), sys.argv[2]
score_dataset(ref, Counting(), store=folder / "store", out="size/scored", ledger=folder / "run")
(folder / "run" / "done").touch()
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds by the clock, CPU seconds of a process and those that it started, and peak memory in MB: its own, all of
    its pages, and what the largest process that it started has of its own."""

    seconds: float
    cpu: float
    own: float
    all_pages: float
    started: float


def measure(command: Sequence[str], folder: Path, until: Path) -> Measured:
    """Run a command until it has written the file `until`."""
    environment = os.environ | {"HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    began, cpu = time.monotonic(), cpu_seconds()
    process = subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    own, all_pages, started = 0.0, 0.0, 0.0
    while process.poll() is None and not until.exists():
        own, all_pages = max(own, status(process.pid, "RssAnon")), max(all_pages, status(process.pid, "VmHWM"))
        for child in children(process.pid):
            started = max(started, status(child, "RssAnon"))
        time.sleep(0.05)
    seconds = time.monotonic() - began
    process.terminate()
    _, said = process.communicate()
    if not until.exists():
        raise SystemExit(f"it failed: {said.decode()}")
    return Measured(seconds, cpu_seconds() - cpu, own, all_pages, started)


def cpu_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def status(pid: int, name: str) -> float:
    """A figure of /proc/PID/status in MB; 0 where the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def first_step(folder: Path, name: str, size: int, launcher: Sequence[str] = ()) -> Measured:
    """A trainer until it has logged its first step, or `score` to its end; with the cache that is in the folder."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    if name == "score":
        return measure(["-c", SCORE, str(folder), f"size/{size}"], folder, run / "done")
    model, reward_model = folder / "model", folder / "reward-model"
    if not reward_model.exists():
        make_models(model, reward_model)
    words = [*COMMANDS[name], "--dataset", f"size/{size}", "--model", str(model), "--store", str(folder / "store")]
    words += ["--preset", "tiny", "--output", str(run)]
    for setting in ("logging_steps=1", "save_strategy=no", "use_cpu=true", "per_device_train_batch_size=2"):
        words += ["--set", setting]
    words += ["--reward-model", str(reward_model)] if name == "grpo" else []
    return measure([*launcher, "-m", "sotopia_rl_data", *words], folder, run / "metrics.jsonl")


def loads(folder: Path, size: int, times: int = 20) -> int:
    """How many of so many loads succeed, each in a process of its own and with an empty cache."""
    environment = os.environ | {"HF_DATASETS_CACHE": str(folder / "loads")}
    succeeded = 0
    for _ in range(times):
        shutil.rmtree(folder / "loads", ignore_errors=True)
        command = [sys.executable, "-c", LOAD, f"size/{size}", str(folder / "store")]
        succeeded += subprocess.run(command, env=environment, check=False).returncode == 0
    return succeeded


def make_models(model: Path, reward_model: Path) -> None:
    """A tiny policy, and a reward model with random weights."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from sotopia_rl_data.trainers.tiny import make_tiny

    make_tiny(model, hidden=32, layers=2)
    AutoModelForSequenceClassification.from_pretrained(model, num_labels=1).save_pretrained(reward_model)
    AutoTokenizer.from_pretrained(model).save_pretrained(reward_model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.1,0.25,0.5,1", help="millions of utterances")
    parser.add_argument("--folder", type=Path, required=True, help="where datasets, caches and runs are written")
    parser.add_argument("--command", choices=[*COMMANDS, "score", "loads"], default="rm")
    parser.add_argument("--words", type=float, default=1.0, help="how long utterances are (default: 1)")
    parser.add_argument("--turns", type=int, default=TURNS, help="utterances of an episode (default: 20)")
    parser.add_argument("--make", action="store_true", help="make the datasets, and end")
    given = parser.parse_args()
    sizes = [round(float(size) * 1e6) for size in given.sizes.split(",")]
    if not given.make and given.command != "loads":
        print("| command | utterances | cache | first step | CPU | own memory | all pages | a tokenising process |")
        print("|---|---|---|--:|--:|--:|--:|--:|")
    for size in sizes:
        if given.make:
            make(given.folder / "store", size, given.words, given.turns)
        elif given.command == "loads":
            before = cpu_seconds()
            print(f"{loads(given.folder, size)} of 20 loads succeeded in {cpu_seconds() - before:.0f} CPU seconds")
        else:
            shutil.rmtree(given.folder / "cache", ignore_errors=True)
            for cache in ("empty", "full"):
                found = first_step(given.folder, given.command, size)
                print(
                    f"| {given.command} | {size / 1e6:g} M | {cache} | {found.seconds:.0f} s | {found.cpu:.0f} s | "
                    f"{found.own:.0f} MB | {found.all_pages:.0f} MB | {found.started:.0f} MB |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
