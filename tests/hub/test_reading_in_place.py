"""A dataset of the Hub as a store that is only read: pinned, verified, cached, and nothing pulled."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from fixtures.hub import HubToys, toy
from fixtures.hub_client import HubClient
from fixtures.reading_commands import read_everywhere
from fixtures.stores import commit, reward_row, rewards

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.refs import parse
from sotopia_rl_data.store import Store

LABEL = ["label", "--judge", "lexical", "--preset", "goal-only", "--dimensions", "goal"]
COUNT = "SELECT count(*) AS n FROM rewards"


@pytest.fixture(scope="module")
def origin(hub: HubToys, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("origin"))


@pytest.fixture(scope="module")
def published(hub: HubToys, origin: Store) -> str:
    """A repository with v1.0.0 (one episode) and v1.1.0 (two)."""
    repo = hub.repo("place")
    hub.push(toy(origin, repo, 0))
    hub.push(toy(origin, repo, 0, 1))
    return repo


@pytest.fixture
def reader(hub: HubToys, tmp_path: Path) -> Iterator[HubClient]:
    """A machine that has read nothing yet, with its cache and the store that nothing is to be pulled into."""
    folders = {"SOTOPIA_RL_DATA_CACHE": str(tmp_path / "cache"), "SOTOPIA_RL_DATA_STORE": str(tmp_path / "store")}
    client = HubClient(hub.server.url, tmp_path / "hf", hub.xet, "hf_bob", **folders)
    yield client
    client.stop()


def at(name: str) -> str:
    return f"hf://datasets/{name}"


@pytest.mark.invented  # its episodes have one score, and labels of the usual three were never made
@pytest.mark.slow
def test_every_reading_command_reads_a_release_without_pulling_it(hub, origin, published, reader, tmp_path):
    version = origin.version(published, "v1.1.0")
    read_everywhere(reader, version, f"{published}@v1.0.0", at(published), tmp_path / "out")
    (listed,) = reader("list", "--store", at(published), "--json").json
    assert (listed["name"], listed["versions"], listed["digest"]) == (published, ["v1.0.0", "v1.1.0"], version.digest)
    done = reader("show", published, "--store", at(published))
    assert f"{at(published)}@v1.1.0" in done.out + done.err
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "hf" / "hub").exists()  # nor into huggingface_hub's cache
    code = (
        "import json\nfrom sotopia_rl_data import open_dataset\nfrom sotopia_rl_data.store.versions import commit_of\n"
    )
    code += f"version = open_dataset({published!r}, {at(published)!r}).version\n"
    code += "print(json.dumps([version.digest, commit_of(version)]))"
    assert reader.python(code) == [version.digest, hub.tags(published)["v1.1.0"]]  # what a trainer notes


@pytest.mark.slow
def test_a_pin_is_one_release_whatever_is_released_later(hub, origin, reader):
    repo = hub.repo("pinned")
    hub.push(toy(origin, repo, 0))
    first = hub.head(repo)

    def count(pin: str) -> int:
        return json.loads(reader("query", repo, COUNT, "--store", at(repo) + pin, "--json").out)[0]["n"]

    assert count("") == 1
    hub.push(toy(origin, repo, 0, 1))
    assert [count(""), count("@v1.0.0"), count(f"@{first}"), count(f"@{first[:9]}")] == [2, 1, 1, 1]
    refused = reader("query", f"{repo}@v1.1.0", COUNT, "--store", f"{at(repo)}@v1.0.0", check=False)
    assert (refused.code, "it has v1.0.0" in refused.err) == (2, True)


@pytest.mark.slow
def test_a_query_over_one_column_reads_few_bytes_and_what_was_read_is_not_fetched_again(hub, origin, reader):
    rows, drawn = rewards(*(reward_row(i, i / 4_000) for i in range(4_000))), random.Random(0)
    noise = [[{"role": "user", "content": drawn.randbytes(600).hex()}] for _ in range(4_000)]
    rows = rows.set_column(rows.schema.get_field_index("prompt"), rows.schema.field("prompt"), pa.array(noise))
    repo = hub.repo("wide")
    version = commit(origin, {("rewards", "train"): rows}, repo).version
    hub.push(version)
    size = sum(file.stat().st_size for file in version.dir.glob("rewards/*"))
    assert size > 2_000_000

    hub.server.sent()
    mean = ["query", repo, "SELECT avg(reward) AS mean FROM rewards", "--store", at(repo), "--json"]
    assert json.loads(reader(*mean).out)[0]["mean"] == pytest.approx(3_999 / 8_000)
    assert hub.server.sent() < 100_000  # with the list of releases, the manifest and the README
    every = ["query", repo, "SELECT count(DISTINCT prompt) AS n FROM rewards", "--store", at(repo), "--json"]
    code = f"from sotopia_rl_data.store import Store\nStore({at(repo)!r}).resolve({repo!r}).fetch()\nprint('null')"
    reader.python(code)
    assert hub.server.sent() > size
    assert json.loads(reader(*every).out) == [{"n": 4_000}]
    assert hub.server.sent() < size / 10


@pytest.mark.invented  # datasets that no importer knows
@pytest.mark.slow
def test_what_is_not_what_its_manifest_says_is_not_read(hub, origin, published, reader):
    repo, files = hub.repo("bad"), origin.version(published, "v1.0.0").dir
    held = {path: (files / path).read_bytes() for path in ("manifest.json", "README.md")}
    held["manifest.json"] = held["manifest.json"].replace(published.encode(), repo.encode())
    data = {str(path.relative_to(files)): path.read_bytes() for path in files.glob("*/*.parquet")}
    asked = ["query", repo, COUNT, "--store"]
    hub.run.python(
        f"from huggingface_hub import HfApi\nHfApi().create_repo({repo!r}, repo_type='dataset')\nprint('null')"
    )

    flipped = {path: bytes([*one[:-9], one[-9] ^ 1, *one[-8:]]) for path, one in data.items()}
    hub.server.plant(repo, held | flipped, "v1.0.0")
    refused = reader(*asked, at(repo), check=False)
    assert (refused.code, "has other bytes than its manifest lists" in refused.err) == (1, True)
    assert reader("verify", repo, "--store", at(repo), check=False).code == 1

    hub.server.plant(repo, held, "v1.0.0")
    refused = reader(*asked, at(repo), check=False)
    assert (refused.code, "is missing" in refused.err) == (1, True)

    hub.server.plant(repo, held | data, "v2.0.0")
    refused = reader(*asked, f"{at(repo)}@v2.0.0", check=False)
    assert (refused.code, "/manifest.json is that of v1.0.0." in refused.err) == (1, True)

    hub.server.plant(repo, {"data.csv": b"a,b\n1,2\n"}, "v3.0.0")
    refused = reader(*asked, f"{at(repo)}@v3.0.0", check=False)
    assert (refused.code, "has no dataset" in refused.err) == (2, True)
    refused = reader(*asked, f"{at(repo)}@{hub.head(repo)}", check=False)
    assert (refused.code, "has no release" in refused.err) == (2, True)


@pytest.mark.slow
def test_a_damaged_release_is_named_and_hides_no_other(hub, origin, published, reader):
    """After v1.0.0, five manifests with something wrong, a file that was overwritten, a tag of something else."""
    repo, files = hub.repo("hidden"), origin.version(published, "v1.0.0").dir
    hub.run.python(
        f"from huggingface_hub import HfApi\nHfApi().create_repo({repo!r}, repo_type='dataset')\nprint('null')"
    )
    data = {str(path.relative_to(files)): path.read_bytes() for path in files.glob("*/*.parquet")}
    whole = json.loads((files / "manifest.json").read_bytes())

    def plant(tag: str, files: dict[str, bytes], **changed: object) -> None:
        manifest = json.dumps(whole | {"name": repo} | changed).encode()
        hub.server.plant(repo, {"manifest.json": manifest} | files, tag)

    plant("v1.0.0", data)
    plant("v1.1.0", data, version="v1.1.0", recipe={"scale": 5})
    plant("v1.2.0", data)
    plant("v1.3.0", {"manifest.json": b"{"})
    plant("v1.4.0", {"manifest.json": b" " * (17 << 20)})
    plant("v1.5.0", data, version="v1.5.0")
    (reward,) = (path for path in data if path.startswith("rewards/"))
    hub.run.python(
        "from huggingface_hub import HfApi\n"
        f"api, at = HfApi(), dict(repo_id={repo!r}, repo_type='dataset')\n"
        f"api.upload_file(path_or_fileobj=b'other', path_in_repo={reward!r}, **at)\n"
        "api.delete_tag(tag='v1.5.0', **at)\napi.create_tag(tag='v1.5.0', **at)\nprint('null')"
    )
    plant("v1.6.0", {"README.md": b"#" * 3_000_000, "manifest.json": b"[]"})
    hub.server.plant(repo, {"data.csv": b"a,b\n1,2\n"}, "v1.7.0")

    listed = reader("list", "--store", at(repo), "--json", check=False)
    (told,) = listed.json
    assert (listed.code, told["versions"]) == (0, ["v1.0.0", "v1.5.0"])
    place = f"The manifest hf://datasets/{repo}"
    assert {number: told["damaged"][number].partition(": ")[0] for number in ("v1.1.0", "v1.2.0")} == {
        "v1.1.0": f"{place}@v1.1.0/manifest.json contradicts itself",
        "v1.2.0": f"{place}@v1.2.0/manifest.json is that of v1.0.0.",
    }
    assert list(told["damaged"]) == ["v1.6.0", "v1.4.0", "v1.3.0", "v1.2.0", "v1.1.0"]
    assert all(f"{place}@{number}/" in listed.err for number in told["damaged"])
    assert reader("verify", f"{repo}@v1.5.0", "--store", at(repo), check=False).code == 1
    query = [f"{repo}@v1.0.0", COUNT, "--store", at(repo), "--json"]
    assert json.loads(reader("query", *query).out) == [{"n": 1}]
    assert reader("verify", f"{repo}@v1.0.0", "--store", at(repo)).code == 0
    refused = reader("query", repo, COUNT, "--store", at(repo), check=False)
    hint = f"ask its publisher; the others: sotopia-rl-data log {repo} --store {at(repo)}"
    assert (refused.code, f"{place}@v1.6.0/manifest.json is damaged" in refused.err, hint in refused.err) == (
        1,
        True,
        True,
    )


@pytest.mark.slow
def test_writing_is_refused_and_nothing_is_changed(hub, published, reader, tmp_path):
    head = hub.head(published)
    hub.server.log()
    for command in (
        ["import", "--name", published],
        [*LABEL, published],
        [*LABEL, published, "--ledger", tmp_path / "ledger"],
        ["rewards", published],
        ["pull", published],
        ["rm", published],
        ["undo"],
        ["card", published, "--write"],
        ["push-to-hub", published],
        ["ledger", "query", "SELECT count(*) FROM calls"],
    ):
        refused = reader(*command, "--store", at(published), check=False)
        assert refused.code == 2, (command, refused)
        assert f"The store {at(published)} can only be read." in refused.err, (command, refused)
        assert "hint: " in refused.err
    assert [line for line in hub.server.log() if not line.startswith(("GET", "HEAD"))] == []
    assert hub.head(published) == head
    assert not [path for path in (tmp_path / "store", tmp_path / "ledger") if path.exists()]


@pytest.mark.slow
def test_a_release_is_labelled_by_shards_that_share_no_store(hub, published, reader, tmp_path):
    shard = [*LABEL, published, "--store", at(published), "--ask-only", "--ledger", tmp_path / "answers", "--json"]
    asked = [reader(*shard, "--shard", part, check=False).json["asked"] for part in ("1/2", "2/2")]
    assert asked == [1, 1]  # a question about each of two dialogues
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_hub_that_is_away_or_refuses_is_a_sentence_with_a_hint(hub, origin, published, reader, tmp_path):
    secret = hub.repo("secret")
    hub.push(toy(origin, secret, 0), "--private")
    cases = {
        at("lab/nothing"): "The Hub has no dataset lab/nothing",
        at(secret): f"The Hub has no dataset {secret}",
        f"{at(published)}@v9.0.0": f"{published} has no release v9.0.0",
        f"{at(published)}@{'0' * 40}": "has no such revision",
    }
    for address, said in cases.items():
        refused = reader("list", "--store", address, check=False)
        assert (refused.code, refused.out, said in refused.err, "hint: " in refused.err) == (2, "", True, True), refused
    reader("list", "--store", at(published))
    for url, more in ((hub.server.url, {"HF_HUB_OFFLINE": "1"}), ("http://127.0.0.1:9", {})):
        cache = {"SOTOPIA_RL_DATA_CACHE": str(tmp_path / "cache")}
        away = HubClient(url, tmp_path / "hf", hub.xet, **cache, **more)
        try:
            refused = away("query", published, COUNT, "--store", at(published), check=False)
        finally:
            away.stop()
        assert refused.code == 1, refused
        assert "error: " in refused.err
        assert "hint: " in refused.err
        assert "Traceback" not in refused.err


@pytest.mark.slow
def test_a_server_that_is_no_hub_is_told_in_one_line(hub, tmp_path):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b"<html>\n" + b"<p>Nothing here.\n" * 1_000)

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        client = HubClient(url, tmp_path / "hf", hub.xet, SOTOPIA_RL_DATA_CACHE=str(tmp_path / "cache"))
        try:
            refused = client("list", "--store", at("lab/toy"), check=False)
        finally:
            client.stop()
            server.shutdown()
    error, hint = refused.err.splitlines()
    assert error.startswith("error: The Hub refused a request for lab/toy (404: <html> <p>Nothing here. <p>")
    assert (len(error) < 500, hint) == (True, f" hint: check HF_ENDPOINT, and look at {url}/datasets/lab/toy")


def test_an_address_in_the_place_of_a_name_is_refused_with_what_to_write():
    with pytest.raises(UsageError) as told:
        parse("hf://datasets/lab/toy@v1.0.0")
    assert "lab/toy --store hf://datasets/lab/toy" in told.value.hint


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://datasets/", "hf://datasets/name", "hf://models/a/b", "hf://datasets/a/b@main", "hf://a/b"],
)
def test_an_address_that_names_no_dataset_is_refused_with_an_example(address: str):
    with pytest.raises(UsageError) as told:
        Store(address)
    assert "hf://datasets/ORG/NAME" in told.value.hint
