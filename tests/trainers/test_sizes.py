"""The trainers and `score` hold no dataset: their memory does not grow with the number of utterances, time grows no
faster than it, and a million are found every time. `benchmarks/trainers_at_size.py` measures longer utterances too."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from fixtures.places import ROOT

pytest.importorskip("accelerate", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from benchmarks.trainers_at_size import first_step, loads, make

SIZES = (250_000, 500_000, 1_000_000)
MOST = 1_536  # MB of a process's own
SHORT = {"words": 0.02, "turns": 4}  # dialogues of few words: what is not text is then most of the work

GROWTH = """
import json, sys, threading, time
from benchmarks.trainers_at_size import SCORE, status
from sotopia_rl_data.trainers.data import load_rows
from sotopia_rl_data.trainers.tokenised import tokenised
from fixtures.training import as_table

folder, *sizes = sys.argv[1:]
peak, found = 0.0, []

def watch():
    global peak
    while True:
        peak = max(peak, status("self", "RssAnon"))
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()
for size in sizes:
    tokenised(load_rows(f"size/{size}", store=f"{folder}/store"), as_table, {})
    sys.argv[1:] = [folder, f"size/{size}"]
    exec(SCORE)
    found.append(peak)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_five_times_as_many_utterances_take_no_more_memory(tmp_path: Path):
    """A process finds, encodes and scores few, then many, which as Python objects would take 150 MB more."""
    sizes = (4_000, 20_000)
    for size in sizes:
        make(tmp_path / "store", size)
    command = [sys.executable, "-c", GROWTH, str(tmp_path), *map(str, sizes)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    few, many = json.loads(done.stdout.splitlines()[-1])
    assert many - few < 120  # 56 to 94 as allocators please; 16,000 rows as Python objects took 150 (9.6 kB each)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A version of each size."""
    folder = tmp_path_factory.mktemp("sizes") / "store"
    for size in SIZES:
        make(folder, size, **SHORT)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("command", ["rm", "sft", "grpo", "score"])
def test_a_quarter_half_and_whole_million_take_the_same_memory_and_linear_time(
    tmp_path: Path, store: Path, command: str
):
    (tmp_path / "store").symlink_to(store)
    cpu = {}
    for size in SIZES:
        first, cached = (first_step(tmp_path, command, size) for _ in range(2))
        assert max(first.own, first.started, cached.own) < MOST
        if command != "score":
            assert cached.cpu < 120 * max(1, size / 1_000_000)  # with the cache, rows cost nothing
        cpu[size] = first.cpu
        shutil.rmtree(tmp_path / "cache")
        print(f"{command} {size:,}: {first}, with the cache {cached}")
    assert all(cpu[more] < 2.2 * cpu[fewer] for fewer, more in pairwise(SIZES))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_million_utterances_are_found_every_time(tmp_path: Path, store: Path):
    (tmp_path / "store").symlink_to(store)
    assert loads(tmp_path, 1_000_000) == 20


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_ranks_share_one_cache_and_hold_no_rows(tmp_path: Path, store: Path):
    (tmp_path / "store").symlink_to(store)
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "trainers" / "accelerate" / "ddp.yaml")]
    launch += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    found = first_step(tmp_path, "rm", SIZES[0], launch)
    assert found.started < MOST
    for kind in ("rows", "tokens"):
        assert len([path for path in (tmp_path / "cache" / "sotopia-rl-data" / kind).iterdir() if path.is_dir()]) == 1
