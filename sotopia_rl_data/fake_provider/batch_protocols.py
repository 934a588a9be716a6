"""The two batch protocols, as the loopback provider speaks them: files and batches as OpenAI has them, message batches
as Anthropic has them, each with its own rules about ids, sizes and pages."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from aiohttp import web

from sotopia_rl_data.fake_provider.batches import Batch, Engine, Kind, Line
from sotopia_rl_data.fake_provider.protocols import Anthropic, OpenAI, Refused

Body = dict[str, Any] | AsyncIterator[bytes]
_OPENAI_LINES, _OPENAI_BYTES = 50_000, 200_000_000
_ANTHROPIC_LINES, _ANTHROPIC_BYTES = 100_000, 256_000_000
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_KEYS, _KEY, _VALUE = 16, 64, 512  # of OpenAI's metadata: how many, and their lengths


class OpenAIBatches:
    """/v1/files and /v1/batches."""

    protocol = OpenAI
    paths = ("/v1/files", "/v1/batches")

    @staticmethod
    async def answer(engine: Engine, request: web.BaseRequest) -> Body:
        """The body of the answer. Raises Refused."""
        match request.method, request.path.strip("/").split("/")[1:]:
            case "POST", ["files"]:
                return await _upload(engine, request)
            case "GET", ["files", name, "content"]:
                return _content(engine, name)
            case "POST", ["batches"]:
                return await _create(engine, json.loads(await request.read()))
            case "GET", ["batches"]:
                await engine.reach("list")
                return _page(engine, request.query, "after", "batch_", _openai_batch)
            case "GET", ["batches", name]:
                await engine.reach("poll")
                return _openai_batch(engine, _known(engine, name))
            case "POST", ["batches", name, "cancel"]:
                _known(engine, name).cancel()
                return _openai_batch(engine, _known(engine, name))
        raise Refused(404, f"Invalid URL ({request.method} {request.path})")


class AnthropicBatches:
    """/v1/messages/batches."""

    protocol = Anthropic
    paths = ("/v1/messages/batches",)

    @staticmethod
    async def answer(engine: Engine, request: web.BaseRequest) -> Body:
        """The body of the answer. Raises Refused."""
        match request.method, request.path.strip("/").split("/")[3:]:
            case "POST", []:
                return await _create_messages(engine, await request.read())
            case "GET", []:
                await engine.reach("list")
                return _page(engine, request.query, "after_id", "msgbatch_", _message_batch)
            case "GET", [name]:
                await engine.reach("poll")
                return _message_batch(engine, _known(engine, name))
            case "POST", [name, "cancel"]:
                _known(engine, name).cancel()
                return _message_batch(engine, _known(engine, name))
            case "GET", [name, "results"]:
                return _results(engine, _known(engine, name))
        raise Refused(404, "Not found")


BATCHES: Sequence[type[OpenAIBatches] | type[AnthropicBatches]] = (OpenAIBatches, AnthropicBatches)


async def _upload(engine: Engine, request: web.BaseRequest) -> dict[str, Any]:
    form = await request.post()
    sent = form.get("file")
    if not isinstance(sent, web.FileField) or form.get("purpose") != "batch":
        raise Refused(400, "A file with the purpose 'batch' is required.")
    content = sent.file.read()
    if len(content) > _OPENAI_BYTES:
        raise Refused(413, "The file is larger than 200 MB.")
    name = engine.keep_file(content)
    await engine.reach("upload")
    made = {"id": name, "object": "file", "bytes": len(content), "created_at": 0, "filename": sent.filename}
    return made | {"purpose": "batch", "status": "processed"}


def _content(engine: Engine, name: str) -> AsyncIterator[bytes]:
    if name not in engine.files:
        raise Refused(404, f"No such File object: {name}")
    return _slowly(engine, engine.files[name].splitlines(keepends=True))


async def _create(engine: Engine, data: dict[str, Any]) -> dict[str, Any]:
    await engine.reach("create")
    metadata = data.get("metadata") or {}
    long = any(len(key) > _KEY or len(value) > _VALUE for key, value in metadata.items())
    if long or len(metadata) > _KEYS or data["completion_window"] != "24h":
        raise Refused(400, "metadata or completion_window is not allowed.")
    if data["input_file_id"] not in engine.files:
        raise Refused(400, f"No such File object: {data['input_file_id']}")
    lines = [json.loads(line) for line in engine.files[data["input_file_id"]].splitlines()]
    batch = Batch(engine.name("batch"), [(line["custom_id"], line["body"]) for line in lines])
    batch.input_file, batch.metadata = data["input_file_id"], metadata or None
    batch.refused = _openai_fault(lines, data["endpoint"])
    engine.begin(batch, OpenAI)
    await engine.reach("created")
    return _openai_batch(engine, batch)


def _openai_fault(lines: list[dict[str, Any]], endpoint: str) -> tuple[str, str] | None:
    if not lines or len(lines) > _OPENAI_LINES:
        return "invalid_request_count", f"{len(lines)} requests; 1 to {_OPENAI_LINES} are allowed."
    if len({line["custom_id"] for line in lines}) < len(lines):
        return "duplicate_custom_id", "The custom_id of a request occurs twice."
    if len({line["body"]["model"] for line in lines}) > 1:
        return "mismatched_model", "All requests of a batch must name one model."
    if any(line["url"] != endpoint or line["method"] != "POST" for line in lines):
        return "mismatched_endpoint", f"A request does not POST to {endpoint}."
    return None


async def _create_messages(engine: Engine, raw: bytes) -> dict[str, Any]:
    await engine.reach("create")
    if len(raw) > _ANTHROPIC_BYTES:
        raise Refused(413, "Request exceeds the maximum size")
    requests = [(one["custom_id"], one["params"]) for one in json.loads(raw)["requests"]]
    ids = {custom_id for custom_id, _ in requests}
    if not requests or len(requests) > _ANTHROPIC_LINES:
        raise Refused(400, f"requests: List should have 1 to {_ANTHROPIC_LINES} items")
    if len(ids) < len(requests) or not all(map(_CUSTOM_ID.fullmatch, ids)):
        raise Refused(400, "requests: custom_id must be unique and match ^[a-zA-Z0-9_-]{1,64}$")
    batch = engine.begin(Batch(engine.name("msgbatch"), requests), Anthropic)
    await engine.reach("created")
    return _message_batch(engine, batch)


def _known(engine: Engine, name: str) -> Batch:
    if name not in engine.batches:
        raise Refused(404, f"No such batch: {name}")
    return engine.batches[name]


def _page(engine: Engine, query: Mapping[str, str], after: str, prefix: str, shape: Any) -> dict[str, Any]:
    """A page of batches, the newest first."""
    names = sorted((name for name in engine.batches if name.startswith(prefix)), reverse=True)
    if query.get(after):
        names = [name for name in names if name < query[after]]
    size = int(query.get("limit", 20))
    data = [shape(engine, engine.batches[name]) for name in names[:size]]
    ends = {"first_id": names[0], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": len(names) > size, **ends}


def _openai_batch(engine: Engine, batch: Batch) -> dict[str, Any]:
    total, ended = len(batch.requests), batch.ended
    through = len(batch.lines) if ended else int(total * engine.done_share(batch))
    failed = batch.count("errored") if ended else 0
    made: dict[str, Any] = {
        "id": batch.id,
        "object": "batch",
        "endpoint": OpenAI.path,
        "input_file_id": batch.input_file,
        "completion_window": "24h",
        "status": _openai_status(batch),
        "created_at": int(batch.created),
        "metadata": batch.metadata,
        "request_counts": {"total": total, "completed": through - failed, "failed": failed},
    }
    if batch.refused:
        code, message = batch.refused
        made["errors"] = {"object": "list", "data": [{"code": code, "message": message, "line": None, "param": None}]}
        made["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
    elif ended:
        made["output_file_id"] = _file(engine, batch, "output", [x for x in batch.lines if _good(x)])
        made["error_file_id"] = _file(engine, batch, "error", [x for x in batch.lines if _bad(x)])
    return made


def _openai_status(batch: Batch) -> str:
    if batch.refused:
        return "failed"
    if batch.ended is None:
        return "cancelling" if batch.cancelling else "in_progress"
    if batch.cancelling:
        return "cancelled"
    return "expired" if batch.count("expired") else "completed"


def _good(line: Line) -> bool:
    return line.kind == "succeeded"


def _bad(line: Line) -> bool:
    return line.kind in ("errored", "expired")  # what was cancelled stands in neither file


def _file(engine: Engine, batch: Batch, kind: str, lines: list[Line]) -> str | None:
    """The id of a results file, made once; None where it would be empty."""
    if not lines:
        return None
    name = f"file-{kind}-{batch.id}"
    if name not in engine.files:
        engine.files[name] = b"".join(engine.scattered(batch, lines, _openai_line))
    return name


def _openai_line(line: Line) -> bytes:
    made: dict[str, Any] = {"id": f"batch_req_{line.custom_id}", "custom_id": line.custom_id}
    if line.kind == "expired":
        late = {"code": "batch_expired", "message": "The completion window was over before this request was begun."}
        made |= {"response": None, "error": late}
    else:
        made |= {"response": {"status_code": line.status, "request_id": "", "body": line.body}, "error": None}
    return json.dumps(made, ensure_ascii=False).encode() + b"\n"


def _message_batch(engine: Engine, batch: Batch) -> dict[str, Any]:
    counts = {kind: batch.count(kind) if batch.ended else 0 for kind in get_args(Kind)}
    status = "canceling" if batch.cancelling else "in_progress"
    return {
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


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _results(engine: Engine, batch: Batch) -> AsyncIterator[bytes]:
    if batch.ended is None:
        raise Refused(404, "The batch has no results yet.")
    return _slowly(engine, engine.scattered(batch, batch.lines, _message_line))


def _message_line(line: Line) -> bytes:
    result: dict[str, Any] = {"type": line.kind}
    if line.kind == "succeeded":
        result["message"] = line.body
    elif line.kind == "errored":
        result["error"] = line.body
    return json.dumps({"custom_id": line.custom_id, "result": result}, ensure_ascii=False).encode() + b"\n"


async def _slowly(engine: Engine, lines: Sequence[bytes]) -> AsyncIterator[bytes]:
    """A file's bytes, in two halves: between them a client may be kept waiting."""
    half = b"".join(lines[: len(lines) // 2]), b"".join(lines[len(lines) // 2 :])
    yield half[0]
    await engine.reach("fetch")
    yield half[1]
