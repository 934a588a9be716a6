"""The loopback provider's requests and answers, independent of the protocol.

An answer is a value that obeys the request's schema, drawn from a hash of the prompt; or it breaks the schema in one of
the ways in which real models do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sotopia_rl_data.costs.tokens import ANSWER_BYTES, PrefixCache, PromptTokens, tokens
from sotopia_rl_data.fake_provider.running import ProviderOptions

_WORDS_MARK = "chema:\n"  # the end of “Schema:” or “schema:”, the line before a schema in a prompt
_WORDS = ["calm", "firm", "warm", "brief", "open", "plain", "fair", "kind", "wary", "keen"]


class RequestRefused(Exception):
    """A request that gets an error: its status and message, the `kind`, `code` and `param` that its body names, its
    headers. Without a kind or code it has the protocol's own for the status."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "",
        code: str = "",
        headers: Mapping[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.headers = headers or {}
        self.param = param


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request without its protocol. `limit` is the most tokens of the answer, `tokens` counts those of the prompt."""

    model: str
    prompt: str
    schema: Mapping[str, Any] | None
    limit: int | None
    tokens: PromptTokens


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer without its protocol. `stop` is stop, length or refusal; `output` counts tokens."""

    text: str
    stop: str
    model: str
    output: int


class WireProtocol(Protocol):
    """How a provider words requests, replies and errors; one class for each provider."""

    path: str

    @staticmethod
    def parse(data: dict[str, Any], options: ProviderOptions, cache: PrefixCache) -> ParsedRequest: ...

    @staticmethod
    def reply(request: ParsedRequest, completion: Completion, number: int) -> dict[str, Any]: ...

    @staticmethod
    def error(refused: RequestRefused) -> dict[str, Any]: ...

    @staticmethod
    def text_of(reply: dict[str, Any]) -> str: ...

    @staticmethod
    def set_text(reply: dict[str, Any], text: str) -> None: ...

    @staticmethod
    def set_finish(reply: dict[str, Any], finish: str) -> None: ...


def complete(request: ParsedRequest, options: ProviderOptions) -> Completion:
    """The answer to a request, malformed where the options and the seed say so."""
    text, stop = answer(request.schema, request.prompt, options.seed), "stop"
    number = draw(options.seed, "malformed", request.prompt)
    if options.malformed_where:
        is_malformed = options.malformed_where in request.prompt
    else:
        is_malformed = share(number) < options.malformed_share
    kinds = options.kinds
    if kinds and is_malformed:
        text, stop = malformed(kinds[number % len(kinds)], text)
    if request.limit is not None and tokens(text, ANSWER_BYTES) > request.limit:
        text, stop = text[: request.limit * ANSWER_BYTES], "length"
    model = options.model or f"{request.model}-2026-01-01"
    return Completion(text, stop, model, tokens(text, ANSWER_BYTES))


def draw(seed: int, *parts: object) -> int:
    """A number of 64 bits that depends only on the seed and the parts."""
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big")


def share(number: int) -> float:
    """A drawn number as a share, from 0 to 1."""
    return number / 2**64


def answer(schema: Mapping[str, Any] | None, prompt: str, seed: int) -> str:
    """The text of an answer: JSON that obeys `schema`, or a few words where there is none."""
    schema = schema or schema_in_words(prompt)
    base = draw(seed, prompt)
    if schema is None:
        return " ".join(_WORDS[(base >> shift) % len(_WORDS)] for shift in range(0, 40, 8))
    return json.dumps(value_of(schema, base, "", schema.get("$defs", {})))


def schema_in_words(prompt: str) -> dict[str, Any] | None:
    """The last schema that a prompt spells out; None where it has none."""
    start = prompt.rfind(_WORDS_MARK)
    if start < 0:
        return None
    try:
        schema, _ = json.JSONDecoder().raw_decode(prompt, start + len(_WORDS_MARK))
    except ValueError:
        return None
    return schema if isinstance(schema, dict) else None


def value_of(schema: Mapping[str, Any], base: int, path: str, defs: Mapping[str, Any]) -> Any:
    """A value that obeys a JSON schema (objects, arrays, enums, ranges, unions, local references)."""
    if "$ref" in schema:
        return value_of(defs[schema["$ref"].rsplit("/", 1)[-1]], base, path, defs)
    if "const" in schema:
        return schema["const"]
    number = draw(base, path)
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return value_of(schema[union][0], base, path, defs)
    kind = schema.get("type", "object")
    low, high = schema.get("minimum", 0), schema.get("maximum", 10)
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {k: value_of(s, base, f"{path}/{k}", defs) for k, s in schema.get("properties", {}).items()}
        case "array":
            items, length = schema.get("items", {"type": "string"}), int(schema.get("minItems", 1))
            return [value_of(items, base, f"{path}/{i}", defs) for i in range(length)]
        case "number":
            return round(float(low) + (number % 101) / 100 * (float(high) - float(low)), 4)
        case "integer":
            return int(low) + number % (int(high) - int(low) + 1)
        case "boolean":
            return bool(number % 2)
        case "string":
            return _WORDS[number % len(_WORDS)]
    return None


def malformed(kind: str, text: str) -> tuple[str, str]:
    """The answer, broken in the way `kind`, and why the model stopped: "stop", "length" or "refusal"."""
    if kind == "empty":
        return "", "stop"
    if kind == "refusal":
        return "I'm sorry, but I can't rate this conversation.", "refusal"
    if kind == "truncated":
        return text[: max(1, len(text) * 2 // 3)], "length"
    if kind == "fenced":
        return f"Here is my answer:\n```json\n{text}\n```", "stop"
    try:
        value = json.loads(text)
    except ValueError:
        return text[::-1], "stop"
    return json.dumps(_broken(kind, value)), "stop"


def _broken(kind: str, value: Any) -> Any:
    if kind == "nested":
        return {"answer": {"result": value}}
    if not isinstance(value, dict) or not value:
        return None
    first = next(iter(value))
    if kind == "extra":
        return value | {"overall_impression": 3}
    if kind == "missing":
        return {k: v for k, v in value.items() if k != first}
    if kind == "agent":
        return {f"Somebody Else: {k}": v for k, v in value.items()}
    return {k: _bad_leaf(kind, v) for k, v in value.items()}


def _bad_leaf(kind: str, leaf: Any) -> Any:
    if isinstance(leaf, dict):
        return {k: _bad_leaf(kind, v) for k, v in leaf.items()}
    if isinstance(leaf, list):
        return [_bad_leaf(kind, v) for v in leaf]
    return {"range": 30, "strings": "quite important", "floats": 1.37, "null": None}[kind]
