"""OpenAI's Batch API: a file of requests is uploaded, a batch is begun over it, its results are two files more.

A batch carries our intent's id in its metadata and the id of its input file: by either it is found again. Uploaded
files stay at the provider; what is there is its owner's to remove.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sotopia_rl_data.asking import transport
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
from sotopia_rl_data.asking.openai import KEY, WAYS, body_of, read_completion, refuses_format
from sotopia_rl_data.errors import AskingError, Rejected, Unavailable
from sotopia_rl_data.request import Reply, Request, Target

if TYPE_CHECKING:
    from openai.types import Batch

LIMITS = Limits(requests=50_000, size_bytes=200_000_000)
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
_ENDED = ("completed", "expired", "cancelled", "failed")
_FULL = "token_limit_exceeded"
_NAME = "sotopia_rl_data_intent"  # of our entry in a batch's metadata


class OpenAIBatches:
    """Batches at `target`. Raises KeyMissing where there is no key."""

    def __init__(self, target: Target, limits: Limits = LIMITS) -> None:
        import openai

        self.target, self.limits = target, limits
        self.way = 0
        self._sdk = openai.AsyncOpenAI(
            api_key=transport.api_key(KEY, target.base_url),
            base_url=target.base_url,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not transport.is_local(target.base_url)),
        )

    def line(self, custom_id: str, request: Request) -> bytes:
        """The request as a line of a batch, without a line feed."""
        body = body_of(request, WAYS[self.way])
        return json.dumps({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}).encode()

    def weaken(self, error: Rejected, way: int) -> bool:
        """Ask for the answer's form in the next weaker way. False where the error is not about it, or none is left."""
        if not refuses_format(error) or way + 1 == len(WAYS):
            return False
        self.way = max(self.way, way + 1)
        return True

    async def newest(self) -> str:
        """The id of the newest batch, empty where there is none. Raises UsageError where there is no batch API."""
        with probing(self.target), self._speaking():
            page = await self._sdk.batches.list(limit=1)
        if not isinstance(getattr(page, "data", None), list):
            raise no_batches(self.target)
        return page.data[0].id if page.data else ""

    async def upload(self, lines: Path, intent: Intent) -> str:
        """Hand the file in; its id."""
        with self._speaking(), lines.open("rb") as file:
            name = f"sotopia-rl-data-{intent.id}.jsonl"
            made = await self._sdk.files.create(file=(name, file, "application/jsonl"), purpose="batch")
        return made.id

    async def create(self, lines: Path, intent: Intent) -> str:
        """Begin the batch; its id."""
        with self._speaking():
            made = await self._sdk.batches.create(
                input_file_id=intent.file,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={_NAME: intent.id},
            )
        return made.id

    async def find(self, intent: Intent, known: Set[str]) -> str | Trace:
        """The batch that carries the intent's id, or works on its file."""
        with self._speaking():
            async for batch in self._sdk.batches.list(limit=100):
                if batch.id == intent.after:
                    break
                if (batch.metadata or {}).get(_NAME) == intent.id or batch.input_file_id == intent.file:
                    return batch.id
        return Trace.NONE

    async def state(self, batch: str) -> State:
        """How it stands."""
        with self._speaking():
            found = await self._sdk.batches.retrieve(batch)
        counts = found.request_counts
        done = counts.completed + counts.failed if counts else 0
        if found.status != "failed":
            return State(found.status in _ENDED, done, found.status == "cancelled")
        errors = (found.errors and found.errors.data) or []
        said = "; ".join(error.message or error.code or "" for error in errors[:3]) or "no reason given"
        refused = Rejected(f"{self.target.model} at {self.target.base_url} does not take the batch: {said}")
        return State(True, refused=refused, full=any(error.code == _FULL for error in errors))

    async def results(self, batch: str) -> AsyncGenerator[Result]:
        """What came of the lines, answers first."""
        with self._speaking():
            found = await self._sdk.batches.retrieve(batch)
        for name in _files(found):
            with self._speaking():
                async with self._sdk.files.with_streaming_response.content(name) as response:
                    async for line in lines_of(response.iter_bytes()):
                        result = self._read(line)
                        if result is not None:
                            yield result

    async def close(self) -> None:
        await self._sdk.close()

    def _read(self, line: Any) -> Result | None:
        """What a line says; None where it names no request."""
        if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
            return None
        try:
            return Result(line["custom_id"], self._outcome(line))
        except AskingError as error:
            return Result(line["custom_id"], error)

    def _outcome(self, line: dict[str, Any]) -> Reply | AskingError:
        response, error = line.get("response"), line.get("error")
        if isinstance(response, dict) and response.get("status_code") == 200:
            return read_completion(self.target, response.get("body"))
        if isinstance(response, dict):
            status = int(response.get("status_code") or 500)
            return transport.status_error(self.target, status, response.get("body"), {}, KEY)
        code = error.get("code") if isinstance(error, dict) else None
        if code == "batch_expired":
            return expired(self.target)
        if code == "batch_cancelled":
            return cancelled(self.target)
        return Unavailable(f"{self.target.model}: {transport.provider_text(error) or 'no reason given'}")

    def _speaking(self) -> Any:
        import openai

        return speaking(self.target, KEY, openai, openai.OpenAIError)


def _files(batch: Batch) -> list[str]:
    return [name for name in (batch.output_file_id, batch.error_file_id) if name]
