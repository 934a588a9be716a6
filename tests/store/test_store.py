"""Versions: what lies on disk, how they are numbered, what is shared, and that a failure leaves the store as it was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fixtures.stores import commit, episode, episodes, failures, python, reward_row, rewards, toy, tree

from sotopia_rl_data.errors import InputError, NotFound, StoreError, UsageError, VersionExists
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.parts import Limits
from sotopia_rl_data.store.readme import split_front
from sotopia_rl_data.store.stage import Stage
from sotopia_rl_data.store.verify import verify
from sotopia_rl_data.tables import rewards_schema


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# What lies on disk


def test_a_version_is_a_directory_in_the_hubs_shape(store: Store) -> None:
    made = commit(store, {**toy(0, 1), ("rewards", "test"): rewards(reward_row(2))})
    assert made.created
    assert made.version.dir == store.root / "org/toy/v1.0.0"
    assert tree(store.root) == [
        f"org/toy/v1.0.0/{path}"
        for path in (
            "README.md",
            "episodes/train-00000-of-00001.parquet",
            "failures/train-00000-of-00001.parquet",
            "manifest.json",
            "rewards/test-00000-of-00001.parquet",
            "rewards/train-00000-of-00001.parquet",
        )
    ]
    assert verify(made.version).problems == ()


def test_a_bare_name_lies_beside_organisations(store: Store) -> None:
    assert commit(store, toy(0), "toy").version.dir == store.root / "toy/v1.0.0"
    commit(store, toy(0), "toy/inner")
    assert store.names() == ["toy", "toy/inner"]


def test_the_front_matter_names_each_config_and_rewards_is_the_default(store: Store) -> None:
    version = commit(store, {**toy(0), ("episodes", "test"): episodes(1)}).version
    front, _ = split_front((version.dir / "README.md").read_text())
    assert front["configs"] == [
        {
            "config_name": "rewards",
            "default": True,
            "data_files": [{"split": "train", "path": "rewards/train-*.parquet"}],
        },
        {
            "config_name": "episodes",
            "data_files": [
                {"split": "train", "path": "episodes/train-*.parquet"},
                {"split": "test", "path": "episodes/test-*.parquet"},
            ],
        },
    ]


def test_episodes_are_the_default_where_there_are_no_rewards(store: Store) -> None:
    version = commit(store, {("episodes", "train"): episodes(0), ("failures", "train"): failures("x")}).version
    front, _ = split_front((version.dir / "README.md").read_text())
    assert [c["config_name"] for c in front["configs"] if c.get("default")] == ["episodes"]


def test_what_a_person_wrote_into_the_card_is_in_the_next_version_too(store: Store) -> None:
    card = commit(store, toy(0)).version.dir / "README.md"
    text = card.read_text().replace("# org/toy", "# Toys\n\nMade by hand: café.")
    card.write_text(text.replace("---\nconfigs", "---\nlicense: mit\ntags: [toy]\nconfigs", 1))
    version = commit(store, toy(0, 1)).version
    front, body = split_front((version.dir / "README.md").read_text())
    assert (front["license"], front["tags"], len(front["configs"])) == ("mit", ["toy"], 2)
    assert "Made by hand: café." in body
    assert body.count("<!-- sotopia-rl-data:begin -->") == 1
    assert "org/toy v1.1.0" in body
    assert "v1.0.0" not in body


def test_splits_without_rows_are_left_out_unless_the_config_is_empty(store: Store) -> None:
    tables = {**toy(0), ("rewards", "test"): rewards(), ("failures", "train"): failures()}
    tables[("failures", "test")] = failures()
    version = commit(store, tables).version
    assert {c: list(splits) for c, splits in version.manifest.configs.items()} == {
        "rewards": ["train"],
        "episodes": ["train"],
        "failures": ["train"],
    }
    assert not (version.dir / "rewards/test-00000-of-00001.parquet").exists()
    assert verify(version).problems == ()


def test_an_empty_config_is_the_same_whichever_split_it_was_written_for(store: Store) -> None:
    first = commit(store, {("episodes", "train"): episodes(0), ("failures", "train"): failures()})
    again = commit(store, {("episodes", "train"): episodes(0), ("failures", "test"): failures()})
    assert (first.created, again.created) == (True, False)


def test_the_files_are_zstd_with_a_page_index_in_bounded_row_groups(store: Store) -> None:
    with Stage(store.root, "fat", Limits(group_bytes=10_000, group_rows=7)) as stage:
        stage.write("episodes", "train", episodes(*range(50)))
        version = stage.commit({}).version
    (path,) = version.files("episodes")["train"]
    meta = pq.read_metadata(path)
    assert max(meta.row_group(i).num_rows for i in range(meta.num_row_groups)) <= 7
    assert meta.row_group(0).column(0).compression == "ZSTD"
    assert meta.row_group(0).column(0).has_offset_index


def test_big_splits_are_cut_into_shards(store: Store) -> None:
    with Stage(store.root, "fat", Limits(group_bytes=4_000, shard_bytes=10_000)) as stage:
        stage.write("episodes", "train", episodes(*range(60)))
        version = stage.commit({}).version
    paths = version.files("episodes")["train"]
    assert len(paths) > 1
    assert [p.name for p in paths] == [f"train-{i:05}-of-{len(paths):05}.parquet" for i in range(len(paths))]
    assert pq.read_table(paths)["episode_id"].to_pylist() == [f"e{i:04}" for i in range(60)]
    assert verify(version).problems == ()
    assert (
        commit(store, {("episodes", "train"): episodes(*range(60))}, "whole", recipe={}).version.digest
        == version.digest
    )


# Order and identity


def test_rows_lie_in_key_order_however_they_came(store: Store) -> None:
    ids = [3, 0, 2, 1]
    first = commit(store, {("episodes", "train"): episodes(*ids)})
    assert pq.read_table(first.version.files("episodes")["train"])["episode_id"].to_pylist() == [
        "e0000",
        "e0001",
        "e0002",
        "e0003",
    ]
    assert not commit(store, {("episodes", "train"): episodes(*sorted(ids))}).created


def test_rows_without_identity_are_the_same_dataset_in_any_order(store: Store) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"p{i % 3}"}],
            "completion": f"c{i}",
            "reward": None if i == 2 else float(i),
        }
        for i in range(6)
    ]
    kind = pa.schema(
        [("prompt", rewards_schema([]).field("prompt").type), ("completion", pa.string()), ("reward", pa.float64())]
    )
    one = commit(store, {("rewards", "train"): pa.Table.from_pylist(rows, kind)}, "plain")
    two = commit(store, {("rewards", "train"): pa.Table.from_pylist(rows[::-1], kind)}, "plain")
    assert not two.created
    kept = pq.read_table(one.version.files("rewards")["train"]).to_pylist()
    assert [r["completion"] for r in kept] == ["c0", "c3", "c1", "c4", "c2", "c5"]  # by prompt: prefixes are neighbours
    twice = commit(store, {("rewards", "train"): pa.Table.from_pylist([*rows, rows[0]], kind)}, "plain")
    assert twice.version.manifest.configs["rewards"]["train"].rows == 7


def test_two_rows_about_the_same_utterance_are_refused_and_named(store: Store) -> None:
    with pytest.raises(InputError, match=r"episode_id 'e0001', agent 'a', turn 4"):
        commit(store, {("rewards", "train"): rewards(reward_row(1, 0.1, 4), reward_row(0), reward_row(1, 0.2, 4))})
    assert store.names() == []


def test_two_rows_about_the_same_utterance_are_refused_also_when_far_apart(store: Store) -> None:
    with Stage(store.root, "x", Limits(group_rows=4)) as stage:
        for i in (9, 3, 7, 1, 8, 2, 5, 4, 6, 0, 11, 3):
            stage.write("rewards", "train", rewards(reward_row(i)))
        with pytest.raises(InputError, match="e0003"):
            stage.commit({})


def test_a_nan_is_refused_and_a_null_is_kept(store: Store) -> None:
    with pytest.raises(InputError, match="'reward'"):
        commit(store, {("rewards", "train"): rewards(reward_row(0, float("nan")))})
    version = commit(store, {("rewards", "train"): rewards(reward_row(0, None))}).version
    assert pq.read_table(version.files("rewards")["train"])["reward"].to_pylist() == [None]


def test_columns_that_do_not_fit_are_refused(store: Store) -> None:
    with pytest.raises(InputError, match=r"lacks the columns \['agents'"):
        commit(store, {("episodes", "train"): episodes(0).drop_columns(["agents"])})
    with pytest.raises(InputError, match="'split'"):
        commit(store, {("rewards", "train"): rewards(reward_row(0)).append_column("split", [["x"]])})
    with pytest.raises(InputError, match="decimal"):
        commit(
            store,
            {("rewards", "train"): rewards(reward_row(0)).append_column("price", [pa.array([None], pa.decimal128(3))])},
        )
    with pytest.raises(UsageError, match="cannot have rows of prices/train"), store.stage("x") as stage:
        stage.write("prices", "train", rewards(reward_row(0)))


def test_polars_and_duckdb_tables_become_the_same_dataset(store: Store) -> None:
    import duckdb
    import polars as pl

    table = rewards(*(reward_row(i) for i in range(5)))
    first = commit(store, {("rewards", "train"): table})
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    for other in (
        frame.to_arrow(),
        frame.to_arrow(compat_level=pl.CompatLevel.newest()),
        duckdb.sql("FROM frame").to_arrow_table(),
    ):
        assert not commit(store, {("rewards", "train"): other}).created
    assert first.version.manifest.columns["rewards"]["prompt"] == "list<struct<role: string, content: string>>"


def test_a_sorted_file_is_taken_as_it_lies_and_another_is_sorted(store: Store, tmp_path: Path) -> None:
    table = rewards(*(reward_row(i) for i in range(5)))
    expected = commit(store, {("rewards", "train"): table}, "plain").version
    for rows, kept in ((table, True), (table.take([4, 3, 1, 2, 0]), False)):
        with store.stage(f"given-{kept}".lower()) as stage:
            path = stage.sorted_file("rewards", "train")
            pq.write_table(rows, path, compression="zstd", row_group_size=2)
            stage.sorted_file("rewards", "test")  # nothing is written there: no rows
            version = stage.commit({"scale": 3}).version
        (path,) = version.files("rewards")["train"]
        assert pq.read_metadata(path).num_row_groups == (3 if kept else 1)
        assert version.digest == expected.digest
        assert verify(version).problems == ()


def test_a_file_that_is_no_parquet_is_refused(store: Store) -> None:
    with store.stage("x") as stage:
        stage.sorted_file("rewards", "train").write_bytes(b"half a file")
        with pytest.raises(StoreError, match="not a Parquet file"):
            stage.commit({})
    assert tree(store.root) == []


# Numbers


def test_the_same_content_is_no_new_version(store: Store) -> None:
    first = commit(store, toy(0, 1))
    again = commit(store, toy(1, 0))
    assert (first.created, again.created) == (True, False)
    assert again.version == first.version
    assert store.versions("org/toy") == ["v1.0.0"]


@pytest.mark.slow
def test_other_content_is_the_next_minor_and_another_shape_the_next_major(store: Store) -> None:
    def number(tables: dict[tuple[str, str], pa.Table], recipe: dict[str, Any]) -> str:
        return commit(store, tables, recipe=recipe).version.version

    recipe: dict[str, Any] = {"scale": 3, "layout": {"layout": "single"}, "judge": "x"}
    assert number(toy(0), recipe) == "v1.0.0"
    assert number(toy(0, 1), recipe) == "v1.1.0"
    assert number(toy(0, 1), recipe | {"judge": "y"}) == "v1.2.0"
    assert number(toy(0, 1), recipe | {"layout": {"layout": "chat"}}) == "v2.0.0"
    assert number(toy(0, 1), recipe | {"scale": 10}) == "v3.0.0"
    wider = {("rewards", "train"): rewards(reward_row(0)).append_column("note", [["n"]])}
    assert number(toy(0, 1) | wider, recipe | {"scale": 10}) == "v4.0.0"
    assert number(toy(0), recipe) == "v5.0.0"  # as v1.0.0, but not as the latest
    assert store.versions("org/toy") == ["v1.0.0", "v1.1.0", "v1.2.0", "v2.0.0", "v3.0.0", "v4.0.0", "v5.0.0"]


def test_versions_are_ordered_as_numbers(store: Store) -> None:
    for i, version in enumerate(("v1.9.0", "v1.10.0", "v1.2.0")):
        commit(store, toy(i), version=version)
    assert store.resolve("org/toy").version == "v1.10.0"


def test_a_version_can_be_named_but_not_replaced(store: Store) -> None:
    commit(store, toy(0))
    assert commit(store, toy(1), version="v7.0.0").version.version == "v7.0.0"
    assert not commit(store, toy(1), version="7.0.0").created
    assert not commit(store, toy(0), version="v1.0.0").created
    with pytest.raises(VersionExists) as told:
        commit(store, toy(2), version="v1.0.0")
    assert "v1.0.0 exists with other content" in told.value.message
    assert told.value.hint.startswith("write --version v7.1.0")
    with pytest.raises(UsageError, match="'seven' is not a version"):
        commit(store, toy(2), version="seven")
    assert store.versions("org/toy") == ["v1.0.0", "v7.0.0"]


def test_time_and_provenance_do_not_make_a_version(store: Store) -> None:
    for cost in (1, 2):
        with store.stage("org/toy") as stage:
            stage.write("episodes", "train", episodes(0))
            made = stage.commit({"scale": 3}, {"cost_usd": cost})
    assert not made.created
    assert made.version.manifest.provenance == {"cost_usd": 1}


def test_a_recipe_that_json_cannot_hold_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="recipe"):
        commit(store, toy(0), recipe={"gamma": float("nan")})
    assert store.names() == []


# What versions share


def inodes(paths: dict[str, list[Path]]) -> set[int]:
    return {path.stat().st_ino for of in paths.values() for path in of}


def test_unchanged_files_are_hard_links_to_the_version_before(store: Store) -> None:
    one = commit(store, toy(0, 1)).version
    two = commit(store, toy(0, 1, reward=0.9)).version
    assert inodes(one.files("episodes")) == inodes(two.files("episodes"))
    assert inodes(one.files("rewards")) != inodes(two.files("rewards"))
    assert verify(two).problems == ()


def test_a_config_is_taken_over_from_another_dataset(store: Store) -> None:
    parent = commit(store, toy(0, 1), "org/parent").version
    with store.stage("org/child") as stage:
        stage.link(parent, "episodes")
        stage.write("rewards", "train", rewards(reward_row(0)))
        child = stage.commit({}).version
    assert inodes(parent.files("episodes")) == inodes(child.files("episodes"))
    assert child.manifest.columns["episodes"] == parent.manifest.columns["episodes"]
    assert verify(child).problems == ()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second device: there is no /dev/shm")
def test_a_config_from_another_device_is_copied(store: Store) -> None:
    elsewhere = Path("/dev/shm") / f"sotopia-rl-data-test-{os.getpid()}"
    if Path("/dev/shm").stat().st_dev == store.root.parent.stat().st_dev:
        pytest.skip("/dev/shm is on the same device")
    try:
        parent = commit(Store(elsewhere), toy(0), "parent").version
        with store.stage("child") as stage:
            stage.link(parent, "episodes")
            child = stage.commit({}).version
        assert verify(child).problems == ()
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)


def test_nothing_is_taken_over_from_a_damaged_version(store: Store) -> None:
    parent = commit(store, toy(0)).version
    parent.files("episodes")["train"][0].unlink()
    with pytest.raises(StoreError, match="damaged"), store.stage("child") as stage:
        stage.link(parent, "episodes")
    with pytest.raises(NotFound, match="no config 'attributions'"), store.stage("child") as stage:
        stage.link(parent, "attributions")
    whole = commit(store, toy(0, reward=0.7)).version  # same episodes, but the file to link to is gone
    assert verify(whole).problems == ()


# Finding


def test_a_reference_finds_the_latest_or_the_pinned_version(store: Store, tmp_path: Path) -> None:
    one, two = commit(store, toy(0)).version, commit(store, toy(1)).version
    assert store.resolve("org/toy") == two
    assert store.resolve("org/toy@v1.0.0") == one
    assert store.resolve(str(one.dir)) == one
    assert store.resolve(str(one.dir.parent)) == two
    assert one.ref == "org/toy@v1.0.0"


@pytest.mark.parametrize(
    ("ref", "message", "hint"),
    [
        ("org/toi", "did you mean 'org/toy'?", "write org/toy, or see sotopia-rl-data list"),
        ("orgtoy", "did you mean 'org/toy'?", "write org/toy"),
        ("other/dataset", "has no dataset 'other/dataset'", "sotopia-rl-data list"),
        ("org/toy@v9.0.0", "has no version v9.0.0; it has v1.0.0", "org/toy@v1.0.0"),
        ("org/toy@0123abc", "commit 0123abc", "sotopia-rl-data pull org/toy@0123abc"),
        ("./nowhere", "There is no folder nowhere", "sotopia-rl-data list"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(store: Store, ref: str, message: str, hint: str) -> None:
    commit(store, toy(0))
    with pytest.raises(NotFound) as told:
        store.resolve(ref)
    assert message in told.value.message
    assert hint in told.value.hint


@pytest.mark.parametrize("ref", ["org/nope", "org/to-be-removed", "org/x"])
def test_a_dataset_that_has_only_the_org_in_common_is_not_suggested(store: Store, ref: str) -> None:
    commit(store, toy(0))
    with pytest.raises(NotFound, match=f"has no dataset {ref!r}\\."):
        store.resolve(ref)


def test_a_folder_that_is_no_version_is_said_to_be_none(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"it has no manifest.json"):
        store.resolve(str(tmp_path))
    with pytest.raises(NotFound, match="no config 'prices'"):
        commit(store, toy(0)).version.files("prices")


def test_an_empty_or_absent_store_lists_nothing(store: Store) -> None:
    assert store.names() == []
    assert store.versions("org/toy") == []
    assert store.latest("org/toy") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"manifest_version": 99}, "newer"),
        (lambda m: {k: v for k, v in m.items() if k != "digest"}, "damaged"),
        (lambda m: [m], "damaged"),
        (
            lambda m: json.loads(json.dumps(m).replace("rewards/train", "../../../rewards/train")),
            "but has to be 'rewards/",
        ),
        (
            lambda m: json.loads(json.dumps(m).replace("rewards/train", "/rewards/train")),
            "but has to be 'rewards/",
        ),
        (lambda m: m | {"configs": {'x" AS SELECT 1; --': {}}}, "configs"),
        (lambda m: m | {"configs": {"rewards": {"x' || 1": {}}}}, "configs"),
    ],
)
def test_a_manifest_is_read_with_suspicion(store: Store, change: Any, message: str) -> None:
    path = commit(store, toy(0)).version.dir / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(change(manifest)))
    with pytest.raises(StoreError, match=message):
        store.resolve("org/toy")


# Failing


def test_a_failure_leaves_the_store_as_it_was(store: Store) -> None:
    commit(store, toy(0))
    before = tree(store.root)
    with contextlib.suppress(KeyError), store.stage("org/toy") as stage:
        stage.write("episodes", "train", episodes(*range(20)))
        stage.sorted_file("rewards", "train").write_bytes(b"half a file")
        raise KeyError("something of the caller's")
    assert tree(store.root) == before


def test_what_reading_the_rows_raises_is_not_about_the_store(store: Store) -> None:
    def rows() -> Iterator[pa.Table]:
        yield episodes(0)
        raise FileNotFoundError(2, "No such file", "input.jsonl")

    with pytest.raises(FileNotFoundError), store.stage("org/toy") as stage:
        stage.write("episodes", "train", rows())
    assert tree(store.root) == []


@pytest.mark.slow
def test_a_stage_of_a_live_process_is_left_alone_and_one_of_a_dead_is_swept(store: Store) -> None:
    code = """
import sys, time
from sotopia_rl_data.store import Store
with Store(sys.argv[1]).stage("org/toy") as stage:
    (stage.dir / "x").write_text("x")
    print("ready", flush=True)
    time.sleep(600)
"""
    child = python(code, store.root)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    commit(store, toy(0))
    assert len([p for p in tree(store.root / ".staging") if p.endswith("/x")]) == 1
    child.kill()
    child.communicate()
    commit(store, toy(1))
    assert tree(store.root / ".staging") == []


# Reading as it lies


def test_every_file_and_card_reads_back(store: Store) -> None:
    version = commit(store, toy(0, 1)).version
    assert yaml.safe_load((version.dir / "README.md").read_text().split("---")[1])["configs"][0]["default"] is True
    assert version.manifest == Store(store.root).resolve("org/toy").manifest
    from sotopia_rl_data import open_dataset

    assert list(open_dataset("org/toy", store.root).episodes()) == [episode(0), episode(1)]
