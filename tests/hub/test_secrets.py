"""Keys, tokens and passwords stop a push, wherever they are; what only talks about them does not."""

from __future__ import annotations

import base64
import html
import io
import json
import random
import zlib
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.hub import toy
from fixtures.hub_client import HubClient
from fixtures.stores import commit, episode, reward_row, rewards
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sotopia_rl_data.errors import SecretsFound
from sotopia_rl_data.hub import leaks
from sotopia_rl_data.hub.release import write_calls
from sotopia_rl_data.ledger.ledger import Ledger, answered, failed
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.schema import Failure
from sotopia_rl_data.secrets import redact, without_server
from sotopia_rl_data.store import Store
from sotopia_rl_data.store.versions import read_published
from sotopia_rl_data.tables import EPISODES, episode_row, failure_table

KEY = "sk-proj-" + "Ab1_" * 8
SECRET = {
    "an API key (sk-…)": f"my key is {KEY}.",
    "a Hugging Face token": "hf_" + "aB3dE5gH" * 4 + "xy",
    "a Google API key": "AIza" + "x1Y2-" * 7,
    "an AWS access key": "id=AKIA" + "Q7X2" * 4,
    "a GitHub token": "ghp_" + "a1" * 18,
    "a GitLab token": "glpat-" + "aB3dE" * 4,
    "a Slack token": "xoxb-123456789012-abcdef",
    "a provider's key": "gsk_" + "Zz9" * 8,
    "a private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA" + "aB3dE5gH" * 6,
    "a JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2ln",
    "a bearer token": "Authorization: Bearer 0123456789abcdef0123456789",
    "a password in a URL": "see redis://default:hunter2@db.lab.org:6379/0",
    "a named key": '{"api_key": "0123456789abcdef0123456789abcdef"}',
}
HARMLESS = (
    "The key-note speaker has a secret: he was in a punk band. His password is none of your business.",
    "Is the risk-averse, task-oriented sk-8 board yours? hf_alice said so. Bearer of bad news!",
    "Meet at https://example.org/a:b or mailto:me@example.org at 12:30@noon; ratio 3:1.",
    "API key? I have no API key. api_key: ask Ben. sk-short",
)


@pytest.mark.parametrize(("shape", "text"), SECRET.items(), ids=SECRET)
def test_every_shape_is_found_by_both_engines(shape, text):
    assert [leak.shape for leak in leaks.in_text(text, "x")] == [shape]
    table = rewards(reward_row(0) | {"completion": [{"role": "assistant", "content": text}]})
    assert [leak.shape for leak in leaks.in_rows(table, "rewards/train", ("episode_id",))] == [shape]


@pytest.mark.parametrize(
    "hold",
    [
        lambda text: pa.array([text], pa.string_view()),
        lambda text: pa.array([[text]], pa.list_(pa.string_view())),
        lambda text: pa.array([text]).dictionary_encode(),
    ],
    ids=["a view", "a list of views", "a dictionary"],
)
def test_a_column_of_a_pulled_release_is_searched_however_it_holds_its_text(hold):
    shape, text = next(iter(SECRET.items()))
    table = rewards(reward_row(0)).append_column("more", hold(text))
    assert [leak.shape for leak in leaks.in_rows(table, "rewards/train", ("episode_id",))] == [shape]


@pytest.mark.parametrize("text", SECRET.values(), ids=SECRET)
def test_what_the_scan_finds_is_hidden_in_errors_too(text):
    assert leaks.in_text(redact(text), "x") == []


@pytest.mark.parametrize("text", HARMLESS)
def test_talk_about_keys_is_no_key(text):
    assert leaks.in_text(text, "x") == []


_OF_LAB = "the value of LAB_TOKEN in this environment"


def test_a_secret_of_this_environment_is_found_whatever_its_shape(monkeypatch):
    monkeypatch.setenv("LAB_TOKEN", "correct horse battery")
    assert [leak.shape for leak in leaks.in_text("it is: correct horse battery!", "x")] == [_OF_LAB]
    assert leaks.in_text("it is: Correct Horse Battery!", "x") == []  # words may be said in any dialogue


@pytest.mark.parametrize("kind", ["as it is", "blanks", "percent", "base64", "JSON", "JSON in ASCII", "HTML"])
def test_a_drawn_secret_of_this_environment_is_found_however_it_is_spelled(monkeypatch, kind):
    secret = 'x9"Kq\\z7!mm-Ä4pQ'
    monkeypatch.setenv("LAB_PASS", secret)
    spelled = {
        "as it is": secret,
        "blanks": " ".join(secret),
        "percent": quote(secret, safe=""),
        "base64": base64.b64encode(f"me:{secret}".encode()).decode(),
        "JSON": json.dumps(secret, ensure_ascii=False),
        "JSON in ASCII": json.dumps(secret),
        "HTML": html.escape(secret),
    }[kind]
    table = rewards(reward_row(0) | {"completion": [{"role": "assistant", "content": f"it is {spelled} (mine)"}]})
    shapes = [leak.shape for leak in leaks.in_rows(table, "rewards/train", ("episode_id",))]
    assert "the value of LAB_PASS in this environment" in shapes
    assert "Kq" not in redact(f"it is {spelled} (mine)", loosely=False)


def test_the_row_and_the_column_are_named_at_any_depth(tmp_path):
    row = episode_row(episode(7))
    row["turns"][2]["text"] = f"here: {KEY}"
    row["agents"][1]["secret"] = "postgres://me:hunter2@host/db"
    rows = [episode_row(episode(i)) for i in range(5)] + [row]
    version = commit(
        Store(tmp_path), {("episodes", "train"): pa.Table.from_pylist(rows, schema=EPISODES)}, "lab/deep"
    ).version
    found = leaks.in_version(version, lambda count: None)
    assert [(leak.where, leak.shape) for leak in found] == [
        ("episodes/train, episode_id=e0007, agents[].secret", "a password in a URL"),
        ("episodes/train, episode_id=e0007, turns[].text", "an API key (sk-…)"),
    ]


def test_rows_without_identity_are_named_by_their_number(tmp_path):
    columns = ("environment_id", "prompt", "completion", "reward")
    plain = [{k: v for k, v in reward_row(i).items() if k in columns} for i in range(4)]
    plain[2]["prompt"] = [{"role": "user", "content": KEY}]
    table = pa.Table.from_pylist(plain, schema=pa.schema([f for f in rewards().schema if f.name in columns]))
    version = commit(Store(tmp_path), {("rewards", "train"): table}, "lab/plain").version
    (leak,) = leaks.in_version(version, lambda count: None)
    rows = pq.read_table(version.files("rewards")["train"][0]).to_pylist()
    (row,) = [i for i, one in enumerate(rows) if one["prompt"][0]["content"] == KEY]
    assert leak.where == f"rewards/train, row {row}, prompt[].content"


@pytest.mark.slow
def test_a_secret_stops_the_push_before_anything_is_asked_and_must_be_allowed_by_name(hub, tmp_path):
    repo = hub.repo("secret")
    store = Store(tmp_path)
    table = rewards(reward_row(0), reward_row(1) | {"completion": [{"role": "assistant", "content": KEY}]})
    version = commit(store, {("rewards", "train"): table}, repo).version
    hub.server.log()
    stopped = hub.push(version, check=False)
    assert stopped.code == 1
    assert "rewards/train, episode_id=e0001 agent=a turn=0, completion[].content: an API key" in stopped.err
    assert "--allow-secrets" in stopped.err
    assert KEY not in stopped.err
    assert hub.push(version, "--dry-run", check=False).code == 1
    assert not any(repo in line for line in hub.server.log())
    assert hub.push(version, "--allow-secrets").json["state"] == "published"


@pytest.mark.slow
def test_a_secret_in_the_message_or_the_cards_prose_stops_the_push_too(hub, tmp_path):
    version = toy(Store(tmp_path), hub.repo("secret"), 0)
    assert "the message: an API key" in hub.push(version, "--message", f"by {KEY}", check=False).err
    card = version.dir / "README.md"
    card.write_text(card.read_text() + f"\nAsk me for {KEY}\n")
    assert "the card: an API key" in hub.push(version, check=False).err


def test_paths_of_this_machine_are_cut_down_to_their_names():
    known = {
        "a": ["/home/me/runs/1.jsonl", "~/x/y.py:Judge"],
        "b": "see C:\\Users\\me\\a.txt",
        "c": 3,
        "d": "and/or a/b",
    }
    assert leaks.without_paths(known) == {"a": ["1.jsonl", "y.py:Judge"], "b": "see a.txt", "c": 3, "d": "and/or a/b"}
    url = "https://huggingface.co/datasets/a/b and hf://datasets/a/b@v1.0.0/data/x.parquet and ./data/x"
    assert leaks.without_paths(url) == url


def test_the_error_names_five_rows_and_counts_the_rest():
    many = [leaks.Leak(f"row {i}", "a key") for i in range(7)]
    with pytest.raises(SecretsFound, match=r"7 secrets: row 0: a key; .*row 4: a key; and 2 more\."):
        leaks.check(many, "lab/x@v1.0.0", "revoke them")


def test_the_push_stops_for_each_shape_planted_in_a_release_and_counts_them(tmp_path):
    store = Store(tmp_path)
    for shape, text in SECRET.items():
        table = rewards(reward_row(0), reward_row(1) | {"prompt": [{"role": "user", "content": text}]})
        version = commit(store, {("rewards", "train"): table}, "lab/planted").version
        (leak,) = leaks.in_version(version, lambda count: None)
        assert leak.shape == shape


def test_what_describes_the_columns_of_a_parquet_file_is_searched_at_any_depth(tmp_path):
    table = rewards(reward_row(0))
    version = commit(Store(tmp_path), {("rewards", "train"): table}, "lab/meta").version
    path = version.files("rewards")["train"][0]

    def found(schema: pa.Schema) -> list[str]:
        pq.write_table(schema.empty_table(), path)
        return [leak.where.rpartition("/")[2] for leak in leaks.in_version(version, lambda count: None)]

    where = [f"{path.name}, metadata"]
    hint, long = {"by": KEY}, {"x" * 300: f"{'so ' * 300}{KEY}"}
    inner = pa.struct([pa.field("x", pa.string(), metadata=hint)])
    assert found(table.schema) == []
    assert found(table.schema.with_metadata({"made by": f"a script with {KEY}"})) == where
    assert found(table.schema.with_metadata({KEY: "yes"})) == where
    assert found(table.schema.with_metadata(long)) == where
    assert found(pa.schema([pa.field("a", pa.int8(), metadata=hint)])) == where
    assert found(pa.schema([pa.field("a", pa.list_(inner))])) == where


def picture(*, before: bytes = b"", behind: bytes = b"", after: bytes = b"", **options: object) -> bytes:
    """A PNG with chunks before and behind its pixels, and bytes after its end."""
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "png", **options)
    data = file.getvalue()
    first, last = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:first] + before + data[first:last] + behind + data[last:] + after


def chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def test_a_picture_is_searched_wherever_it_may_hold_text():
    info = PngInfo()
    info.add_text("Comment", f"drawn by {KEY}", zip=True)
    exif = Image.Exif()
    exif[0x8769] = {0x9286: b"UNICODE\0" + KEY.encode("utf-16-le")}  # the user's comment
    raw, packed = KEY.encode(), zlib.compress(f"drawn by {KEY}".encode())
    for data in (
        picture(pnginfo=info),
        picture(exif=exif),
        picture(before=chunk(b"tEXt", raw + b"\0keyword")),
        picture(behind=chunk(b"tEXt", b"Comment\0" + raw)),
        picture(behind=chunk(b"iTXt", b"Comment\0\1\0en\0\0" + packed)),
        picture(before=chunk(b"iCCP", b"icc\0\0" + packed)),
        picture(behind=chunk(b"prVt", raw)),
        picture(after=raw),
        picture(after=KEY.encode("utf-16")),
        picture(after=KEY.encode("utf-16-be")),
    ):
        assert leaks.in_file(data, "assets/x.png") == [leaks.Leak("assets/x.png", "an API key (sk-…)")]
    pixels = chunk(b"IDAT", zlib.compress(b"", 0) + raw)  # what is drawn is not text
    assert leaks.in_file(picture(behind=pixels), "assets/x.png") == []
    assert leaks.in_file(picture(before=b"\xff\xff\xff\xffdamaged"), "assets/x.png") == []


def test_of_weights_the_header_is_searched_and_not_what_follows(tmp_path):
    path = tmp_path / "model.safetensors"
    for said, behind, shapes in ((KEY, "", ["an API key (sk-…)"]), ("pt", KEY, [])):
        header = json.dumps({"__metadata__": {"format": said}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + behind.encode())
        assert [leak.shape for leak in leaks.in_file(path, path.name)] == shapes


@pytest.mark.parametrize("between", [" ", '", "', "\n"])
def test_a_secret_is_found_anywhere_in_a_long_text_and_random_data_is_none(between: str):
    words = between.join(f"word{i}" for i in range(4000))
    for near in range(7950, 8050, 5):  # wherever the pieces end that it is searched in
        at = words.index(between, near) + len(between)
        text = f"{words[:at]}'api_key': '0123456789abcdef0123456789abcdef'{between}{words[at:]}"
        assert [leak.shape for leak in leaks.in_text(text, "x")] == ["a named key"]
    chance = random.Random(0)
    blobs = (
        "A" + base64.urlsafe_b64encode(chance.randbytes(300)).decode() for _ in range(1000)
    )  # too long for a token
    assert leaks.in_text(words + between.join(blobs), "x") == []


@pytest.mark.slow
def test_the_password_in_hf_endpoint_is_neither_shown_nor_kept(hub, tmp_path):
    """Every file that is written, here and on the Hub, and every word that is said, also with --debug."""
    password = "Tr0ubadour-9xK2"
    address = hub.server.url.replace("://", f"://alice:{password}@")
    client = HubClient(address, tmp_path / "hf", hub.xet)
    nowhere = HubClient(f"http://alice:{password}@127.0.0.1:1?token={password}", tmp_path / "hf", hub.xet)
    repo, here, there = hub.repo("endpoint"), Store(tmp_path / "here"), tmp_path / "there"
    version = toy(here, repo, 0)
    said = []
    try:
        for argv in (
            ["push-to-hub", version.ref, "--store", here.root, "--json", "--debug"],
            ["pull", repo, "--store", there, "--debug"],
            ["show", repo, "--store", there],
            ["card", repo, "--store", there],
            ["report", repo, "-o", tmp_path / "page.html", "--store", there, "--debug"],
        ):
            done = client(*argv)
            said.append(done.out + done.err)
        for argv in (
            ["pull", "lab/nothing", "--store", there, "--debug"],
            ["pull", repo, "--revision", "v9.9.9", "--store", there, "--debug"],
            ["push-to-hub", version.ref, "--repo", "bob/private", "--store", here.root, "--debug"],
        ):
            for run in (client, nowhere):
                done = run(*argv, check=False)
                assert done.code, argv
                said.append(done.out + done.err)
    finally:
        client.stop()
        nowhere.stop()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    written += [hub.text(repo, path).encode("utf-8", "replace") for path in ("README.md", "manifest.json")]
    encoded = base64.b64encode(f"alice:{password}".encode()).decode()
    for secret in (password, encoded):
        assert [text for text in said if secret in text] == []
        assert not any(secret.encode() in data for data in written)
    assert read_published(Store(there).resolve(repo).dir).endpoint == hub.server.url


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("http://gpu1:8000/v1", "http://gpu1:8000/v1"),
        ("http://gpu1:8000/v1", "gpu1:8000"),
        ("fleet://ours", "http://gpu1:8000/v1"),
        ("fleet://ours", "https://[fd00::1]:8000/v1"),
        ("fleet://ours", "http://[fd00::1]/v1"),
        ("fleet://ours", "http://me:secret@gpu1:8000/v1"),
    ],
)
def test_an_error_in_the_data_tells_no_address(server: str, url: str):
    assert without_server(f"m at {url}: 500 busy", server) == "m at its provider: 500 busy"


def test_neither_errors_nor_refusals_in_published_calls_tell_an_address(tmp_path):
    store, url = Store(tmp_path / "store"), "http://gpu1:8000/v1"
    asked = [Request(Target("openai", "m", url), [{"role": "user", "content": text}]) for text in ("1", "2", "3")]
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.append(failed(asked[0], asked[0].key, asked[0].question, f"m at {url}: 500 busy", 0.1))
        for request, reply in ((asked[1], Reply(f"m at {url}: 400 filtered", "refusal")), (asked[2], Reply("2"))):
            ledger.append(answered(request, request.key, request.question, reply, 0.1))
        named = failure_table([Failure("lost", "e0001", call_id=request.key) for request in asked])
        version = commit(store, {("failures", "train"): named}).version
        (path,) = write_calls(version, ledger, tmp_path).values()
    told = {row["text"] or row["error"] for row in pq.read_table(path).to_pylist()}
    assert told == {"m at its provider: 500 busy", "m at its provider: 400 filtered", "2"}
