"""What the two batch APIs have in common: the state of a batch, the result of each line, the meaning of an error.

The provider's SDK makes the calls and never retries. Results are read as bytes and split only at line feeds, since an
answer may contain the other characters that Python or an HTTP library takes for the end of a line.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Set
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from sotopia_rl_data.asking import keys, reading, refusals, transport
from sotopia_rl_data.asking.batch.answer_limits import BatchAnswerLimits
from sotopia_rl_data.asking.batch.forms import BatchForms
from sotopia_rl_data.asking.batch.intent import Intent
from sotopia_rl_data.asking.forms import MEANT, RequestForm, body_in
from sotopia_rl_data.asking.memory import EndpointMemory
from sotopia_rl_data.errors import AskingError, Rejected, Unavailable, UsageError
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.secrets import redact

_ABSENT = (404, 405, 501)  # statuses of a server without a batch API


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The most that one batch may hold."""

    requests: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BatchState:
    """The state of a batch. `done` counts the requests that are finished. `refused` is the reason why none was begun;
    `full` says that the reason is too many requests under way. A batch that was `cancelled` has some results."""

    ended: bool
    done: int = 0
    cancelled: bool = False
    refused: AskingError | None = None
    full: bool = False


class BatchSearch(Enum):
    """The result of a search that did not find the batch: it does not exist, or it may still turn up."""

    ABSENT = "absent"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of the line `custom_id`: a Reply, or the error in its place."""

    custom_id: str
    outcome: Reply | AskingError


class BatchClient(ABC):
    """A provider's batch API at `target`. Its coroutines raise Unavailable where another try may help and Rejected
    where it cannot; nothing is retried here.

    `forms` finds the form of the requests, `answer_limits` the limits of their answers. Raises KeyMissing where there
    is no key."""

    api: ClassVar[transport.Api]

    def __init__(self, target: Target, limits: BatchLimits, sdk: ModuleType, base_error: type[Exception]) -> None:
        self.target, self.limits = target, limits
        self.forms, self.answer_limits = BatchForms(self.api, target), BatchAnswerLimits(target)
        self._sdk_module, self._base_error = sdk, base_error
        if transport.has_azure_version(target.base_url):
            raise UsageError(
                f"Batches go through Azure's v1 API, and the URL of {target.model} has an api-version.",
                "write the URL as https://RESOURCE.openai.azure.com/openai/v1, or leave --batch out",
            )
        self._key = keys.api_key(target)
        self._http = sdk.DefaultAsyncHttpxClient(trust_env=not keys.is_local(target.base_url), follow_redirects=False)

    @property
    @abstractmethod
    def _batches(self) -> Any:
        """The SDK's object for batches."""

    def use_memory(self, memory: EndpointMemory) -> None:
        """Remember there what the server takes, and go by what an earlier run has found."""
        self.forms.use_memory(memory)
        self.answer_limits.use_memory(memory)

    def line(self, custom_id: str, request: Request, form: RequestForm = MEANT) -> bytes:
        """The request as a line of a batch, in this form and without a line feed."""
        return json.dumps(self._line(custom_id, body_in(form, request, self.api.body_of, self.api.ways))).encode()

    @abstractmethod
    def _line(self, custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """A line of a batch, as JSON."""

    async def upload(self, lines: Path, intent: Intent) -> str:
        """Upload the lines before `create`, where the provider wants that; returns the file's id, else an empty
        string."""
        return ""

    @abstractmethod
    async def create(self, lines: Path, intent: Intent) -> str:
        """Create the batch; returns its id."""

    @abstractmethod
    async def find(self, intent: Intent, known: Set[str]) -> str | BatchSearch:
        """The id of the batch that an earlier `create` may have begun; not one of the `known` ids."""

    @abstractmethod
    async def state(self, batch: str) -> BatchState:
        """The state of a batch."""

    @abstractmethod
    def _results_files(self, batch: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The bytes of each file that holds results of an ended batch."""

    @abstractmethod
    def _outcome(self, line: dict[str, Any]) -> Reply:
        """The Reply in a line of results. Raises the error that the line holds instead."""

    async def newest(self) -> str:
        """The id of the newest batch, empty where there is none. Raises UsageError where there is no batch API."""
        try:
            with self._our_errors():
                page = await self._batches.list(limit=1)
            batches = getattr(page, "data", None)
        except (Rejected, Unavailable) as error:
            if error.status not in _ABSENT:
                raise
            batches = None
        if not isinstance(batches, list):
            raise UsageError(
                f"{self.target.base_url} has no batch API, so {self.target.model} cannot be asked in batches there.",
                "leave --batch out, or name a provider that has a batch API",
            )
        return str(batches[0].id) if batches else ""

    async def results(self, batch: str) -> AsyncGenerator[BatchResult]:
        """The results of the lines, in any order. Lines that cannot be read, or have no custom_id, are left out."""
        with self._our_errors():
            async with aclosing(self._results_files(batch)) as files:
                async for file in files:
                    async for line in lines_of(file):
                        custom_id = line.get("custom_id") if isinstance(line, dict) else None
                        if isinstance(custom_id, str):
                            yield BatchResult(custom_id, self._read(line))

    async def close(self) -> None:
        await self._http.aclose()

    def _read(self, line: dict[str, Any]) -> Reply | AskingError:
        try:
            return self._outcome(line)
        except AskingError as error:
            return error

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        """Turn the SDK's errors inside the block into ours."""
        import httpx2

        target, sdk = self.target, self._sdk_module
        try:
            yield
        except sdk.APIStatusError as error:
            body, headers = error.body if error.body is not None else error.response.text, error.response.headers
            raise refusals.status_error(target, error.status_code, body, headers) from None
        except (sdk.APIError, httpx2.HTTPError) as error:
            raise refusals.unreachable(target, str(error.__cause__ or error) or type(error).__name__) from None
        except self._base_error as error:
            raise Rejected(
                f"{target.model} at {target.base_url}: {redact(str(error), keys.key_for(target).value)}"
            ) from None


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """The JSON of each line; lines that are not JSON, or longer than an answer can be, are left out, and their requests
    count as missing."""
    rest: list[bytes] = []
    size = 0
    async for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        for part in whole:
            value = reading.json_or_none(b"".join((*rest, part))) if size <= reading.MOST_BYTES else None
            rest, size = [], 0
            if value is not None:
                yield value
        size += len(last)
        rest = [*rest, last] if size <= reading.MOST_BYTES else []
    value = reading.json_or_none(b"".join(rest))
    if value is not None:
        yield value


def expired(target: Target) -> Unavailable:
    """The error of a line whose batch expired first."""
    return Unavailable(f"{target.model}: the batch expired before this was asked", "run the same command again")


def cancelled(target: Target) -> Rejected:
    """The error of a line whose batch was cancelled."""
    return Rejected(
        f"{target.model}: the batch was cancelled at its provider before this was asked",
        "run the same command again to ask what is left",
    )
