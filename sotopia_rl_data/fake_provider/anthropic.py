"""Anthropic as the loopback provider plays it: messages and message batches, with Anthropic's own rules."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, get_args

from aiohttp import web

from sotopia_rl_data.costs.tokens import PrefixCache, anthropic_parts
from sotopia_rl_data.fake_provider.answers import Completion, ParsedRequest, RequestRefused
from sotopia_rl_data.fake_provider.batches import Batch, BatchServer, Kind, LineResult
from sotopia_rl_data.fake_provider.running import ProviderOptions

_MOST_LINES, _MOST_BYTES = 100_000, 256_000_000  # limits of one batch
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MARKS = 4  # most blocks with a cache marker in one request
_STOPS = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal"}
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class AnthropicProtocol:
    """POST /v1/messages."""

    path = "/v1/messages"

    @staticmethod
    def parse(data: dict[str, Any], options: ProviderOptions, cache: PrefixCache) -> ParsedRequest:
        """Raises RequestRefused for what Anthropic would not take."""
        if "max_tokens" not in data:
            raise RequestRefused(400, "max_tokens: Field required")
        for message in data["messages"]:
            if message["role"] not in ("user", "assistant"):
                raise RequestRefused(400, f"messages: Unexpected role {message['role']!r}")
        parts = anthropic_parts(data, None)
        if len([text for text, marked in parts if marked]) > _MARKS:
            raise RequestRefused(400, f"A maximum of {_MARKS} blocks with cache_control may be provided.")
        schema = ((data.get("output_config") or {}).get("format") or {}).get("schema")
        if schema is not None and "json_schema" not in options.formats:
            raise RequestRefused(400, "output_config: Extra inputs are not permitted")
        prompt = b"\x1e".join(text for text, _ in parts).decode()
        if schema is not None and options.schema_in_prefix:
            parts = anthropic_parts(data, schema)
        return ParsedRequest(data["model"], prompt, schema, data["max_tokens"], cache.marked(data["model"], parts))

    @staticmethod
    def reply(request: ParsedRequest, completion: Completion, number: int) -> dict[str, Any]:
        tokens = request.tokens
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": completion.model,
            "content": [{"type": "text", "text": completion.text}] if completion.text else [],
            "stop_reason": _STOPS[completion.stop],
            "stop_sequence": None,
            "usage": {
                "input_tokens": tokens.input - tokens.read - tokens.written,
                "cache_creation_input_tokens": tokens.written,
                "cache_read_input_tokens": tokens.read,
                "output_tokens": completion.output,
            },
        }

    @staticmethod
    def error(refused: RequestRefused) -> dict[str, Any]:
        kind = refused.kind or _TYPES.get(refused.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": refused.message}}

    @staticmethod
    def text_of(reply: dict[str, Any]) -> str:
        return "".join(block["text"] for block in reply["content"])

    @staticmethod
    def set_text(reply: dict[str, Any], text: str) -> None:
        reply["content"] = [{"type": "text", "text": text}]

    @staticmethod
    def set_finish(reply: dict[str, Any], finish: str) -> None:
        reply["stop_reason"] = _STOPS.get(finish, finish)


class AnthropicBatchApi:
    """/v1/messages/batches."""

    protocol = AnthropicProtocol
    paths = ("/v1/messages/batches",)

    @staticmethod
    async def answer(server: BatchServer, request: web.BaseRequest) -> dict[str, Any] | AsyncIterator[bytes]:
        """The body of the answer: JSON, or a file's bytes. Raises RequestRefused."""
        match request.method, request.path.strip("/").split("/")[3:]:
            case "POST", []:
                return await _create(server, await request.read())
            case "GET", []:
                await server.reach("list")
                return server.page(request.query, "after_id", "msgbatch_", _batch_json)
            case "GET", [name]:
                await server.reach("poll")
                return _batch_json(server, server.known(name))
            case "POST", [name, "cancel"]:
                server.known(name).cancel()
                return _batch_json(server, server.known(name))
            case "GET", [name, "results"]:
                batch = server.known(name)
                if batch.ended is None:
                    raise RequestRefused(404, "The batch has no results yet.")
                return server.stream(
                    server.scattered(batch, batch.lines, _bare_line if server.told == "bare" else _result_line)
                )
        raise RequestRefused(404, "Not found")


async def _create(server: BatchServer, raw: bytes) -> dict[str, Any]:
    await server.reach("create")
    if len(raw) > _MOST_BYTES:
        raise RequestRefused(413, "Request exceeds the maximum size")
    requests = [(entry["custom_id"], entry["params"]) for entry in json.loads(raw)["requests"]]
    ids = {custom_id for custom_id, _ in requests}
    if not requests or len(requests) > _MOST_LINES:
        raise RequestRefused(400, f"requests: List should have 1 to {_MOST_LINES} items")
    if len(ids) < len(requests) or not all(map(_CUSTOM_ID.fullmatch, ids)):
        raise RequestRefused(400, "requests: custom_id must be unique and match ^[a-zA-Z0-9_-]{1,64}$")
    batch = server.begin(Batch(server.name("msgbatch"), requests), AnthropicProtocol)
    await server.reach("created")
    return _batch_json(server, batch)


def _batch_json(server: BatchServer, batch: Batch) -> dict[str, Any]:
    counts = {kind: batch.count(kind) if batch.ended else 0 for kind in get_args(Kind)}
    status = "canceling" if batch.cancelling else "in_progress"
    body = {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if batch.ended else status,
        "request_counts": counts | {"processing": 0 if batch.ended else len(batch.requests)},
        "created_at": _date(batch.created),
        "expires_at": _date(batch.created + 86_400),
        "ended_at": _date(batch.ended) if batch.ended else None,
        "cancel_initiated_at": _date(batch.created) if batch.cancelling else None,
        "archived_at": None,
        "results_url": f"/v1/messages/batches/{batch.id}/results" if batch.ended else None,
    }
    if server.told == "loud" and batch.ended:
        body["processing_status"] = "SUCCESS"
    if server.told == "bare":
        del body["request_counts"]
    return body


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _result_line(line: LineResult) -> bytes:
    result: dict[str, Any] = {"type": line.kind}
    if line.kind == "succeeded":
        result["message"] = line.body
    elif line.kind == "errored":
        result["error"] = line.body
    return json.dumps({"custom_id": line.custom_id, "result": result}, ensure_ascii=False).encode() + b"\n"


def _bare_line(line: LineResult) -> bytes:
    """The result with nothing but its id and its message."""
    return json.dumps({"custom_id": line.custom_id, "result": {"message": line.body}}).encode() + b"\n"
