"""Rows end up in key order, whatever order and pieces they came in, in bounded memory."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.stores import episodes, python, reward_row, rewards
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data.schema import SPLITS
from sotopia_rl_data.store.ordering import Order, merge
from sotopia_rl_data.store.parts import Limits, Part, _Buffer
from sotopia_rl_data.store.stage import Stage
from sotopia_rl_data.tables import ATTRIBUTIONS, FAILURES

TEXT = st.none() | st.text(alphabet="aB é\uffff😀", max_size=2)
FAILURE = st.fixed_dictionaries(dict.fromkeys(FAILURES.names, TEXT) | {"turn": st.none() | st.integers(-1, 2)})


def sort_key(row: dict[str, Any], order: Order) -> tuple[Any, ...]:
    return tuple((row[c] is not None, row[c]) for c in order.columns)


@pytest.mark.slow
@given(st.lists(FAILURE, max_size=40), st.integers(1, 7), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_any_rows_in_any_pieces_are_sorted_like_python_sorts_them(
    rows: list[dict[str, Any]], piece: int, group: int
) -> None:
    table, order = pa.Table.from_pylist(rows, FAILURES), Order.of("failures", FAILURES)
    with tempfile.TemporaryDirectory() as folder:
        part = Part(Path(folder), "failures", "train", FAILURES, Limits(group_rows=group))
        for start in range(0, len(rows), piece):
            part.write(table.slice(start, piece))
        split = part.finish()
        kept = pq.read_table([Path(folder) / file.path for file in split.files]).to_pylist()
        assert [p.name for p in Path(folder, ".runs").glob("*")] == []
    assert kept == sorted(rows, key=lambda row: sort_key(row, order))
    assert split.rows == len(rows)


@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=6), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_merging_sorted_runs_is_sorting_all_of_them(runs: list[list[int]], block: int) -> None:
    order = Order("failures", ("turn",), unique=False)
    tables = [pa.table({"turn": pa.array(sorted(run), pa.int32())}) for run in runs]
    blocks = [iter([t.slice(i, block) for i in range(0, t.num_rows, block)]) for t in tables]
    merged = [value for table in merge(order, blocks) for value in table["turn"].to_pylist()]
    assert merged == sorted(value for run in runs for value in run)


@pytest.mark.parametrize(
    ("values", "ascending"),
    [
        ([None, None, "", "a", "a", "b"], True),
        (["a", None], False),
        (["B", "a"], True),
        (["a", "B"], False),
        ([], True),
    ],
)
def test_null_comes_first_and_text_goes_by_code_point(values: list[str | None], ascending: bool) -> None:
    order = Order("failures", ("reason",), unique=False)
    assert order.follows(order.keys(pa.table({"reason": pa.array(values, pa.string())})), None) is ascending


def test_a_row_without_identity_is_ordered_by_all_it_holds() -> None:
    assert Order.of("failures", FAILURES).columns[-2:] == ("call_id", "record")
    assert Order.of("attributions", ATTRIBUTIONS).unique
    plain = pa.schema([("value", pa.float64()), ("prompt", pa.string()), ("completion", pa.string())])
    assert Order.of("rewards", plain) == Order("rewards", ("prompt", "completion", "value"), False)


@pytest.mark.slow
def test_fat_rows_out_of_order_are_sorted_in_bounded_memory(tmp_path: Path) -> None:
    """600 MB of episodes, 100 kB each, shuffled: the process stays under 500 MB."""
    code = """
import os, sys
import pyarrow as pa
from sotopia_rl_data.store import Store
from fixtures.stores import episodes, peak_mb

def rows():
    block = episodes(*range(100))
    at, texts = block.schema.get_field_index("scenario"), [os.urandom(50_000).hex() for _ in range(40)]
    for i in range(60):
        ids = pa.array([f"e{(j * 7919 + i * 104729) % 1000003:07}-{i}-{j}" for j in range(100)])
        fat = block.set_column(at, "scenario", [[texts[(i + j) % 40] for j in range(100)]])
        yield fat.set_column(0, "episode_id", ids)

with Store(sys.argv[1]).stage("fat") as stage:
    stage.write("episodes", "train", rows())
    version = stage.commit({}).version
(split,) = version.manifest.configs["episodes"].values()
print(split.rows, peak_mb())
"""
    out, err = python(code, tmp_path).communicate()
    rows, peak = map(int, out.split())
    assert rows == 6000, err
    assert peak < 500


def test_rows_that_come_one_by_one_are_written_in_few_pieces() -> None:
    """Parquet and the digest take their time for each."""
    pieces: list[pa.Table] = []
    buffer = _Buffer(Limits(), pieces.append)
    for number in range(1_000):
        buffer.add(pa.table({"number": [number]}))
    buffer.flush()
    (piece,) = pieces
    assert piece.column(0).to_pylist() == list(range(1_000))
    assert piece.column(0).num_chunks == 16


def test_more_runs_are_merged_than_files_may_be_open(tmp_path: Path) -> None:
    code = """
import os, resource, sys
from pathlib import Path
import pyarrow.parquet as pq
from fixtures.stores import rewards, reward_row
from sotopia_rl_data.store.parts import Limits, Part
from sotopia_rl_data.store.stage import Stage

rows = rewards(*(reward_row(i) for i in range(300)))
part = Part(Path(sys.argv[1]), "rewards", "train", rows.schema, Limits(group_rows=1))
for i in reversed(range(300)):
    part.write(rows.slice(i, 1))
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, 4096))
(file,) = part.finish().files
kept = pq.read_table(Path(sys.argv[1], file.path))["episode_id"].to_pylist()
print(kept == [f"e{i:04}" for i in range(300)])
"""
    out, err = python(code, tmp_path).communicate()
    assert out == "True\n", err


def test_what_waits_in_all_splits_together_is_bounded(tmp_path: Path) -> None:
    """Six times some 0.5 MB, each out of order; 0.6 MB of it may be in memory, and Arrow rounds small tables up."""
    most, tables = 600_000, {"episodes": episodes(*range(2_000)), "rewards": rewards(*map(reward_row, range(4_000)))}
    with Stage(tmp_path, "org/toy", Limits(group_bytes=most)) as stage:
        before = pa.total_allocated_bytes()
        for config, split in itertools.product(tables, SPLITS):
            for start in reversed(range(0, tables[config].num_rows, 100)):
                rows = tables[config].slice(start, 100).to_pylist()
                stage.write(config, split, pa.Table.from_pylist(rows, tables[config].schema))
        assert pa.total_allocated_bytes() - before < 2 * most
        configs = stage.commit({}).version.manifest.configs
    assert {split.rows for splits in configs.values() for split in splits.values()} == {2_000, 4_000}
