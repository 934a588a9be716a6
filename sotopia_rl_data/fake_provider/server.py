"""The loopback provider itself, on aiohttp's low-level server: fast enough for 1,500 requests a second on one core."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web

from sotopia_rl_data.costs.tokens import PrefixCache
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.fake_provider import answers
from sotopia_rl_data.fake_provider.answers import ParsedRequest, RequestRefused, WireProtocol
from sotopia_rl_data.fake_provider.anthropic import AnthropicBatchApi, AnthropicProtocol
from sotopia_rl_data.fake_provider.batches import BatchServer
from sotopia_rl_data.fake_provider.habits import HABITS
from sotopia_rl_data.fake_provider.habits.call import Call, Response
from sotopia_rl_data.fake_provider.openai import OpenAIBatchApi, OpenAIProtocol
from sotopia_rl_data.fake_provider.running import ProviderOptions

_BatchApi = type[OpenAIBatchApi | AnthropicBatchApi]
_PROTOCOLS: dict[str, type[WireProtocol]] = {
    protocol.path: protocol for protocol in (OpenAIProtocol, AnthropicProtocol)
}
_QUESTION = ("model", "messages", "system", "response_format", "output_config", "prompt_cache_key")
_JSON = {"Content-Type": "application/json"}
_LARGEST = 300_000_000  # bytes of a request
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)  # what parsing raises
_BROKEN = (500, 502, 503, 0)  # 0: the connection is closed without a response


class Provider:
    """One server's state. `handle` answers every request. Raises UsageError for an unknown habit."""

    def __init__(self, options: ProviderOptions) -> None:
        if options.habit and options.habit not in HABITS:
            raise UsageError(f"There is no habit {options.habit!r}.", f"choose from {', '.join(HABITS)}")
        self._options = options
        self._habit = HABITS[options.habit] if options.habit else None
        self._calls = 0  # that met the habit
        self._cache = PrefixCache() if options.cache else PrefixCache(kept=0)
        self._batches = BatchServer(options, self._answer_line)
        self._received: Counter[bytes] = Counter()  # how often each body came, by its hash
        self._completed: Counter[bytes] = Counter()
        self._statuses: Counter[int] = Counter()
        self._usage: Counter[str] = Counter()
        self._parameters: list[dict[str, Any]] = []
        self._in_flight = self._most_in_flight = 0
        self._saved = max(1.0, options.limit * options.burst)
        self._saved_at = time.monotonic()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = _PROTOCOLS.get(request.path)
        if protocol is None:
            return await self._other(request)
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            return await self._complete(request, protocol)
        except RequestRefused as refused:
            return self._refusal(request, protocol, refused)
        finally:
            self._in_flight -= 1

    def _refusal(self, request: web.BaseRequest, protocol: type[WireProtocol], refused: RequestRefused) -> web.Response:
        self._statuses[refused.status] += 1
        headers = _JSON
        if refused.status == 429 and self._options.retry_after:
            headers = _JSON | {"Retry-After": f"{self._options.retry_after:g}"}
        headers = headers | dict(refused.headers)
        if refused.status == 0 and request.transport is not None:
            request.transport.close()
        body = json.dumps(protocol.error(refused)).encode()
        return web.Response(status=refused.status or 500, body=body, headers=headers)

    async def _complete(self, request: web.BaseRequest, protocol: type[WireProtocol]) -> web.StreamResponse:
        raw = await request.read()
        self._check_key(request)
        name = hashlib.blake2b(raw, digest_size=16).digest()
        self._received[name] += 1
        self._check_limit()
        await self._meet_fault(answers.draw(self._options.seed, name.hex(), self._received[name]))
        body, parsed = self._parse(protocol, raw)
        if self._options.latency:
            await asyncio.sleep(self._options.latency)
        response = self._respond(protocol, name, body, parsed, request.headers)
        await asyncio.sleep(response.after)
        sent = response.body if isinstance(response.body, bytes) else json.dumps(response.body).encode()
        headers = _JSON | dict(response.headers)
        if not response.drip:
            return web.Response(status=response.status, body=sent, headers=headers)
        dripping = web.StreamResponse(status=response.status, headers=headers)
        await dripping.prepare(request)
        for place in range(len(sent)):
            await asyncio.sleep(response.drip)
            await dripping.write(sent[place : place + 1])
        return dripping

    def _answer_line(self, protocol: type[WireProtocol], body: dict[str, Any]) -> Response:
        """The response to a line of a batch; counted together with the same request sent live. Raises
        RequestRefused."""
        raw = json.dumps(body, separators=(",", ":")).encode()
        name = hashlib.blake2b(raw, digest_size=16).digest()
        self._received[name] += 1
        return self._respond(protocol, name, *self._parse(protocol, raw), {})

    def _parse(self, protocol: type[WireProtocol], raw: bytes) -> tuple[dict[str, Any], ParsedRequest | RequestRefused]:
        """The request's JSON, and what the protocol makes of it. Raises RequestRefused where it is not JSON."""
        try:
            body = json.loads(raw)
            parameters = {name: value for name, value in body.items() if name not in _QUESTION}
            if parameters not in self._parameters:
                self._parameters.append(parameters)
        except _UNREADABLE as error:
            raise RequestRefused(400, f"The request is not understood: {error!r}") from None
        try:
            return body, protocol.parse(body, self._options, self._cache)
        except RequestRefused as refused:
            return body, refused
        except _UNREADABLE as error:
            return body, RequestRefused(400, f"The request is not understood: {error!r}")

    def _respond(
        self,
        protocol: type[WireProtocol],
        name: bytes,
        body: dict[str, Any],
        parsed: ParsedRequest | RequestRefused,
        headers: Mapping[str, str],
    ) -> Response:
        """The habit's response, else the reply. Raises RequestRefused."""
        complete = partial(self._reply, protocol, name, parsed)
        if self._habit is None:
            return Response(complete())
        self._calls += 1
        return self._habit(Call(protocol, body, self._calls, headers, complete)) or Response(complete())

    def _reply(
        self, protocol: type[WireProtocol], name: bytes, request: ParsedRequest | RequestRefused
    ) -> dict[str, Any]:
        """Make the reply and count it. Raises what the request was refused with."""
        if isinstance(request, RequestRefused):
            raise request
        completion = answers.complete(request, self._options)
        self._cache.learn(request.model, request.tokens)
        self._completed[name] += 1
        self._statuses[200] += 1
        self._usage["input"] += request.tokens.input
        self._usage["cached"] += request.tokens.read
        self._usage["written"] += request.tokens.written
        self._usage["output"] += completion.output
        return protocol.reply(request, completion, self._statuses[200])

    def _check_key(self, request: web.BaseRequest) -> None:
        if self._options.refuse:
            raise RequestRefused(self._options.refuse, f"status {self._options.refuse}, as --refuse says")
        if not self._options.key:
            return
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.headers.get("x-api-key", "")
        if sent != self._options.key:
            raise RequestRefused(401, f"Incorrect API key provided: {sent}. You can find yours in your account.")

    def _check_limit(self) -> None:
        limit = self._options.limit
        if not limit:
            return
        now = time.monotonic()
        self._saved = min(max(1.0, limit * self._options.burst), self._saved + (now - self._saved_at) * limit)
        self._saved_at = now
        if self._saved < 1:
            raise RequestRefused(429, f"Rate limit reached: {limit:g} requests per second.")
        self._saved -= 1

    async def _meet_fault(self, number: int) -> None:
        options, drawn = self._options, answers.share(number)
        if drawn < options.throttled:
            raise RequestRefused(429, "Rate limit reached.")
        drawn -= options.throttled
        if drawn < options.broken:
            status = _BROKEN[number % len(_BROKEN)]
            raise RequestRefused(status, "The server had an error.")
        drawn -= options.broken
        if drawn < options.hanging:
            await asyncio.sleep(options.hang)
            raise RequestRefused(504, "The upstream request timed out.")

    async def _batch(self, request: web.BaseRequest, api: _BatchApi) -> web.StreamResponse:
        """A batch API's answer: JSON, or a file as a stream."""
        try:
            self._check_key(request)
            body = await api.answer(self._batches, request.clone(client_max_size=_LARGEST))
        except RequestRefused as refused:
            return self._refusal(request, api.protocol, refused)
        except _UNREADABLE as error:
            unreadable = RequestRefused(400, f"The request is not understood: {error!r}")
            return self._refusal(request, api.protocol, unreadable)
        if isinstance(body, dict):
            return web.Response(body=json.dumps(body).encode(), headers=_JSON)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        async for part in body:
            await response.write(part)
        await response.write_eof()
        return response

    async def _other(self, request: web.BaseRequest) -> web.StreamResponse:
        for api in (OpenAIBatchApi, AnthropicBatchApi) if self._options.batches else ():
            if request.path.startswith(api.paths):
                return await self._batch(request, api)
        if request.path == "/__log__":
            return web.Response(body=json.dumps(self.log()).encode(), headers=_JSON)
        if request.path == "/__hurry__":
            self._batches.hurry()
            return web.Response(body=b"{}", headers=_JSON)
        if request.path == "/v1/models":
            return web.Response(body=b'{"object": "list", "data": []}', headers=_JSON)
        return web.Response(status=404, body=b'{"error": {"message": "Not found"}}', headers=_JSON)

    def log(self) -> dict[str, Any]:
        """Counts since the start. `repeated` counts requests whose body was sent before, `paid_twice` answers to bodies
        that were answered before; `parameters` has what requests said besides the question, each once."""
        return {
            "requests": sum(self._received.values()),
            "distinct": len(self._received),
            "repeated": sum(self._received.values()) - len(self._received),
            "answered": self._statuses[200],
            "answered_distinct": len(self._completed),
            "paid_twice": self._statuses[200] - len(self._completed),
            "statuses": {str(status): count for status, count in sorted(self._statuses.items())},
            "in_flight": self._in_flight,
            "most_in_flight": self._most_in_flight,
            "usage": dict(self._usage),
            "parameters": self._parameters,
            "batch": self._batches.log(),
        }


class Providers:
    """One Provider for each habit that is played on this server, and one for all other paths."""

    def __init__(self, options: ProviderOptions) -> None:
        self._options = options
        self._main = Provider(options)
        self._playing: dict[str, Provider] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer under `/NAME` as the habit NAME says, elsewhere as the options say."""
        name, _, rest = request.path[1:].partition("/")
        if name not in HABITS:
            return await self._main.handle(request)
        if name not in self._playing:
            self._playing[name] = Provider(replace(self._options, habit=name))
        return await self._playing[name].handle(
            request.clone(rel_url=request.rel_url.with_path(f"/{rest}", keep_query=True))
        )


async def serve(options: ProviderOptions) -> None:
    """Serve until SIGTERM or SIGINT; prints READY and the URL once it listens, and on stderr how judges there are
    named. Raises UsageError for a taken port."""
    runner = web.ServerRunner(web.Server(Providers(options).handle, access_log=None), shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port, backlog=4_096)
    try:
        await site.start()
    except OSError as error:
        raise UsageError(
            f"Port {options.port} cannot be used: {error.strerror}.", "name another port, or --port 0 for a free one"
        ) from error
    port = runner.addresses[0][1]
    url = f"http://{options.host}:{port}"
    print(f"READY {url}", flush=True)
    print(f"judges here: openai:any@{url}/v1, anthropic:any@{url}", file=sys.stderr, flush=True)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    await runner.cleanup()
