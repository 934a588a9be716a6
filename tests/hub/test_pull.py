"""What a reference stands for: the store first, then the Hub, always a whole and checked version, never another one."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from fixtures.hub import toy
from fixtures.hub_client import HubClient
from fixtures.promises import check_keys
from fixtures.stores import commit, episodes, reward_row, rewards
from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

from sotopia_rl_data.errors import HubError, NotFound
from sotopia_rl_data.hub.client import _bounded
from sotopia_rl_data.hub.resolve import resolve
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.verify import verify
from sotopia_rl_data.store.versions import commit_of


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def mine(tmp_path):
    """Another machine's store."""
    return Store(tmp_path / "mine")


@pytest.fixture(scope="module")
def origin(hub, tmp_path_factory):
    """The store that `published` was pushed from: one for each hub, which all give the same names."""
    return Store(tmp_path_factory.mktemp("origin"))


@pytest.fixture(scope="module")
def published(hub, origin):
    """A repository with v1.0.0 (one episode) and v1.1.0 (two). For reading."""
    repo = hub.repo("pull")
    hub.push(toy(origin, repo, 0))
    hub.push(toy(origin, repo, 0, 1))
    return repo


def rows(hub, ref, store):
    asked = ("query", ref, "SELECT count(*) AS n FROM rewards", "--store", store.root, "--json")
    done = hub.run(*asked)
    return json.loads(done.out)[0]["n"], done.err


@pytest.mark.slow
def test_a_version_a_commit_and_the_latest_are_pulled_as_they_are(hub, published, mine):
    tags = hub.tags(published)
    first = hub.run("pull", f"{published}@v1.0.0", "--store", mine.root, "--json").json
    check_keys("pull", first)
    assert (first["commit"], first["created"], first["downloaded"]) == (tags["v1.0.0"], True, 2)
    second = hub.run("pull", f"{published}@{tags['v1.1.0'][:10]}", "--store", mine.root, "--json").json
    assert (second["version"], second["commit"]) == (f"{published}@v1.1.0", tags["v1.1.0"])
    latest = hub.run("pull", published, "--store", mine.root)
    assert f"{published} is v1.1.0, commit {tags['v1.1.0']}" in latest.err
    assert "unchanged" in latest.out
    assert mine.versions(published) == ["v1.0.0", "v1.1.0"]
    for number in mine.versions(published):
        version = mine.version(published, number)
        assert verify(version).ok
        assert commit_of(version) == tags[number]
    assert (mine.version(published, "v1.1.0").dir / "README.md").read_text() == hub.text(published, "README.md")
    assert (mine.version(published, "v1.1.0").dir / "assets/rewards.png").is_file()


def test_a_release_has_no_sentinel(hub, published, mine):
    refused = hub.run("pull", published, "--sentinel", "-1", "--store", mine.root, check=False)
    assert refused.code == 2
    assert "whose missing rewards are NULL already" in refused.err
    assert mine.versions(published) == []


@pytest.mark.slow
def test_every_command_pulls_what_its_reference_names_and_asks_no_more_once_it_is_there(hub, published, mine):
    count, said = rows(hub, f"{published}@v1.0.0", mine)
    assert count == 1
    assert f"commit {hub.tags(published)['v1.0.0']}" in said
    assert rows(hub, published, mine)[0] == 1  # a name that is in the store means the store's latest
    hub.server.log()
    assert rows(hub, f"{published}@{hub.tags(published)['v1.0.0']}", mine) == (1, "")
    assert [line for line in hub.server.log() if "/refs" not in line] == []
    hub.run("pull", published, "--store", mine.root)  # refreshes it
    assert rows(hub, published, mine)[0] == 2


def test_the_library_resolves_as_the_commands_do(hub, published, mine):
    code = "import json\nfrom sotopia_rl_data import open_dataset\n"
    code += f"data = open_dataset({published + '@v1.0.0'!r}, {str(mine.root)!r})\n"
    code += "print(json.dumps([data.version.ref, data.sql('SELECT count(*) FROM rewards').column(0)[0].as_py()]))"
    assert hub.run.python(code) == [f"{published}@v1.0.0", 1]


def test_a_commit_of_a_pushed_version_is_known_to_its_own_store(hub, origin, published):
    hub.server.log()
    assert rows(hub, f"{published}@{commit_of(origin.version(published, 'v1.0.0'))}", origin)[0] == 1
    assert hub.server.log() == []


@pytest.mark.slow
def test_files_that_the_store_has_are_linked_not_downloaded(hub, store, mine):
    repo = hub.repo("same")
    same = episodes(*range(4))
    for reward in (0.1, 0.2):
        commit(store, {("episodes", "train"): same, ("rewards", "train"): rewards(reward_row(0, reward))}, repo)
        hub.push(store.resolve(repo))
    hub.run("pull", f"{repo}@v1.0.0", "--store", mine.root)
    hub.server.log()
    second = hub.run("pull", repo, "--store", mine.root, "--json").json
    assert (second["linked"], second["downloaded"]) == (1, 1)
    assert not any("episodes/" in line for line in hub.server.log())
    a, b = (mine.version(repo, v).files("episodes")["train"][0] for v in ("v1.0.0", "v1.1.0"))
    assert a.samefile(b)


@pytest.mark.slow
def test_offline_a_pinned_version_that_is_here_loads_and_nothing_else_is_served(hub, published, mine):
    hub.run("pull", f"{published}@v1.0.0", "--store", mine.root)
    pin = hub.tags(published)["v1.0.0"]
    offline = HubClient(hub.server.url, hub.run.hf_home, hub.xet, HF_HUB_OFFLINE="1")
    down = HubClient("http://127.0.0.1:9", hub.run.hf_home, hub.xet)
    try:
        for client in (offline, down):
            for ref in (f"{published}@v1.0.0", f"{published}@{pin}", published):
                done = client("query", ref, "SELECT count(*) AS n FROM rewards", "--store", mine.root, "--json")
                assert json.loads(done.out) == [{"n": 1}]
            for ref in (f"{published}@v1.1.0", f"{published}@v99.0.0", f"{published}@{'0' * 40}", "lab/nothing"):
                refused = client("query", ref, "SELECT 1", "--store", mine.root, check=False)
                assert (refused.code, refused.out) == (2, "")
                assert "error: " in refused.err
                assert "Traceback" not in refused.err
                assert "sotopia-rl-data pull" not in refused.err  # it would not work either
    finally:
        offline.stop()
        down.stop()


def test_a_version_that_neither_has_is_an_error_that_names_what_there_is(hub, published, mine):
    refused = hub.run("show", f"{published}@v99.0.0", "--store", mine.root, check=False)
    assert refused.code == 2
    assert f"{published} has no v99.0.0 on the Hub; it has" in refused.err
    assert "v1.0.0, v1.1.0." in refused.err
    assert mine.names() == []


def test_a_mistyped_name_is_answered_with_the_store_s_own_and_the_hint_ends_with_it(hub, mine):
    toy(mine, "lab/mistyped", 1)
    refused = hub.run("show", "lab/mistypd", "--store", mine.root, check=False)
    assert refused.code == 2
    assert (
        "has no dataset 'lab/mistypd' (did you mean 'lab/mistyped'?). The Hub has no dataset lab/mistypd" in refused.err
    )
    hint = f"; or write lab/mistyped, or see sotopia-rl-data list --store {mine.root}"
    assert refused.err.strip().endswith(hint)


def test_a_bare_name_is_never_looked_for_on_the_hub(hub, mine):
    hub.server.log()
    assert hub.run("show", "nothing", "--store", mine.root, check=False).code == 2
    assert hub.server.log() == []


def test_a_store_that_has_other_content_under_the_number_is_not_written_over(hub, published, tmp_path):
    other = Store(tmp_path / "other")
    local = toy(other, published, 5)
    refused = hub.run("pull", f"{published}@v1.0.0", "--store", other.root, check=False)
    assert refused.code == 1
    assert f"The store's {published}@v1.0.0 differs from the one on the Hub" in refused.err
    assert other.resolve(published).digest == local.digest


def test_a_tag_on_another_release_is_refused(hub, published, mine):
    code = f"from huggingface_hub import HfApi\nHfApi().create_tag({published!r}, repo_type='dataset', "
    hub.run.python(code + "tag='v0.9.0', revision='v1.1.0')\nprint(0)")
    refused = hub.run("pull", f"{published}@v0.9.0", "--store", mine.root, check=False)
    assert refused.code == 1
    assert "a manifest that says v1.1.0" in refused.err
    assert mine.names() == []


@pytest.mark.slow
def test_a_manifest_that_was_edited_by_hand_is_refused(hub, store, mine):
    repo = hub.repo("edited")
    hub.push(toy(store, repo, 0))
    manifest = json.loads(hub.text(repo, "manifest.json"))
    manifest["configs"]["rewards"]["train"]["digest"] = "0" * 64
    hub.write(repo, {"manifest.json": json.dumps(manifest)})
    assert "contradicts itself" in hub.run("pull", repo, "--store", mine.root, check=False).err
    escaping = json.loads(hub.text(repo, "manifest.json", "v1.0.0"))
    escaping["configs"]["rewards"]["train"]["files"][0]["path"] = "../../../stolen.parquet"
    hub.write(repo, {"manifest.json": json.dumps(escaping)})
    refused = hub.run("pull", repo, "--store", mine.root, check=False).err
    assert "but has to be 'rewards/train-00000-of-00001.parquet'" in refused
    assert "hint: pin another version, or ask its publisher" in refused
    assert hub.run("pull", f"{repo}@v1.0.0", "--store", mine.root).code == 0


@pytest.mark.slow
def test_a_card_that_was_broken_by_hand_does_not_mislead_load_dataset(hub, store, mine):
    repo = hub.repo("card")
    hub.push(toy(store, repo, 0))
    hub.write(repo, {"README.md": "# Nothing but a heading\n\nAnd a sentence."})
    hub.run("pull", repo, "--store", mine.root)
    version = mine.resolve(repo)
    assert verify(version).ok
    assert "And a sentence." in (version.dir / "README.md").read_text()


def test_in_a_process_without_the_hub_a_missing_version_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="HF_HUB_OFFLINE"):
        resolve(Store(tmp_path), "lab/nothing")
    with pytest.raises(NotFound) as missing:
        Store(tmp_path).resolve("lab/nothing")
    assert "HF_HUB" not in missing.value.message  # the store alone does not ask the Hub


def test_what_hf_xet_fetches_beyond_a_file_is_not_taken_for_a_file_that_is_too_large():
    """A part of the file may lie in a larger piece of the server's."""

    def report(written, fetched):
        rates = {"total_bytes_completion_rate": 1.0, "total_transfer_bytes_completion_rate": 1.0, "total_bytes": 10}
        return SimpleNamespace(total_bytes_completed=written, total_transfer_bytes_completed=fetched, **rates)

    bars = {"reconstruction_desc": "x", "total": 10, "log_level": 40, "tqdm_class": _bounded(10, "x.parquet", "lab/x")}
    reporter = XetDownloadProgressReporter(**bars)
    reporter.update_progress(report(10, 50))
    with pytest.raises(HubError, match=r"x\.parquet of lab/x has more than 10 bytes"):
        reporter.update_progress(report(11, 50))
    reporter.close()


@pytest.mark.slow
def test_a_manifest_that_is_too_large_is_not_downloaded_and_one_that_does_not_end_is_cut_off(hub, published, mine):
    def cached():
        return sum(path.stat().st_size for path in hub.run.hf_home.rglob("*") if path.is_file())

    large, before = hub.repo("large"), cached()
    hub.server.plant(large, {"manifest.json": b'{"manifest_version": 1, "name": "' + b"x" * 17_000_000 + b'"}'})
    told = hub.run("pull", large, "--store", mine.root, check=False)
    assert (told.code, "manifest.json of " in told.err, "more than 16,777,216 bytes" in told.err) == (1, True, True)
    assert cached() - before < 100_000
    endless = hub.repo("endless")
    hub.server.plant(endless, {"manifest.json": hub.text(published, "manifest.json").encode()})
    hub.server.fault(f"{endless}/resolve/.*manifest.json", method="GET", stream=200)
    told = hub.run("pull", endless, "--store", mine.root, check=False)
    assert (told.code, "more than 16,777,216 bytes" in told.err) == (1, True), told
    assert cached() - before < 20_000_000
    assert mine.names() == []
