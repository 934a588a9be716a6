"""A server that never stops sending, or whose answer unpacks to gigabytes, costs bounded memory and ends the run; and
whatever else comes over the wire is a reply, or an error that can be shown."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.clients import PROVIDERS, SCHEMA, ask, client_for
from fixtures.places import ROOT

from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.labelers.schemas import answers

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
PIECE = b"x" * (1 << 20)


def endless() -> list[bytes]:
    """3 GB of text within one JSON string."""
    return [b'{"choices": [{"message": {"content": "', *[PIECE] * (3 << 10)]


def bomb() -> Iterator[bytes]:
    """2 GB of text, packed to 2 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    yield packer.compress(b'{"choices": [{"message": {"content": "')
    for _ in range(2 << 10):
        packed = packer.compress(PIECE)
        if packed:
            yield packed


def response(body: bytes | str = '{"choices": []}', *headers: str, status: str = "200 OK") -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    head = "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(data)}", *headers])
    return head.encode("latin-1") + b"\r\n\r\n" + data


def saying(text: str) -> bytes:
    """What both protocols would read as this answer."""
    message = {"choices": [{"message": {"content": text}}], "content": [{"type": "text", "text": text}]}
    return response(json.dumps(message))


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
RAW = {
    "10,000 headers": response("{}", *(f"X-{i}: y" for i in range(10_000))),
    "a header of 10 MB": response("{}", "X-A: " + "y" * 10_000_000),
    "a status that does not end": b"HTTP/1.1 " + b"2" * 1_000_000,
    **{f"the status {status}": response(status=status) for status in ("999 X", "000 X", "-1 X", "abc", "", "2000 X")},
    **{f"nothing but {status}": response("", status=f"{status} X") for status in (101, 204, 205, 206, 304, 418)},
    **{
        f"a redirect to {url}": response("", f"Location: {url}", status="302 X") for url in ("file:///etc/passwd", "//")
    },
    "a redirect to no text": response("", "Location: \xff\x1b[2J" + "x" * 60_000, status="302 X"),
    **{
        f"a wait of {told}": response('{"error": {"message": "slow"}}', f"Retry-After: {told}", status="429 X")
        for told in (
            "1e308",
            "9" * 5_000,
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Mon, 01 Jan 0000 00:00:00 GMT",
            "\xff",
            "-5",
        )
    },
    **{
        f"the charset {name} of {status}": response(
            b"\xff{\x00", f"Content-Type: text/html; charset={name}", status=status
        )
        for name in ("bogus", "hex", "idna", "unicode_escape", "undefined", '"\x01"')
        for status in ("200 OK", "400 X")
    },
    **{
        f"the encoding {name}": response("{}", f"Content-Encoding: {name}")
        for name in ("br", "zstd", "gzip", "gzip, gzip", "deflate", "bogus")
    },
    "a length that is a lie": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
    "a length below nothing": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 500\r\n\r\n{}",
    "a chunk of any size": CHUNKED + b"f" * 500_000,
    "a chunk with a long remark": CHUNKED + b"5;" + b"x" * 1_000_000,
    "trailers": CHUNKED + b"0\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(100_000)),
    "another protocol": b"SSH-2.0-x\r\n",
    "nothing": b"",
    "10,000 choices": response(json.dumps({"choices": [{"message": {"content": "{}"}}] * 10_000})),
    "half a surrogate in an error": response('{"error": {"message": "\\ud800 \\u001b[2J"}}', status="400 X"),
    "a long error": response(json.dumps({"error": {"message": "x" * 1_000_000, "code": [{}]}}), status="400 X"),
    "an error that Python cannot walk": response('{"error":' + "[" * 500 + "]" * 500 + "}"),
    "events that Python cannot walk": response(
        2 * ('data: {"choices":[{"delta":' + '{"a":' * 900 + "1" + "}" * 900 + "}]}\n\n"),
        "Content-Type: text/event-stream",
    ),
    "an error in errors": response('{"error":' * 100_000, status="400 X"),
    "events without a word": response("\n" * 1_000_000, "Content-Type: text/event-stream"),
    "brackets in an event": response("data: " + "[" * 1_000_000 + "\n\n", "Content-Type: text/event-stream"),
    "brackets in an answer": saying("[" * 500_000),
    "braces in an answer": saying("{" * 400_000),
    "objects that begin": saying('{"a": x ' * 200_000),
    "thoughts that begin": saying("<think>" * 300_000),
    "thoughts and no answer": saying("<think></think>" * 300_000),
    "fences": saying("```json\n" * 400_000),
    "half a surrogate": saying("\ud800 {}"),
    "a long number": saying('{"turn 0": ' + "9" * 100_000 + "}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", RAW)
def test_whatever_comes_back_is_a_reply_or_an_error_that_can_be_shown(provider: str, name: str):
    with serving([], False, RAW[name]) as url:
        client = client_for(provider, url.removesuffix("/v1"))
        began = time.process_time()
        try:
            answers.check(SCHEMA, answers.parse(ask(client).answer))
            said = ""
        except SotopiaDataError as error:
            said = error.message
    assert time.process_time() - began < 10
    assert 0 < len(said) < 1_000
    assert said.encode()


@contextmanager
def serving(pieces: list[bytes], packed: bool, raw: bytes = b"") -> Iterator[str]:
    """The URL of a server that answers every request with these pieces, one after the other; without any, with what
    else it sends."""
    head = HEAD + (b"Content-Encoding: gzip\r\n" if packed else b"") + b"\r\n"
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ports: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            if not pieces:
                await reader.readexactly(int(re.findall(rb"(?i)content-length: (\d+)", asked)[0]))
                writer.write(raw)
                await writer.drain()
                return
            writer.write(head)
            for piece in pieces:
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        async with server:
            await server.serve_forever()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve())
        except RuntimeError:  # stopped
            for unfinished in asyncio.all_tasks(loop):
                unfinished.cancel()
            loop.run_until_complete(asyncio.sleep(0.01))  # or they would be collected after the loop is closed

    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(30)
    try:
        yield f"http://127.0.0.1:{ports[0]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "provider"), [("endless", "anthropic"), ("bomb", "openai")])
def test_64_answers_of_gigabytes_at_once_take_less_than_a_gigabyte(tmp_path: Path, kind: str, provider: str):
    pieces = endless() if kind == "endless" else list(bomb())
    command = [sys.executable, "cli.py", "label", "--concurrency", "64", "--store", str(tmp_path), "-q"]
    subprocess.run(
        [sys.executable, "cli.py", "import", "--name", "lab/samples", "--store", str(tmp_path)], cwd=ROOT, check=True
    )
    with serving(pieces, kind == "bomb") as url:
        judge = f"{provider}:m@{url}"
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen([*command, "lab/samples", "--judge", judge], cwd=ROOT, stderr=said)
            most = 0  # kB; `ru_maxrss` of a child would be this process's own where that is more
            while process.poll() is None:
                held = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                most = max(most, int(held[1]) if held else 0)
                time.sleep(0.02)
    wrong = (tmp_path / "said").read_text()
    assert process.returncode == 1, wrong
    assert "more than 8 MiB" in wrong
    assert 100_000 < most < 1_000_000, f"{most:,} kB"
