"""Anthropic's Message Batches: the requests are sent in one body, the results are one file of lines.

A message batch has no metadata: our custom_ids are its only mark, and they can be read only when it has ended. A batch
whose id we never received, because the response was lost, is therefore recognised in two steps. Until it has ended, any
batch that is newer than the newest one before our submission and has the same number of requests may be ours;
afterwards its custom_ids decide.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Set
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sotopia_rl_data.asking import anthropic, refusals
from sotopia_rl_data.asking.batch.client import BatchClient, BatchLimits, BatchSearch, BatchState, cancelled, expired
from sotopia_rl_data.asking.batch.intent import Intent
from sotopia_rl_data.request import Reply

LIMITS = BatchLimits(requests=100_000, size_bytes=256_000_000)
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
_COUNTED = ("processing", "succeeded", "errored", "canceled", "expired")
_OPEN, _BETWEEN, _CLOSE = b'{"requests":[', b",", b"]}"


class AnthropicBatchClient(BatchClient):
    """Batches of messages."""

    limits = LIMITS
    api = anthropic.API
    batches, after = "/v1/messages/batches", "after_id"

    def _line(self, custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"custom_id": custom_id, "params": body}

    async def create(self, lines: Path, intent: Intent) -> str:
        """Create the batch; returns its id. The body, up to a quarter of a gigabyte, is streamed from the file."""
        size = len(_OPEN) + lines.stat().st_size - len(_BETWEEN) + len(_CLOSE)
        headers = {"Content-Length": str(size)}
        return self._id(await self._ask("POST", self.batches, size, data=_body(lines), headers=headers))

    async def find(self, intent: Intent, known: Set[str]) -> str | BatchSearch:
        """The id of the ended batch with our custom_ids; UNCERTAIN where a running batch may be ours."""
        search = BatchSearch.ABSENT
        async for key, batch in self._listed():
            if key == intent.after:
                break
            if key in known or _total(batch) not in (None, intent.count):
                continue
            if not _has_ended(batch):
                search = BatchSearch.UNCERTAIN
            elif await self._is_of(key, intent):
                return key
        return search

    async def state(self, batch: str) -> BatchState:
        """The state of the batch. Anthropic counts the requests that are done only at the end."""
        told = await self._ask("GET", f"{self.batches}/{quote(batch, safe='')}")
        total = _total(told)
        return BatchState(_has_ended(told), 0 if total is None else total - told["request_counts"]["processing"])

    async def _results_files(self, batch: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The results lie below the batch's own URL: a `results_url` may be another host's, which gets no key."""
        async with self._called("GET", f"{self.batches}/{quote(batch, safe='')}/results") as response:
            yield self._pieces(response)

    async def _is_of(self, batch: str, intent: Intent) -> bool:
        """Whether any of the batch's results belongs to the intent."""
        async with aclosing(self.results(batch)) as results:
            async for result in results:
                if intent.owns(result.custom_id):
                    return True
        return False

    def _outcome(self, line: dict[str, Any]) -> Reply:
        result = line.get("result")
        if not isinstance(result, dict):
            result = {}
        match result.get("type") or ("succeeded" if "message" in result else ""):
            case "succeeded":
                return anthropic.read_message(self.target, result.get("message"))
            case "expired":
                raise expired(self.target)
            case "canceled":
                raise cancelled(self.target)
        body = result.get("error")
        inner = body.get("error", body) if isinstance(body, dict) else {}
        name = inner.get("type") if isinstance(inner, dict) else None
        raise refusals.status_error(self.target, _STATUS.get(str(name), 500), body, {})


def _has_ended(batch: dict[str, Any]) -> bool:
    """By its state, or by its time where a server has another word for that."""
    return batch.get("processing_status") == "ended" or batch.get("ended_at") is not None


def _total(batch: dict[str, Any]) -> int | None:
    """The requests in a batch; None where a server does not count them."""
    counts = batch.get("request_counts")
    numbers = [counts.get(name) for name in _COUNTED] if isinstance(counts, dict) else [None]
    whole = [number for number in numbers if isinstance(number, int)]
    return sum(whole) if len(whole) == len(numbers) else None


async def _body(lines: Path) -> AsyncIterator[bytes]:
    """The lines as one JSON object, line by line."""
    yield _OPEN
    with lines.open("rb") as file:
        separator = b""
        for line in file:
            yield separator + line.rstrip(b"\n")
            separator = _BETWEEN
    yield _CLOSE
