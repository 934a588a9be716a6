"""Anthropic's Message Batches: the requests go in one body, what came of them is one file of lines.

A message batch carries nothing of ours but the custom_ids of its requests, and shows these when it has ended. So a
batch whose id was never heard is recognised by what can be seen: it is newer than the newest one before it was sent and
holds as many requests; when it has ended, its custom_ids say for certain whether it is ours. Until then it may be.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Set
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.asking import transport
from sotopia_rl_data.asking.anthropic import KEY, body_of, read_message, refuses_format
from sotopia_rl_data.asking.batch.client import (
    Limits,
    Result,
    State,
    Trace,
    cancelled,
    expired,
    lines_of,
    no_batches,
    probing,
    speaking,
)
from sotopia_rl_data.asking.batch.intent import Intent
from sotopia_rl_data.errors import AskingError, Rejected
from sotopia_rl_data.request import Reply, Request, Target

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

LIMITS = Limits(requests=100_000, size_bytes=256_000_000)
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_OPEN, _BETWEEN, _CLOSE = b'{"requests":[', b",", b"]}"


class AnthropicBatches:
    """Batches at `target`. Raises KeyMissing where there is no key."""

    def __init__(self, target: Target, limits: Limits = LIMITS) -> None:
        import anthropic

        self.target, self.limits = target, limits
        self.way = 0  # 1: the schema stands in the messages
        self._sdk = anthropic.AsyncAnthropic(
            api_key=transport.api_key(KEY, target.base_url),
            base_url=target.base_url,
            max_retries=0,
            http_client=anthropic.DefaultAsyncHttpxClient(trust_env=not transport.is_local(target.base_url)),
        )

    def line(self, custom_id: str, request: Request) -> bytes:
        """The request as a member of a batch's list."""
        return json.dumps({"custom_id": custom_id, "params": body_of(request, self.way > 0)}).encode()

    def weaken(self, error: Rejected, way: int) -> bool:
        """Write the schema into the messages. False where the error is not about it, or it stands there already."""
        if way or not refuses_format(error):
            return False
        self.way = 1
        return True

    async def newest(self) -> str:
        """The id of the newest batch, empty where there is none. Raises UsageError where there is no batch API."""
        with probing(self.target), self._speaking():
            page = await self._sdk.messages.batches.list(limit=1)
        if not isinstance(getattr(page, "data", None), list):
            raise no_batches(self.target)
        return page.data[0].id if page.data else ""

    async def upload(self, lines: Path, intent: Intent) -> str:
        """Nothing is handed in ahead."""
        return ""

    async def create(self, lines: Path, intent: Intent) -> str:
        """Begin the batch; its id. The body is streamed from the file: it can be a quarter of a gigabyte."""
        from anthropic.types.messages import MessageBatch

        size = len(_OPEN) + lines.stat().st_size - len(_BETWEEN) + len(_CLOSE)
        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        with self._speaking():
            made = await self._sdk.post(
                "/v1/messages/batches", content=_body(lines), cast_to=MessageBatch, options={"headers": headers}
            )
        return made.id

    async def find(self, intent: Intent, known: Set[str]) -> str | Trace:
        """The batch that is ours by its custom_ids, where they can be seen."""
        trace = Trace.NONE
        with self._speaking():
            async for batch in self._sdk.messages.batches.list(limit=100):
                if batch.id == intent.after:
                    break
                if batch.id in known or _total(batch) != intent.count:
                    continue
                if batch.processing_status != "ended":
                    trace = Trace.PERHAPS
                elif await self._is_of(batch.id, intent):
                    return batch.id
        return trace

    async def state(self, batch: str) -> State:
        """How it stands. How many are through is only told at the end."""
        with self._speaking():
            found = await self._sdk.messages.batches.retrieve(batch)
        counts = found.request_counts
        return State(found.processing_status == "ended", _total(found) - counts.processing)

    async def results(self, batch: str) -> AsyncGenerator[Result]:
        """What came of the lines."""
        with self._speaking():
            async with self._sdk.messages.batches.with_streaming_response.results(batch) as response:
                async for line in lines_of(response.iter_bytes()):
                    result = self._read(line)
                    if result is not None:
                        yield result

    async def close(self) -> None:
        await self._sdk.close()

    async def _is_of(self, batch: str, intent: Intent) -> bool:
        """Whether any of the batch's results belongs to the intent."""
        async with aclosing(self.results(batch)) as results:
            async for result in results:
                if intent.owns(result.custom_id):
                    return True
        return False

    def _read(self, line: Any) -> Result | None:
        """What a line says; None where it names no request."""
        if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
            return None
        result = line.get("result")
        try:
            return Result(line["custom_id"], self._outcome(result if isinstance(result, dict) else {}))
        except AskingError as error:
            return Result(line["custom_id"], error)

    def _outcome(self, result: dict[str, Any]) -> Reply | AskingError:
        kind = result.get("type")
        if kind == "succeeded":
            return read_message(self.target, result.get("message"))
        if kind == "expired":
            return expired(self.target)
        if kind == "canceled":
            return cancelled(self.target)
        told = result.get("error")
        inner = told.get("error", told) if isinstance(told, dict) else {}
        name = inner.get("type") if isinstance(inner, dict) else None
        return transport.status_error(self.target, _STATUS.get(str(name), 500), told, {}, KEY)

    def _speaking(self) -> Any:
        import anthropic

        return speaking(self.target, KEY, anthropic, anthropic.AnthropicError)


def _total(batch: MessageBatch) -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired


async def _body(lines: Path) -> AsyncIterator[bytes]:
    """The lines as one JSON object, a few at a time."""
    yield _OPEN
    with lines.open("rb") as file:
        lead = b""
        for line in file:
            yield lead + line.rstrip(b"\n")
            lead = _BETWEEN
    yield _CLOSE
