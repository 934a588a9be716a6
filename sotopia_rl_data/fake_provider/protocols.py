"""The two protocols, as the loopback provider speaks them: what a request says, what a reply and an error look like."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.fake_provider.cache import MARKS, PrefixCache, Prefixes, tokens
from sotopia_rl_data.fake_provider.options import Options


class Refused(Exception):
    """A request that gets an error: the status and what it says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks, whatever the protocol. `limit` is the most tokens that the answer may have."""

    model: str
    prompt: str
    schema: Mapping[str, Any] | None
    limit: int | None
    input: int
    prefixes: Prefixes


@dataclass(frozen=True, slots=True)
class Said:
    """What is answered, whatever the protocol. `stop` is stop, length or refusal."""

    text: str
    stop: str
    model: str
    output: int


class OpenAI:
    """POST /v1/chat/completions."""

    path = "/v1/chat/completions"

    @staticmethod
    def read(data: dict[str, Any], options: Options, cache: PrefixCache) -> Asked:
        """Raises Refused for what OpenAI would not take."""
        schema = _openai_schema(data.get("response_format"), options)
        messages = "\x1e".join(f"{m['role']}\x1f{_text(m['content'])}" for m in data["messages"])
        first = json.dumps(schema) if schema is not None and options.schema_in_prefix else ""
        prompt = (first + "\x1d" + messages).encode(errors="replace")
        limit = data.get("max_completion_tokens") or data.get("max_tokens")
        return Asked(data["model"], messages, schema, limit, tokens(prompt), cache.blocks(data["model"], prompt))

    @staticmethod
    def reply(asked: Asked, said: Said, number: int) -> dict[str, Any]:
        refused = said.stop == "refusal"
        message = {
            "role": "assistant",
            "content": None if refused else said.text,
            "refusal": said.text if refused else None,
        }
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": said.model,
            "choices": [
                {"index": 0, "message": message, "finish_reason": "length" if said.stop == "length" else "stop"}
            ],
            "usage": {
                "prompt_tokens": asked.input,
                "completion_tokens": said.output,
                "total_tokens": asked.input + said.output,
                "prompt_tokens_details": {"cached_tokens": asked.prefixes.read},
            },
        }

    @staticmethod
    def error(status: int, message: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": "error", "param": None, "code": _CODES.get(status)}}


class Anthropic:
    """POST /v1/messages."""

    path = "/v1/messages"

    @staticmethod
    def read(data: dict[str, Any], options: Options, cache: PrefixCache) -> Asked:
        """Raises Refused for what Anthropic would not take."""
        if "max_tokens" not in data:
            raise Refused(400, "max_tokens: Field required")
        blocks = _blocks("system", data.get("system") or [])
        for message in data["messages"]:
            if message["role"] not in ("user", "assistant"):
                raise Refused(400, f"messages: Unexpected role {message['role']!r}")
            blocks += _blocks(message["role"], message["content"])
        if sum(marked for _, marked in blocks) > MARKS:
            raise Refused(400, f"A maximum of {MARKS} blocks with cache_control may be provided.")
        schema = ((data.get("output_config") or {}).get("format") or {}).get("schema")
        if schema is not None and "json_schema" not in options.formats:
            raise Refused(400, "output_config: Extra inputs are not permitted")
        parts = [(text.encode(errors="replace"), marked) for text, marked in blocks]
        if schema is not None and options.schema_in_prefix:
            parts.insert(0, (json.dumps(schema).encode(), False))
        total = sum(tokens(text) for text, _ in parts)
        prompt = "\x1e".join(text for text, _ in blocks)
        return Asked(data["model"], prompt, schema, data["max_tokens"], total, cache.marked(data["model"], parts))

    @staticmethod
    def reply(asked: Asked, said: Said, number: int) -> dict[str, Any]:
        stops = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal"}
        prefixes = asked.prefixes
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": said.model,
            "content": [{"type": "text", "text": said.text}] if said.text else [],
            "stop_reason": stops[said.stop],
            "stop_sequence": None,
            "usage": {
                "input_tokens": asked.input - prefixes.read - prefixes.written,
                "cache_creation_input_tokens": prefixes.written,
                "cache_read_input_tokens": prefixes.read,
                "output_tokens": said.output,
            },
        }

    @staticmethod
    def error(status: int, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": message}}


Protocol = type[OpenAI] | type[Anthropic]
PROTOCOLS: dict[str, Protocol] = {p.path: p for p in (OpenAI, Anthropic)}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def _openai_schema(wanted: dict[str, Any] | None, options: Options) -> dict[str, Any] | None:
    if wanted is None or wanted["type"] == "text":
        return None
    if wanted["type"] not in options.formats.split(","):
        raise Refused(400, f"response_format: type {wanted['type']!r} is not supported by this model")
    if wanted["type"] == "json_object":
        return None
    schema: dict[str, Any] = wanted["json_schema"]["schema"]
    if wanted["json_schema"].get("strict"):
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
            raise Refused(400, f"{name} 'additionalProperties' is required to be supplied and to be false.")
        if set(schema.get("required", ())) != set(schema.get("properties", {})):
            raise Refused(400, f"{name} 'required' is required to name every key in properties.")
    for name, part in schema.get("properties", {}).items():
        _check_strict(part, f"{path}/{name}")
    for word in ("items", "anyOf"):
        _check_strict(schema.get(word), f"{path}/{word}")
    for name, part in schema.get("$defs", {}).items():
        _check_strict(part, f"{path}/$defs/{name}")


def _blocks(role: str, content: str | list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """A message's text blocks, and whether each carries a cache marker."""
    if isinstance(content, str):
        return [(f"{role}\x1f{content}", False)]
    return [(f"{role}\x1f{block['text']}", "cache_control" in block) for block in content]


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
