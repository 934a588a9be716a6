"""Packing sequences that share prefixes: every token keeps its position, its past, and nothing else."""

import json
import runpy
from argparse import Namespace

import numpy as np
import pytest
from fixtures.places import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data.trainers.reward_model.tree import Segment, pack, packed_size, shared_prefix

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=10)


def test_a_toy():
    tree = pack([[1, 2, 3], [1, 2, 4, 5], [1, 2]])
    assert tree.input_ids.tolist() == [1, 2, 3, 4, 5]
    assert tree.position_ids.tolist() == [0, 1, 2, 2, 3]
    assert tree.read.tolist() == [2, 4, 1]
    assert tree.segments == (Segment(0, 3), Segment(3, 5, ((0, 2),)))
    assert (tree.apart, len(tree), tree.ratio) == (9, 5, 1.8)


def test_a_growing_dialogue_is_one_run_with_no_branch():
    tree = pack([[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]])
    assert tree.segments == (Segment(0, 6),)
    assert tree.read.tolist() == [1, 3, 5]


def test_sequences_that_share_nothing_stand_side_by_side():
    tree = pack([[7, 8], [5]])
    assert tree.segments == (Segment(0, 1), Segment(1, 3))
    assert tree.position_ids.tolist() == [0, 0, 1]
    assert tree.ratio == 1.0


def test_equal_sequences_are_read_at_the_same_place():
    assert pack([[1, 2], [1, 2]]).read.tolist() == [1, 1]


@pytest.mark.slow
@given(sequences)
@settings(max_examples=300, deadline=None)
def test_every_sequence_is_its_path_from_root_to_read_position(given: list[list[int]]):
    tree = pack(given)
    mask = tree.mask()
    for sequence, read in zip(given, tree.read, strict=True):
        path = np.flatnonzero(mask[read])  # what the last token sees, in row order
        assert tree.input_ids[path].tolist() == sequence
        assert tree.position_ids[path].tolist() == list(range(len(sequence)))


@pytest.mark.slow
@given(sequences)
@settings(max_examples=300, deadline=None)
def test_segments_see_what_the_mask_says(given: list[list[int]]):
    tree = pack(given)
    seen = np.zeros((len(tree), len(tree)), dtype=bool)
    for segment in tree.segments:
        for row in range(segment.start, segment.end):
            for a, b in segment.ancestors:
                seen[row, a:b] = True
            seen[row, segment.start : row + 1] = True
        assert segment.depth == tree.position_ids[segment.start]
    assert (seen == tree.mask()).all()
    assert [s.start for s in tree.segments] + [len(tree)] == [0, *(s.end for s in tree.segments)]


@given(sequences)
@settings(max_examples=200, deadline=None)
def test_no_prefix_is_stored_twice(given: list[list[int]]):
    prefixes = {tuple(s[: i + 1]) for s in given for i in range(len(s))}
    assert len(pack(given)) == packed_size(given) == len(prefixes)


def test_arrays_pack_as_lists_do():
    lists = [[300, 2], [1, 70000, 3], [1, 70000]]
    assert pack([np.array(s, dtype=np.int32) for s in lists]).input_ids.tolist() == pack(lists).input_ids.tolist()
    assert packed_size([np.array(s) for s in lists]) == 5


def test_shared_prefix_of_arrays_and_lists():
    assert shared_prefix([1, 2, 3], np.array([1, 2, 9])) == 2
    assert shared_prefix([], [1]) == 0


@pytest.mark.slow
def test_the_benchmark_runs_and_says_what_it_measured(capsys: pytest.CaptureFixture[str]):
    """On a toy shape: every case, with the columns that a GPU has; a CPU has no peak that we know."""
    pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
    script = runpy.run_path(str(ROOT / "benchmarks" / "tree_packing.py"))
    script["main"](["--shape", "64", "--turns", "4", "--repeats", "1", "--threads", "1", "--peak", "1", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(r["case"], r["what"]) for r in rows] == [
        ("chat", "forward"), ("chat", "forward + backward"), ("single", "forward"), ("single", "forward + backward"),
        ("16 completions", "forward"),
    ]  # fmt: skip
    assert all({"speed-up", "packed tokens/s", "peak GiB"} <= r.keys() and r["MFU %"] > 0 for r in rows)
    assert all(float(r["gap"]) < 1e-2 for r in rows)
    assert script["known_peak"](Namespace(device="cpu", dtype="bfloat16")) is None


@pytest.mark.parametrize("bad", [[], [[]], [[1], []]])
def test_nothing_to_pack_is_refused(bad: list[list[int]]):
    with pytest.raises(ValueError, match="at least one"):
        pack(bad)
