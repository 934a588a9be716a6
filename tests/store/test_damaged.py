"""What a store says of a damaged version or a stray folder, and how its own files lie where others read them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from fixtures.stores import commit, episodes, reward_row, rewards, toy

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.disk import replace_file, write_text
from sotopia_rl_data.store.versions import HUB_FILE, Published, commit_of, note_published
from sotopia_rl_data.trainers.run_folder import RunFolder

ROOT = os.geteuid() == 0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_damaged_version_is_found_beside_the_others(store: Store) -> None:
    for i in range(3):
        commit(store, toy(i))
    path = store.root / "org/toy/v1.1.0/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created": 12345}))
    readable, damaged = store.history("org/toy")
    assert [version.version for version in readable] == ["v1.2.0", "v1.0.0"]
    assert ["created" in damaged["v1.1.0"].message, len(damaged)] == [True, 1]


def test_a_folder_that_no_name_can_mean_is_no_dataset_and_hides_none(store: Store) -> None:
    commit(store, toy(0))
    shutil.copytree(store.root / "org/toy/v1.0.0", store.root / "org/\x1b[31m/v1.0.0")
    assert store.names() == ["org/toy"]


def test_a_folder_with_the_manifest_of_another_version_is_damaged(store: Store) -> None:
    version = commit(store, toy(0)).version
    version.dir.rename(version.dir.with_name("v1.5.0"))
    with pytest.raises(StoreError, match=r"v1\.5\.0 has the manifest of v1\.0\.0"):
        store.latest("org/toy")
    with pytest.raises(StoreError, match=r"has the manifest of"):
        commit(store, toy(1))


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("recipe", {"rewards": 5}),
        ("recipe", {"rewards": {"weights": {}, "rule": "direct", "normaliser": "none", "gamma": None}}),
        ("recipe", {"scale": "three"}),
        ("recipe", {"seed": "<b>"}),
        ("recipe", {"evaluations": [{"evaluator": "gpt-4o"}]}),
        ("provenance", {"judges": [{}]}),
        ("provenance", {"judges": [{"judge": "gpt-4o", "forms": ["weak"]}]}),
        ("provenance", {"rubric": None}),
    ],
)
def test_what_no_manifest_could_say_is_refused_before_it_is_written(store: Store, what: str, value: Any) -> None:
    with store.stage("org/toy") as stage:
        stage.write("episodes", "train", episodes(0))
        with pytest.raises(StoreError, match=f"The {what} cannot be written"):
            stage.commit(**({"recipe": {}} | {what: value}))


@pytest.mark.parametrize(
    "note",
    [
        b"[" * 200_000,
        b'{"repo": "org/toy", "version": "v1.0.0", "commits": [], "endpoint": "x"}',
        b'{"repo": "org/toy", "version": "v1.0.0", "commits": "a", "endpoint": "x"}',
        b'{"repo": "org/toy", "version": "v1.0.0", "commits": [5], "endpoint": "x"}',
        b'{"repo": "org/toy", "version": "v1.0.0", "commits": ["a"], "endpoint": "x"}' + b" " * (1 << 20),
        os.mkfifo,
        os.mkdir,
    ],
    ids=lambda note: note[:60].decode() if isinstance(note, bytes) else note.__name__,
)
def test_a_damaged_note_of_where_a_version_is_published_is_told_and_hides_no_other(store: Store, note: Any) -> None:
    first, second = commit(store, toy(0)).version, commit(store, toy(1)).version
    note_published(second.dir, Published("org/toy", "v1.1.0", ("a" * 40,), "https://huggingface.co"))
    path = first.dir / HUB_FILE
    path.write_bytes(note) if isinstance(note, bytes) else note(path)
    with pytest.raises(StoreError, match="cannot be read"):
        commit_of(first)
    assert store.by_commit("org/toy", "aaaa") == second
    assert store.by_commit("org/toy", "bbbb") is None


def test_what_is_not_finished_is_read_by_its_owner_alone(store: Store, tmp_path) -> None:
    """A version that is being written, and the folder of a run."""
    with store.stage("org/toy") as stage:
        folders = [stage.dir, RunFolder(tmp_path / "runs/rm").path]
        assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700, 0o700]


def test_who_may_read_the_dataset_may_read_its_new_version(tmp_path):
    store = Store(tmp_path)
    first = commit(store, {("rewards", "train"): rewards(reward_row(0))}, "lab/shared").version
    assert first.dir.stat().st_mode == first.dir.parent.stat().st_mode
    first.dir.parent.chmod(0o750)
    second = commit(store, {("rewards", "train"): rewards(reward_row(1))}, "lab/shared").version
    assert second.dir.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_new_file_is_not_written_through_an_old_one(tmp_path: Path, link: Any) -> None:
    for number, write in enumerate((lambda path: replace_file(path, b"new"), lambda path: write_text(path, "new"))):
        old, path = tmp_path / f"old{number}", tmp_path / f"path{number}"
        old.write_text("old")
        link(old, path)
        write(path)
        assert (old.read_text(), path.read_text(), path.is_symlink()) == ("old", "new", False)
    assert len(list(tmp_path.iterdir())) == 4
