"""Whatever comes between: `main` is the old release or the new one, and the next run ends without a second commit."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time

import pytest
from fixtures.hub import toy
from fixtures.hub_client import ROOT

from sotopia_rl_data.store import Store
from sotopia_rl_data.store.verify import verify

COMMIT, TAG = "/commit/main", "/tag/"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def before(hub, store):
    """A repository at v1.0.0, and the version that is to be its v1.1.0."""
    repo = hub.repo("fault")
    hub.push(toy(store, repo, 0))
    return toy(store, repo, 0, 1)


def released_once(hub, repo):
    return (
        hub.release(repo) == ("v1.1.0", "whole")
        and hub.titles(repo).count("Release v1.1.0") == 1
        and set(hub.tags(repo)) == {"v1.0.0", "v1.1.0"}
    )


def old(hub, repo):
    return hub.release(repo) == ("v1.0.0", "whole") and set(hub.tags(repo)) == {"v1.0.0"}


@pytest.mark.slow
def test_a_refused_commit_is_planned_anew(hub, before):
    hub.server.fault(COMMIT, status=500, times=2)
    done = hub.push(before).json
    assert (done["state"], done["attempts"]) == ("published", 3)
    assert released_once(hub, before.name)


@pytest.mark.slow
def test_a_commit_that_is_refused_for_good_leaves_the_old_release_and_the_next_run_finishes(hub, before):
    hub.server.fault(COMMIT, status=403, times=1)
    failed = hub.push(before, check=False)
    assert failed.code == 1
    assert "Traceback" not in failed.err
    assert old(hub, before.name)
    hub.push(before)
    assert released_once(hub, before.name)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [{"status": 503}, {"drop": True}], ids=["answered 503", "connection broken off"])
def test_a_commit_whose_answer_was_lost_is_recognised(hub, before, lost):
    hub.server.fault(COMMIT, after=True, **lost)
    done = hub.push(before).json
    assert (done["state"], done["attempts"]) == ("published", 2)
    assert released_once(hub, before.name)


@pytest.mark.slow
def test_a_failed_tag_is_set_again_in_the_same_run(hub, before):
    hub.server.fault(TAG, status=500)
    assert hub.push(before).json["attempts"] == 2
    assert released_once(hub, before.name)


@pytest.mark.slow
def test_a_tag_that_cannot_be_set_is_set_by_the_next_run(hub, before):
    hub.server.fault(TAG, status=403)
    assert hub.push(before, check=False).code == 1
    assert hub.release(before.name) == ("v1.1.0", "whole")
    assert set(hub.tags(before.name)) == {"v1.0.0"}
    hub.write(before.name, {"notes.md": "someone wrote meanwhile"})
    done = hub.push(before).json
    assert done["state"] == "tagged"
    assert (
        hub.tags(before.name)["v1.1.0"] == done["commit"] != hub.head(before.name)
    )  # on the release, not on the notes
    assert released_once(hub, before.name)


@pytest.mark.slow
def test_another_writer_in_between_is_built_upon(hub, before):
    card = hub.text(before.name, "README.md").replace("license: unknown", "license: mit")
    hub.server.fault(COMMIT, intrude={"README.md": card, "notes.md": "theirs"})
    done = hub.push(before).json
    assert done["attempts"] == 2
    assert released_once(hub, before.name)
    assert hub.titles(before.name)[:2] == ["Release v1.1.0", "someone else's commit"]
    assert "license: mit" in hub.text(before.name, "README.md")
    assert hub.text(before.name, "notes.md") == "theirs"


@pytest.mark.slow
def test_retry_after_is_waited_for(hub, before):
    hub.server.fault(COMMIT, status=429, headers={"Retry-After": "3"})
    began = time.monotonic()
    done = hub.push(before).json
    assert time.monotonic() - began >= 3
    assert done["attempts"] == 2
    assert released_once(hub, before.name)


@pytest.mark.slow
def test_a_process_killed_between_upload_and_commit_leaves_the_old_release(hub, before):
    hub.server.log()
    hub.server.fault(COMMIT, sleep=600, status=500)
    store = before.dir.parents[2]
    process = hub.run.start("push-to-hub", before.ref, "--store", store, "--check", "files")
    _wait(lambda: f"POST /api/datasets/{before.name}{COMMIT} waits" in hub.server.log(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert old(hub, before.name)
    hub.server.no_faults()
    hub.push(before)
    assert released_once(hub, before.name)


@pytest.mark.slow
def test_two_who_push_the_same_at_once_make_one_release(hub, before):
    store = before.dir.parents[2]
    both = [hub.run.start("push-to-hub", before.ref, "--store", store, "--check", "files") for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert released_once(hub, before.name)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["rewards/train-00000-of-00001.parquet", "README.md"])
def test_a_release_that_is_not_what_was_meant_is_no_success(hub, before, lost):
    hub.server.fault(COMMIT, omit=lost)
    failed = hub.push(before, check=False)
    assert failed.code == 1
    assert f"{before.ref} is published, but not as planned: {lost} is" in failed.err
    if lost != "README.md":  # a card may be mended by hand; data may not
        again = hub.push(before, check=False)
        assert again.code == 1
        assert f"{lost} is missing" in again.err


@pytest.mark.slow
def test_a_push_to_an_endpoint_that_is_down_says_so_at_once(hub, before):
    from fixtures.hub_client import HubClient

    nobody = HubClient("http://127.0.0.1:9", hub.root / "hf-down", hub.xet)
    began = time.monotonic()
    failed = nobody("push-to-hub", before.ref, "--store", before.dir.parents[2], check=False)
    nobody.stop()
    assert failed.code == 1
    assert "http://127.0.0.1:9 cannot be reached" in failed.err
    assert time.monotonic() - began < 60


@pytest.mark.slow
@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_flipped_byte_in_the_cache_is_noticed_and_mended(hub, before, tmp_path, more):
    hub.push(before)
    mine = Store(tmp_path / "mine")
    hub.run("pull", before.name, "--store", mine.root)
    version = mine.resolve(before.name)
    (shard,) = version.files("rewards")["train"]
    _flip(shard, more)  # the file in huggingface_hub's cache is the same one: a hard link
    assert not verify(version).ok
    other = Store(tmp_path / "other")
    hub.run("pull", before.name, "--store", other.root)
    assert verify(other.resolve(before.name)).ok


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["lfs"], indirect=True)  # Xet's own chunks are checked by hf_xet
def test_a_flipped_byte_on_the_server_is_an_error_and_nothing_is_kept(hub, before, tmp_path):
    (listed,) = before.manifest.configs["rewards"]["train"].files
    hub.push(before)
    stored = hub.server.root / "lfs" / listed.sha256
    _flip(stored)
    failed = hub.run("pull", before.name, "--store", tmp_path / "mine", check=False)
    assert failed.code == 1
    assert "rewards/train-00000-of-00001.parquet has other bytes than its manifest lists" in failed.err
    assert Store(tmp_path / "mine").names() == []
    assert list((tmp_path / "mine" / ".staging").iterdir()) == []
    _flip(stored)  # mended
    hub.run("pull", before.name, "--store", tmp_path / "mine")


@pytest.mark.slow
def test_a_disk_that_is_full_while_pulling_leaves_no_half_version(hub, store, tmp_path):
    repo = hub.repo("full")
    hub.push(toy(store, repo, *range(300), reward=0.25))

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "pull", repo, "--store", str(tmp_path / "mine")],
        # without the flag the limit would cut compiled modules short, which every later process would read
        env=hub.run.environment | {"HF_HOME": str(tmp_path / "hf"), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=small_files_only,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "no room left" in done.stderr
    assert Store(tmp_path / "mine").names() == []
    hub.run("pull", repo, "--store", tmp_path / "mine")
    assert verify(Store(tmp_path / "mine").resolve(repo)).ok


def _flip(path, more=b"") -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data + more)


def _wait(true, process) -> None:
    for _ in range(600):
        if true():
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        time.sleep(0.1)
    raise AssertionError("it did not come to pass")
