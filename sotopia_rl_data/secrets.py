"""The shapes of keys, tokens and passwords, and how they are kept out of everything that is written or shown.

Providers and proxies repeat in their error texts the key that was sent to them. Every error passes through `redact`
before it is journaled or raised; `hub/leaks.py` searches releases before they are published. A secret that neither has
the shape of a key nor is in the environment cannot be recognised.
"""

from __future__ import annotations

import base64
import os
import re
from functools import lru_cache
from urllib.parse import quote

HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_SHORTEST = 8  # characters; shorter values (TOKENIZERS_TOKEN=1 …) would blank out ordinary words
SHAPES = {  # strict enough to search dialogues with; both Python's re and Arrow's RE2 can read them
    "an API key (sk-…)": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a provider's key": r"\b(?:gsk_|xai-|pplx-|nvapi-|r8_|tgp_v1_|fw_)[A-Za-z0-9_-]{20,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "a bearer token": r"\b[Bb]earer [A-Za-z0-9._~+/-]{20,}",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'<>]*:[^\s/@\"'<>]+@[A-Za-z0-9\[]",
    "a named key": r"\b[Aa][Pp][Ii][_-]?[Kk][Ee][Yy][\"']?\s*[:=]\s*[\"']?[A-Za-z0-9_-]{24,}",
}
_LOOSE = (  # a part of a key, starred out or not: it has a digit or a star, which the words around it do not have
    re.compile(r"(?P<kept>://)[^/\s@]+@"),  # user:password in a URL
    re.compile(r"(?i)(?P<kept>\b(?:bearer|basic)\s+)(?=[^\s\"',}]*[\d*])[^\s\"',}]{6,}"),
    re.compile(
        r"(?P<kept>)(?:\b(?:sk|pk|rk|hf|gsk|xai|ghp|ghs|pat|key)[-_](?=[A-Za-z._-]*[\d*])[A-Za-z0-9*._-]{6,}"
        r"|\b(?:sk|hf|gsk|xai|ghp|ghs)[-_][A-Za-z]{12,}|\b(?:AIza|AKIA)[A-Za-z0-9_-]{10,})"
    ),
    re.compile(
        r"(?i)(?P<kept>(?:api[-_ ]?key|authorization|access[-_ ]?token|secret|password)"
        r"[^:=\n]{0,16}[:=](?!//)\s*[\"']?)"
        r"(?=[^\s\"',}]*[\d*]|(?<=[=\"']))[^\s\"',}]{4,}"
    ),
)


def env_secrets() -> tuple[str, ...]:
    """Values of the environment variables whose names end in KEY, TOKEN, SECRET or PASSWORD, longest first."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST}
    return tuple(sorted(values, key=len, reverse=True))


def redact(text: str, *secrets: str, loosely: bool = True) -> str:
    """`text` with these secrets, those of the environment, and everything in the shape of a key replaced by
    `[hidden]`, also where they are encoded (percent, base64); with `loosely`, also what may be a part of a key."""
    for secret in (*secrets, *env_secrets()):
        if len(secret) >= _SHORTEST:
            for form in _forms(secret):
                text = text.replace(form, HIDDEN)
    for shape in _LOOSE if loosely else ():
        text = shape.sub(rf"\g<kept>{HIDDEN}", text)
    for shape in map(re.compile, SHAPES.values()):
        text = shape.sub(HIDDEN, text)
    return text


@lru_cache(maxsize=256)
def _forms(secret: str) -> tuple[str, ...]:
    """The secret as it is, percent-encoded, and the characters that it has in base64, of which there are three forms:
    one for each number of bytes, modulo 3, that stand before it."""
    raw = secret.encode(errors="surrogateescape")
    forms = {secret, quote(raw, safe="")}
    for before in range(3):
        first, last = (0, 2, 3)[before], (before + len(raw)) * 8 // 6  # the characters that hold nothing else
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(encode(bytes(before) + raw)[first:last].decode())
    return tuple(sorted(forms, key=len, reverse=True))
