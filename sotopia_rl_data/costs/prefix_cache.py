"""How many tokens of a prompt a provider reads from its prompt cache: the rules of OpenAI and Anthropic.

OpenAI: any prompt of 1,024 tokens or more is kept in blocks of 128; the longest known prefix is read. Anthropic: only
prefixes that end at a marked block of the request are written; the longest known one is read. Both put the answer's
schema first. A prefix is known from the moment at which its first answer leaves, so that siblings sent at once all
miss, as they do at the providers. Tokens are counted by their bytes (`tokens.py`). How long a prefix stays known is
left out: only how many do is bounded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.costs.tokens import PROMPT_BYTES, tokens

BLOCK = 128  # tokens
SHORTEST = 1_024  # tokens
_BLOCK_BYTES = BLOCK * PROMPT_BYTES


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokens of one prompt: all of its `input`, what of it is `read` from the cache and `written` there; and the
    hashes of the prefixes that `PrefixCache.learn` makes known."""

    input: int
    read: int
    written: int
    hashes: tuple[bytes, ...]


class PrefixCache:
    """Known prefixes, for one model each; of more than `kept` blocks the oldest are dropped."""

    def __init__(self, kept: int = 1 << 20) -> None:
        self._kept = kept
        self._known: dict[str, dict[bytes, None]] = {}  # in the order of use

    def blocks(self, model: str, prompt: bytes) -> PromptTokens:
        """Automatic caching in blocks (OpenAI). `written` is 0: writing costs nothing there."""
        known, chain, hashes, read, total = self._known.get(model, {}), b"", [], 0, tokens(prompt)
        if total >= SHORTEST:
            for start in range(0, len(prompt) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
                chain = _link(chain, prompt[start : start + _BLOCK_BYTES])
                hashes.append(chain)
                if chain in known:
                    read = len(hashes) * BLOCK
        return PromptTokens(total, read if read >= SHORTEST else 0, 0, tuple(hashes))

    def marked(self, model: str, parts: Iterable[tuple[bytes, bool]]) -> PromptTokens:
        """Explicit caching (Anthropic): `parts` are the prompt's blocks and whether each carries a marker."""
        known, chain, total, read, last = self._known.get(model, {}), b"", 0, 0, 0
        hashes = []
        for text, is_marked in parts:
            chain, total = _link(chain, text), total + tokens(text)
            if chain in known:
                read = total
            if is_marked and total >= SHORTEST:
                hashes.append(chain)
                last = total
        read = min(read, last)
        return PromptTokens(total, read, last - read, tuple(hashes))

    def learn(self, model: str, prompt: PromptTokens) -> None:
        """The answer left: the prompt's prefixes are known from now on."""
        known = self._known.setdefault(model, {})
        for one in prompt.hashes:
            known.pop(one, None)
            known[one] = None
        while len(known) > self._kept:
            del known[next(iter(known))]


def openai_prompt(messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None) -> bytes:
    """What `PrefixCache.blocks` counts of a chat completion's body."""
    text = "\x1e".join(f"{message['role']}\x1f{_text(message['content'])}" for message in messages)
    first = "" if schema is None else json.dumps(schema)
    return f"{first}\x1d{text}".encode(errors="replace")


def anthropic_parts(body: Mapping[str, Any], schema: Mapping[str, Any] | None) -> list[tuple[bytes, bool]]:
    """What `PrefixCache.marked` counts of the body of Anthropic's messages."""
    parts = [] if schema is None else [(json.dumps(schema).encode(), False)]
    parts += _blocks("system", body.get("system") or [])
    for message in body["messages"]:
        parts += _blocks(message["role"], message["content"])
    return parts


def _blocks(role: str, content: str | list[dict[str, Any]]) -> list[tuple[bytes, bool]]:
    """A message's text blocks, and whether each carries a cache marker."""
    if isinstance(content, str):
        content = [{"text": content}]
    return [(f"{role}\x1f{one['text']}".encode(errors="replace"), "cache_control" in one) for one in content]


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _link(chain: bytes, text: bytes) -> bytes:
    return hashlib.blake2b(chain + text, digest_size=16).digest()
