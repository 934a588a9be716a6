"""The whole way, as a person goes it: label, publish, change, publish again; and everyone reads what they pinned."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from fixtures.hub_client import ROOT, environment

from sotopia_rl_data.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def walked(hub, tmp_path_factory):
    """The samples, labelled offline, published as v1.0.0; normalised otherwise, and published as v1.1.0."""
    store = Store(tmp_path_factory.mktemp("walked"))
    repo = hub.repo("walked")
    hub.run("import", "--name", "demo/episodes", "--store", store.root)
    labelled = hub.run(
        "label", "demo/episodes", "--judge", "lexical", "--out", repo, "--store", store.root, check=False
    )
    assert labelled.code == 3  # one sample's evaluation failed
    first = hub.run("push-to-hub", repo, "--store", store.root, "--with-ledger", "--json").json
    hub.run("rewards", repo, "--normaliser", "zscore", "--store", store.root)
    second = hub.run("push-to-hub", repo, "--store", store.root, "--json").json
    return repo, store, first, second


def test_each_push_ends_with_the_rows_that_load_dataset_gives(walked):
    repo, store, *done = walked
    for number, one in zip(("v1.0.0", "v1.1.0"), done, strict=True):
        configs = store.version(repo, number).manifest.configs
        expected = {c: {split: of.rows for split, of in splits.items()} for c, splits in configs.items()}
        assert one["rows"] == expected | {"": expected["rewards"]}  # also without naming the config


def test_a_revision_gives_the_old_rows_and_none_gives_the_new(hub, walked):
    repo, store, *_ = walked
    code = f"""
import json, itertools
from datasets import load_dataset
found = []
for revision in ("v1.0.0", "v1.1.0", None):
    whole = load_dataset({repo!r}, revision=revision, split="train")["reward"]
    streamed = [row["reward"] for row in load_dataset({repo!r}, revision=revision, split="train", streaming=True)]
    found.append([list(whole), streamed])
print(json.dumps(found))
"""
    old, new, latest = hub.run.python(code)
    for number, (whole, streamed) in (("v1.0.0", old), ("v1.1.0", new), ("v1.1.0", latest)):
        assert whole == streamed == _rewards(store.version(repo, number))
    assert old != new


def test_duckdb_and_polars_read_what_was_pulled_as_it_lies(hub, walked, tmp_path):
    import duckdb
    import polars as pl

    repo, store, *_ = walked
    for number in ("v1.0.0", "v1.1.0"):
        hub.run("pull", f"{repo}@{number}", "--store", tmp_path)
        files = tmp_path / repo / number / "rewards" / "train-*.parquet"
        expected = _rewards(store.version(repo, number))
        assert [r for (r,) in duckdb.sql(f"SELECT reward FROM '{files}'").fetchall()] == expected
        assert pl.read_parquet(files)["reward"].to_list() == expected


def test_the_ways_to_load_that_the_card_shows_work_as_printed(hub, walked):
    repo, *_ = walked
    card = hub.text(repo, "README.md", "v1.0.0")
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 3
    said = [hub.run.script(block) for block in blocks]
    assert [one.code for one in said] == [0, 0, 0], said
    assert "avg(reward)" in said[1].out
    assert "episode_id" in said[2].out


def test_the_calls_go_along_without_addresses_when_asked_for(hub, walked):
    repo, *_ = walked
    path = "ledger/calls-00000-of-00001.parquet"
    assert path in hub.files(repo, "v1.0.0")
    assert path not in hub.files(repo)  # not asked for again, so the next release took it away
    code = f"""
import json
import pyarrow.parquet as pq
from huggingface_hub import hf_hub_download
table = pq.read_table(hf_hub_download({repo!r}, {path!r}, repo_type="dataset", revision="v1.0.0"))
print(json.dumps([table.num_rows, table.column_names]))
"""
    rows, columns = hub.run.python(code)
    assert rows == 186
    assert "base_url" not in columns
    assert {"model", "text", "returned_model"} <= set(columns)


def test_a_project_that_has_only_datasets_loads_it_by_name(hub, walked, datasets_only, tmp_path):
    repo, store, *_ = walked
    clean = environment(hub.server.url, tmp_path / "hf", hub.xet, "hf_alice")
    clean.pop("PYTHONPATH")
    done = subprocess.run(
        [datasets_only, ROOT / "examples" / "load_by_name" / "main.py", repo, "v1.0.0"],
        env=clean,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rewards = _rewards(store.version(repo, "v1.0.0"))
    labelled = [one for one in rewards if one is not None]
    head = f"{repo} v1.0.0: {len(rewards)} utterances, {len(labelled)} with a reward. The best, {max(labelled):.3f}:"
    assert done.stdout.splitlines()[0] == head
    alone = subprocess.run(
        [datasets_only, "-c", "import sotopia_rl_data"], env=clean, cwd=tmp_path, capture_output=True
    )
    assert alone.returncode == 1
    assert os.fsencode("No module named 'sotopia_rl_data'") in alone.stderr


def _rewards(version) -> list[float | None]:
    import pyarrow.parquet as pq

    return [r for path in version.files("rewards")["train"] for r in pq.read_table(path)["reward"].to_pylist()]
