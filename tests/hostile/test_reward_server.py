"""Whatever answers in a reward server's place is a reward for each completion, or a sentence about it: no traceback, no
wait without end, no memory without bound, and the token is told nobody else."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socketserver
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sotopia_rl_data.errors import InputError, SotopiaDataError, Unavailable, UsageError
from sotopia_rl_data.serve import clients
from sotopia_rl_data.trainers import reward_server
from sotopia_rl_data.trainers.reward_server import RewardServer

SECRET = "correct-horse/battery+staple-9471"
STRANGER = "is not a reward server."
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


def response(body: bytes | str | dict[str, Any], *headers: str, status: str = "200 OK") -> bytes:
    text = json.dumps(body) if isinstance(body, dict) else body
    data = text if isinstance(text, bytes) else text.encode()
    head = "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(data)}", *headers])
    return head.encode() + b"\r\n\r\n" + data


HEALTHY = response({"model": "m", "targets": ["reward"]})


class Server(socketserver.ThreadingTCPServer):
    """Answers /health with these bytes, and /score with these, one after the other and the last again."""

    daemon_threads = True

    def __init__(self, health: Iterable[bytes], scores: list[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.health, self.scores, self.sent = health, scores, 0
        self.heard: list[dict[str, str]] = []  # the headers of each request
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """The client has gone: that is what is tested."""


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        server, asked = self.server, self.rfile.readline()
        lines = iter(lambda: self.rfile.readline().decode().strip(), "")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        server.heard.append(headers)
        self.rfile.read(int(headers.get("content-length", 0)))
        score = server.scores[0] if len(server.scores) == 1 or asked.startswith(b"GET") else server.scores.pop(0)
        for piece in server.health if asked.startswith(b"GET") else [score]:
            self.wfile.write(piece)
            server.sent += len(piece)


@contextmanager
def serving(health: Iterable[bytes] = (HEALTHY,), *scores: bytes) -> Iterator[Server]:
    server = Server(health, list(scores) or [b""])
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(reward_server.TOKEN, SECRET)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "health",
    [
        *(f'{{"model": "m", "targets": {deep(levels)}}}' for levels in (2, 400, 990, 5_000, 100_000)),
        '{"model": "m", "targets": [{}]}',
        '{"model": "m", "targets": {}}',
        '{"model": "\\ud800", "targets": []}',
        '{"model": "\\u001b[2J", "targets": []}',
        json.dumps({"model": "m" * 2_000, "targets": []}),
        json.dumps({"model": "m", "targets": ["t" * 2_000]}),
        b"\xff\xfe",
        '{"model": ' + "9" * 5_000 + "}",
        " " * (9 << 20),
    ],
)
def test_what_names_no_model_and_no_targets_is_not_a_reward_server(health: bytes | str):
    with serving([response(health)]) as server:
        with pytest.raises(InputError) as wrong:
            RewardServer(server.url)
        assert wrong.value.message == f"What answers at {server.url} {STRANGER}"
        assert wrong.value.hint == "name the URL that `serve` has printed"


@pytest.mark.parametrize("reward", ["1" + "0" * 400, "1" + "0" * 5_000, "1e999", "NaN", "[1]", "{}", "true", '"1"'])
def test_what_is_no_finite_number_is_not_a_reward(reward: str):
    with serving((HEALTHY,), response(f'{{"rewards": [{reward}]}}')) as server:
        with pytest.raises(InputError) as wrong:
            RewardServer(server.url).score_batch([("a", "b")])
        assert wrong.value.message == f"What answers at {server.url} {STRANGER}"


@pytest.mark.parametrize("wait", ["²", "nan", "-1", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_that_is_no_time_is_a_second(wait: str):
    busy = response("{}", "Retry-After: " + wait, status="429 X")
    with serving((HEALTHY,), busy, response('{"rewards": [0.5]}')) as server:
        began = time.monotonic()
        assert RewardServer(server.url).score_batch([("a", "b")]).tolist() == [0.5]
        assert 1 <= time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (response({"error": f"no {SECRET}.", "hint": f"run {SECRET}"}, status="401 X"), "refused: no [hidden]."),
        (
            response({"error": {"message": base64.b64encode(SECRET.encode()).decode()}}, status="401 X"),
            "refused: [hidden]x.",
        ),
        (response({"hint": SECRET}, status="401 X"), 'refused: {"hint": "[hidden]"}.'),
        (
            f"HTTP/9.9 {SECRET}\r\n\r\n".encode(),
            "gave no answer (illegal status line: bytearray(b'HTTP/9.9 [hidden]')).",
        ),
    ],
)
def test_no_error_tells_the_token_and_no_hint_is_the_servers(answer: bytes, told: str):
    with serving([answer]) as server:
        with pytest.raises(Unavailable) as wrong:
            RewardServer(server.url)
        assert wrong.value.message == f"The reward server at {server.url} {told}"
        if "refused" in told:
            assert wrong.value.hint == "put the token of the server into SOTOPIA_RL_DATA_REWARD_TOKEN"
        assert server.heard[0]["authorization"] == f"Bearer {SECRET}"


def test_a_model_that_is_named_by_the_token_is_recorded_without_it():
    with serving([response({"model": f"m {SECRET}", "targets": [SECRET]})]) as server:
        assert RewardServer(server.url).record() == {"identity": "m [hidden] (served)", "targets": ["[hidden]"]}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (json.dumps({"error": "\ud800 and more"}), "refused: ? and more."),
        (json.dumps({"error": "of many words " * 100_000}), f"refused: {('of many words ' * 30)[:299]}…."),
        ("<html>", "refused: 500."),
        (f'{{"error": {deep(990)}}}', "refused: 500."),
        (f'{{"error": {deep(100_000)}}}', "refused: 500."),
    ],
)
def test_an_error_of_any_form_is_told_in_a_few_words(error: str, told: str):
    with serving([response(error, status="500 X")]) as server:
        with pytest.raises(Unavailable) as wrong:
            RewardServer(server.url)
        assert wrong.value.message == f"The reward server at {server.url} {told}"
        assert wrong.value.hint == "check the URL, and see the log of the server"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://me:Tr0ub4dor@host:80", "The server's URL contains a user name, a password or a query"),
        ("http://Tr0ub4dor@host", "The server's URL contains a user name, a password or a query"),
        ("http://host?token=Tr0ub4dor", "The server's URL contains a user name, a password or a query"),
        ("http://me:Tr0ub4dor#x@host", "The URL of the reward server cannot be read."),
        ("http://host:Tr0ub4dor", "The URL of the reward server cannot be read."),
        ("http://", "The base URL 'http://' does not begin with http:// or https:// and a host."),
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(url: str, told: str):
    for ask in (lambda: RewardServer(url), lambda: asyncio.run(reward_server.ask(url, [("a", "b")]))):
        with pytest.raises(UsageError) as wrong:
            ask()
        assert wrong.value.message.startswith(told)
        assert wrong.value.hint.startswith("name the URL that `serve` has printed")
        assert "Tr0ub4dor" not in str(wrong.value)


def bomb() -> Iterator[bytes]:
    """500 MB of text, packed to half a megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    yield HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + packer.compress(b'{"model": "')
    for _ in range(500):
        yield packer.compress(b"x" * (1 << 20))
    yield packer.compress(b'"}') + packer.flush()


def endless() -> list[bytes]:
    """500 MB in one JSON string."""
    return [HEAD + b'{"model": "', *[b"x" * (1 << 20)] * 500]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [bomb, endless])
def test_an_answer_of_500_megabytes_takes_less_than_100(kind: Any):
    pieces = list(kind())
    with serving(pieces) as server:
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=STRANGER):
                RewardServer(server.url)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 100_000_000
        assert server.sent < 100_000_000


def test_an_answer_that_comes_byte_by_byte_ends_in_time(monkeypatch: pytest.MonkeyPatch):
    def drip() -> Iterator[bytes]:
        yield HEAD
        while True:
            time.sleep(0.1)
            yield b" "

    monkeypatch.setitem(reward_server._LONGEST_S, "/health", 1.0)
    with serving(drip()) as server:
        began = time.monotonic()
        with pytest.raises(Unavailable) as wrong:
            RewardServer(server.url)
        assert wrong.value.message == f"The reward server at {server.url} gave no answer (TimeoutError)."
        assert 1 <= time.monotonic() - began < 10


def test_an_answer_that_is_packed_unasked_is_read():
    packed = response(gzip.compress(b'{"model": "m", "targets": ["reward"]}'), "Content-Encoding: gzip")
    with serving([packed], response('{"rewards": [0.5]}')) as server:
        assert RewardServer(server.url).score_batch([("a", "b")]).tolist() == [0.5]
        assert {headers["accept-encoding"] for headers in server.heard} == {"identity"}


def test_a_proxy_does_not_see_the_token_of_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving() as server:
        assert RewardServer(server.url).identity == "m (served)"


def test_the_functions_for_trl_and_verl_tell_the_token_nobody_either(monkeypatch: pytest.MonkeyPatch):
    refusal = response({"error": f"no {SECRET}", "hint": f"run {SECRET}"}, status="401 X")
    with serving((HEALTHY,), refusal) as server:
        monkeypatch.setenv(clients.URL, server.url)
        for ask in (
            lambda: asyncio.run(clients.trl_reward(["a"], ["b"])),
            lambda: clients.compute_score("x", "b", "", {"messages": []}),
        ):
            with pytest.raises(SotopiaDataError) as wrong:
                ask()
            assert wrong.value.message == f"The reward server at {server.url} refused: no [hidden]."
            assert wrong.value.hint == "put the token of the server into SOTOPIA_RL_DATA_REWARD_TOKEN"
