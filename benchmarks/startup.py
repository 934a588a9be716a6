"""What it costs to start the program: CPU seconds of `--help`, of every command's `--help`, of `show` and of `list`.

    python benchmarks/startup.py [--times 9] [CHECKOUT …]

Each is a process of its own, `python cli.py …`, over a store of the bundled samples. Several checkouts take turns, so
that a busy machine is busy for all of them; the default is this one. CPU seconds are user and system time of the
process and its children, of which the median is told, and `python -c pass` is the floor. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from sotopia_rl_data.cli.program import COMMANDS

HERE = Path(__file__).resolve().parents[1]


def cpu_seconds(command: list[str], checkout: Path, store: Path) -> float:
    """User and system time of one run. Raises SystemExit where it fails."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "SOTOPIA_RL_DATA_STORE": str(store)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, *command], cwd=checkout, env=environment, stdout=quiet, stderr=quiet)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} in {checkout} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[HERE])
    given = parser.parse_args()
    checkouts = [path.resolve() for path in given.checkouts]
    names = [name for section in COMMANDS.values() for name in section]
    measured = {"`python -c pass`": ["-c", "pass"], "`--help`": ["cli.py", "--help"]}
    measured |= {f"`{name} --help`": ["cli.py", name, "--help"] for name in names}
    measured["`list`"] = ["cli.py", "list"]
    measured["`show demo/episodes-rewards`"] = ["cli.py", "show", "demo/episodes-rewards"]
    print("| CPU ms |", " | ".join(path.name for path in checkouts), "|")
    print("|---|" + "--:|" * len(checkouts))
    with tempfile.TemporaryDirectory() as folder:
        stores = {checkout: Path(folder) / str(number) for number, checkout in enumerate(checkouts)}
        for checkout, store in stores.items():
            cpu_seconds(["cli.py", "import", "--name", "demo/episodes"], checkout, store)
            cpu_seconds(["cli.py", "label", "demo/episodes", "--judge", "lexical"], checkout, store)
        for name, command in measured.items():
            seconds: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
            for number in range(given.times + 1):
                for checkout, store in stores.items():
                    took = cpu_seconds(command, checkout, store)
                    if number:  # the first one compiles what it imports
                        seconds[checkout].append(took)
            medians = (1_000 * statistics.median(seconds[checkout]) for checkout in checkouts)
            print(f"| {name} |", " | ".join(f"{one:.0f}" for one in medians), "|", flush=True)


if __name__ == "__main__":
    main()
