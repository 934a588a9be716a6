"""Rows are tokenised once, by several processes, and kept: what is there is read, what was finished is not redone."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

import pyarrow as pa
from fixtures.training import as_table, make_dataset

from sotopia_rl_data.errors import InputError, SotopiaDataError
from sotopia_rl_data.trainers import cache
from sotopia_rl_data.trainers.data import DatasetRow, DatasetRows, load_rows
from sotopia_rl_data.trainers.tokenised import SLICE, tokenised


@pytest.fixture
def rows(tmp_path: Path) -> DatasetRows:
    return load_rows(make_dataset(tmp_path, episodes=60), store=tmp_path)


def test_several_processes_make_what_one_does_in_key_order(rows: DatasetRows):
    one = tokenised(rows, as_table, {"test": "one"})
    many = tokenised(rows, as_table, {"test": "many"}, slice_rows=25)
    assert one.counts == many.counts
    assert one.total("too_long") == 60
    if len(os.sched_getaffinity(0)) > 1:
        assert os.getpid() not in {process for split in many.splits.values() for process in split["process"]}
    for split in ("train", "validation", "test"):
        want = [(f"{row.episode_id} {row.agent} {row.turn}", row.completion[0]["content"]) for row in rows.read(split)]
        want = [row for row in want if not row[0].endswith("3")]
        for found in (one, many):
            assert list(zip(found.splits[split]["key"], found.splits[split]["said"], strict=True)) == want


def test_what_is_kept_is_not_made_again_and_other_settings_are_other_rows(rows: DatasetRows):
    calls: list[int] = []

    def counted(found: Sequence[DatasetRow]) -> tuple[pa.Table, dict[str, int]]:
        calls.append(len(found))
        return as_table(found)

    first = tokenised(rows, counted, {"test": "kept"})
    made = len(calls)
    again = tokenised(rows, counted, {"test": "kept"})
    assert len(calls) == made > 0
    assert [split.to_list() for split in again.splits.values()] == [split.to_list() for split in first.splits.values()]
    tokenised(rows, counted, {"test": "other"})
    assert len(calls) == 2 * made


def test_what_was_kept_before_control_tokens_were_plain_text_is_made_again(rows: DatasetRows):
    earlier = {"rows": rows.folder.name, "shard": SLICE, "test": "earlier"}
    cache.cached("tokens", earlier, lambda folder: {"shards": {}, "counts": {}})
    assert tokenised(rows, as_table, {"test": "earlier"}).splits.keys() == rows.sizes.keys()


KILLED = """
import sys, time
from pathlib import Path
from sotopia_rl_data.trainers.data import load_rows
from sotopia_rl_data.trainers.tokenised import tokenised
sys.path.insert(0, sys.argv[1])
from fixtures.training import as_table

def slow(rows):
    if rows[0].split == "validation":
        Path(sys.argv[3]).touch()
        time.sleep(600)
    return as_table(rows)

tokenised(load_rows("toys/rewards", store=sys.argv[2]), slow, {"test": "killed"}, slice_rows=100)
"""


def test_after_a_kill_whole_slices_are_kept_and_the_rest_is_made(rows: DatasetRows, tmp_path: Path):
    reached = tmp_path / "reached"
    tests = str(Path(__file__).parents[1])
    process = subprocess.Popen([sys.executable, "-c", KILLED, tests, str(tmp_path), str(reached)])
    deadline = time.monotonic() + 120
    finished = Path(os.environ["HF_DATASETS_CACHE"]) / "sotopia-rl-data" / "tokens"
    while not (reached.exists() and list(finished.glob("*.unfinished/train*.json"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    splits = tokenised(rows, as_table, {"test": "killed"}, slice_rows=100).splits
    made = {name: set(split["process"]) for name, split in splits.items()}
    assert not made["train"] & made["validation"]  # train was made before the kill
    whole = tokenised(rows, as_table, {"test": "whole"}).splits
    assert {name: split["key"][:] for name, split in splits.items()} == {
        name: split["key"][:] for name, split in whole.items()
    }


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one process makes all on one core")
def test_a_worker_that_is_killed_is_a_sentence_and_the_next_run_goes_on(rows: DatasetRows, tmp_path: Path):
    parent, reached = os.getpid(), tmp_path / "reached"

    def killed_once(found: Sequence[DatasetRow]) -> tuple[pa.Table, dict[str, int]]:
        if found[0].split == "validation" and os.getpid() != parent and not reached.exists():
            reached.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return as_table(found)

    with pytest.raises(SotopiaDataError, match="A process that tokenised rows was killed") as told:
        tokenised(rows, killed_once, {"test": "worker"}, slice_rows=25)
    assert "run the same command again" in told.value.hint
    again = tokenised(rows, killed_once, {"test": "worker"}, slice_rows=25)
    assert again.counts == tokenised(rows, as_table, {"test": "no worker"}).counts


def test_a_ctrl_c_ends_all_processes_without_their_tracebacks(rows: DatasetRows, tmp_path: Path):
    reached, tests = tmp_path / "reached", str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.replace("killed", "interrupted"), tests, str(tmp_path), str(reached)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not reached.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=120)[1]
    assert process.returncode == -signal.SIGINT
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1


def test_two_processes_share_what_the_first_makes(tmp_path: Path):
    """Both ask at once: one fills the folder, the other waits and reads it."""
    code = """
import sys, time
from pathlib import Path
from sotopia_rl_data.trainers.cache import cached
def fill(folder):
    time.sleep(1)
    return {"made by": sys.argv[1]}
print(cached("test", {"pair": sys.argv[2]}, fill)[1])
"""
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(n), str(tmp_path)], stdout=subprocess.PIPE) for n in (1, 2)
    ]
    said = {process.communicate()[0] for process in started}
    assert len(said) == 1


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "file"))

    def fill(folder: Path) -> Any:
        raise AssertionError("nothing is made")

    with pytest.raises(InputError, match=r"The cache .* cannot be written: Not a directory") as refused:
        cache.cached("test", {}, fill)
    assert "HF_DATASETS_CACHE" in refused.value.hint
