"""OpenAI's Batch API: a file of requests is uploaded, a batch is created over it, the results are two more files.

A batch is retrieved again by the intent's id in its metadata or by the id of its input file. Uploaded files stay at the
provider, where the owner of the account may remove them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Set
from pathlib import Path
from typing import Any, Literal

from sotopia_rl_data.asking import openai, refusals, transport
from sotopia_rl_data.asking.batch.client import BatchClient, BatchLimits, BatchSearch, BatchState, cancelled, expired
from sotopia_rl_data.asking.batch.intent import Intent
from sotopia_rl_data.errors import Rejected, Unavailable
from sotopia_rl_data.request import Reply, Target

LIMITS = BatchLimits(requests=50_000, size_bytes=200_000_000)
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
_ENDED = ("completed", "expired", "cancelled", "failed")
_FULL = "token_limit_exceeded"
_NAME = "sotopia_rl_data_intent"  # a batch's metadata has the id of its intent under this key


class OpenAIBatchClient(BatchClient):
    """Batches of chat completions."""

    api = openai.API

    def __init__(self, target: Target, limits: BatchLimits = LIMITS) -> None:
        import openai as sdk

        super().__init__(target, limits, sdk, sdk.OpenAIError)
        self._sdk = openai.sdk_client(self._key, target.base_url, self._http)
        transport.withhold_headers(self._sdk, target)

    @property
    def _batches(self) -> Any:
        return self._sdk.batches

    def _line(self, custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}

    async def upload(self, lines: Path, intent: Intent) -> str:
        """Upload the file; returns its id."""
        with self._our_errors(), lines.open("rb") as file:
            name = f"sotopia-rl-data-{intent.id}.jsonl"
            uploaded = await self._sdk.files.create(file=(name, file, "application/jsonl"), purpose="batch")
        return uploaded.id

    async def create(self, lines: Path, intent: Intent) -> str:
        with self._our_errors():
            batch = await self._sdk.batches.create(
                input_file_id=intent.file,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={_NAME: intent.id},
            )
        return batch.id

    async def find(self, intent: Intent, known: Set[str]) -> str | BatchSearch:
        """The batch that has the intent's id in its metadata, or its file as input."""
        with self._our_errors():
            async for batch in self._sdk.batches.list(limit=100):
                if batch.id == intent.after:
                    break
                if (batch.metadata or {}).get(_NAME) == intent.id or batch.input_file_id == intent.file:
                    return batch.id
        return BatchSearch.ABSENT

    async def state(self, batch: str) -> BatchState:
        with self._our_errors():
            retrieved = await self._sdk.batches.retrieve(batch)
        status, done = str(retrieved.status).lower(), sum(_counts(retrieved))
        if status != "failed":  # where a server has another word for the end, its time still tells it
            ended = status in _ENDED or any(getattr(retrieved, f"{name}_at", None) for name in _ENDED)
            return BatchState(ended, done, status == "cancelled")
        errors = (retrieved.errors and retrieved.errors.data) or []
        reasons = "; ".join(error.message or error.code or "" for error in errors[:3]) or "no reason given"
        refused = Rejected(f"{self.target.model} at {self.target.base_url} does not take the batch: {reasons}")
        return BatchState(True, refused=refused, full=any(error.code == _FULL for error in errors))

    async def _results_files(self, batch: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The answers first, then the errors. Raises Unavailable where a batch that has ended names no file for them
        yet: what is in it was paid for."""
        retrieved = await self._sdk.batches.retrieve(batch)
        names, (completed, failed) = (retrieved.output_file_id, retrieved.error_file_id), _counts(retrieved)
        has_results = failed or str(retrieved.status).lower() == "completed"
        if (completed and not names[0]) or (has_results and not any(names)):
            raise Unavailable(f"{self.target.model}: the batch has ended, and names no file of results yet", status=200)
        for name in names:
            if name:
                async with self._sdk.files.with_streaming_response.content(name) as response:
                    yield response.iter_bytes()

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
        raise Unavailable(f"{self.target.model}: {refusals.provider_text(error) or 'no reason given'}")


def _counts(batch: Any) -> tuple[int, int]:
    """How many lines are completed and how many failed, as far as the server counts them."""
    counts = getattr(batch, "request_counts", None)
    completed, failed = (getattr(counts, name, None) for name in ("completed", "failed"))
    return (completed if isinstance(completed, int) else 0, failed if isinstance(failed, int) else 0)
