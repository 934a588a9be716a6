"""What a query's rows look like as a table, JSON, JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sotopia_rl_data.errors import QueryError, StoreError, UsageError
from sotopia_rl_data.results import FORMATS, write_result

TABLE = pa.table(
    {
        "agent": ["José O'Malley", 'says "hi", twice\nand more', None],
        "reward": [0.5, None, float("nan")],
        "turn": [0, 1, 2],
        "left": [True, False, None],
        "prompt": [[{"role": "user", "content": "é"}], [], None],
    }
)
AS_JSON = [
    {"agent": "José O'Malley", "reward": 0.5, "turn": 0, "left": True, "prompt": [{"role": "user", "content": "é"}]},
    {"agent": 'says "hi", twice\nand more', "reward": None, "turn": 1, "left": False, "prompt": []},
    {"agent": None, "reward": None, "turn": 2, "left": None, "prompt": None},
]


def written(table: pa.Table, fmt: str) -> str:
    stream = io.StringIO()
    write_result(table, fmt, stream)
    return stream.getvalue()


def test_json_is_an_array_of_objects_and_nan_is_null() -> None:
    assert json.loads(written(TABLE, "json")) == AS_JSON
    assert json.loads(written(TABLE.slice(0, 0), "json")) == []
    assert [json.loads(line) for line in written(TABLE, "jsonl").splitlines()] == AS_JSON


def test_csv_quotes_what_must_be_and_holds_nested_values_as_json() -> None:
    rows = list(csv.reader(io.StringIO(written(TABLE, "csv"))))
    assert rows == [
        ["agent", "reward", "turn", "left", "prompt"],
        ["José O'Malley", "0.5", "0", "true", '[{"role": "user", "content": "é"}]'],
        ['says "hi", twice\nand more', "", "1", "false", "[]"],
        ["", "", "2", "", ""],
    ]


def test_parquet_keeps_every_type(tmp_path: Path) -> None:
    write_result(TABLE, "parquet", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").schema == TABLE.schema
    stream = io.BytesIO()
    write_result(TABLE, "parquet", stream)
    assert pq.read_table(io.BytesIO(stream.getvalue())).num_rows == 3


def test_a_table_shows_one_line_a_row_and_no_control_characters() -> None:
    shown = written(
        pa.table({"x": ["a\nb\x1b[31m", "[bold]no markup[/bold]", "y" * 500], "n": [1.0, 0.123456789, None]}), "table"
    )
    assert "a b\\x1b[31m" in shown
    assert "[bold]no markup[/bold]" in shown
    assert "0.123457" in shown
    assert "\x1b" not in shown
    assert "y" * 100 not in shown


def test_a_long_table_says_that_there_is_more() -> None:
    assert "first 50 rows" in written(pa.table({"i": list(range(51))}), "table")
    assert "first 50 rows" not in written(pa.table({"i": list(range(50))}), "table")


def test_two_columns_of_one_name_both_stay() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert written(table, "csv") == "a,a\n1,2\n"


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_reader_is_written_batch_by_batch(fmt: str, tmp_path: Path) -> None:
    batches = [pa.record_batch({"i": [i, i + 1]}) for i in range(0, 10, 2)]
    reader = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
    write_result(reader, fmt, tmp_path / "out")
    text = (tmp_path / "out").read_bytes()
    whole = pa.Table.from_batches(batches)
    write_result(whole, fmt, tmp_path / "whole")
    assert fmt == "parquet" or text == (tmp_path / "whole").read_bytes()


def test_a_failure_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("before")

    def batches():  # type: ignore[no-untyped-def]
        yield pa.record_batch({"i": [1]})
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_result(
            pa.RecordBatchReader.from_batches(pa.schema([("i", pa.int64())]), batches()), "csv", tmp_path / "out.csv"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "before"


def test_a_file_that_cannot_be_written_and_an_unknown_format_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        write_result(TABLE, "csv", tmp_path / "nowhere" / "out.csv")
    with pytest.raises(UsageError, match="cannot be written in the format 'xml'"):
        write_result(TABLE, "xml", tmp_path / "out.xml")


@pytest.mark.parametrize("fmt", ["table", "json", "jsonl", "csv"])
@pytest.mark.parametrize(
    "value",
    [
        "DATE '99999-01-01'",
        "DATE '0044-03-15 (BC)'",
        "'infinity'::DATE",
        "TIMESTAMP '290000-01-01'",
        "'-infinity'::TIMESTAMPTZ",
        "[{'a': DATE '99999-01-01'}]",
    ],
)
def test_a_date_that_python_has_not_is_refused_with_a_cast_that_mends_it(value: str, fmt: str) -> None:
    with pytest.raises(QueryError) as told:
        written(duckdb.sql(f"SELECT {value} AS x").to_arrow_table(), fmt)
    assert told.value.message == (
        "The result has a date before the year 1 or after 9999, or an infinite one, and only Parquet holds these."
    )
    assert told.value.hint == "write CAST(column AS VARCHAR) in place of that column"
    assert "x" in written(duckdb.sql(f"SELECT CAST({value} AS VARCHAR) AS x").to_arrow_table(), fmt)
    write_result(duckdb.sql(f"SELECT {value} AS x").to_arrow_table(), "parquet", io.BytesIO())


@pytest.mark.parametrize("value", ["INTERVAL 1 MONTH", "union_value(a := 1)", "{'a': INTERVAL 1 MONTH}"])
def test_what_parquet_cannot_hold_is_refused_and_leaves_the_file_that_was_there(value: str, tmp_path: Path) -> None:
    (tmp_path / "out.parquet").write_text("before")
    with pytest.raises(QueryError, match=r"^The result cannot be written to Parquet: .*[^.]\.\n  hint: write CAST"):
        write_result(duckdb.sql(f"SELECT {value} AS x").to_arrow_table(), "parquet", tmp_path / "out.parquet")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.parquet", "before")]
    write_result(duckdb.sql(f"SELECT CAST({value} AS VARCHAR) AS x").to_arrow_table(), "parquet", io.BytesIO())
