"""What `diff` says changed between two versions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from fixtures.stores import commit, episodes, failures, reward_row, rewards

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.diff import Changes, diff
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_rows_added_removed_and_changed_are_counted_by_identity(store: Store) -> None:
    one = commit(store, {("rewards", "train"): rewards(*(reward_row(i, 0.5) for i in (0, 1, 2, 3)))}).version
    rows = [reward_row(1, 0.5), reward_row(2, 0.75), reward_row(3, None), reward_row(4), reward_row(4, turn=2)]
    two = commit(store, {("rewards", "train"): rewards(*rows)}).version
    found = diff(one, two)
    assert (found.a, found.b, found.recipe) == ("org/toy@v1.0.0", "org/toy@v1.1.0", {})
    changes = found.configs["rewards"]
    assert (changes.added, changes.removed, changes.changed, changes.same) == (2, 1, 2, 1)
    assert changes.columns == {"reward": 2, "norm_goal": 2}
    assert changes.examples == {
        "added": [{"episode_id": "e0004", "agent": "a", "turn": 0}, {"episode_id": "e0004", "agent": "a", "turn": 2}],
        "removed": [{"episode_id": "e0000", "agent": "a", "turn": 0}],
        "changed": [{"episode_id": "e0002", "agent": "a", "turn": 0}, {"episode_id": "e0003", "agent": "a", "turn": 0}],
    }
    back = diff(two, one).configs["rewards"]
    assert (back.added, back.removed, back.changed, back.same) == (1, 2, 2, 1)


def test_equal_splits_are_not_read(store: Store) -> None:
    one = commit(store, {("episodes", "train"): episodes(0, 1)}).version
    two = commit(store, {("episodes", "train"): episodes(0, 1)}, recipe={"scale": 4}).version
    for path in two.files("episodes")["train"]:
        path.unlink()
    found = diff(one, two)
    assert found.configs["episodes"] == Changes(0, 0, 0, 2)
    assert found.recipe == {"scale": (3, 4)}
    assert bool(found)
    assert not diff(one, one)


def test_a_row_that_moved_to_another_split_has_changed(store: Store) -> None:
    one = commit(store, {("episodes", "train"): episodes(0, 1)}).version
    two = commit(store, {("episodes", "train"): episodes(0), ("episodes", "test"): episodes(1)}).version
    assert diff(one, two).configs["episodes"].columns == {"split": 1}


def test_nested_cells_are_compared(store: Store) -> None:
    one = commit(store, {("episodes", "train"): episodes(0, 1)}).version
    rows = episodes(0, 1).to_pylist()
    rows[1]["turns"][0]["text"] = "bye"
    two = commit(store, {("episodes", "train"): pa.Table.from_pylist(rows, episodes(0).schema)}).version
    assert diff(one, two).configs["episodes"].columns == {"turns": 1}


@pytest.mark.slow
def test_columns_and_configs_that_came_or_went_are_named(store: Store) -> None:
    one = commit(store, {("rewards", "train"): rewards(reward_row(0)), ("episodes", "train"): episodes(0)}).version
    other = rewards(reward_row(0)).drop_columns(["spread"]).append_column("note", [["x"]])
    two = commit(store, {("rewards", "train"): other, ("failures", "train"): failures("a", "b")}).version
    found = diff(one, two).configs
    assert found["rewards"] == Changes(0, 0, 0, 1, new_columns=("note",), dropped_columns=("spread",))
    assert found["episodes"] == Changes(0, 1, 0, 0)
    assert found["failures"] == Changes(2, 0, 0, 0)


def test_a_setting_that_a_version_lacks_is_a_dash_on_the_screen(store: Store) -> None:
    rows = {("rewards", "train"): rewards(reward_row(0, 0.5))}
    one = commit(store, rows, recipe={"scale": 3, "seed": 1}).version
    two = commit(store, rows, recipe={"scale": 3}).version
    shown = CliRunner().invoke(cli, ["diff", one.ref, two.ref, "--store", str(store.root)]).stdout
    assert [line.split() for line in shown.splitlines() if "seed" in line or "before" in line] == [
        ["recipe", "before", "after"],
        ["seed", "1", "–"],
    ]


def test_rows_without_identity_are_counted_as_wholes(store: Store) -> None:
    one = commit(store, {("failures", "train"): failures("a", "a", "b", "c")}).version
    two = commit(store, {("failures", "train"): failures("a", "b", "b", "d")}).version
    assert diff(one, two).configs["failures"] == Changes(2, 2, 0, 2)


def test_a_version_that_cannot_be_read_is_named(store: Store) -> None:
    one = commit(store, {("episodes", "train"): episodes(0)}).version
    two = commit(store, {("episodes", "train"): episodes(1)}).version
    two.files("episodes")["train"][0].unlink()
    with pytest.raises(StoreError, match=r"org/toy@v1\.1\.0 cannot be read") as told:
        diff(one, two)
    assert "sotopia-rl-data verify" in told.value.hint
