"""OpenAI as the loopback provider plays it: chat completions, files, and batches over them, with OpenAI's own rules."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from sotopia_rl_data.costs.tokens import PrefixCache, openai_prompt
from sotopia_rl_data.fake_provider.answers import Completion, ParsedRequest, RequestRefused
from sotopia_rl_data.fake_provider.batches import Batch, BatchServer, Kind, LineResult
from sotopia_rl_data.fake_provider.running import ProviderOptions

_MOST_LINES, _MOST_BYTES = 50_000, 200_000_000  # limits of one batch
_KEYS, _KEY, _VALUE = 16, 64, 512  # most keys in a batch's metadata, and the greatest lengths of a key and of a value
# how often a batch that has ended is looked at before it names its files, by how batches are told
_LATE = {"late": 2, "never": math.inf}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class OpenAIProtocol:
    """POST /v1/chat/completions."""

    path = "/v1/chat/completions"

    @staticmethod
    def parse(data: dict[str, Any], options: ProviderOptions, cache: PrefixCache) -> ParsedRequest:
        """Raises RequestRefused for what OpenAI would not take."""
        schema = _schema(data.get("response_format"), options)
        prompt = openai_prompt(data["messages"], schema if options.schema_in_prefix else None)
        limit = data.get("max_completion_tokens") or data.get("max_tokens")
        text = prompt.partition(b"\x1d")[2].decode()  # the messages alone: the schema stands before them
        return ParsedRequest(data["model"], text, schema, limit, cache.blocks(data["model"], prompt))

    @staticmethod
    def reply(request: ParsedRequest, completion: Completion, number: int) -> dict[str, Any]:
        refused = completion.stop == "refusal"
        message = {
            "role": "assistant",
            "content": None if refused else completion.text,
            "refusal": completion.text if refused else None,
        }
        finish = "length" if completion.stop == "length" else "stop"
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": completion.model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": request.tokens.input,
                "completion_tokens": completion.output,
                "total_tokens": request.tokens.input + completion.output,
                "prompt_tokens_details": {"cached_tokens": request.tokens.read},
            },
        }

    @staticmethod
    def error(refused: RequestRefused) -> dict[str, Any]:
        code = refused.code or _CODES.get(refused.status)
        kind = refused.kind or "error"
        return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": code}}

    @staticmethod
    def text_of(reply: dict[str, Any]) -> str:
        return str(reply["choices"][0]["message"]["content"] or "")

    @staticmethod
    def set_text(reply: dict[str, Any], text: str) -> None:
        reply["choices"][0]["message"]["content"] = text

    @staticmethod
    def set_finish(reply: dict[str, Any], finish: str) -> None:
        reply["choices"][0]["finish_reason"] = finish


def _schema(response_format: Mapping[str, Any] | None, options: ProviderOptions) -> dict[str, Any] | None:
    if response_format is None or response_format["type"] == "text":
        return None
    if response_format["type"] not in options.formats.split(","):
        raise RequestRefused(400, f"response_format: type {response_format['type']!r} is not supported by this model")
    if response_format["type"] == "json_object":
        return None
    schema: dict[str, Any] = response_format["json_schema"]["schema"]
    if response_format["json_schema"].get("strict"):
        _check_strict(schema, "")
    return schema


def _check_strict(schema: Any, path: str) -> None:
    """OpenAI's rules for strict schemas: every object closed, every property required."""
    if isinstance(schema, list):
        for part in schema:
            _check_strict(part, path)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object":
        name = f"Invalid schema for response_format: In context={path or '()'},"
        if schema.get("additionalProperties") is not False:
            raise RequestRefused(400, f"{name} 'additionalProperties' is required to be supplied and to be false.")
        if set(schema.get("required", ())) != set(schema.get("properties", {})):
            raise RequestRefused(400, f"{name} 'required' is required to name every key in properties.")
    for name, part in schema.get("properties", {}).items():
        _check_strict(part, f"{path}/{name}")
    for word in ("items", "anyOf"):
        _check_strict(schema.get(word), f"{path}/{word}")
    for name, part in schema.get("$defs", {}).items():
        _check_strict(part, f"{path}/$defs/{name}")


class OpenAIBatchApi:
    """/v1/files and /v1/batches."""

    protocol = OpenAIProtocol
    paths = ("/v1/files", "/v1/batches")

    @staticmethod
    async def answer(server: BatchServer, request: web.BaseRequest) -> dict[str, Any] | AsyncIterator[bytes]:
        """The body of the answer: JSON, or a file's bytes. Raises RequestRefused."""
        match request.method, request.path.strip("/").split("/")[1:]:
            case "POST", ["files"]:
                return await _upload(server, request)
            case "GET", ["files", name, "content"]:
                if name not in server.files:
                    raise RequestRefused(404, f"No such File object: {name}")
                return server.stream(server.files[name].splitlines(keepends=True))
            case "POST", ["batches"]:
                return await _create(server, json.loads(await request.read()))
            case "GET", ["batches"]:
                await server.reach("list")
                return server.page(request.query, "after", "batch_", _batch_json)
            case "GET", ["batches", name]:
                await server.reach("poll")
                return _batch_json(server, server.known(name))
            case "POST", ["batches", name, "cancel"]:
                server.known(name).cancel()
                return _batch_json(server, server.known(name))
        raise RequestRefused(404, f"Invalid URL ({request.method} {request.path})")


async def _upload(server: BatchServer, request: web.BaseRequest) -> dict[str, Any]:
    form = await request.post()
    file = form.get("file")
    if not isinstance(file, web.FileField) or form.get("purpose") != "batch":
        raise RequestRefused(400, "A file with the purpose 'batch' is required.")
    content = file.file.read()
    if len(content) > _MOST_BYTES:
        raise RequestRefused(413, "The file is larger than 200 MB.")
    name = server.keep_file(content)
    await server.reach("upload")
    return {
        "id": name,
        "object": "file",
        "bytes": len(content),
        "created_at": 0,
        "filename": file.filename,
        "purpose": "batch",
        "status": "processed",
    }


async def _create(server: BatchServer, data: dict[str, Any]) -> dict[str, Any]:
    await server.reach("create")
    metadata = data.get("metadata") or {}
    long = any(len(key) > _KEY or len(value) > _VALUE for key, value in metadata.items())
    if long or len(metadata) > _KEYS or data["completion_window"] != "24h":
        raise RequestRefused(400, "metadata or completion_window is not allowed.")
    if data["input_file_id"] not in server.files:
        raise RequestRefused(400, f"No such File object: {data['input_file_id']}")
    lines = [json.loads(line) for line in server.files[data["input_file_id"]].splitlines()]
    batch = Batch(server.name("batch"), [(line["custom_id"], line["body"]) for line in lines])
    batch.input_file, batch.metadata = data["input_file_id"], metadata or None
    batch.refused = _fault(lines, data["endpoint"])
    server.begin(batch, OpenAIProtocol)
    await server.reach("created")
    return _batch_json(server, batch)


def _fault(lines: list[dict[str, Any]], endpoint: str) -> tuple[str, str] | None:
    """The code and message of the error where the lines cannot be a batch."""
    if not lines or len(lines) > _MOST_LINES:
        return "invalid_request_count", f"{len(lines)} requests; 1 to {_MOST_LINES} are allowed."
    if len({line["custom_id"] for line in lines}) < len(lines):
        return "duplicate_custom_id", "The custom_id of a request occurs twice."
    if len({line["body"]["model"] for line in lines}) > 1:
        return "mismatched_model", "All requests of a batch must name one model."
    if any(line["url"] != endpoint or line["method"] != "POST" for line in lines):
        return "mismatched_endpoint", f"A request does not POST to {endpoint}."
    return None


def _batch_json(server: BatchServer, batch: Batch) -> dict[str, Any]:
    total, ended = len(batch.requests), batch.ended
    completed = batch.count("succeeded") if ended else int(total * server.done_share(batch))
    failed = batch.count("errored") if ended else 0
    body: dict[str, Any] = {
        "id": batch.id,
        "object": "batch",
        "endpoint": OpenAIProtocol.path,
        "input_file_id": batch.input_file,
        "completion_window": "24h",
        "status": _status(batch),
        "created_at": int(batch.created),
        "metadata": batch.metadata,
        "request_counts": {"total": total, "completed": completed, "failed": failed},
    }
    if batch.refused:
        code, message = batch.refused
        body["errors"] = {"object": "list", "data": [{"code": code, "message": message, "line": None, "param": None}]}
        body["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
    elif ended:
        batch.looks += 1
        if batch.looks > _LATE.get(server.told, 0):
            body["output_file_id"] = _file(server, batch, "output", ("succeeded",))
            body["error_file_id"] = _file(server, batch, "error", ("errored", "expired"))
        body[f"{body['status']}_at"] = int(ended)
        if server.told == "loud":
            body["status"] = "SUCCESS"
    if server.told == "bare":
        del body["request_counts"]
    return body


def _status(batch: Batch) -> str:
    if batch.refused:
        return "failed"
    if batch.ended is None:
        return "cancelling" if batch.cancelling else "in_progress"
    if batch.cancelling:
        return "cancelled"
    return "expired" if batch.count("expired") else "completed"


def _file(server: BatchServer, batch: Batch, name: str, kinds: tuple[Kind, ...]) -> str | None:
    """The id of a results file, made once; None where it would be empty. Cancelled requests are in neither file."""
    lines = [line for line in batch.lines if line.kind in kinds]
    if not lines:
        return None
    name = f"file-{name}-{batch.id}"
    if name not in server.files:
        line = _bare_line if server.told == "bare" else _result_line
        server.files[name] = b"".join(server.scattered(batch, lines, line))
    return name


def _result_line(line: LineResult) -> bytes:
    result: dict[str, Any] = {"id": f"batch_req_{line.custom_id}", "custom_id": line.custom_id}
    if line.kind == "expired":
        late = {"code": "batch_expired", "message": "The completion window was over before this request was begun."}
        result |= {"response": None, "error": late}
    else:
        result |= {"response": {"status_code": line.status, "request_id": "", "body": line.body}, "error": None}
    return json.dumps(result, ensure_ascii=False).encode() + b"\n"


def _bare_line(line: LineResult) -> bytes:
    """The result with nothing but its id and its body, which is a text."""
    return json.dumps({"custom_id": line.custom_id, "response": {"body": json.dumps(line.body)}}).encode() + b"\n"
