"""Whatever a server says of batches is an answer or an error that can be shown: it damages no ledger, costs bounded
memory and time, and no key goes elsewhere."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fixtures.batches import PROVIDERS, QUICK, ask_in_batches, questions

from sotopia_rl_data.asking.batch.anthropic import AnthropicBatchClient
from sotopia_rl_data.asking.batch.client import BatchClient, BatchSearch, BatchState
from sotopia_rl_data.asking.batch.intent import Intent
from sotopia_rl_data.asking.batch.openai import OpenAIBatchClient
from sotopia_rl_data.errors import Rejected, SotopiaDataError, Unavailable
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Target

INTENT = Intent("i", 1, 1.0, file="f", after="z", tried=1.0)
OPERATIONS = ["newest", "upload", "create", "find", "state", "results"]
WHOLE = {  # by provider, a batch that has ended
    "openai": {
        "id": "b",
        "status": "completed",
        "request_counts": {"total": 1, "completed": 1, "failed": 0},
        "output_file_id": "f1",
        "metadata": {"sotopia_rl_data_intent": "i"},
        "input_file_id": "f",
    },
    "anthropic": {
        "id": "b",
        "processing_status": "ended",
        "request_counts": {"processing": 0, "succeeded": 1, "errored": 0, "canceled": 0, "expired": 0},
    },
}
ODD: list[Any] = [
    None,
    5,
    True,
    "",
    "..",
    "x" * 201,
    "a\nb",
    "\ud800",
    [],
    ["x"],
    {},
    {"a": None},
    {"data": [None, "x"]},
]
BODIES = [b"", b"null", b"5", b"[]", b"{}", b"<html>", b"\xff", b"[" * 100_000, b'{"id":' + b"9" * 5_000 + b"}"]


@contextmanager
def serving(answer: Callable[[str, str], bytes | Iterable[bytes]], **headers: str) -> Iterator[str]:
    """The URL of a server that answers a request of this method and path with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told = answer(self.command, self.path)
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            with suppress(ConnectionError):
                for piece in [told] if isinstance(told, bytes) else told:
                    self.wfile.write(piece)

        do_POST = do_GET

        def log_message(self, *told: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def client_of(provider: str, url: str) -> BatchClient:
    made = OpenAIBatchClient if provider == "openai" else AnthropicBatchClient
    return made(Target(provider, "m", url))


async def called(client: BatchClient, operation: str, lines: Path) -> Any:
    """What comes of one call of the client."""
    match operation:
        case "newest":
            return await client.newest()
        case "find":
            return await client.find(INTENT, set())
        case "state":
            return await client.state("b")
        case "results":
            return [result async for result in client.results("b")]
    return await (client.upload if operation == "upload" else client.create)(lines, INTENT)


def told_to(provider: str, operation: str, url: str, lines: Path, patience_s: float = 5) -> Any:
    """What comes of a call to the server at `url`."""

    async def go() -> Any:
        client = client_of(provider, url)
        client.patience_s = patience_s
        try:
            return await called(client, operation, lines)
        finally:
            await client.close()

    return asyncio.run(go())


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"custom_id": "a"}\n')
    return path


def odd_answers(provider: str, operation: str) -> Iterator[bytes]:
    """Bodies in the place of a batch, or of a list of one: each of another form, or with one member of another."""
    yield from BODIES
    whole = WHOLE[provider]
    names = ["id"] if operation in ("newest", "upload", "create") else [*whole, "errors", "error_file_id", "ended_at"]
    batches = [{**whole, name: odd} for name in names for odd in ODD]
    batches += [{**whole, "request_counts": {"processing": odd, "completed": odd}} for odd in ODD]
    batches += [{**whole, "status": "failed", "errors": odd} for odd in ODD]
    for batch in batches:
        yield json.dumps({"data": [batch], "has_more": False} if operation in ("newest", "find") else batch).encode()


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_of_any_form_is_an_answer_or_a_sentence(provider: str, operation: str, lines: Path):
    bodies: list[bytes] = []

    def answer(method: str, path: str) -> bytes:
        return b"5\n[]\n" if path.endswith(("/results", "/content")) else bodies[-1]

    async def go(url: str) -> list[object]:
        client, told = client_of(provider, url), []
        for body in odd_answers(provider, operation):
            bodies.append(body)
            try:
                told.append(await called(client, operation, lines))
            except SotopiaDataError as error:
                told.append(error)
        await client.close()
        return told

    with serving(answer) as url:
        every = asyncio.run(go(url))
    for told in every:
        assert isinstance(told, str | BatchState | BatchSearch | list | SotopiaDataError)
        assert not isinstance(told, str) or (len(told) <= 200 and told.isprintable())
        assert not isinstance(told, SotopiaDataError) or 0 < len(told.message.encode()) < 1_000


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("operation", ["newest", "upload", "create", "find"])
def test_an_id_that_is_none_is_a_sentence(operation: str, odd: Any, lines: Path):
    told = {**WHOLE["openai"], "id": odd, "data": [{**WHOLE["openai"], "id": odd}]}
    with serving(lambda method, path: json.dumps(told).encode()) as url, pytest.raises(Unavailable, match="sent some"):
        told_to("openai", operation, url, lines)


@pytest.mark.slow
def test_a_batch_without_an_id_ends_the_run_is_not_submitted_again_and_found_by_the_next(tmp_path: Path):
    asked: list[str] = []

    def answer(method: str, path: str) -> bytes:
        asked.append(f"{method} {path.partition('?')[0]}")
        began = "POST /batches" in asked
        match asked[-1]:
            case "POST /batches":
                return b'{"id": ["x"]}'
            case "GET /batches":
                return json.dumps({"data": [{"id": "b", "input_file_id": "f"}] if began else []}).encode()
            case "GET /batches/b":
                return json.dumps(WHOLE["openai"]).encode()
        return b'{"id": "f"}'

    with serving(answer) as url:
        requests = questions(3, Target("openai", "m", url))
        with pytest.raises(Unavailable, match=re.escape('sent something that is not a completion: {"id": ["x"]}')):
            ask_in_batches(requests, client_of("openai", url), tmp_path)
        with pytest.raises(Unavailable, match="the batch ended without a result"):
            ask_in_batches(requests, client_of("openai", url), tmp_path, batching=replace(QUICK, tries=1))
    assert (asked.count("POST /batches"), asked.count("GET /files/f1/content")) == (1, 1)
    with Ledger(tmp_path) as kept:
        assert {one.batch for request in requests for one in kept.attempts(request.key)} == {"b"}


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_answer_of_gigabytes_is_given_up_at_8_mib(operation: str, lines: Path):
    bomb = gzip.compress(b'{"id": "' + b"x" * 200_000_000 + b'"}', 1)
    with serving(lambda method, path: bomb, Content_Encoding="gzip") as url, pytest.raises(Unavailable) as told:
        told_to("openai", operation, url, lines)
    assert "more than 8 MiB" in told.value.message


def dripping() -> Iterator[bytes]:
    """A byte at a time, for ten seconds."""
    for _ in range(500):
        time.sleep(0.02)
        yield b"\n"


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["state", "create", "results"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_that_drips_is_given_up_when_its_time_is_up(provider: str, operation: str, lines: Path):
    with serving(lambda method, path: dripping()) as url, pytest.raises(Unavailable, match="comes too slowly"):
        told_to(provider, operation, url, lines, patience_s=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_list_of_batches_that_never_ends_is_a_sentence(provider: str, lines: Path):
    asked: list[str] = []

    def answer(method: str, path: str) -> bytes:
        asked.append(path)
        batch = {"id": f"b{len(asked)}", "request_counts": {}, "processing_status": "x"}
        return json.dumps({"data": [batch], "has_more": True}).encode()

    with serving(answer) as url, pytest.raises(Rejected, match="lists more than 10,000 batches"):
        told_to(provider, "find", url, lines)
    assert len(asked) == 100
    assert "=b99" in asked[-1]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_page_of_batches_that_tells_nothing_new_is_the_last(provider: str, lines: Path):
    asked: list[str] = []

    def answer(method: str, path: str) -> bytes:
        asked.append(path)
        return b'{"data": [{"id": "b", "request_counts": {}, "processing_status": "x"}], "has_more": true}'

    with serving(answer) as url:
        told_to(provider, "find", url, lines)
    assert len(asked) == 2


def test_results_are_asked_of_the_host_that_was_named_whatever_url_a_batch_gives_for_them(lines: Path):
    asked: list[str] = []
    line = {"custom_id": "a", "result": {"type": "expired"}}

    def elsewhere(method: str, path: str) -> bytes:
        asked.append(f"elsewhere: {path}")
        return b""

    def answer(method: str, path: str) -> bytes:
        asked.append(f"{method} {path}")
        told = {"id": "b", "processing_status": "ended", "results_url": f"{other}/steal"}
        return json.dumps(line if path.endswith("/results") else told).encode()

    with serving(elsewhere) as other, serving(answer) as url:
        results = told_to("anthropic", "results", url, lines)
    assert [result.custom_id for result in results] == ["a"]
    assert asked == ["GET /v1/messages/batches/b/results"]
