"""What the two batch APIs have in common: the calls, the state of a batch, the result of each line.

The provider's SDK says how a call is signed; nothing is retried here. What comes back is read in bounded size and time,
and is taken as JSON of any shape: an id is one only where it can stand in a URL and in our records. Results are
read as bytes and split only at line feeds, since an answer may contain the other characters that Python or an HTTP
library takes for the end of a line.
"""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Set
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sotopia_rl_data.asking import reading, refusals, transport
from sotopia_rl_data.asking.batch.answer_limits import BatchAnswerLimits
from sotopia_rl_data.asking.batch.forms import BatchForms
from sotopia_rl_data.asking.batch.intent import Intent
from sotopia_rl_data.asking.forms import MEANT, RequestForm, body_in
from sotopia_rl_data.asking.memory import EndpointMemory
from sotopia_rl_data.errors import AskingError, Rejected, Unavailable, UsageError
from sotopia_rl_data.request import Reply, Request, Target

if TYPE_CHECKING:
    import aiohttp

_ABSENT = (404, 405, 501)  # statuses of a server without a batch API
_PATIENCE_S = 600.0  # the longest wait for an answer to begin, and between two pieces of it
_SLOWEST = 50_000  # bytes a second that a file takes at least, beside the patience
_MOST_RESULTS = 8 << 30  # bytes of one file of results, also unpacked: 80 kB for each line of the largest batch
_MOST_PAGES = 100  # of batches that are looked through for one
_PAGE = 100  # batches
_LONGEST_ID = 200  # characters
_LONGEST_ERROR = 20_000  # bytes of an answer that is not JSON that are looked at


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


class BatchClient(transport.ApiClient, ABC):
    """A provider's batch API at `target`. Its coroutines raise Unavailable where another try may help and Rejected
    where it cannot; nothing is retried here.

    `forms` finds the form of the requests, `answer_limits` the limits of their answers; `patience_s` is the longest
    wait for an answer to a call. Raises KeyMissing where there is no key."""

    batches: ClassVar[str]  # the path of the batches
    after: ClassVar[str]  # the parameter that says after which batch a page begins

    limits: BatchLimits  # the provider's own, unless others are given

    def __init__(self, target: Target, limits: BatchLimits | None = None) -> None:
        if transport.has_azure_version(target.base_url):
            raise UsageError(
                f"Batches go through Azure's v1 API, and the URL of {target.model} has an api-version.",
                "write the URL as https://RESOURCE.openai.azure.com/openai/v1, or leave --batch out",
            )
        super().__init__(target)
        self.limits, self.patience_s = limits or self.limits, _PATIENCE_S
        self.forms, self.answer_limits = BatchForms(self.api, target), BatchAnswerLimits(target)

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
            batches = (await self._ask("GET", self.batches, params={"limit": "1"})).get("data")
        except (Rejected, Unavailable) as error:
            if error.status not in _ABSENT:
                raise
            batches = None
        if not isinstance(batches, list):
            raise UsageError(
                f"{self.target.base_url} has no batch API, so {self.target.model} cannot be asked in batches there.",
                "leave --batch out, or name a provider that has a batch API",
            )
        return self._id(batches[0]) if batches else ""

    async def results(self, batch: str) -> AsyncGenerator[BatchResult]:
        """The results of the lines, in any order. Lines that cannot be read, or have no custom_id, are left out."""
        async with aclosing(self._results_files(batch)) as files:
            async for file in files:
                async for line in lines_of(file):
                    custom_id = line.get("custom_id") if isinstance(line, dict) else None
                    if isinstance(custom_id, str):
                        yield BatchResult(custom_id, self._read_line(line))

    def _read_line(self, line: dict[str, Any]) -> Reply | AskingError:
        try:
            return self._outcome(line)
        except AskingError as error:
            return error

    async def _listed(self) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """The server's batches with their ids, the newest first; a page that tells nothing new is the last. Raises
        Rejected where they do not end."""
        params, seen = {"limit": str(_PAGE)}, set[str]()
        for _ in range(_MOST_PAGES):
            page = await self._ask("GET", self.batches, params=params)
            batches = page.get("data")
            if not isinstance(batches, list):
                raise refusals.not_an_answer(self.target, page)
            known = len(seen)
            for batch in batches:
                params[self.after] = self._id(batch)
                seen.add(params[self.after])
                yield params[self.after], batch
            if len(seen) == known or page.get("has_more") is False:
                return
        raise Rejected(
            f"{self.target.base_url} lists more than {_MOST_PAGES * _PAGE:,} batches that are newer than ours",
            "look for the batch there, then run the same command again",
        )

    def _id(self, told: object, name: str = "id") -> str:
        """The id that an object has under this name. Raises Unavailable where it is none that can stand in a URL and in
        our records."""
        value = told.get(name) if isinstance(told, dict) else None
        if not (isinstance(value, str) and value.strip(".") and value.isprintable() and len(value) <= _LONGEST_ID):
            raise refusals.not_an_answer(self.target, told)
        return value

    async def _ask(self, method: str, path: str, size: int = 0, **sent: Any) -> dict[str, Any]:
        """The JSON object that answers a call of `size` bytes."""
        async with self._called(method, path, size, **sent) as response:
            raw = await self._body(response)
        told = reading.json_or_none(raw)
        if not isinstance(told, dict):
            raise refusals.not_an_answer(self.target, _text(raw) if told is None else told)
        return told

    @asynccontextmanager
    async def _called(
        self, method: str, path: str, size: int = 0, **sent: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a call of `size` bytes, with its body still to be read. Raises what its status means."""
        import aiohttp

        self._session = self._session or self._opened()
        url = transport.with_path(self.target.base_url, path)
        timeout = aiohttp.ClientTimeout(sock_connect=transport.CONNECT_S, sock_read=self.patience_s)
        with self._our_errors():
            async with asyncio.timeout(self.patience_s + size / _SLOWEST):
                response = await self._session.request(method, url, allow_redirects=False, timeout=timeout, **sent)
        async with response:
            if response.status >= 300:
                raw = await self._body(response)
                told = reading.json_or_none(raw)
                told = refusals.page_text(_text(raw)) if told is None else told
                raise refusals.status_error(self.target, response.status, told, response.headers)
            yield response

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """All of a short answer, unpacked."""
        return reading.unpacked(b"".join([piece async for piece in self._pieces(response, reading.MOST_BYTES)]))

    async def _pieces(self, response: aiohttp.ClientResponse, most_bytes: int = _MOST_RESULTS) -> AsyncGenerator[bytes]:
        """The body of a response. Raises Unavailable where it has more bytes, or is waited for too long."""
        waited, size = 0.0, 0
        pieces = response.content.iter_any()
        with self._our_errors():
            while True:
                began = time.monotonic()
                piece = await anext(pieces, b"")
                waited += time.monotonic() - began
                size += len(piece)
                if size > most_bytes:
                    raise refusals.not_an_answer(self.target, f"more than {most_bytes >> 20:,} MiB")
                if waited > self.patience_s + size / _SLOWEST:
                    raise TimeoutError("its answer comes too slowly")
                if not piece:
                    return
                yield piece

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        """Turn what goes wrong on the way into our errors."""
        import aiohttp

        try:
            yield
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise refusals.unreachable(self.target, transport.reason_of(error), sent) from None


def _text(raw: bytes) -> str:
    return raw[:_LONGEST_ERROR].decode(errors="replace")


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
        rest.append(last)
        if size > reading.MOST_BYTES:
            rest.clear()
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
