"""A store in a bucket of a real S3 server: the same versions, whole or not at all, and few bytes on the way."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import obstore
import pyarrow as pa
import pytest
from fixtures.s3 import S3Server, address, s3_server  # noqa: F401
from fixtures.stores import commit, episodes, python, reward_row, rewards, toy, tree

from sotopia_rl_data.errors import StoreError, UsageError
from sotopia_rl_data.importers import samples_path
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.query import sql
from sotopia_rl_data.schema import Manifest
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.bucket import Bucket
from sotopia_rl_data.store.manifest import listed_files
from sotopia_rl_data.store.mirror import FILES
from sotopia_rl_data.store.verify import verify

pytestmark = pytest.mark.slow

# Imports once, then forks a writer for every line it reads.
_WRITERS = """
import os, sys
from fixtures.stores import commit, toy
from sotopia_rl_data.store import Store

for line in sys.stdin:
    if not (pid := os.fork()):
        tables = toy(int(line))
        del tables["failures", "train"]  # an empty file, which the bucket soon has
        commit(Store(sys.argv[1]), tables)
        os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""

_WRITE_FIVE = """
import sys
from fixtures.stores import commit, toy
from sotopia_rl_data.store import Store

for i in range(5):
    commit(Store(sys.argv[1]), toy(100 * int(sys.argv[2]) + i))
"""


def elsewhere(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:  # noqa: F811
    """The same store as another machine sees it, which has read nothing yet."""
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    monkeypatch.setenv("SOTOPIA_RL_DATA_CACHE", str(tmp_path / "elsewhere"))
    return Store(address)


def delete(address: str, key: str) -> None:  # noqa: F811
    bucket = Bucket(address)
    obstore.delete(bucket._hasty, f"{bucket._prefix}{key}")


def test_a_version_in_a_bucket_has_the_number_and_digest_of_one_in_a_folder(address, tmp_path) -> None:  # noqa: F811
    here, there = Store(tmp_path / "store"), Store(address)
    for ids in ((1, 2), (1, 2), (1, 2, 3)):
        ours, theirs = commit(here, toy(*ids)), commit(there, toy(*ids))
        assert ours.version.ref == theirs.version.ref
        assert ours.version.digest == theirs.version.digest
        assert ours.created == theirs.created
    assert there.names() == ["org/toy"]
    assert there.versions("org/toy") == ["v1.0.0", "v1.1.0"]
    assert verify(there.resolve("org/toy")).ok


def test_two_writers_of_one_name_and_a_reader_see_only_whole_versions(address, tmp_path, monkeypatch) -> None:  # noqa: F811
    writers = [python(_WRITE_FIVE, address, str(i), SOTOPIA_RL_DATA_CACHE=str(tmp_path / f"{i}")) for i in (1, 2)]
    reader, read = elsewhere(address, monkeypatch, tmp_path), 0
    while any(writer.poll() is None for writer in writers):
        readable, damaged = reader.history("org/toy")
        assert not damaged
        for version in readable[: len(readable) - read]:
            assert sql(version, "SELECT count(*) AS n FROM rewards").to_pylist() == [{"n": 1}]
        read = len(readable)
    assert [writer.wait() for writer in writers] == [0, 0]
    versions = reader.history("org/toy")[0][::-1]
    assert [one.version for one in versions] == [f"v1.{i}.0" for i in range(10)]
    ids = {sql(one, "SELECT episode_id FROM episodes").to_pylist()[0]["episode_id"] for one in versions}
    assert ids == {f"e{i:04}" for i in (*range(100, 105), *range(200, 205))}
    assert verify(versions[0]).ok
    assert verify(versions[-1]).ok


def test_a_writer_killed_at_each_step_leaves_a_whole_version_or_none(
    address,  # noqa: F811
    s3_server: S3Server,  # noqa: F811
    tmp_path,
    monkeypatch,
) -> None:
    launcher = python(_WRITERS, address)
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    reader = elsewhere(address, monkeypatch, tmp_path)
    there = 0
    for step in range(1, 5):  # files of two configs, the manifest, the README
        for outcome in ("dropped", "applied"):
            s3_server.call(f"/-/hold/{step}/{outcome}")
            launcher.stdin.write(f"{10 * step + (outcome == 'applied')}\n")
            launcher.stdin.flush()
            writer = int(launcher.stdout.readline())
            assert s3_server.call("/-/held") == b"yes"
            os.kill(writer, signal.SIGKILL)
            s3_server.call("/-/release")
            assert launcher.stdout.readline() == "ended\n"
            has_manifest = step == 4 or (step == 3 and outcome == "applied")
            there += has_manifest
            assert reader.versions("org/toy") == [f"v1.{i}.0" for i in range(there)], (step, outcome)
            if has_manifest:
                assert verify(reader.resolve("org/toy")).ok
    launcher.communicate()
    assert commit(reader, toy(7)).version.version == f"v1.{there}.0"
    assert verify(reader.resolve("org/toy")).ok


def test_a_query_over_one_column_reads_few_bytes_and_a_file_that_was_read_is_not_fetched_again(
    address,  # noqa: F811
    s3_server: S3Server,  # noqa: F811
    tmp_path,
    monkeypatch,
) -> None:
    rows = rewards(*(reward_row(i, i / 10_000) for i in range(10_000)))
    at = rows.schema.get_field_index("prompt")
    noise = [[{"role": "user", "content": os.urandom(600).hex()}] for _ in range(10_000)]
    field = rows.schema.field(at)
    rows = rows.set_column(at, field, pa.array(noise, field.type))
    large = commit(Store(address), {("rewards", "train"): rows})
    (file,) = listed_files(large.version.manifest)
    assert file.size > 5_000_000

    version = elsewhere(address, monkeypatch, tmp_path).resolve("org/toy")
    before = s3_server.sent()
    assert sql(version, "SELECT avg(reward) AS r FROM rewards").to_pylist() == [{"r": pytest.approx(0.49995)}]
    of_column = s3_server.sent() - before
    assert 0 < of_column < file.size / 20
    version.files("rewards")
    assert file.size <= s3_server.sent() - before - of_column < 1.01 * file.size
    fetched = s3_server.sent()
    assert sql(version, "SELECT count(DISTINCT prompt) AS n FROM rewards").to_pylist() == [{"n": 10_000}]
    assert s3_server.sent() == fetched


def test_a_conflict_that_passes_is_no_other_writer(address, s3_server: S3Server) -> None:  # noqa: F811
    s3_server.call("/-/conflict")
    assert commit(Store(address), toy(1)).version.version == "v1.0.0"
    s3_server.call("/-/conflict")
    assert commit(Store(address), toy(2)).version.version == "v1.1.0"


def test_a_damaged_or_missing_file_is_told_and_never_read(address, tmp_path, monkeypatch) -> None:  # noqa: F811
    (file,) = listed_files(commit(Store(address), {("episodes", "train"): episodes(1)}).version.manifest)
    key, bucket = f"{FILES}/{file.sha256}", Bucket(address)
    bucket.write(key, b"x" * file.size)
    other = elsewhere(address, monkeypatch, tmp_path)
    with pytest.raises(StoreError, match=r"file episodes/.* has other bytes than its manifest lists in s3:"):
        other.resolve("org/toy").files("episodes")
    assert any("SHA-256" in problem for problem in verify(other.resolve("org/toy")).problems)
    delete(address, key)
    with pytest.raises(StoreError, match="is missing in s3:"):
        other.resolve("org/toy").files("episodes")
    assert any("No such file" in problem for problem in verify(other.resolve("org/toy")).problems)


def test_a_damaged_version_is_named_and_hides_no_other(address) -> None:  # noqa: F811
    store = Store(address)
    for i in range(5):
        commit(store, toy(i))
    for number, text in (("v1.1.0", b"{"), ("v1.2.0", b" " * (17 << 20))):
        Bucket(address).write(f"org/toy/{number}/manifest.json", text)
    Bucket(address).write("org/toy/v1.3.0/manifest.json", Bucket(address).read("org/toy/v1.0.0/manifest.json")[0])
    Bucket(address).write("org/toy/v1.4.0/README.md", b"#" * (17 << 20))
    (readable, damaged) = store.histories()["org/toy"]
    assert [version.version for version in readable] == ["v1.4.0", "v1.0.0"]
    place = f"The manifest {address}/org/toy"
    assert {number: error.message.partition(" (")[0] for number, error in damaged.items()} == {
        "v1.3.0": f"{place}/v1.3.0/manifest.json is that of v1.0.0.",
        "v1.2.0": f"{place}/v1.2.0/manifest.json is damaged",
        "v1.1.0": f"{place}/v1.1.0/manifest.json is damaged",
    }
    assert sql(readable[0], "SELECT count(*) AS n FROM rewards").to_pylist() == [{"n": 1}]


def test_of_what_others_put_beside_a_version_only_plain_files_are_copied(address, s3_server: S3Server) -> None:  # noqa: F811
    store = Store(address)
    version = commit(store, toy(1)).version
    before = tree(version.dir)
    hidden = (".objects.json", ".x/y.txt", "rewards/train-00001-of-00002.parquet", "a/b/c.txt")
    clashing = ("README.md/x.txt", "manifest.json/x.txt", "a", f"{'n' * 300}.txt")
    for beside in (*hidden, *clashing, "notes.txt"):
        Bucket(address).write(f"org/toy/v1.0.0/{beside}", b"not ours")
    Bucket(address).write(f"{'n' * 300}/v1.0.0/manifest.json", b"not ours")
    assert store.names() == ["org/toy"]
    assert store.versions("org/toy") == ["v1.0.0"]
    assert set(tree(version.dir)) - set(before) == {"notes.txt"}
    folder = address.removeprefix("s3:/")
    s3_server.call(f"{folder}/org/toy/v1.0.0/x/%2e%2e/%2e%2e/README.md", "PUT")
    with pytest.raises(StoreError, match="is an object whose name cannot be used"):
        store.versions("org/toy")
    assert not (version.dir.parent / "README.md").exists()


def test_what_disappears_from_the_bucket_or_is_made_anew_is_so_in_its_mirror(address) -> None:  # noqa: F811
    store = Store(address)
    old = commit(store, toy(1)).version
    delete(address, "org/toy/v1.0.0/manifest.json")
    assert store.names() == []
    assert store.versions("org/toy") == []
    new = commit(store, toy(2)).version
    assert (new.version, store.resolve("org/toy@v1.0.0").digest) == ("v1.0.0", new.digest)
    assert new.digest != old.digest
    assert sql(new, "SELECT episode_id FROM episodes").to_pylist() == [{"episode_id": "e0002"}]


def test_the_histories_of_all_datasets_are_read_from_one_listing(address, s3_server: S3Server) -> None:  # noqa: F811
    store = Store(address)
    for name in ("org/one", "org/two", "three"):
        with store.stage(name) as stage:
            stage.write("episodes", "train", episodes(1))
            stage.commit({"scale": 1})
    began = s3_server.sent()
    names = store.names()
    listed = s3_server.sent()
    histories = store.histories()
    assert {name: [one.ref for one in readable] for name, (readable, _) in histories.items()} == {
        name: [f"{name}@v1.0.0"] for name in names
    }
    assert s3_server.sent() - listed == listed - began > 0


def test_a_file_that_another_version_has_is_not_sent_again(address) -> None:  # noqa: F811
    store = Store(address)
    first = commit(store, toy(1)).version
    with store.stage("org/more") as stage:
        stage.link(first, "episodes")
        second = stage.commit({"scale": 3}).version
    assert verify(second).ok
    stored = [one.key for one in Bucket(address).list(FILES)]
    assert len(stored) == len(set(stored)) == len(files_of(first.manifest))


def files_of(manifest: Manifest) -> set[str]:
    return {file.sha256 for file in listed_files(manifest)}


def test_a_bucket_that_is_away_is_told_and_a_commit_leaves_nothing(address, s3_server, tmp_path) -> None:  # noqa: F811
    store = Store(address)
    began = time.monotonic()
    with s3_server.away(), pytest.raises(StoreError, match=r"answers|cannot be reached"):
        commit(store, toy(1))
    assert time.monotonic() - began < 60
    assert tree(store.root / ".staging") == []
    assert store.names() == []


def test_a_bucket_that_is_away_is_told_before_a_file_is_read(address, s3_server) -> None:  # noqa: F811
    read: list[int] = []
    with s3_server.away(), pytest.raises(StoreError, match=r"answers|cannot be reached"):
        import_dataset(Store(address), [samples_path()], "lab/e", progress=lambda done, _: read.append(done))
    assert read == []


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("gs://toys/lab", "begins with gs://"),
        ("az://toys", "begins with az://"),
        ("hf://org/toy", "is not a dataset of the Hub"),
        ("s3://", "not the name of a bucket"),
        ("s3://Toys/lab", "3 to 63 small letters"),
        ("s3://AKIAKEY:verysecret@toys/lab", "not the name of a bucket"),
        ("s3://toys/../other", "not the name of a bucket"),
    ],
)
def test_an_address_that_is_none_is_refused_without_showing_it(address: str, sentence: str) -> None:  # noqa: F811
    with pytest.raises(UsageError) as caught:
        Store(address)
    assert sentence in f"{caught.value.message} {caught.value.hint}"
    assert "verysecret" not in str(caught.value)
