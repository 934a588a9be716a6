"""Parquet files that are small and unpack without end: refused with a sentence, before they take time or memory."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import stream
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


@pytest.mark.slow
def test_short_rows_beside_a_long_value_of_their_dictionary_are_not_read_without_end(tmp_path: Path):
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), ["s", "x" * 30_000_000])
    path = tmp_path / "beside.parquet"
    pq.write_table(pa.table({"episode_id": column}), path, dictionary_pagesize_limit=1 << 30, compression="zstd")
    with pytest.raises(InputError, match=r"unpacks to more than 1,000 times its size from row \d\d\d,\d\d\d on"):
        assert {record.value["episode_id"] for record, _ in arrow_rows(path, "beside.parquet")} == {"s"}


@pytest.mark.slow
def test_row_groups_that_each_have_a_long_dictionary_are_not_read_without_end(tmp_path: Path):
    path = tmp_path / "groups.parquet"
    schema = pa.schema({"episode_id": pa.dictionary(pa.int32(), pa.string())})
    with pq.ParquetWriter(path, schema, dictionary_pagesize_limit=1 << 30, compression="zstd") as writer:
        for i in range(50):
            column = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), ["s", f"{i}" + "x" * 30_000_000])
            writer.write_table(pa.table([column], schema))
    with pytest.raises(InputError, match=r"unpacks to more than 1,000 times its size from row 3\d on"):
        assert {record.value["episode_id"] for record, _ in arrow_rows(path, "groups.parquet")} == {"s"}


def test_a_table_of_categories_is_read_whole_however_many_there_are(tmp_path: Path):
    chance = random.Random(1)
    texts = [chance.randbytes(1_750).hex() for _ in range(4_000)]
    column = pa.DictionaryArray.from_arrays(pa.array([i % 4_000 for i in range(20_000)], pa.int32()), texts)
    path = tmp_path / "categories.parquet"
    pq.write_table(pa.table({"prompt": column}), path, compression="zstd")
    assert [record.value["prompt"] for record, _ in arrow_rows(path, path.name)] == texts * 5


def test_of_a_wide_row_of_numbers_each_is_looked_at_once(tmp_path: Path):
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({"prompt": ["hi"] * 2, "embedding": [[0.5] * 10_000] * 2}), path)
    calls: Counter[str] = Counter()
    rows = arrow_rows(path, "wide.parquet")
    next(rows)
    sys.setprofile(lambda frame, event, _: calls.update([frame.f_code.co_filename] if event == "call" else []))
    next(rows)
    sys.setprofile(None)
    assert 10_000 < calls[stream.__file__] < 10_100
