"""`verify` finds every way in which a version is not what its manifest says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fixtures.stores import commit, episodes, failures, reward_row, rewards

from sotopia_rl_data.store import Store, Version, load
from sotopia_rl_data.store.verify import verify


@pytest.fixture
def version(tmp_path: Path) -> Version:
    tables = {
        ("rewards", "train"): rewards(reward_row(0), reward_row(1)),
        ("rewards", "test"): rewards(reward_row(2)),
        ("episodes", "train"): episodes(0, 1, 2),
        ("failures", "train"): failures(),
    }
    return commit(Store(tmp_path), tables).version


def rewards_file(version: Version) -> Path:
    path = version.files("rewards")["train"][0]
    path.chmod(0o644)
    return path


def test_a_whole_version_has_no_problems(version: Version) -> None:
    seen: list[str] = []
    found = verify(version, lambda file: seen.append(file.path))
    assert (found.ok, found.problems, found.files, found.rows) == (True, (), 4, 6)
    assert found.bytes == sum(p.stat().st_size for p in version.dir.rglob("*.parquet"))
    assert len(seen) == 4


def flip_a_byte(version: Version) -> None:
    data = bytearray(rewards_file(version).read_bytes())
    data[len(data) // 2] ^= 1
    rewards_file(version).write_bytes(data)


def cut_the_end(version: Version) -> None:
    rewards_file(version).write_bytes(rewards_file(version).read_bytes()[:-1])


def delete(version: Version) -> None:
    rewards_file(version).unlink()


def relist(version: Version) -> None:
    """The manifest's sizes and hashes of whatever lies there now: only reading the rows can tell."""
    import hashlib

    path, listed = version.dir / "manifest.json", json.loads((version.dir / "manifest.json").read_text())
    for file in listed["configs"]["rewards"]["train"]["files"]:
        data = (version.dir / file["path"]).read_bytes()
        file |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(listed))


def change_a_reward(version: Version) -> None:
    pq.write_table(rewards(reward_row(0, 0.9), reward_row(1)), rewards_file(version))
    relist(version)


def swap_the_rows(version: Version) -> None:
    pq.write_table(rewards(reward_row(1), reward_row(0)), rewards_file(version))
    relist(version)


def drop_a_row(version: Version) -> None:
    pq.write_table(rewards(reward_row(0)), rewards_file(version))
    relist(version)


def drop_a_column(version: Version) -> None:
    pq.write_table(rewards(reward_row(0), reward_row(1)).drop_columns(["spread"]), rewards_file(version))
    relist(version)


def garbage(version: Version) -> None:
    rewards_file(version).write_bytes(b"no parquet")
    relist(version)


def stray_file(version: Version) -> None:
    (version.dir / "rewards/train-00001-of-00002.parquet").write_bytes(rewards_file(version).read_bytes())


def other_recipe(version: Version) -> None:
    path = version.dir / "manifest.json"
    path.write_text(path.read_text().replace('"scale": 3', '"scale": 4'))


def other_card(version: Version) -> None:
    path = version.dir / "README.md"
    path.write_text(path.read_text().replace("default: true", "default: false"))


def no_card(version: Version) -> None:
    (version.dir / "README.md").unlink()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_a_byte, "rewards/train-00000-of-00001.parquet: SHA-256"),
        (cut_the_end, "bytes, not"),
        (delete, "No such file"),
        (change_a_reward, "another digest"),
        (swap_the_rows, "not in order"),
        (drop_a_row, "has 1 rows, not 2"),
        (drop_a_column, "columns {"),
        (garbage, "unreadable"),
        (stray_file, "not in the manifest"),
        (other_recipe, "manifest.json: the digest"),
        (other_card, "README.md: its configs"),
        (no_card, "README.md: No such file"),
    ],
)
def test_damage_is_found_and_named(version: Version, damage: Callable[[Version], None], problem: str) -> None:
    damage(version)
    found = verify(load(version.dir))
    assert not found.ok
    assert any(problem in one for one in found.problems), found.problems


def test_one_damaged_file_does_not_hide_the_next(version: Version) -> None:
    delete(version)
    version.files("episodes")["train"][0].unlink()
    assert len(verify(version).problems) == 2
