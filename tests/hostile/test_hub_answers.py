"""Whatever a server in the Hub's place says of a repository is an answer, or a sentence about it: no traceback, no run
without end, and no memory without bound."""

from __future__ import annotations

import http.server
import json
import threading
import time
import zlib

import pytest
from fixtures.hub_client import HubClient

SHA = "a" * 40
TREE = [{"type": "file", "path": "README.md", "size": 5, "oid": "b" * 40}]
HEAD = {"id": "lab/x", "sha": SHA}


def packed(pieces: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b" " * (1 << 20)) for _ in range(pieces)) + packer.flush()


class Server(http.server.ThreadingHTTPServer):
    """Answers every question with `body` and `headers`; `endless` sends it again and again."""

    daemon_threads = True

    def __init__(
        self, body: bytes = b"", headers: dict[str, str] | None = None, endless: bool = False, status: int = 200
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.body, self.headers, self.endless, self.status, self.asked = body, headers or {}, endless, status, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """The client has gone: that is what is tested."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.asked += 1
        away = server.headers.get("Location")
        self.send_response(307 if away and self.path != away else server.status)
        self.send_header("Content-Type", "application/json")
        for name, value in server.headers.items():
            self.send_header(name, value)
        if server.endless:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while True:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(server.body), server.body))
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(server.body)

    do_HEAD = do_GET


@pytest.fixture
def serve():
    servers = []

    def start(*args, **options):
        servers.append(Server(*args, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    client = HubClient("http://127.0.0.1:9", tmp_path_factory.mktemp("hf"), xet=False)
    yield client
    client.stop()


def asked(client, server, question, *arguments, **bounds):
    """What the Hub at `server` says to a question: its answer, or the error's sentence and hint."""
    return client.python(f"""
import json
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.hub.client import Hub
from sotopia_rl_data.store import hub_answers
kept = {{name: getattr(hub_answers, name) for name in {list(bounds)}}}
try:
    vars(hub_answers).update({bounds})
    told = Hub({server.url!r}).{question}("lab/x", *{arguments})
    print(json.dumps({{"told": list(told) if isinstance(told, dict) else told}}))
except SotopiaDataError as error:
    print(json.dumps({{"error": error.message, "hint": error.hint}}))
finally:
    vars(hub_answers).update(kept)
""")


@pytest.mark.slow
def test_answers_of_a_hub_are_read_packed_or_not(serve, client):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    gzipped = packer.compress(json.dumps(HEAD).encode()) + packer.flush()
    for server in (serve(json.dumps(HEAD).encode()), serve(gzipped, {"Content-Encoding": "gzip"})):
        assert asked(client, server, "commit_of", "main") == {"told": SHA}
    assert asked(client, serve(json.dumps(TREE).encode()), "tree", SHA) == {"told": ["README.md"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        *(b"[" * 200_000, b'{"sha":' * 100_000, b"[1, 2]", b"null", b"{}", b"7", b"", b"\xff\xfe", b"<html>", b'"x"'),
        *(b'{"sha": %b}' % (b"9" * 100_000), b'{"sha": 5, "tags": 3, "branches": []}', b'[{"type": "file"}]'),
        b'[{"type": "file", "path": 5, "size": "x", "oid": 1}]',
        b'[{"type": "file", "path": "a", "size": 1e999, "oid": "b"}]',
        b'[{"type": "file", "path": "a", "size": -5, "oid": "b"}]',
        b'{"sha": "../../x", "private": 1}',
        b'{"tags": [{"name": 1, "ref": 2, "targetCommit": 3}], "branches": [], "converts": []}',
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_an_answer_that_the_hub_would_not_give_is_a_sentence(serve, client, body):
    server = serve(body)
    questions = {"commit_of": (SHA,), "tree": (SHA,), "history": (SHA,), "oid": ("a", SHA), "tags": (), "private": ()}
    for question, arguments in questions.items():
        said = asked(client, server, question, *arguments)
        assert said.get("hint") or said["told"] in ([], None), question  # an empty list of files is one


@pytest.mark.slow
def test_an_answer_is_read_up_to_a_size_and_a_time_and_so_are_its_pages(serve, client):
    mebibyte, gzip = b" " * (1 << 20), {"Content-Encoding": "gzip"}
    for server, reason in [
        (serve(mebibyte, endless=True), "has more than 16 MiB; it was not read."),
        (serve(packed(2_100), gzip), "has more than 16 MiB unpacked; it was not read."),
        (serve(b"x", {"Content-Encoding": "br"}), "is packed with 'br', where gzip was asked for; it was not read."),
        (serve(b"x", gzip), "is said to be packed with gzip, and is not, or not whole; it was not read."),
        (serve(mebibyte, {"Location": "/elsewhere"}, endless=True), "has more than 16 MiB; it was not read."),
    ]:
        began = time.monotonic()
        said = asked(client, server, "commit_of", "main")
        assert said == {"error": f"An answer of 127.0.0.1 {reason}", "hint": "check HF_ENDPOINT"}
        assert time.monotonic() - began < 10
    assert client.most_memory() < 600 << 20

    forever = serve(json.dumps(TREE).encode())
    for path in (f"/api/datasets/lab/x/tree/{SHA}", "/elsewhere"):
        forever.headers, forever.asked = {"Link": f'<{forever.url}{path}>; rel="next"'}, 0
        assert "more than 50 pages" in asked(client, forever, "tree", SHA, MOST_ANSWERS=50)["error"]
        assert forever.asked == 51
    large = serve(json.dumps([TREE[0] | {"path": f"{i}"} for i in range(2_000)]).encode())
    large.headers = {"Link": f'<{large.url}/next>; rel="next"'}
    said = asked(client, large, "tree", SHA, MOST_BYTES_TOGETHER=1 << 20)
    assert "MiB with its other pages" in said["error"]
    waits = {"RateLimit": '"api";r=0;t=100000'}
    assert "asks to wait for 100000 s" in asked(client, serve(b"{}", waits, status=429), "commit_of", "main")["error"]
    said = asked(client, serve(b" ", endless=True), "commit_of", "main", LONGEST_S=0.2)
    assert "takes longer" in said["error"]


@pytest.mark.slow
def test_a_pull_from_a_server_that_sends_without_end_is_a_sentence_and_leaves_nothing(serve, tmp_path):
    client = HubClient(serve(b" " * (1 << 20), endless=True).url, tmp_path / "hf", xet=False)
    try:
        done = client("pull", "lab/x", "--store", tmp_path / "store", check=False)
    finally:
        client.stop()
    assert done.code == 1
    assert "has more than 16 MiB; it was not read." in done.err
    assert not (tmp_path / "store" / "lab").exists()


@pytest.mark.slow
def test_who_else_uses_huggingface_hubs_session_reads_a_growing_answer_as_before(serve, client):
    growing = serve(b"one line\n", endless=True)
    asked(client, serve(json.dumps(HEAD).encode()), "commit_of", "main")
    assert client.python(f"""
from huggingface_hub import get_session
with get_session().stream("GET", "{growing.url}/api/jobs/1/logs") as log:
    print(len(next(log.iter_bytes(9))))
""") == 9  # fmt: skip


@pytest.mark.slow
def test_of_a_file_its_error_and_the_range_that_was_asked_for_are_bounded_and_the_file_is_not(serve, client):
    mebibyte, commit = b"x" * (1 << 20), {"X-Repo-Commit": SHA, "ETag": '"e"', "Content-Type": "text/plain"}
    refused = serve(mebibyte, endless=True, status=403)
    assert client.python(f"""
import json
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.hub.client import Hub
from sotopia_rl_data.store.hub_answers import bounded_answers
from huggingface_hub import get_session
told = []
ranged = {serve(mebibyte, endless=True).url!r}
for url, headers in [({refused.url!r}, {{}}), (ranged, {{"Range": "bytes=0-99"}})]:
    try:
        with bounded_answers():
            get_session().get(url + "/datasets/lab/x/resolve/{SHA}/a.bin", headers=headers)
    except SotopiaDataError as error:
        told.append(error.message)
size = Hub({serve(mebibyte * 20, commit).url!r} + "/artifactory/api/huggingface").file(
    "lab/x", "a.bin", {SHA!r}, most=1 << 30
).stat().st_size
print(json.dumps([*told, size]))
""") == [
        "An answer of 127.0.0.1 has more than 16 MiB; it was not read.",
        "An answer of 127.0.0.1 has more than 100 bytes; it was not read.",
        20 << 20,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("header", ["ETag", "X-Linked-ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("name", ['"../../../../out"', 'W/"../../../../out"', "/tmp/out", "..\\..\\out", '".."', '""'])
def test_no_header_names_a_place_outside_the_cache(serve, tmp_path, header, name):
    names = {"X-Repo-Commit": SHA, "ETag": '"e"'} | {header: name}
    client = HubClient(serve(b"{}", names).url, tmp_path / "a" / "b" / "c" / "hf", xet=False)
    try:
        said = client.script(f"from sotopia_rl_data.hub.client import Hub\nHub().file('lab/x', 'a', {SHA!r}, most=9)")
    finally:
        client.stop()
    assert f"names a file by {name!r} ({header}); it was not read." in said.err
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"CACHEDIR.TAG"}


@pytest.mark.slow
def test_what_a_server_said_once_does_not_spoil_what_another_is_asked(serve, tmp_path):
    usual = {
        "HF_HUB_DISABLE_TELEMETRY": "0"
    }  # huggingface_hub then asks which agents there are, and keeps what it hears
    client = HubClient("http://127.0.0.1:9", tmp_path / "hf", xet=False, **usual)
    spoilt = HubClient(serve(b"[1, 2]").url, tmp_path / "hf", xet=False, **usual)
    try:
        assert "does not answer as the Hub does" in spoilt("pull", "lab/x", "--store", tmp_path, check=False).err
        assert asked(client, serve(json.dumps(HEAD).encode()), "commit_of", "main") == {"told": SHA}
    finally:
        client.stop()
        spoilt.stop()


@pytest.mark.slow
def test_a_transfer_may_take_longer_than_a_question_and_so_many_answers(serve, client):
    server, asks = serve(b"{}"), "get_session().get(url).json()"
    told = client.python(f"""
import json, time
from huggingface_hub import get_session
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.store import hub_answers
from sotopia_rl_data.store.hub_answers import bounded_answers
url, told, kept = {server.url!r}, [], (hub_answers.LONGEST_S, hub_answers.MOST_ANSWERS)
hub_answers.LONGEST_S, hub_answers.MOST_ANSWERS = 0.3, 2
try:
    for transfer in (True, False):
        with bounded_answers(), bounded_answers(transfer=transfer):
            time.sleep(0.4)
            try:
                told.append([{asks} for _ in range(3)])
            except SotopiaDataError as error:
                told.append(error.message)
finally:
    hub_answers.LONGEST_S, hub_answers.MOST_ANSWERS = kept
print(json.dumps(told))
""")
    assert told == [[{}, {}, {}], "An answer of 127.0.0.1 takes longer than 0 s; it was not read."]


@pytest.mark.slow
def test_a_session_that_is_made_anew_in_the_middle_is_bounded_too(serve, client):
    said = client.python(f"""
import json
from huggingface_hub import close_session, get_session
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.store.hub_answers import bounded_answers
with bounded_answers():
    close_session()
    try:
        get_session().get({serve(b" " * (1 << 20), endless=True).url!r})
    except SotopiaDataError as error:
        print(json.dumps(error.message))
""")
    assert said == "An answer of 127.0.0.1 has more than 16 MiB; it was not read."
