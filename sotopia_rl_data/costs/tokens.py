"""How many tokens a call will take, before it is made: roughly for an estimate, at most for a budget.

No tokenizer is at hand for most models, so bytes are counted. Measured with the tokenizers of GPT-4 and GPT-4o on the
prompts of the bundled samples: 3.7 to 4.0 bytes a token of prose, 2.8 of an answer schema, 1.8 to 2.2 of an answer.
What a model thinks before it answers is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sotopia_rl_data.hashing import canonical_json
from sotopia_rl_data.request import Request

PROMPT_BYTES = 4  # a token
ANSWER_BYTES = 2  # a token of JSON with short keys
_FREE_TEXT = "x" * 160  # what stands for a sentence or two in an answer
_AROUND = 512  # tokens that a provider may put around a prompt
LIMITS = ("max_completion_tokens", "max_tokens", "max_new_tokens")


def tokens(text: bytes | str, bytes_a_token: int = PROMPT_BYTES) -> int:
    """About how many tokens a text has, rounded up."""
    return -(-len(text.encode(errors="replace") if isinstance(text, str) else text) // bytes_a_token)


def prompt_tokens(request: Request) -> int:
    """About how many tokens a request has, its answer schema included."""
    return -(-_prompt_bytes(request) // PROMPT_BYTES)


def answer_tokens(request: Request) -> int:
    """About how many tokens the answer will have: the shortest that obeys the schema; else the limit, or none."""
    if request.answer_schema is None:
        return limit_of(request) or 0
    return tokens(json.dumps(shortest(request)), ANSWER_BYTES)


def shortest(request: Request) -> Any:
    """A value that obeys the request's answer schema, and is about as short as one can be."""
    schema = request.answer_schema or {}
    return _shortest(schema, schema)


def most_prompt_tokens(request: Request) -> int:
    """A number of tokens that no request exceeds: tokenizers work on bytes, and none makes two tokens of one."""
    return _prompt_bytes(request) + _AROUND


def limit_of(request: Request) -> int | None:
    """The most tokens that the answer may have; None where the request names no limit."""
    return limit_in(request.target.sampling)


def limit_in(sampling: Mapping[str, Any]) -> int | None:
    """The same of a target's sampling."""
    return next((int(limit) for name in LIMITS if (limit := sampling.get(name))), None)


def rough_tokens(request: Request) -> int:
    """About how many tokens a request counts against a limit of tokens a minute: its own, and the answer's limit."""
    return sum(len(m["content"]) for m in request.messages) // PROMPT_BYTES + (limit_of(request) or 0)


def _prompt_bytes(request: Request) -> int:
    schema = "" if request.answer_schema is None else canonical_json(request.answer_schema)
    return len(schema.encode()) + sum(len(message["content"].encode(errors="replace")) for message in request.messages)


def _shortest(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A value that obeys a schema of those that we write."""
    if "$ref" in schema:
        return _shortest(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    if "enum" in schema:
        return schema["enum"][0]
    if "properties" in schema:
        return {key: _shortest(inner, root) for key, inner in schema["properties"].items()}
    return _FREE_TEXT if schema.get("type") == "string" else 0
