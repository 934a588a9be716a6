"""Splits of an import: what is said where one is empty, what fills it, and a division by episode."""

from __future__ import annotations

import re

import pytest
from fixtures.records import PLAIN, lines

from sotopia_rl_data import open_dataset
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.importers.splits import empty_splits, filling_seed
from sotopia_rl_data.store import Store


def fifty(environments: int) -> list[dict]:
    return [PLAIN | {"episode_id": f"P{i}", "environment_id": f"shop {i % environments}"} for i in range(50)]


def test_an_empty_split_is_said_and_the_seed_that_is_named_fills_all_three(tmp_path):
    store, path = Store(tmp_path / "store"), lines(tmp_path / "a.jsonl", *fifty(5))
    report = import_dataset(store, [path], "o/n")
    assert set(report.splits) < {"train", "validation", "test"}
    (warning,) = report.warnings
    seed = int(re.search(r"--seed (\d+)", warning)[1])
    mended = import_dataset(store, [path], "o/n", options=ImportOptions(seed=seed))
    assert set(mended.splits) == {"train", "validation", "test"}
    assert (mended.warnings, sum(mended.splits.values())) == ((), 50)


def test_episodes_of_one_environment_are_split_by_episode_and_an_append_moves_none(tmp_path):
    store = Store(tmp_path / "store")
    report = import_dataset(store, [lines(tmp_path / "a.jsonl", *fifty(1))], "o/n")
    assert len(report.splits) == 1
    assert "--split-by episode" in report.warnings[0]
    assert "--seed" not in report.warnings[0]
    options = ImportOptions(split_by="episode")
    import_dataset(store, [lines(tmp_path / "a.jsonl", *fifty(1))], "o/n", options=options)
    ids = "SELECT episode_id, split FROM episodes ORDER BY 1"
    before = open_dataset("o/n", store).sql(ids).to_pylist()
    assert {row["split"] for row in before} == {"train", "validation", "test"}
    more = [PLAIN | {"episode_id": f"Q{i}", "environment_id": "shop 0"} for i in range(50)]
    import_dataset(store, [lines(tmp_path / "a.jsonl", *fifty(1), *more)], "o/n", options=options)
    after = open_dataset("o/n", store).sql(ids).to_pylist()
    assert [row for row in after if row["episode_id"].startswith("P")] == before


def test_two_episodes_cannot_fill_three_splits():
    assert filling_seed(["a", "b"], 0) is None
    (warning,) = empty_splits({"train": 2}, ["e"], ["a", "b"], ImportOptions())
    assert warning.endswith("there are too few episodes to fill all three")


def test_training_rows_are_not_split_by_episode(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"input": "x", "output": "y"})
    with pytest.raises(UsageError, match="do not name their episode, so they cannot be split by it"):
        import_dataset(Store(tmp_path / "store"), [path], "o/n", options=ImportOptions(split_by="episode"))
