"""A prefix cache as providers keep it, and their way of counting tokens (here: four bytes of a prompt are one, and two
of an answer: keys and digits are short).

OpenAI: any prompt of 1,024 tokens or more is kept in blocks of 128; the longest known prefix is read. Anthropic: only
prefixes that end at a marked block of the request are written; the longest known one is read. A prefix is known from
the moment at which its first answer leaves, so that siblings sent at once all miss, as they do in earnest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

BYTES_A_TOKEN = 4
ANSWER_BYTES_A_TOKEN = 2
BLOCK = 128  # tokens
SHORTEST = 1_024  # tokens
MARKS = 4  # an Anthropic request may carry


def tokens(text: bytes | str) -> int:
    """Tokens of a text, at four bytes each, rounded up."""
    return -(-len(text if isinstance(text, bytes) else text.encode(errors="replace")) // BYTES_A_TOKEN)


def answer_tokens(text: str) -> int:
    """Tokens of an answer, at two bytes each, rounded up."""
    return -(-len(text.encode(errors="replace")) // ANSWER_BYTES_A_TOKEN)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What one request reads, what it writes, and the hashes that `PrefixCache.learn` makes known."""

    read: int
    written: int
    hashes: tuple[bytes, ...]


class PrefixCache:
    """Known prefixes, for one model each; of more than `kept` blocks the oldest are dropped."""

    def __init__(self, kept: int = 1 << 20) -> None:
        self._kept = kept
        self._known: dict[str, dict[bytes, None]] = {}  # in the order of use

    def blocks(self, model: str, prompt: bytes) -> Prefixes:
        """Automatic caching in blocks (OpenAI). `written` is 0: writing costs nothing there."""
        if tokens(prompt) < SHORTEST:
            return Prefixes(0, 0, ())
        known, chain, hashes, read = self._known.get(model, {}), b"", [], 0
        size = BLOCK * BYTES_A_TOKEN
        for start in range(0, len(prompt) - size + 1, size):
            chain = _link(chain, prompt[start : start + size])
            hashes.append(chain)
            if chain in known:
                read = len(hashes) * BLOCK
        return Prefixes(read if read >= SHORTEST else 0, 0, tuple(hashes))

    def marked(self, model: str, parts: Sequence[tuple[bytes, bool]]) -> Prefixes:
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
        return Prefixes(read, last - read, tuple(hashes))

    def learn(self, model: str, prefixes: Prefixes) -> None:
        """The answer left: its prefixes are known from now on."""
        known = self._known.setdefault(model, {})
        for one in prefixes.hashes:
            known.pop(one, None)
            known[one] = None
        while len(known) > self._kept:
            del known[next(iter(known))]


def _link(chain: bytes, text: bytes) -> bytes:
    return hashlib.blake2b(chain + text, digest_size=16).digest()
