"""Parquet files that are small and unpack without end: refused with a sentence, before they take time or memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.stream import arrow_rows


def repeated(value: str, rows: int, path: Path) -> Path:
    """A file in which every row has this value, which lies there once."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [value])
    pq.write_table(pa.table({"episode_id": column}), path, dictionary_pagesize_limit=1 << 30, compression="zstd")
    return path


@pytest.mark.slow
def test_a_footer_that_claims_more_rows_than_the_file_can_have_is_refused(tmp_path: Path):
    path = repeated("e", 2_000_000, tmp_path / "rows.parquet")
    assert path.stat().st_size < 200_000
    command = ["import", str(path), "--name", "lab/new", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, InputError)
    assert f"its {path.stat().st_size:,} bytes claim 2,000,000 rows" in done.exception.message
    assert not list((tmp_path / "store").glob("lab/*"))


@pytest.mark.slow
def test_rows_that_share_a_long_value_are_read_a_few_at_a_time_and_not_without_end(tmp_path: Path):
    path = repeated("x" * 30_000_000, 500, tmp_path / "long.parquet")
    before = pa.total_allocated_bytes()

    def read() -> Iterator[int]:
        for record, _ in arrow_rows(path, "long.parquet"):
            assert pa.total_allocated_bytes() - before < 400 << 20
            yield len(record.value["episode_id"])

    with pytest.raises(InputError, match=r"unpacks to more than 1,000 times its size from row \d\d on"):
        assert set(read()) == {30_000_000}


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_text_that_lies_there_once_counts_for_each_row_that_has_it(tmp_path: Path, ending: str):
    path = repeated("x" * 5_000_000, 300, tmp_path / "shared.parquet")
    if ending == "arrow":
        feather.write_feather(pq.read_table(path).combine_chunks(), tmp_path / "shared.arrow", compression="zstd")
        path = tmp_path / "shared.arrow"
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"unpacks to more than 1,000 times its size from row 2\d\d on"):
            assert {len(record.value["episode_id"]) for record, _ in arrow_rows(path, path.name)} == {5_000_000}
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_a_table_of_many_equal_rows_is_read_whole(tmp_path: Path):
    path = repeated("the same words", 20_000, tmp_path / "equal.parquet")
    assert sum(1 for _ in arrow_rows(path, "equal.parquet")) == 20_000
