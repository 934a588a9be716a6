"""Keeps API keys out of everything that is written or shown.

Providers and proxies repeat the key they were sent in their error texts. Every error passes through `redact` before
it is journaled or raised. What has no key's shape and is not in the environment cannot be recognised.
"""

from __future__ import annotations

import os
import re

HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_SHORTEST = 8  # characters; shorter values (TOKENIZERS_TOKEN=1 …) would blank out ordinary words
_SHAPES = (
    re.compile(r"(?<=://)[^/\s@]+@"),  # user:password in a URL
    re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',}]{6,}"),
    re.compile(r"\b(sk|pk|rk|hf|gsk|xai|ghp|ghs|pat|key)[-_][A-Za-z0-9*._-]{6,}|\b(AIza|AKIA)[A-Za-z0-9_-]{10,}"),
    re.compile(
        r"(?i)(api[-_ ]?key|authorization|access[-_ ]?token|secret|password)"
        r"[^:=\n]{0,16}[:=]\s*[\"']?[^\s\"',}]{4,}"
    ),
)


def env_secrets() -> tuple[str, ...]:
    """Values of the environment variables whose names end in KEY, TOKEN, SECRET or PASSWORD, longest first."""
    found = {v for k, v in os.environ.items() if _SECRET_NAME.search(k) and len(v) >= _SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def redact(text: str, *secrets: str) -> str:
    """`text` with the given secrets, the environment's, and everything key-shaped replaced by `[hidden]`."""
    for secret in (*secrets, *env_secrets()):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    for shape in _SHAPES:
        text = shape.sub(HIDDEN, text)
    return text
