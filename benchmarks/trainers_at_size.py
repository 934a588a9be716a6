"""How much memory and time the trainers and `score` need before their first step, by the size of the dataset.

    python benchmarks/trainers_at_size.py --make --sizes 0.1,0.25,0.5,1 --folder /scratch
    python benchmarks/trainers_at_size.py --sizes 0.1,0.25,0.5,1 --folder /scratch --command rm

Utterances are of 20-turn episodes, with prompts of 1,000 to 4,000 characters; the words are random. The model is tiny,
so that what is measured is the data. Each run is a process of its own; a size is run twice, the first time with an
empty cache. Memory is the peak of the process's own (anonymous) pages and of all its pages, with those of mapped files,
which the kernel drops when it needs them.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEXT = (
    "we could maybe share the character and swap outfits between screenings because fairness matters to me although I "
    "really want this role today so let us find a compromise that works for both of us and keeps the tradition alive"
)
TURNS = 20


def say(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(TEXT.split(), k=count))


def episode_rows(number: int) -> Iterator[dict[str, Any]]:
    """The rewards rows of one episode, in key order."""
    rng = random.Random(number)
    scene = f"Scenario {number // 100}: {say(rng, 50)}.\nMia's goal: {say(rng, 40)}\nBen's background: {say(rng, 45)}"
    said = [f"Turn #{t}: {('Mia', 'Ben')[t % 2]} said: {say(rng, rng.randrange(12, 40))}" for t in range(TURNS)]
    for turn in sorted(range(TURNS), key=lambda t: (t % 2, t)):
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


def make(folder: Path, utterances: int) -> None:
    """A version with this many utterances in the store at `folder`."""
    import pyarrow as pa

    from sotopia_rl_data.schema import split_of
    from sotopia_rl_data.store import Store
    from sotopia_rl_data.tables import rewards_schema

    schema = rewards_schema(())
    with Store(folder).stage(f"size/{utterances}") as stage:
        waiting: dict[str, list[dict[str, Any]]] = {}
        for number in range(utterances // TURNS):
            rows = list(episode_rows(number))
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


def measure(command: list[str], folder: Path, until: Path) -> dict[str, float]:
    """Run a command until it has written the file `until`: seconds, and peak memory in MB of its process and of any
    process that it starts."""
    environment = os.environ | {"HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    own, all_pages, workers = 0.0, 0.0, 0.0
    while process.poll() is None and not until.exists():
        own, all_pages = max(own, status(process.pid, "RssAnon")), max(all_pages, status(process.pid, "VmHWM"))
        for child in children(process.pid):
            workers = max(workers, status(child, "RssAnon"))
        time.sleep(0.05)
    seconds = time.monotonic() - began
    process.terminate()
    _, said = process.communicate()
    if not until.exists():
        raise SystemExit(f"it failed: {said.decode()}")
    return {"seconds": seconds, "own": own, "all": all_pages, "workers": workers}


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


def run(folder: Path, name: str, size: int) -> None:
    """One command twice over one size, with an empty cache and a full one; prints a line for each."""
    from sotopia_rl_data.trainers.tiny import make_tiny

    model, reward_model = folder / "model", folder / "reward-model"
    if not reward_model.exists():
        make_tiny(model, hidden=32, layers=2)
        make_reward_model(model, reward_model)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    words = [*COMMANDS[name], "--dataset", f"size/{size}", "--model", str(model), "--store", str(folder / "store")]
    words += [
        "--preset",
        "tiny",
        "--set",
        "logging_steps=1",
        "--set",
        "save_strategy=no",
        "--output",
        str(folder / "run"),
    ]
    words += ["--reward-model", str(reward_model)] if name == "grpo" else []
    for cache in ("empty", "full"):
        shutil.rmtree(folder / "run", ignore_errors=True)
        found = measure([sys.executable, "-m", "sotopia_rl_data", *words], folder, folder / "run" / "metrics.jsonl")
        print(
            f"| {name} | {size / 1e6:g} M | {cache} | {found['seconds']:.0f} s | {found['own']:.0f} MB | "
            f"{found['all']:.0f} MB | {found['workers']:.0f} MB |",
            flush=True,
        )


def make_reward_model(model: Path, folder: Path) -> None:
    """A reward model with random weights."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(model, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.1,0.25,0.5,1", help="millions of utterances")
    parser.add_argument("--folder", type=Path, required=True, help="where datasets, caches and runs are written")
    parser.add_argument("--command", choices=list(COMMANDS), default="rm")
    parser.add_argument("--make", action="store_true", help="make the datasets, and end")
    given = parser.parse_args()
    sizes = [round(float(size) * 1e6) for size in given.sizes.split(",")]
    if not given.make:
        print("| command | utterances | cache | first step | own memory | all pages | a tokenising process |")
        print("|---|---|---|---|---|---|---|")
    for size in sizes:
        if given.make:
            make(given.folder / "store", size)
        else:
            run(given.folder, given.command, size)


if __name__ == "__main__":
    main()
