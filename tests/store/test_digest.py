"""The digest tells content apart, and nothing else: not chunks, not Arrow's spellings, not the order of columns."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.store.digest import RowDigest, version_digest

PLAIN = pa.schema(
    [
        ("id", pa.string()),
        ("turn", pa.int32()),
        ("reward", pa.float64()),
        ("failed", pa.bool_()),
        ("to", pa.list_(pa.string())),
        ("turns", pa.list_(pa.struct([("turn", pa.int32()), ("text", pa.string())]))),
    ]
)
WIDE = pa.schema(
    [
        ("turns", pa.large_list(pa.struct([("text", pa.large_string()), ("turn", pa.int64())]))),
        ("to", pa.large_list(pa.string_view())),
        ("failed", pa.bool_()),
        ("reward", pa.float64()),
        ("turn", pa.int64()),
        ("id", pa.dictionary(pa.int8(), pa.string())),
    ]
)


def rows_digest(schema: pa.Schema, batches: Iterable[pa.Table | pa.RecordBatch]) -> str:
    """The digest of all rows of `batches`, which come in key order."""
    digest = RowDigest(schema)
    for batch in batches:
        digest.update(batch)
    return digest.hexdigest()


TEXT = st.none() | st.text(alphabet="aé\n\"'\0😀", max_size=4)
FLOAT = st.none() | st.floats(allow_nan=False, allow_infinity=False)
INT = st.none() | st.integers(-(2**31), 2**31 - 1)
ROW = st.fixed_dictionaries(
    {
        "id": TEXT,
        "turn": INT,
        "reward": FLOAT,
        "failed": st.none() | st.booleans(),
        "to": st.none() | st.lists(TEXT, max_size=3),
        "turns": st.none() | st.lists(st.none() | st.fixed_dictionaries({"turn": INT, "text": TEXT}), max_size=3),
    }
)
ROWS = st.lists(ROW, max_size=12)


def digest(rows: list[dict[str, Any]], schema: pa.Schema = PLAIN, chunk: int = 1000, offset: int = 0) -> str:
    """The rows' digest, in batches of `chunk` that are slices of a longer table starting at `offset`."""
    padded = pa.Table.from_pylist(rows[:1] * offset + rows, schema=schema).combine_chunks().slice(offset * bool(rows))
    return rows_digest(schema, padded.to_batches(max_chunksize=chunk))


@pytest.mark.slow
@given(ROWS, st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_chunks_slices_and_arrow_types_do_not_show(rows: list[dict[str, Any]], chunk: int, offset: int) -> None:
    assert digest(rows, PLAIN, chunk, offset) == digest(rows) == digest(rows, WIDE, chunk, offset)


@pytest.mark.slow
@given(ROWS.filter(bool), st.data())
@settings(max_examples=150, deadline=None)
def test_any_other_cell_shows(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    other = copy.deepcopy(rows)
    i, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.sampled_from(PLAIN.names))
    other[i][column] = data.draw(ROW)[column]
    assert (digest(rows) == digest(other)) == (rows == other)


@pytest.mark.slow
@given(ROWS, ROWS)
@settings(max_examples=100, deadline=None)
def test_other_rows_show(rows: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert (digest(rows) == digest(other)) == (rows == other)


def one(values: list[Any], kind: pa.DataType) -> str:
    table = pa.table({"x": pa.array(values, kind)})
    return rows_digest(table.schema, [table])


def test_text_moved_across_a_boundary_shows() -> None:
    assert one(["ab", "c"], pa.string()) != one(["a", "bc"], pa.string())
    assert one([["a"], ["b"]], pa.list_(pa.string())) != one([["a", "b"], []], pa.list_(pa.string()))


def test_missing_is_not_empty_and_not_zero() -> None:
    assert len({one([None], pa.string()), one([""], pa.string())}) == 2
    assert len({one([None], pa.float64()), one([0.0], pa.float64())}) == 2
    lists = pa.list_(pa.string())
    assert len({one([None], lists), one([[]], lists), one([[None]], lists), one([[""]], lists)}) == 4
    assert one([None, 1], pa.int32()) != one([1, None], pa.int32())


def test_what_lies_under_a_null_does_not_show() -> None:
    items = pa.array(["hidden", "seen"])
    hidden = pa.ListArray.from_arrays(pa.array([0, 1, 2]), items, mask=pa.array([True, False]))
    assert rows_digest(pa.schema([("x", hidden.type)]), [pa.table({"x": hidden})]) == one(
        [None, ["seen"]], pa.list_(pa.string())
    )


def test_minus_zero_is_zero_and_single_precision_is_exact() -> None:
    assert one([-0.0], pa.float64()) == one([0.0], pa.float64())
    assert one([0.5], pa.float32()) == one([0.5], pa.float64())


def test_a_number_is_not_its_text_nor_its_other_kind() -> None:
    assert len({one([1], pa.int32()), one([1.0], pa.float64()), one(["1"], pa.string()), one([True], pa.bool_())}) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_with_its_column(value: float) -> None:
    with pytest.raises(InputError, match=r"'x\[\]'"):
        one([[value]], pa.list_(pa.float64()))


def test_a_number_beyond_64_bits_and_a_type_without_canonical_form_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be stored as int64"):
        one([2**63], pa.uint64())
    with pytest.raises(InputError, match="cannot store"):
        one([b"x"], pa.binary())


def test_the_recipe_and_the_split_show_but_not_the_order_of_names() -> None:
    base = version_digest({"rewards": {"train": "x", "test": "y"}}, {"a": 1, "b": 2})
    assert base == version_digest({"rewards": {"test": "y", "train": "x"}}, {"b": 2, "a": 1})
    assert base != version_digest({"rewards": {"train": "x", "test": "y"}}, {"a": 1, "b": 3})
    assert base != version_digest({"rewards": {"train": "y", "test": "x"}}, {"a": 1, "b": 2})
    assert base != version_digest({"rewards": {"train": "x", "validation": "y"}}, {"a": 1, "b": 2})


def test_golden_digests_hold_on_every_machine_and_library_version() -> None:
    rows = [
        {"id": "e1", "turn": 0, "reward": 0.1, "failed": None, "to": [], "turns": [{"turn": 0, "text": "José 😀"}]},
        {"id": "e2", "turn": -1, "reward": None, "failed": True, "to": ["b", None], "turns": None},
    ]
    assert digest(rows) == "46824d6cc5317e06846fa6d474817c7cdf7e75128c358da2497a521723bf907e"
    assert digest([]) == "02bff6ca6e894267d51a75cd79009a110625be79f832f8a53cb1cc8789a00e0d"
    assert (
        version_digest({"rewards": {"train": digest(rows)}}, {"scale": 3})
        == "c05727b70fe3b28e6a107778fae444597ccdf8a8f155c8d2956f175a4f1a47ef"
    )


@pytest.mark.alone
def test_the_digest_of_text_costs_little_more_than_hashing_its_bytes() -> None:
    table = pa.table({"text": ["x" * 5000] * 10_000, "turn": list(range(10_000)), "reward": [0.5] * 10_000})
    plain = b"x" * table.nbytes
    digesting = min(cpu_seconds(lambda: RowDigest(table.schema).update(table)) for _ in range(3))
    hashing = min(cpu_seconds(lambda: hashlib.sha256(plain)) for _ in range(3))
    assert digesting < 2 * hashing


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
