"""Trajectories: an agent's part of an episode as one chat, with a reward or NULL for each of its actions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fixtures.records import PLAIN, lines

from sotopia_rl_data import open_dataset
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.hashing import file_sha256
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.rewards import trajectories
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.digest import RowDigest, version_digest
from sotopia_rl_data.store.verify import verify

ROWS = """SELECT split, episode_id, agent, unnest(turns) AS turn, unnest(turn_rewards) AS reward,
                 unnest(reward_components.goal) AS norm_goal FROM trajectories"""


@pytest.fixture(params=["single", "chat"])
def labelled(request: pytest.FixtureRequest, tmp_path: Path) -> Version:
    """Twelve episodes of two agents, of whom one has a score on goal, and so rewards."""
    return make(tmp_path, request.param)


def make(tmp_path: Path, layout: str = "single") -> Version:
    store = Store(tmp_path / "store")
    records = [PLAIN | {"episode_id": f"P{i}", "environment_id": f"shop {i}"} for i in range(12)]
    tmp_path.mkdir(exist_ok=True)
    import_dataset(store, [lines(tmp_path / "a.jsonl", *records)], "o/n")
    label = ["label", "o/n", "--judge", "lexical", "--weights", "goal=1", "--layout", layout]
    done = CliRunner().invoke(cli, [*label, "--store", str(store.root)])
    assert done.exit_code == 3, done.output  # one of the two agents has no score
    return store.resolve("o/n-rewards")


@pytest.mark.slow
def test_turn_rewards_joined_back_are_the_rewards_row_by_row_and_null_stays_null(labelled):
    columns = "split, episode_id, agent, turn, reward, norm_goal"
    dataset = open_dataset(labelled.name, labelled.dir.parents[2])
    rewards = dataset.sql(f"SELECT {columns} FROM rewards ORDER BY ALL").to_pylist()
    assert dataset.sql(f"SELECT {columns} FROM ({ROWS}) ORDER BY ALL").to_pylist() == rewards
    missing = [row["reward"] for row in rewards if row["agent"] == "b"]
    assert set(missing) == {None}
    assert None not in [row["reward"] for row in rewards if row["agent"] == "a"]


@pytest.mark.slow
def test_the_messages_are_the_chat_that_the_agent_saw_and_its_actions(tmp_path):
    chat = make(tmp_path / "chat", "chat")
    single = make(tmp_path / "single", "single")
    last = """SELECT episode_id, agent, list_concat(arg_max(prompt, turn), arg_max(completion, turn)) AS messages
              FROM rewards GROUP BY ALL ORDER BY ALL"""
    wanted = open_dataset(chat.name, chat.dir.parents[2]).sql(last).to_pylist()
    for version in (chat, single):
        dataset = open_dataset(version.name, version.dir.parents[2])
        select = "SELECT episode_id, agent, messages FROM trajectories ORDER BY ALL"
        assert dataset.sql(select).to_pylist() == wanted
        counts = """SELECT len(turns), len(list_filter(messages, lambda m: m.role = 'assistant')), len(turn_rewards)
                    FROM trajectories"""
        assert all(len(set(row.values())) == 1 for row in dataset.sql(counts).to_pylist())


def test_the_return_is_the_sum_and_null_where_a_reward_is_missing(labelled):
    rows = open_dataset(labelled.name, labelled.dir.parents[2]).sql("SELECT * FROM trajectories").to_pylist()
    for row in rows:
        known = None not in row["turn_rewards"]
        assert row["return"] == (sum(row["turn_rewards"]) if known else None)
    assert {row["agent"]: row["return"] is None for row in rows} == {"a": False, "b": True}


def test_no_digest_covers_them(labelled, tmp_path):
    """The digest is that of the rewards, episodes, attributions and failures alone."""
    manifest = labelled.manifest
    without = {config: splits for config, splits in manifest.configs.items() if config != "trajectories"}
    splits = {config: {name: split.digest for name, split in of.items()} for config, of in without.items()}
    assert version_digest(splits, manifest.recipe) == labelled.digest


def changed(version: Version, change) -> None:
    """Change a row of the trajectories, and the manifest with it, as somebody would who wants nobody to see it."""
    (path,) = version.files("trajectories")["train"]
    rows = pq.read_table(path)
    rows = pa.Table.from_pylist(change(rows.to_pylist()), rows.schema)
    pq.write_table(rows, path)
    digest = RowDigest(rows.schema)
    digest.update(rows)
    file = version.dir / "manifest.json"
    manifest = json.loads(file.read_text())
    split = manifest["configs"]["trajectories"]["train"]
    split |= {"digest": digest.hexdigest(), "rows": rows.num_rows}
    split["files"][0] |= {"sha256": file_sha256(path), "size": path.stat().st_size, "rows": rows.num_rows}
    file.write_text(json.dumps(manifest))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [rows[0] | {"turn_rewards": [9.0 for _ in rows[0]["turns"]]}, *rows[1:]],
        lambda rows: [rows[0] | {"return": 9.0}, *rows[1:]],
        lambda rows: [rows[0] | {"messages": rows[0]["messages"][:-1]}, *rows[1:]],
        lambda rows: rows[1:],
    ],
    ids=["a reward", "a return", "a message", "a row"],
)
def test_a_row_that_the_episodes_and_rewards_do_not_give_is_found(labelled, change):
    assert verify(labelled, derived=trajectories.problems).ok
    changed(labelled, change)
    version = Store(labelled.dir.parents[2]).resolve(labelled.ref)
    found = verify(version, derived=trajectories.problems)
    assert found.problems == ("trajectories/train: not what its episodes and rewards give",)


def test_messages_in_the_wording_of_another_version_are_not_compared(tmp_path):
    version = make(tmp_path)
    changed(version, lambda rows: [rows[0] | {"messages": rows[0]["messages"][-1:]}, *rows[1:]])
    file = version.dir / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["provenance"]["trajectories"]["sha256"] = "0" * 64
    file.write_text(json.dumps(manifest))
    assert verify(Store(version.dir.parents[2]).resolve(version.ref), derived=trajectories.problems).ok


def test_a_version_without_them_gets_them_by_rewards_with_the_same_digest(tmp_path):
    version = make(tmp_path)
    store = Store(version.dir.parents[2])
    with store.stage("o/old") as stage:
        for config in ("rewards", "episodes", "attributions", "failures"):
            stage.link(version, config)
        old = stage.commit(version.manifest.recipe).version
    assert old.digest == version.digest
    assert "trajectories" not in old.manifest.configs
    for created in (True, False):
        done = CliRunner().invoke(cli, ["rewards", "o/old", "--store", str(store.root), "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert (told["version"], told["created"], told["digest"]) == ("o/old@v1.1.0", created, version.digest)
    new = store.resolve("o/old")
    assert new.manifest.configs["trajectories"] == version.manifest.configs["trajectories"]


def test_a_bare_load_dataset_reads_them(tmp_path):
    import datasets

    version = make(tmp_path)
    loaded = datasets.load_dataset(str(version.dir), "trajectories", cache_dir=str(tmp_path / "cache"))
    rows = [row for split in loaded.values() for row in split]
    assert len(rows) == 24
    assert [row["turn_rewards"] for row in rows if row["agent"] == "b"] == [[None] * len(rows[1]["turns"])] * 12
