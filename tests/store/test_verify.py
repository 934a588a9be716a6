"""`verify` finds every way in which a version is not what its manifest says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.stores import commit, episode, episodes, failures, reward_row, rewards

from sotopia_rl_data.errors import InputError, StoreError
from sotopia_rl_data.store import Store, Version, load
from sotopia_rl_data.store.columns import odd_columns, type_names
from sotopia_rl_data.store.parts import too_large
from sotopia_rl_data.store.verify import verify
from sotopia_rl_data.tables import ATTRIBUTIONS, EPISODES, episode_row, trajectories_schema


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


def rename_a_column(version: Version) -> None:
    path = version.dir / "manifest.json"
    path.write_text(path.read_text().replace('"spread": "double"', '"spraed": "double"'))


def retype_a_column_without_rows(version: Version) -> None:
    path = version.dir / "manifest.json"
    listed = json.loads(path.read_text())
    listed["columns"]["failures"]["turn"] = "int64"
    path.write_text(json.dumps(listed))


def rename_a_column_of_the_file(version: Version) -> None:
    table = rewards(reward_row(0), reward_row(1))
    pq.write_table(
        table.rename_columns([{"spread": "spraed"}.get(c, c) for c in table.column_names]), rewards_file(version)
    )
    relist(version)


def copy_a_split(version: Version) -> None:
    """The same file in two splits, each with the digest of its rows; the version's digest is of both."""
    path = version.dir / "manifest.json"
    listed = json.loads(path.read_text())
    splits = listed["configs"]["rewards"]
    splits["test"] = json.loads(json.dumps(splits["train"]).replace("train-", "test-"))
    train, test = (version.files("rewards")[split][0] for split in ("train", "test"))
    test.unlink()
    shutil.copyfile(train, test)
    path.write_text(json.dumps(listed))


def other_recipe(version: Version) -> None:
    path = version.dir / "manifest.json"
    path.write_text(path.read_text().replace('"scale": 3', '"scale": 4'))


def other_card(version: Version) -> None:
    path = version.dir / "README.md"
    path.write_text(path.read_text().replace("default: true", "default: false"))


def no_card(version: Version) -> None:
    (version.dir / "README.md").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_a_byte, "rewards/train-00000-of-00001.parquet: SHA-256"),
        (cut_the_end, "bytes, not"),
        (delete, "No such file"),
        (change_a_reward, "another digest"),
        (swap_the_rows, "not in order"),
        (drop_a_row, "has 1 rows, not 2"),
        (drop_a_column, "has the columns {"),
        (garbage, "unreadable"),
        (stray_file, "not in the manifest"),
        (other_recipe, "manifest.json: the digest"),
        (rename_a_column, "not {'episode_id'"),
        (retype_a_column_without_rows, "'turn': 'int64'"),
        (rename_a_column_of_the_file, "has the columns {"),
        (copy_a_split, "the episode_id 'e0000' is in train and in test"),
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


def test_no_manifest_lists_no_files(version: Version) -> None:
    path = version.dir / "manifest.json"
    listed = json.loads(path.read_text())
    listed["configs"]["rewards"]["test"] |= {"rows": 0, "files": []}
    path.write_text(json.dumps(listed))
    with pytest.raises(StoreError, match=r"length >= 1 - at `\$\.configs\[\.\.\.\]\[\.\.\.\]\.files`"):
        load(version.dir)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"agents": None}, "has no agents"),
        ({"turns": [{"turn": 0, "agent": "zoe", "action_type": "speak", "text": "", "to": []}]}, "turns of 'zoe'"),
        ({"turns": [{"turn": 0, "agent": "a", "action_type": "sing", "text": "", "to": []}]}, "action type 'sing'"),
        ({"agents": [dict.fromkeys(("agent", "name", "goal", "background", "secret"), "a")] * 2}, "two agents"),
    ],
)
def test_an_episode_is_whole_before_it_is_written(tmp_path: Path, wrong: dict[str, object], problem: str) -> None:
    rows = pa.Table.from_pylist([episode_row(episode(0)), episode_row(episode(1)) | wrong], schema=EPISODES)
    with Store(tmp_path).stage("org/toy") as stage, pytest.raises(InputError, match=problem):
        stage.write("episodes", "train", rows)


@pytest.mark.slow
def test_a_few_bytes_do_not_stand_for_more_values_than_memory_holds(tmp_path: Path) -> None:
    for rows, large in ((1 << 20, False), (40_000_000, True)):
        pq.write_table(pa.table({"reward": pa.nulls(rows, pa.bool_())}), tmp_path / "a.parquet", row_group_size=1 << 30)
        assert (tmp_path / "a.parquet").stat().st_size < 100_000
        assert too_large(pq.read_metadata(tmp_path / "a.parquet")) is large


def test_columns_of_before_there_were_reasons_are_not_odd() -> None:
    before = type_names(ATTRIBUTIONS.remove(ATTRIBUTIONS.get_field_index("reasoning")))
    assert odd_columns("attributions", before) == ""
    assert odd_columns("attributions", before | {"reasoning": "int64"}) != ""
    assert odd_columns("attributions", {name: kind for name, kind in before.items() if name != "raw"}) != ""


def test_the_reward_components_of_trajectories_are_a_struct_of_any_dimensions() -> None:
    for dimensions in ([], ["goal"], ["charm", "goal"]):
        assert odd_columns("trajectories", type_names(trajectories_schema(dimensions))) == ""
    wrong = type_names(trajectories_schema(["goal"])) | {"reward_components": "string"}
    assert odd_columns("trajectories", wrong).startswith("the column 'reward_components' is string, not ")
