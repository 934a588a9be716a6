"""What the two batch APIs have in common: how a batch stands, what came of each line, what an error means.

A provider's SDK says how it is spoken to, and retries nothing. Results are read as bytes and split at line feeds
alone: what else Python or an HTTP library takes for the end of a line can stand inside an answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from sotopia_rl_data.asking import transport
from sotopia_rl_data.asking.batch.intent import Intent
from sotopia_rl_data.errors import AskingError, Rejected, Unavailable, UsageError
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.secrets import redact

_ABSENT = (404, 405, 501)  # how a server says that it has no such API


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one batch may hold."""

    requests: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class State:
    """How a batch stands. `done` of its requests are through. `refused`: none of them was begun, and why; `full`: the
    reason is that too many others are under way. `cancelled`: somebody ended it; what it has is there."""

    ended: bool
    done: int = 0
    cancelled: bool = False
    refused: AskingError | None = None
    full: bool = False


class Trace(Enum):
    """What is known of a batch that has no id yet: there is none, or it cannot be told yet."""

    NONE = "none"
    PERHAPS = "perhaps"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of the line `custom_id`: a Reply, or why there is none."""

    custom_id: str
    outcome: Reply | AskingError


class BatchClient(Protocol):
    """A provider's batch API. Everything but `line` and `weaken` raises Unavailable where asking again may help and
    Rejected where it cannot; nothing is retried here."""

    target: Target
    limits: Limits
    way: int

    def line(self, custom_id: str, request: Request) -> bytes:
        """The request as a line of a batch, without a line feed."""
        ...

    def weaken(self, error: Rejected, way: int) -> bool:
        """Ask for the answer's form in a weaker way from now on, where the error of a line that was written in this way
        is about that form. False where it is not, or there is no weaker way."""
        ...

    async def newest(self) -> str:
        """The id of the newest batch, empty where there is none. Raises UsageError where there is no batch API."""
        ...

    async def upload(self, lines: Path, intent: Intent) -> str:
        """Hand the lines in ahead of `create`, where the provider wants that; the file's id, else empty."""
        ...

    async def create(self, lines: Path, intent: Intent) -> str:
        """Begin the batch; its id."""
        ...

    async def find(self, intent: Intent, known: Set[str]) -> str | Trace:
        """The id of the batch that an earlier `create` may have begun. It is none of the `known` ones."""
        ...

    async def state(self, batch: str) -> State: ...

    def results(self, batch: str) -> AsyncGenerator[Result]:
        """What came of the lines, in any order. Lines that cannot be read are left out."""
        ...

    async def close(self) -> None: ...


@contextmanager
def speaking(target: Target, variable: str, sdk: Any, base: type[Exception]) -> Iterator[None]:
    """Turn what an SDK raises inside the block into our errors. `variable` holds the key, `base` is all its errors'."""
    import httpx2

    try:
        yield
    except sdk.APIStatusError as error:
        body = error.body if error.body is not None else error.response.text
        raise transport.status_error(target, error.status_code, body, error.response.headers, variable) from None
    except (sdk.APIError, httpx2.HTTPError) as error:
        reason = str(error.__cause__ or error) or type(error).__name__
        raise Unavailable(
            redact(f"{target.model} at {target.base_url} cannot be reached: {reason}"),
            "check the URL and that the server runs, then run the same command again",
        ) from None
    except base as error:
        raise Rejected(f"{target.model} at {target.base_url}: {redact(str(error))}") from None


@contextmanager
def probing(target: Target) -> Iterator[None]:
    """Turn "not found" inside the block into the news that there is no batch API."""
    try:
        yield
    except (Rejected, Unavailable) as error:
        if error.status in _ABSENT:
            raise no_batches(target) from None
        raise


def no_batches(target: Target) -> UsageError:
    """The error for a server without a batch API."""
    return UsageError(
        f"{target.base_url} has no batch API, so {target.model} cannot be asked in batches there.",
        "leave --batch out, or name a provider that has one",
    )


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """The JSON of each line; lines that are none are left out, and count as missing."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            value = _parsed(line)
            if value is not None:
                yield value
    value = _parsed(rest)
    if value is not None:
        yield value


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def expired(target: Target) -> Unavailable:
    """The error of a line that its batch had no time for."""
    return Unavailable(f"{target.model}: the batch expired before this was asked", "run the same command again")


def cancelled(target: Target) -> Rejected:
    """The error of a line whose batch was cancelled."""
    return Rejected(
        f"{target.model}: the batch was cancelled at its provider before this was asked",
        "run the same command again to ask what is left",
    )
