"""The lines beside a compacted file: lookups read them, and nothing depends on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.attempts import an_answer, an_error

from sotopia_rl_data.ledger import calls
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lines import BLOCK, Lines, lines_of


def compacted(folder: Path, count: int) -> tuple[Path, list[Attempt]]:
    """The Parquet file of a ledger with so many attempts, and these in order."""
    made = [an_answer(f"é {n}", f"question {n}") for n in range(count - 1)] + [an_error()]
    with Ledger(folder) as ledger:
        for attempt in made:
            ledger.append(attempt)
        ledger.compact()
    (parquet,) = folder.glob("calls-*.parquet")
    return parquet, made


@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_every_row_of_a_compacted_file_has_its_line(tmp_path: Path, count: int):
    parquet, made = compacted(tmp_path, count)
    lines = Lines()
    assert [lines.attempt(parquet, row) for row in range(count)] == made == list(calls.attempts_in(parquet))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def spoil(path: Path) -> None:
    """Only what is compressed: the file opens."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)


def put_anothers(path: Path) -> None:
    parquet, _ = compacted(path.parent / "other", 3 * BLOCK)
    lines_of(parquet).rename(path)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [Path.unlink, cut, spoil, put_anothers])
def test_where_the_lines_are_missing_or_not_its_own_the_parquet_file_answers(
    tmp_path: Path, harm: Callable[[Path], None]
):
    parquet, made = compacted(tmp_path, 3 * BLOCK)
    harm(lines_of(parquet))
    ledger = Ledger(tmp_path)
    assert [ledger.attempts(attempt.key) for attempt in made] == [[attempt] for attempt in made]


def test_compaction_makes_the_lines_that_are_missing_and_removes_those_of_merged_files(tmp_path: Path):
    parquet, made = compacted(tmp_path, 10)
    lines_of(parquet).unlink()
    assert Ledger(tmp_path).compact() == 0
    assert lines_of(parquet).exists()
    with Ledger(tmp_path) as ledger:
        ledger.append(an_answer("new", "new"))
        ledger.compact()
        assert [ledger.attempts(attempt.key) for attempt in made] == [[attempt] for attempt in made]
    (merged,) = tmp_path.glob("calls-*.parquet")
    assert [path.name for path in tmp_path.glob("calls-*.arrow")] == [lines_of(merged).name]
    lines_of(merged).rename(tmp_path / "calls-0-0.arrow")
    Ledger(tmp_path).compact()
    assert [path.name for path in tmp_path.glob("calls-*.arrow")] == [lines_of(merged).name]


@pytest.mark.alone
def test_a_lookup_after_compaction_takes_less_than_a_millisecond(tmp_path: Path):
    """Of this process's CPU, whatever else the machine does; the rows lie all over the file."""
    _, made = compacted(tmp_path, 4_000)
    ledger = Ledger(tmp_path)
    ledger.attempts(made[0].key)  # opens the file
    chosen = [made[n * 1_237 % len(made)] for n in range(200)]
    began = time.process_time()
    for attempt in chosen:
        assert ledger.attempts(attempt.key) == [attempt]
    assert (time.process_time() - began) / len(chosen) < 0.001
