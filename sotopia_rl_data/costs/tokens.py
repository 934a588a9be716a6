"""How many tokens a call will take, and how many of them the provider reads from its prompt cache.

Counts are rough for an estimate, and upper bounds for a budget. For most models there is no tokenizer, so bytes are
counted. Measured with the tokenizers of GPT-4 and GPT-4o on the prompts of the bundled samples: 3.7 to 4.0 bytes a
token of prose, 2.8 of an answer schema, 1.8 to 2.2 of an answer. Reasoning tokens are left out.

`PrefixCache` has the providers' rules. OpenAI keeps any prompt of 1,024 tokens or more in blocks of 128, and reads the
longest known prefix. Anthropic writes only prefixes that end at a marked block of the request, and reads the longest
known one. Both put the answer's schema first. A prefix is known from the moment at which its first answer is sent, so
that siblings sent at once all miss, as they do at the providers. How long a prefix stays known is left out; only the
number of known blocks is bounded.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.hashing import canonical_json
from sotopia_rl_data.request import Request

PROMPT_BYTES = 4  # a token of a prompt has about this many bytes
ANSWER_BYTES = 2  # a token of an answer, which is JSON with short keys, has about this many bytes
_FREE_TEXT = "x" * 160  # stands for the sentence or two of a text field in an answer
_LONG_TEXT = "x" * 2_000  # stands for a text field in the longest answer: a few hundred words
_AROUND = 512  # tokens that a provider may add around a prompt
_NEW_LINE = 4  # bytes more than ", " between two values, where a model writes each on a line of its own
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
    return _valid(schema, schema)


def longest_answer_tokens(request: Request) -> int:
    """About how many tokens the longest answer that obeys the schema has, each value on a line of its own. A free text
    counts as one of a few hundred words."""
    schema = request.answer_schema or {}
    return -(-_longest_bytes(schema, schema) // ANSWER_BYTES)


def most_prompt_tokens(request: Request) -> int:
    """An upper bound of the prompt's tokens: no tokenizer makes more tokens than there are bytes."""
    return _prompt_bytes(request) + _AROUND


def limit_of(request: Request) -> int | None:
    """The most tokens that the answer may have; None where the request names no limit."""
    return request.limit or limit_in(request.target.sampling)


def limit_in(sampling: Mapping[str, Any]) -> int | None:
    """The most tokens that an answer may have by a target's sampling; None where it sets no limit."""
    for name in LIMITS:
        if sampling.get(name):
            return int(sampling[name])
    return None


def rough_tokens(request: Request) -> int:
    """About how many tokens a request counts against a limit of tokens a minute: its own, and the answer's limit."""
    return sum(len(m["content"]) for m in request.messages) // PROMPT_BYTES + (limit_of(request) or 0)


def _prompt_bytes(request: Request) -> int:
    schema = "" if request.answer_schema is None else canonical_json(request.answer_schema)
    return len(schema.encode()) + sum(len(message["content"].encode(errors="replace")) for message in request.messages)


def _valid(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A short value that obeys a schema; only the keywords that our own schemas use are known."""
    if "$ref" in schema:
        return _valid(_referred(schema, root), root)
    if "enum" in schema:
        return schema["enum"][0]
    if "properties" in schema:
        return {key: _valid(inner, root) for key, inner in schema["properties"].items()}
    return _FREE_TEXT if schema.get("type") == "string" else 0


def _longest_bytes(schema: Mapping[str, Any], root: Mapping[str, Any]) -> int:
    """About how many bytes the JSON of a long value has that obeys a schema. Counted without making the value, since
    every request that is sent asks for it; Python writes a plain value as long as JSON does."""
    if "$ref" in schema:
        return _longest_bytes(_referred(schema, root), root)
    if "enum" in schema:
        return max([len(repr(value).encode()) for value in schema["enum"]])
    if "properties" in schema:
        inner = schema["properties"]
        names = len(repr(list(inner)).encode(errors="replace")) + len(": ") * len(inner)
        return names + sum([_longest_bytes(value, root) for value in inner.values()]) + _NEW_LINE * (len(inner) - 1)
    if schema.get("type") == "array":
        each = schema["items"].get("enum")
        if each is None:
            return 2 + _longest_bytes(schema["items"], root)
        return len(repr(each).encode()) + _NEW_LINE * (len(each) - 1)
    return len(_LONG_TEXT) if schema.get("type") == "string" else 1


def _referred(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return found


BLOCK = 128  # tokens
SHORTEST_CACHED = 1_024  # tokens
_BLOCK_BYTES = BLOCK * PROMPT_BYTES
_LAST = 8  # prompts with which the next is compared


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokens of one prompt: all of its `input`, how many of them are `read` from the cache and `written` there; and the
    hashes of the prefixes that `PrefixCache.learn` makes known."""

    input: int
    read: int
    written: int
    hashes: tuple[bytes, ...]


class PrefixCache:
    """The known prefixes of each model. Of more than `kept` blocks the oldest are dropped."""

    def __init__(self, kept: int = 1 << 20) -> None:
        self._kept = kept
        self._known: dict[str, dict[bytes, None]] = {}  # by model, in the order of use
        # by model and first block, the last prompts and the hashes of their blocks
        self._last: OrderedDict[tuple[str, bytes], tuple[bytes, list[bytes]]] = OrderedDict()

    def blocks(self, model: str, prompt: bytes) -> PromptTokens:
        """Automatic caching in blocks (OpenAI). `written` is 0: writing costs nothing there."""
        known, total = self._known.get(model, {}), tokens(prompt)
        hashes = self._chain(model, prompt) if total >= SHORTEST_CACHED else []
        read = BLOCK * next((count for count in range(len(hashes), 0, -1) if hashes[count - 1] in known), 0)
        return PromptTokens(total, read if read >= SHORTEST_CACHED else 0, 0, tuple(hashes))

    def _chain(self, model: str, prompt: bytes) -> list[bytes]:
        """The hash of the prompt up to the end of each block. What it shares with the last one that begins as it does
        is not hashed again: the prompts of a schema that asks turn by turn each hold all of the one before."""
        begins = model, prompt[:_BLOCK_BYTES]
        before, hashes = self._last.pop(begins, (b"", []))
        hashes = hashes[: _equal_blocks(before, prompt)]
        chain = hashes[-1] if hashes else b""
        for start in range(len(hashes) * _BLOCK_BYTES, len(prompt) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
            chain = _link(chain, prompt[start : start + _BLOCK_BYTES])
            hashes.append(chain)
        self._last[begins] = prompt, hashes
        if len(self._last) > _LAST:
            self._last.popitem(last=False)
        return hashes

    def marked(self, model: str, parts: Iterable[tuple[bytes, bool]]) -> PromptTokens:
        """Explicit caching (Anthropic): `parts` are the prompt's blocks and whether each carries a marker."""
        known, hashes = self._known.get(model, {}), []
        chain, total, read, last = b"", 0, 0, 0
        for text, is_marked in parts:
            chain, total = _link(chain, text), total + tokens(text)
            if chain in known:
                read = total
            if is_marked and total >= SHORTEST_CACHED:
                hashes.append(chain)
                last = total
        read = min(read, last)
        return PromptTokens(total, read, last - read, tuple(hashes))

    def learn(self, model: str, prompt: PromptTokens) -> None:
        """The prompt was answered: its prefixes are known from now on."""
        known = self._known.setdefault(model, {})
        for digest in prompt.hashes:
            known.pop(digest, None)
            known[digest] = None
        while len(known) > self._kept:
            del known[next(iter(known))]


def openai_prompt(messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None) -> bytes:
    """The bytes of a chat completion's body, for `PrefixCache.blocks`."""
    text = "\x1e".join(f"{message['role']}\x1f{_text(message['content'])}" for message in messages)
    first = "" if schema is None else json.dumps(schema)
    return f"{first}\x1d{text}".encode(errors="replace")


def anthropic_parts(body: Mapping[str, Any], schema: Mapping[str, Any] | None) -> list[tuple[bytes, bool]]:
    """The blocks of a body of Anthropic's messages API, for `PrefixCache.marked`."""
    parts = [] if schema is None else [(json.dumps(schema).encode(), False)]
    parts += _blocks("system", body.get("system") or [])
    for message in body["messages"]:
        parts += _blocks(message["role"], message["content"])
    return parts


def _blocks(role: str, content: str | list[dict[str, Any]]) -> list[tuple[bytes, bool]]:
    """A message's text blocks, and whether each carries a cache marker."""
    if isinstance(content, str):
        content = [{"text": content}]
    return [(f"{role}\x1f{block['text']}".encode(errors="replace"), "cache_control" in block) for block in content]


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _equal_blocks(one: bytes, other: bytes) -> int:
    """How many blocks two prompts have in common from the start, found by halves, each compared at once."""
    low, high = 0, min(len(one), len(other)) // _BLOCK_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if other.startswith(one[low * _BLOCK_BYTES : middle * _BLOCK_BYTES], low * _BLOCK_BYTES):
            low = middle
        else:
            high = middle - 1
    return low


def _link(chain: bytes, text: bytes) -> bytes:
    return hashlib.blake2b(chain + text, digest_size=16).digest()
