"""What an episode costs, from the file to the report, in a dataset of 2,000, of 20,000 and of 200,000.

    python benchmarks/scale_episodes.py

Short dialogues of four turns, labelled by the offline judge on one dimension: two questions each. Every step is the
command that users run, in a process of its own; CPU seconds (user + system, all threads) and peak memory are those of
that process. What a command takes before it has seen an episode is measured with 20 of them and subtracted from the
CPU time of an episode. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FEW = 20
AN_ENVIRONMENT = 20  # episodes
SAID = (
    "I found {0} of these at the market; would you give me {1} for one?",
    "That is more than I hoped to pay. What about {0} now and the rest in spring?",
    "My neighbour asked for it first, but {1} by Tuesday would settle it.",
    "Then let us agree on {0}, and I carry it down myself.",
)
OPEN = """
import sys
from sotopia_rl_data.ledger.ledger import Ledger
with Ledger(sys.argv[1]) as ledger:
    print(len(ledger))
"""


@dataclass(frozen=True, slots=True)
class Used:
    """What a process took: CPU seconds, and its largest resident set in MB."""

    cpu_s: float
    peak_mb: float


def write_episodes(path: Path, count: int) -> None:
    """Plain JSON Lines, about 760 bytes an episode."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            names = f"Ann {i % 97}", f"Bo {i % 89}"
            turns = [
                {"agent": names[turn % 2], "text": said.format(2 + (i + turn) % 7, 10 + (i * 7 + turn) % 90)}
                for turn, said in enumerate(SAID)
            ]
            episode = {
                "episode_id": f"E{i * 2654435761 % 2**32:010d}",  # in no order
                "environment_id": f"ENV{i // AN_ENVIRONMENT:06d}",
                "scenario": f"A market in town {i // AN_ENVIRONMENT}, an hour before it closes.",
                "agents": [
                    {"name": names[0], "goal": f"Sell it for {20 + i % 40} or more."},
                    {"name": names[1], "goal": f"Buy it for {10 + i % 30} or less."},
                ],
                "turns": turns,
                "scores": [{"agent": name, "dimension": "goal", "score": (i + k) % 11} for k, name in enumerate(names)],
            }
            file.write(json.dumps(episode) + "\n")


def steps(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The name and the command of each step, in their order."""
    program, store = [sys.executable, "-m", "sotopia_rl_data"], ["--quiet", "--store", str(folder / "store")]
    label = ["label", "lab/episodes", "--judge", "lexical", "--dimensions", "goal", "--preset", "goal-only"]
    averages = "SELECT agent, avg(reward), count(*) FROM rewards GROUP BY agent"
    yield "import", [*program, "import", str(folder / "episodes.jsonl"), "--name", "lab/episodes", *store]
    yield "label", [*program, *label, *store]
    yield "label again", [*program, *label, *store]
    yield "rewards", [*program, "rewards", "lab/episodes-rewards", "--normaliser", "zscore", *store]
    yield "query", [*program, "query", "lab/episodes-rewards", averages, *store]
    yield "report", [*program, "report", "lab/episodes-rewards", "-o", str(folder / "report.html"), *store]
    yield "ledger open", [sys.executable, "-c", OPEN, str(folder / "store" / ".ledger")]


def run(command: list[str]) -> Used:
    """Run a command to its end. (This process is small: on Linux a child's peak begins with its parent's size.)"""
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=told)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{told.read().decode(errors='replace')}")
    return Used(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def measured(count: int, work: Path) -> dict[str, Used]:
    """Every step with so many episodes."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        write_episodes(folder / "episodes.jsonl", count)
        used = {}
        for step, command in steps(folder):
            used[step] = run(command)
            print(f"{count:,} {step}: {used[step]}", file=sys.stderr, flush=True)
        return used


def main() -> None:
    """Measure all sizes; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder with some GB free")
    given = parser.parse_args()
    start = measured(FEW, given.work)
    sizes = {count: measured(count, given.work) for count in given.episodes}
    print("| step | start, CPU s | " + " | ".join(f"{count:,}: ms an episode | peak MB" for count in sizes) + " |")
    print("|---|--:|" + "--:|--:|" * len(sizes))
    for step, few in start.items():
        cells = [f"{few.cpu_s:.1f}"]
        for count, used in ((count, of_size[step]) for count, of_size in sizes.items()):
            cells += [f"{1_000 * (used.cpu_s - few.cpu_s) / (count - FEW):.3f}", f"{used.peak_mb:.0f}"]
        print(f"| {step} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
