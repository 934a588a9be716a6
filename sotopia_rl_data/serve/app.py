"""The endpoints of a reward server: its own, and those that other programs ask.

    POST /score        prompts and completions, as texts or messages; rewards, and each target's
    POST /get_reward   as OpenRLHF asks its remote reward model
    POST /classify     as vLLM answers for a sequence classifier: texts in the model's own chat template
    GET  /health       whether it serves, and which model
    GET  /metrics      for Prometheus

An error is {"error": sentence, "hint": sentence}. `/docs` and `/openapi.json` describe all of it.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import chain
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import AfterValidator, BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as PlainHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sotopia_rl_data.code import code
from sotopia_rl_data.errors import AskingError, BudgetSpent, SotopiaDataError, Unavailable
from sotopia_rl_data.json_objects import storable
from sotopia_rl_data.serve.scoring import BatchedScoring, Full
from sotopia_rl_data.serve.sources import RewardSource
from sotopia_rl_data.store.columns import first_line

MOST_BYTES = 32 << 20  # of a request
MOST_COMPLETIONS = 4_096  # of a request
_OPEN = ("/health", "/metrics", "/docs", "/openapi.json")  # without a token


Text = Annotated[str, AfterValidator(storable)]
"""A text of a request. JSON may have half a character in it (U+D800), which no tokenizer and no ledger can take."""


class ChatMessage(BaseModel):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Text


class ScoreItem(BaseModel):
    """A completion as the answer to a prompt; each a text or a list of messages."""

    prompt: Text | list[ChatMessage]
    completion: Text | list[ChatMessage]


class ScoreRequest(BaseModel):
    """What /score takes."""

    items: list[ScoreItem] = Field(min_length=1, max_length=MOST_COMPLETIONS)


class ScoreResponse(BaseModel):
    """What /score answers: a reward for each item, in the units that the model was trained in, and each target's; null
    where a judge's answer cannot be used."""

    model: str
    rewards: list[float | None]
    components: dict[str, list[float | None]]


class RemoteRewardRequest(BaseModel):
    """What OpenRLHF sends: each query is a prompt with its completion, as one text."""

    query: list[Text] = Field(min_length=1, max_length=MOST_COMPLETIONS)
    prompts: list[Text]
    labels: list[Any] | None = None


class RemoteRewardResponse(BaseModel):
    """What OpenRLHF reads."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class ClassifyRequest(BaseModel):
    """What vLLM's /classify takes: texts that are rendered already."""

    input: Text | list[Text]
    model: str | None = None


class Classified(BaseModel):
    """One text's rewards, in the place of vLLM's probabilities."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class ClassifyResponse(BaseModel):
    """What vLLM's /classify answers."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Classified]


def reward_app(
    source: RewardSource, *, token: str | None = None, batch: int | None = None, most_waiting: int = 4_096
) -> FastAPI:
    """The application that serves `source`. Where there is a `token`, a request needs it: `Authorization: Bearer …`."""
    scoring = BatchedScoring(source.score, batch=batch or source.batch, most_waiting=most_waiting)
    measured = _Measures(scoring)

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(scoring.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    app = FastAPI(title="sotopia_rl_data reward server", version=str(code()["version"]), lifespan=living)
    paths = ("/score", "/get_reward", "/classify", *_OPEN)
    app.add_middleware(_Door, token=token, measured=measured, paths=paths)
    _add_errors(app)

    async def rewards_of(items: Sequence[ScoreItem]) -> tuple[list[float], dict[str, list[float]]]:
        pairs = [(_text(item.prompt), _text(item.completion)) for item in items]
        scores = await scoring.score(pairs)
        return source.aggregate(scores).tolist(), dict(zip(source.targets, scores.T.tolist(), strict=True))

    @app.post("/score")
    async def score(asked: ScoreRequest) -> ScoreResponse:
        """The reward of each completion as the answer to its prompt."""
        rewards, components = await rewards_of(asked.items)
        by_target = {name: _or_null(values) for name, values in components.items()}
        return ScoreResponse(model=source.identity, rewards=_or_null(rewards), components=by_target)

    @app.post("/get_reward")
    async def get_reward(asked: RemoteRewardRequest) -> RemoteRewardResponse:
        """The rewards of OpenRLHF's queries: what follows the prompt in each is its completion."""
        if len(asked.prompts) != len(asked.query):
            raise _Refused(422, "There is not one prompt for each query.", "send as many prompts as queries")
        items = []
        for query, prompt in zip(asked.query, asked.prompts, strict=True):
            if not query.startswith(prompt):
                raise _Refused(422, "A query does not begin with its prompt.", "send the prompts of the queries")
            items.append(ScoreItem(prompt=prompt, completion=query.removeprefix(prompt)))
        rewards, components = await rewards_of(items)
        if any(map(math.isnan, chain(rewards, *components.values()))):  # OpenRLHF has no word for it
            said = "The judge's answer about one of these queries cannot be used, so it has no reward."
            raise _Refused(502, said, "ask /score, which answers null there")
        return RemoteRewardResponse(rewards=rewards, scores=rewards, extra_logs=components)

    @app.post("/classify")
    async def classify(asked: ClassifyRequest) -> ClassifyResponse:
        """The rewards of texts that are whole dialogues in the model's own chat template."""
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not 0 < len(texts) <= MOST_COMPLETIONS:
            raise _Refused(422, f"There are {len(texts)} texts in it.", f"send from 1 to {MOST_COMPLETIONS:,}")
        scores = await scoring.score(texts)
        label = source.targets[0]
        data = [
            Classified(index=i, label=label, probs=row, num_classes=len(row)) for i, row in enumerate(scores.tolist())
        ]
        return ClassifyResponse(
            id=f"classify-{uuid.uuid4().hex}", created=int(time.time()), model=source.identity, data=data
        )

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server is up, and what it serves."""
        known = {"model": source.identity, "targets": list(source.targets)}
        return {"status": "ok", **known, "waiting": scoring.waiting}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        return Response(measured.text(), media_type=CONTENT_TYPE_LATEST)

    return app


def _or_null(rewards: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(reward) else reward for reward in rewards]


class _Measures:
    """What /metrics shows."""

    def __init__(self, scoring: BatchedScoring) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("requests", "Requests by path and status", ["path", "status"], registry=self._registry)
        self.seconds = Histogram("request_seconds", "Seconds of a request", ["path"], registry=self._registry)
        waiting = Gauge("completions_waiting", "Completions that wait to be scored", registry=self._registry)
        waiting.set_function(lambda: scoring.waiting)
        scored = Gauge("completions_scored", "Completions that were scored", registry=self._registry)
        scored.set_function(lambda: scoring.scored)

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        return generate_latest(self._registry)


class _Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, message: str, hint: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.hint, self.headers = status, message, hint, headers or {}

    def response(self) -> JSONResponse:
        """What the client gets."""
        return JSONResponse({"error": self.message, "hint": self.hint}, self.status, self.headers)


def _add_errors(app: FastAPI) -> None:
    """Answer each error with its sentence, its hint and a status."""

    @app.exception_handler(_Refused)
    async def refused(request: Request, error: _Refused) -> JSONResponse:
        return error.response()

    @app.exception_handler(SotopiaDataError)
    async def unusable(request: Request, error: SotopiaDataError) -> JSONResponse:
        return _Refused(422, error.message, error.hint).response()

    @app.exception_handler(AskingError)
    async def unasked(request: Request, error: AskingError) -> JSONResponse:
        status = 402 if isinstance(error, BudgetSpent) else 503 if isinstance(error, Unavailable) else 502
        return _Refused(status, error.message, error.hint).response()

    @app.exception_handler(Full)
    async def full(request: Request, error: Full) -> JSONResponse:
        seconds = max(1, math.ceil(error.seconds))
        message = "The server has as many completions waiting as it takes."
        return _Refused(429, message, f"ask again in {seconds} s", {"Retry-After": str(seconds)}).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:] if first["type"] != "json_invalid") or "the body"
        return _Refused(422, f"{place}: {first['msg']}.", "see /docs for what is taken").response()

    @app.exception_handler(PlainHTTPException)
    async def other(request: Request, error: PlainHTTPException) -> JSONResponse:
        return _Refused(error.status_code, f"{error.detail}.", "see /docs for the endpoints").response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return _Refused(500, f"The model failed: {first_line(error)}.", "see the log of the server").response()


class _Door:
    """What every request passes first: the token, the bound of its body; and its count and time are kept."""

    def __init__(self, app: ASGIApp, token: str | None, measured: _Measures, paths: Sequence[str]) -> None:
        self._app, self._token, self._measured, self._paths = app, token, measured, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            self._check_token(scope)
            await _while_there(self._app, scope, await _body(scope, receive), receive, noted)
        except _Refused as refused:
            await refused.response()(scope, receive, noted)
        except Exception:
            status = 500  # it is answered outside of here
            raise
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._measured.requests.labels(path, str(status)).inc()
            self._measured.seconds.labels(path).observe(time.monotonic() - began)

    def _check_token(self, scope: Scope) -> None:
        """Raises _Refused where a token is needed and another one, or none, is given."""
        if self._token is None or scope["path"] in _OPEN:
            return
        given = Headers(scope=scope).get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise _Refused(401, "The token is missing or wrong.", "send the header Authorization: Bearer TOKEN")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises _Refused where it is too large, without reading the rest."""
    told = Headers(scope=scope).get("content-length", "0")
    parts, size = [], int(told) if told.isdigit() else 0
    if size <= MOST_BYTES:
        size, more = 0, True
        while more and size <= MOST_BYTES:
            message = await receive()
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
    if size > MOST_BYTES:
        said = f"The request has more than {MOST_BYTES:,} bytes."
        raise _Refused(413, said, "send fewer items in a request", {"Connection": "close"})
    return b"".join(parts)


async def _while_there(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Let the application answer a request whose body was read already, and end it where the client leaves."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def left() -> Message:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message

    leaving = asyncio.create_task(left())

    async def replayed() -> Message:
        return waiting.pop() if waiting else await asyncio.shield(leaving)

    answering = asyncio.ensure_future(app(scope, replayed, send))
    await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
    answering.cancel()
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await answering


def _text(given: str | list[ChatMessage]) -> Any:
    return given if isinstance(given, str) else [message.model_dump() for message in given]
