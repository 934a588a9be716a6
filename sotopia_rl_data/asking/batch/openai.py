"""OpenAI's Batch API: a file of requests is uploaded, a batch is created over it, the results are two more files.

A batch is retrieved again by the intent's id in its metadata or by the id of its input file. Uploaded files stay at the
provider, where the owner of the account may remove them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Set
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sotopia_rl_data.asking import openai, refusals
from sotopia_rl_data.asking.batch.client import BatchClient, BatchLimits, BatchSearch, BatchState, cancelled, expired
from sotopia_rl_data.asking.batch.intent import Intent
from sotopia_rl_data.asking.keys import key_for
from sotopia_rl_data.errors import Rejected, Unavailable
from sotopia_rl_data.request import Reply

LIMITS = BatchLimits(requests=50_000, size_bytes=200_000_000)
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
_ENDED = ("completed", "expired", "cancelled", "failed")
_FULL = "token_limit_exceeded"
_NAME = "sotopia_rl_data_intent"  # a batch's metadata has the id of its intent under this key


class OpenAIBatchClient(BatchClient):
    """Batches of chat completions."""

    limits = LIMITS
    api = openai.API
    batches, after = "/batches", "after"

    def _line(self, custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}

    async def upload(self, lines: Path, intent: Intent) -> str:
        """Upload the file; returns its id."""
        import aiohttp

        with lines.open("rb") as file:
            form = aiohttp.FormData({"purpose": "batch"})
            name = f"sotopia-rl-data-{intent.id}.jsonl"
            form.add_field("file", file, filename=name, content_type="application/jsonl")
            body = form()
            size = lines.stat().st_size
            return self._id(await self._ask("POST", "/files", size, data=body, headers=body.headers))

    async def create(self, lines: Path, intent: Intent) -> str:
        wanted = {
            "input_file_id": intent.file,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {_NAME: intent.id},
        }
        return self._id(await self._ask("POST", self.batches, json=wanted))

    async def find(self, intent: Intent, known: Set[str]) -> str | BatchSearch:
        """The batch that has the intent's id in its metadata, or its file as input."""
        async for key, batch in self._listed():
            if key == intent.after:
                break
            metadata = batch.get("metadata")
            named = isinstance(metadata, dict) and metadata.get(_NAME) == intent.id
            if named or batch.get("input_file_id") == intent.file:
                return key
        return BatchSearch.ABSENT

    async def state(self, batch: str) -> BatchState:
        told = await self._ask("GET", f"{self.batches}/{quote(batch, safe='')}")
        status, done = _status(told), sum(_counts(told))
        if status != "failed":  # where a server has another word for the end, its time still tells it
            ended = status in _ENDED or any(told.get(f"{name}_at") for name in _ENDED)
            return BatchState(ended, done, status == "cancelled")
        errors = told.get("errors")
        reasons = refusals.provider_text(errors, key_for(self.target).value) or "no reason given"
        refused = Rejected(f"{self.target.model} at {self.target.base_url} does not take the batch: {reasons}")
        listed = errors.get("data") if isinstance(errors, dict) else None
        codes = [error.get("code") for error in listed if isinstance(error, dict)] if isinstance(listed, list) else []
        return BatchState(True, refused=refused, full=_FULL in codes)

    async def _results_files(self, batch: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The answers first, then the errors. Raises Unavailable where a batch that has ended names no file for them
        yet: what is in it was paid for."""
        told = await self._ask("GET", f"{self.batches}/{quote(batch, safe='')}")
        names, (completed, failed) = ("output_file_id", "error_file_id"), _counts(told)
        files = [self._id(told, name) if told.get(name) else "" for name in names]
        has_results = failed or _status(told) == "completed"
        if (completed and not files[0]) or (has_results and not any(files)):
            raise Unavailable(f"{self.target.model}: the batch has ended, and names no file of results yet", status=200)
        for file in filter(None, files):
            async with self._called("GET", f"/files/{quote(file, safe='')}/content") as response:
                yield self._pieces(response)

    def _outcome(self, line: dict[str, Any]) -> Reply:
        response, error = line.get("response"), line.get("error")
        if isinstance(response, dict):
            told = str(response.get("status_code") or 200)  # where it is missing, the body says what it is
            status = int(told) if told.isdecimal() and len(told) == 3 else 500
            if 200 <= status < 300:
                return openai.read_completion(self.target, response.get("body", response))
            raise refusals.status_error(self.target, status, response.get("body"), {})
        code = error.get("code") if isinstance(error, dict) else None
        if code == "batch_expired":
            raise expired(self.target)
        if code == "batch_cancelled":
            raise cancelled(self.target)
        told = refusals.provider_text(error, key_for(self.target).value)
        raise Unavailable(f"{self.target.model}: {told or 'no reason given'}")


def _status(batch: dict[str, Any]) -> str:
    status = batch.get("status")
    return status.lower() if isinstance(status, str) else ""


def _counts(batch: dict[str, Any]) -> tuple[int, int]:
    """How many lines are completed and how many failed, as far as the server counts them."""
    counts = batch.get("request_counts")
    completed, failed = (counts.get(name) if isinstance(counts, dict) else 0 for name in ("completed", "failed"))
    return (completed if isinstance(completed, int) else 0, failed if isinstance(failed, int) else 0)
