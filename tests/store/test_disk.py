"""A disk that is full or takes no writing, or something in the store's place: a sentence, and nothing half written."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.stores import commit, noisy, python, toy, tree

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.parts import Limits
from sotopia_rl_data.store.stage import Stage
from sotopia_rl_data.store.verify import verify

ROOT = os.geteuid() == 0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_folder_in_the_way_is_named(store: Store) -> None:
    (store.root / "org/toy/v1.0.0").mkdir(parents=True)
    (store.root / "org/toy/v1.0.0/notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="in the way"):
        commit(store, toy(0))
    assert tree(store.root) == ["org/toy/v1.0.0/notes.txt"]


def test_a_file_in_place_of_the_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError) as told:
        commit(Store(tmp_path / "store"), toy(0))
    assert told.value.hint == "name another store with --store or SOTOPIA_RL_DATA_STORE"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        ROOT and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], check=False).returncode == 0
    )
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_nothing_half_written(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    commit(store, toy(0))
    before = tree(store.root)
    with pytest.raises(StoreError, match="no room") as told:
        commit(store, {("episodes", "train"): noisy(2000)})
    assert "free some space" in told.value.hint
    assert tree(store.root) == before
    with pytest.raises(StoreError, match="no room"), Stage(store.root, "runs", Limits(group_rows=50)) as stage:
        stage.write("episodes", "train", (noisy(2000).slice(i, 50) for i in range(1950, -50, -50)))
    assert tree(store.root) == before
    filler, refused = small_disk / "filler", 0
    for pages in range(40):  # room for one file more each time: sooner or later every write has been the one that fails
        filler.write_bytes(b"")
        disk = os.statvfs(small_disk)
        filler.write_bytes(b"x" * (disk.f_bavail - pages) * disk.f_bsize)
        with contextlib.suppress(StoreError):
            assert verify(commit(store, toy(1)).version).ok
            break
        assert tree(store.root) == before
        refused += 1
    assert refused >= 5
    assert store.versions("org/toy") == ["v1.0.0", "v1.1.0"]


def test_a_read_only_disk_is_one_sentence(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    commit(store, toy(0))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match="cannot be written"):
        commit(store, toy(1))
    assert store.resolve("org/toy").version == "v1.0.0"  # reading goes on


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o555)
    with pytest.raises(StoreError, match="cannot be written"):
        commit(Store(tmp_path / "store"), toy(0))


@pytest.mark.slow
def test_a_limit_on_file_size_is_one_sentence_and_nothing_half_written(store: Store) -> None:
    code = """
import resource, sys
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.store import Store
from fixtures.stores import commit
from fixtures.stores import noisy, toy
store = Store(sys.argv[1])
commit(store, toy(0))
sys.dont_write_bytecode = True
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    commit(store, {("episodes", "train"): noisy(2000)})
except StoreError as error:
    print(error.message)
"""
    out, err = python(code, store.root).communicate()
    assert "There is no room left" in out, err
    assert err == ""
    assert store.versions("org/toy") == ["v1.0.0"]
    assert tree(store.root / ".staging") == []
