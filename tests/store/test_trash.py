"""The trash: what is removed is whole, out of every reader's sight, and comes back as it was."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.stores import commit, episodes, python, reward_row, rewards

from sotopia_rl_data.errors import NotFound, StoreError, UsageError, VersionExists
from sotopia_rl_data.store import Store, trash
from sotopia_rl_data.store.verify import verify

TOY = "org/toy"

# Removes and restores the dataset in turn, for ever.
SEESAW = """
import sys
from sotopia_rl_data.store import Store, trash
store = Store(sys.argv[1])
print("ready", flush=True)
while True:
    if trash.removed(store):
        trash.restore(store, "org/toy")
    else:
        trash.remove(store, trash.named(store, ["org/toy"]))
"""

# Removes, or restores, what another process removes or restores at the same time.
ONE_OF_TWO = """
import sys, time
from pathlib import Path
from sotopia_rl_data.errors import NotFound
from sotopia_rl_data.store import Store, trash
store = Store(sys.argv[1])
print("ready", flush=True)
while not Path(sys.argv[1] + ".go").exists():
    time.sleep(0.001)
try:
    if sys.argv[2] == "restore":
        print(len(trash.restore(store, "org/toy")))
    else:
        print(len(trash.remove(store, {"org/toy": ["v1.0.0"]})))
except NotFound:
    print(0)
"""


@pytest.fixture
def toys(tmp_path: Path) -> Store:
    """Three versions of org/toy, and one of org/other."""
    store = Store(tmp_path / "store")
    for i in range(3):
        commit(store, {("episodes", "train"): episodes(i)})
    commit(store, {("episodes", "train"): episodes(9)}, name="org/other")
    return store


def remove(store: Store, *refs: str) -> str:
    """Removes `refs`; returns the name of the removal."""
    return trash.remove(store, trash.named(store, refs))[0].removal


def refs(store: Store) -> list[str]:
    return [f"{name}@{version}" for name in store.names() for version in store.versions(name)]


@contextlib.contextmanager
def when_called(
    function: Callable[..., Any], before: Callable[[], Any], after_error: Callable[[], Any] = lambda: None
) -> Iterator[None]:
    """Inside the block another process seems to act in the moment before each call of `function`, one of Python's own,
    and in that after each of its errors."""

    def watch(_frame: object, event: str, called: object) -> None:
        if called is function and event == "c_call":
            before()
        elif called is function and event == "c_exception":
            after_error()

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.slow
def test_a_removed_version_is_out_of_sight_and_comes_back_with_the_same_digest(toys: Store):
    before = {version.ref: version.digest for version in toys.history(TOY)[0]}
    remove(toys, "org/toy@v1.1.0")
    assert toys.versions(TOY) == ["v1.0.0", "v1.2.0"]
    with pytest.raises(NotFound, match=r"no version v1.1.0; it has v1.0.0, v1.2.0"):
        toys.resolve("org/toy@v1.1.0")
    assert [one.ref for one in trash.restore(toys, "org/toy@v1.1.0")] == ["org/toy@v1.1.0"]
    assert {version.ref: version.digest for version in toys.history(TOY)[0]} == before
    assert verify(toys.version(TOY, "v1.1.0")).problems == ()
    assert list((toys.root / ".trash").iterdir()) == []


def test_a_removed_dataset_is_gone_from_every_list_and_comes_back_whole(toys: Store):
    removal = remove(toys, TOY)
    assert toys.names() == ["org/other"]
    assert not (toys.root / TOY).exists()
    with pytest.raises(NotFound):
        toys.resolve(TOY)
    assert [one.ref for one in trash.removed(toys)] == [f"org/toy@v1.{i}.0" for i in range(3)]
    trash.restore(toys, removal)
    assert refs(toys) == ["org/other@v1.0.0", *(f"org/toy@v1.{i}.0" for i in range(3))]


@pytest.mark.slow
def test_a_dataset_that_is_also_the_folder_of_others_leaves_them_in_place(toys: Store):
    commit(toys, {("episodes", "train"): episodes(5)}, name="org")
    remove(toys, "org")
    assert toys.names() == ["org/other", TOY]
    trash.restore(toys, "org")
    assert toys.names() == ["org", "org/other", TOY]


def test_nothing_is_restored_over_a_version_that_is_there_again(toys: Store):
    removal = remove(toys, TOY)
    commit(toys, {("episodes", "train"): episodes(7)})
    with pytest.raises(VersionExists, match=r"has a org/toy@v1\.0\.0 again") as refused:
        trash.restore(toys, TOY)
    assert refused.value.hint.endswith(f"rm org/toy@v1.0.0`; then `sotopia-rl-data undo {removal}`")
    assert (toys.versions(TOY), len(trash.removed(toys))) == (["v1.0.0"], 3)  # nothing has moved
    remove(toys, "org/toy@v1.0.0")
    assert len(trash.restore(toys, removal)) == 3
    assert [one.ref for one in trash.removed(toys)] == ["org/toy@v1.0.0"]


def test_the_latest_removal_of_a_version_comes_back_first(toys: Store):
    older = remove(toys, "org/toy@v1.2.0")
    commit(toys, {("episodes", "train"): episodes(8)})
    again = toys.version(TOY, "v1.2.0").digest
    newer = remove(toys, "org/toy@v1.2.0")
    assert [one.removal for one in trash.removed(toys)] == [newer, older]
    trash.restore(toys, "org/toy@v1.2.0")
    assert toys.version(TOY, "v1.2.0").digest == again


def test_what_was_made_from_a_version_is_named(toys: Store):
    parent = {"name": TOY, "version": "v1.1.0", "digest": "x"}
    with toys.stage("org/made") as stage:
        stage.write("rewards", "train", rewards(reward_row(1)))
        stage.commit({}, {"parents": [parent]})
    assert trash.made_from(toys, {TOY: ["v1.1.0"]}) == ["org/made@v1.0.0"]
    assert trash.made_from(toys, {TOY: ["v1.0.0"]}) == []
    assert trash.made_from(toys, {TOY: ["v1.1.0"], "org/made": ["v1.0.0"]}) == []


def test_a_damaged_version_can_be_removed(toys: Store):
    (toys.root / TOY / "v1.1.0" / "manifest.json").write_text("{")
    remove(toys, "org/toy@v1.1.0")
    assert toys.history(TOY)[1] == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("org/none", NotFound, "has no dataset 'org/none'"),
        ("org/toy@v9.0.0", NotFound, "has no version v9.0.0"),
        ("./store/org/toy", UsageError, "does not name a version of this store"),
        ("org/toy@abcdef1", UsageError, "does not name a version of this store"),
    ],
)
def test_what_cannot_be_removed_is_a_sentence(toys: Store, text: str, error: type[Exception], told: str):
    with pytest.raises(error, match=told):
        trash.named(toys, [text])
    with pytest.raises(NotFound, match="The trash has no org/toy"):
        trash.restore(toys, TOY)


def test_a_store_that_cannot_be_written_keeps_everything(toys: Store):
    if os.geteuid() == 0:
        (toys.root / ".trash").write_text("a file is in the way")
    else:
        toys.root.chmod(0o500)
    try:
        with pytest.raises(StoreError):
            remove(toys, TOY)
    finally:
        toys.root.chmod(0o700)
    assert len(refs(toys)) == 4


def test_emptying_deletes_for_good_and_leaves_links_of_other_versions_whole(toys: Store):
    remove(toys, "org/toy@v1.0.0", "org/toy@v1.1.0")
    assert len(trash.empty(toys, trash.removed(toys))) == 2
    assert (trash.removed(toys), trash.empty(toys, trash.removed(toys))) == ([], [])
    assert list((toys.root / ".trash").iterdir()) == []
    assert list((toys.root / ".staging").iterdir()) == []
    assert verify(toys.resolve(TOY)).problems == ()


def test_emptying_deletes_what_was_found_and_returns_what_it_deleted(toys: Store):
    remove(toys, "org/toy@v1.0.0", "org/toy@v1.1.0")
    found = trash.removed(toys)
    trash.restore(toys, "org/toy@v1.0.0")
    remove(toys, "org/other")
    assert [one.ref for one in trash.empty(toys, found)] == ["org/toy@v1.1.0"]
    assert refs(toys) == ["org/toy@v1.0.0", "org/toy@v1.2.0"]
    assert [one.ref for one in trash.removed(toys)] == ["org/other@v1.0.0"]


def test_a_deletion_that_fails_is_an_error_and_the_next_writer_finishes_it(toys: Store):
    remove(toys, "org/toy@v1.0.0", "org/toy@v1.1.0")

    def write() -> None:
        for folder in (toys.root / ".staging").glob("trash-*/*/episodes"):
            (folder / "late").touch()

    with when_called(os.rmdir, write), pytest.raises(StoreError, match="Directory not empty"):
        trash.empty(toys, trash.removed(toys))
    assert [one.ref for one in trash.removed(toys)] == ["org/toy@v1.1.0"]
    assert list((toys.root / ".staging").glob("trash-*/v1.0.0"))
    trash.empty(toys, trash.removed(toys))
    assert list((toys.root / ".staging").iterdir()) == []


@pytest.mark.parametrize("order", [["x", "x/g"], ["x/g", "x"]])
def test_a_dataset_and_those_in_its_folder_are_removed_together(toys: Store, order: list[str]):
    for i, name in enumerate(order):
        commit(toys, {("episodes", "train"): episodes(i)}, name=name)
    removal = remove(toys, *order)
    assert [name for name in toys.names() if name in order] == []
    assert sorted(one.ref for one in trash.restore(toys, removal)) == ["x/g@v1.0.0", "x@v1.0.0"]


def test_a_version_that_another_process_writes_in_the_moment_of_restoring_is_said_to_be_there(toys: Store):
    remove(toys, "org/toy@v1.0.0")

    def write() -> None:
        (toys.root / TOY / "v1.0.0").mkdir()
        (toys.root / TOY / "v1.0.0" / "manifest.json").touch()

    with when_called(os.rename, write), pytest.raises(VersionExists, match=r"has a org/toy@v1\.0\.0 again"):
        trash.restore(toys, "org/toy@v1.0.0")
    assert [one.ref for one in trash.removed(toys)] == ["org/toy@v1.0.0"]


def test_a_version_is_written_although_its_datasets_folder_goes_and_comes_in_that_moment(toys: Store):
    folder, events = toys.root / "org/new", []

    def go() -> None:
        if folder.is_dir() and not events:
            folder.rmdir()
            events.append("gone")

    def come() -> None:
        folder.mkdir()
        events.append("there again")

    with when_called(os.rename, go, come):
        commit(toys, {("episodes", "train"): episodes(1)}, name="org/new")
    assert (toys.versions("org/new"), events) == (["v1.0.0"], ["gone", "there again"])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["remove", "restore"])
def test_of_two_that_move_the_same_at_once_one_does_it(toys: Store, way: str):
    if way == "restore":
        remove(toys, "org/toy@v1.0.0")
    both = [python(ONE_OF_TWO, toys.root, way) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    Path(f"{toys.root}.go").touch()
    assert sorted(process.communicate()[0] for process in both) == ["0\n", "1\n"]
    everywhere = [*refs(toys), *(one.ref for one in trash.removed(toys))]
    assert sorted(everywhere) == ["org/other@v1.0.0", *(f"org/toy@v1.{i}.0" for i in range(3))]


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_each_version_whole_in_one_place(toys: Store):
    draw, places = random.Random(16), set()
    for _ in range(12):
        mover = python(SEESAW, toys.root)
        assert mover.stdout is not None
        assert mover.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.0, 0.05))
        os.kill(mover.pid, signal.SIGKILL)
        mover.communicate()
        there, away = toys.versions(TOY), [one.version for one in trash.removed(toys)]
        assert sorted(there + away) == ["v1.0.0", "v1.1.0", "v1.2.0"]
        places.add(len(there))
    assert len(places) > 1  # it was killed with the versions in one place, in the other, or on their way
    if trash.removed(toys):
        trash.restore(toys, TOY)
    assert [verify(version).problems for version in toys.history(TOY)[0]] == [(), (), ()]
