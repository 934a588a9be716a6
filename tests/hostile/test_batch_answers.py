"""Whatever a server says of batches: no key goes elsewhere."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sotopia_rl_data.asking.batch.anthropic import AnthropicBatchClient
from sotopia_rl_data.asking.batch.client import BatchResult
from sotopia_rl_data.request import Target


@contextmanager
def serving(answer: Callable[[str, str], bytes]) -> Iterator[str]:
    """The URL of a server that answers a request of this method and path with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told = answer(self.command, self.path)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_POST = do_GET

        def log_message(self, *told: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


async def results_of(batch: str, url: str) -> list[BatchResult]:
    client = AnthropicBatchClient(Target("anthropic", "m", url))
    try:
        return [result async for result in client.results(batch)]
    finally:
        await client.close()


def test_results_are_asked_of_the_host_that_was_named_whatever_url_a_batch_gives_for_them():
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
        results = asyncio.run(results_of("b/../c", url))
    assert [result.custom_id for result in results] == ["a"]
    assert asked == ["GET /v1/messages/batches/b%2F..%2Fc/results"]
