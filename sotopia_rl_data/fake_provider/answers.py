"""What the loopback provider says: a value that obeys the schema, drawn from a hash of the prompt; or one that breaks
it in one of the ways that real models do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MALFORMED = (
    "fenced",
    "truncated",
    "extra",
    "missing",
    "range",
    "strings",
    "floats",
    "null",
    "nested",
    "agent",
    "empty",
    "refusal",
)
_WORDS_MARK = "chema:\n"  # how a request, or a policy's prompt, introduces one
_WORDS = ["calm", "firm", "warm", "brief", "open", "plain", "fair", "kind", "wary", "keen"]


def draw(seed: int, *parts: object) -> int:
    """A number of 64 bits that depends on the seed and the parts and nothing else."""
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big")


def share(number: int) -> float:
    """A drawn number as a share of one."""
    return number / 2**64


def answer(schema: Mapping[str, Any] | None, prompt: str, seed: int) -> str:
    """The text of an answer: JSON that obeys `schema`, or a few words where there is none."""
    schema = schema or schema_in_words(prompt)
    base = draw(seed, prompt)
    if schema is None:
        return " ".join(_WORDS[(base >> shift) % len(_WORDS)] for shift in range(0, 40, 8))
    return json.dumps(value(schema, base, "", schema.get("$defs", {})))


def schema_in_words(prompt: str) -> dict[str, Any] | None:
    """The schema that a prompt spells out, where it does; the last of several."""
    start = prompt.rfind(_WORDS_MARK)
    if start < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(prompt, start + len(_WORDS_MARK))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def value(schema: Mapping[str, Any], base: int, path: str, defs: Mapping[str, Any]) -> Any:
    """A value that obeys a JSON schema (objects, arrays, enums, ranges, unions, local references)."""
    if "$ref" in schema:
        return value(defs[schema["$ref"].rsplit("/", 1)[-1]], base, path, defs)
    if "const" in schema:
        return schema["const"]
    number = draw(base, path)
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return value(schema[union][0], base, path, defs)
    kind = schema.get("type", "object")
    return _DRAWN[kind[0] if isinstance(kind, list) else kind](schema, base, path, defs, number)


def _object(schema: Mapping[str, Any], base: int, path: str, defs: Mapping[str, Any], number: int) -> Any:
    return {k: value(s, base, f"{path}/{k}", defs) for k, s in schema.get("properties", {}).items()}


def _array(schema: Mapping[str, Any], base: int, path: str, defs: Mapping[str, Any], number: int) -> Any:
    length = int(schema.get("minItems", 1))
    return [value(schema.get("items", {"type": "string"}), base, f"{path}/{i}", defs) for i in range(length)]


def _number(schema: Mapping[str, Any], base: int, path: str, defs: Mapping[str, Any], number: int) -> Any:
    low, high = float(schema.get("minimum", 0)), float(schema.get("maximum", 10))
    return round(low + (number % 101) / 100 * (high - low), 4)


def _integer(schema: Mapping[str, Any], base: int, path: str, defs: Mapping[str, Any], number: int) -> Any:
    low, high = int(schema.get("minimum", 0)), int(schema.get("maximum", 10))
    return low + number % (high - low + 1)


_DRAWN: dict[str, Any] = {
    "object": _object,
    "array": _array,
    "number": _number,
    "integer": _integer,
    "boolean": lambda schema, base, path, defs, number: bool(number % 2),
    "null": lambda schema, base, path, defs, number: None,
    "string": lambda schema, base, path, defs, number: _WORDS[number % len(_WORDS)],
}


def malformed(kind: str, text: str) -> tuple[str, str]:
    """The answer broken in one way, and why the model stopped: "stop", "length" or "refusal"."""
    if kind == "empty":
        return "", "stop"
    if kind == "refusal":
        return "I'm sorry, but I can't rate this conversation.", "refusal"
    if kind == "truncated":
        return text[: max(1, len(text) * 2 // 3)], "length"
    if kind == "fenced":
        return f"Here is my answer:\n```json\n{text}\n```", "stop"
    try:
        told = json.loads(text)
    except ValueError:
        return text[::-1], "stop"
    return json.dumps(_broken(kind, told)), "stop"


def _broken(kind: str, told: Any) -> Any:
    if kind == "nested":
        return {"answer": {"result": told}}
    if not isinstance(told, dict) or not told:
        return None
    first = next(iter(told))
    if kind == "extra":
        return told | {"overall_impression": 3}
    if kind == "missing":
        return {k: v for k, v in told.items() if k != first}
    if kind == "agent":
        return {f"Somebody Else: {k}": v for k, v in told.items()}
    return {k: _bad_leaf(kind, v) for k, v in told.items()}


def _bad_leaf(kind: str, leaf: Any) -> Any:
    if isinstance(leaf, dict):
        return {k: _bad_leaf(kind, v) for k, v in leaf.items()}
    if isinstance(leaf, list):
        return [_bad_leaf(kind, v) for v in leaf]
    return {"range": 30, "strings": "quite important", "floats": 1.37, "null": None}[kind]
