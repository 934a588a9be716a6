"""A server that never stops sending, or whose answer unpacks to gigabytes, costs bounded memory and ends the run."""

from __future__ import annotations

import asyncio
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
from fixtures.places import ROOT

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


@contextmanager
def serving(pieces: list[bytes], packed: bool) -> Iterator[str]:
    """The URL of a server that answers every request with these pieces, one after the other."""
    head = HEAD + (b"Content-Encoding: gzip\r\n" if packed else b"") + b"\r\n"
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ports: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
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
        except RuntimeError:
            return  # stopped

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
