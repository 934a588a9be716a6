"""The shapes of keys, tokens and passwords, and how they are kept out of everything that is written or shown.

A shape is a pattern, and a question to what the pattern found: `sk-based-on-plain-words` has the form of a key, but it
is made of words, and `password: required` names a password without telling it. So the prefix of a key, or a name
before a value ("WANDB_API_KEY=…"), only raises the suspicion; how random the text behind it is decides.

Providers and proxies repeat in their error texts the key that was sent to them. Every error passes through `redact`
before it is journaled or raised; `hub/leaks.py` searches releases before they are published. A secret that neither has
the shape of a key nor a name before it nor is in the environment cannot be recognised.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PAT|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST = 8  # characters; shorter values (TOKENIZERS_TOKEN=1 …) would blank out ordinary words
_WORD = re.compile(r"[A-Z]?[a-z]{0,15}|[A-Z]{1,15}|[0-9]{1,4}|v[0-9]{1,3}")
_PLACEHOLDER = re.compile(r"^[<>{}()\[$%]|[<{\[(]|\.\.\.|…|\*{2}")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_KEY_NAMES = (
    "api|access|secret|private|auth|account|master|signing|encryption|admin|service|deploy|licen[cs]e|storage|"
    "subscription|consumer|client|shared|function|host|application|app|project|server|webhook|root|personal"
)


class Found(NamedTuple):
    """A secret in a text: its `shape`, and the characters `start` to `end` that must not be read."""

    shape: str
    start: int
    end: int


class _Shape(NamedTuple):
    """A pattern; what its group matched, or else the whole of it, must be such that it `holds`. After a `name`, the
    group alone is the secret."""

    pattern: str
    holds: Callable[[str], bool]
    name: bool = False


def _words(text: str) -> bool:
    """Whether a text is made of words and short numbers, as names of files and models are."""
    parts = [part for part in re.split(r"[-_.]+", text) if part]
    return len(parts) > 1 and all(_WORD.fullmatch(part) for part in parts)


def _no_words(text: str) -> bool:
    return not _words(text)


def _letters_and_digits(text: str) -> bool:
    return not _words(text) and any(c.isdigit() for c in text) and _changes(text)[0] > 0.2


def _always(_: str) -> bool:
    return True


def _changes(text: str) -> tuple[float, int]:
    """How often small letters, capitals and digits take turns in a text (0 to 1), and how many of the three it has."""
    kinds = ["d" if c.isdigit() else "l" if c.islower() else "u" for c in text if c.isalnum()]
    return sum(a != b for a, b in pairwise(kinds)) / max(len(kinds), 1), len(set(kinds))


def _random(text: str) -> bool:
    """Whether a text behind a telling name looks drawn at random."""
    text = _PERCENT.sub("", text).rstrip("=")
    changes, kinds = _changes(text)
    digits = any(c.isdigit() for c in text) or len(text) >= 24
    worded = _PLACEHOLDER.search(text) or _words(text) or len(set(text)) < 6
    return not worded and digits and kinds > 1 and changes > 0.08


def _surely_random(text: str) -> bool:
    """Whether a text with nothing but a prefix before it was drawn from small letters, capitals and digits (where
    0.62 of all neighbours differ in kind); identifiers of answers and files are words, or hexadecimal."""
    changes, kinds = _changes(text)
    return kinds == 3 and changes > 0.4


def _password(text: str) -> bool:
    """Whether what follows the name of a password is one: not a plain word, or quoted."""
    quoted = text[:1] in "\"'"
    text = text.strip("\"'").rstrip(".,;!?")
    if _PLACEHOLDER.search(text) or len(text) < 6 or _words(text) or "://" in text or text[:1] in "/~":
        return False
    plain = re.fullmatch(r"[A-Za-z][a-z]*(?:[A-Z][a-z]+)*|[A-Z_]+|[0-9.,:]{1,9}|(.)\1*", text)
    return not plain or (quoted and len(text) >= 12)


def _in_url(text: str) -> bool:
    """Whether the password in a URL is one, and not the word that stands for it in a manual."""
    return not re.fullmatch(r"(?i)pass(word|wd)?|pwd|pw|secret|token|key|x+|\*+|[<{$%\[].*", text)


def _basic(text: str) -> bool:
    """Whether a text is `user:password` in base64."""
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return ":" in plain and plain.isprintable()


_TAIL = r"[A-Za-z0-9_-]"
# Read by Python's re and by RE2, which Arrow has (no lookbehind, no atomic groups).
_SHAPES = {
    "an API key (sk-…)": _Shape(rf"\bsk-({_TAIL}{{20,}})", _no_words),
    "a Hugging Face token": _Shape(r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}", _always),
    "a Google API key": _Shape(rf"\bAIza{_TAIL}{{35}}", _always),
    "a Google OAuth secret": _Shape(rf"\b(?:ya29\.|GOCSPX-|1//0)({_TAIL}{{20,}})", _no_words),
    "an AWS access key": _Shape(r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b", _always),
    "a GitHub token": _Shape(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,})", _always),
    "a GitLab token": _Shape(rf"\bgl[a-z]{{2,5}}-({_TAIL}{{20,}})", _no_words),
    "a Slack token": _Shape(r"\bx(?:ox[a-z]|app)-([A-Za-z0-9-]{10,})", _no_words),
    "a provider's key": _Shape(
        rf"\b(?:gsk_|xai-|pplx-|nvapi-|r8_|tgp_v1_|fw_|csk-|jina_|lsv2_[a-z]{{2}}_|pa-|dapi)({_TAIL}{{20,}})", _no_words
    ),
    "a Stripe key": _Shape(r"\b(?:[srp]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{20,})", _always),
    "an npm token": _Shape(r"\bnpm_[A-Za-z0-9]{30,}", _always),
    "a PyPI token": _Shape(rf"\bpypi-({_TAIL}{{16,}})", _no_words),
    "a SendGrid key": _Shape(rf"\bSG\.({_TAIL}{{16,}}\.{_TAIL}{{16,}})", _no_words),
    "a service's token": _Shape(
        r"\b(?:dckr_pat_|shp[a-z]{2}_|do[a-z]_v1_|hv[sbr]\.|tskey-[a-z]+-|ATATT3x|ATCTT3x|sq0[a-z]{3}-|NR[A-Z]{2}-|PMAK-|"
        r"AGE-SECRET-KEY-1|dp\.[a-z]{2,5}\.|EAA|FLW[A-Z]*SECK[-_]|gl(?:sa|c)_|pscale_[a-z]+_|sbp_|rubygems_|figd_|ntn_|"
        r"sntry[a-z]_|lin_[a-z]+_|ops_|key-|SK)([A-Za-z0-9_=-]{20,})",
        _letters_and_digits,
    ),
    "a Mailchimp key": _Shape(r"\b[0-9a-f]{32}-us[0-9]{1,2}\b", _always),
    "a private key": _Shape(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----", _always),
    "a PGP block": _Shape(r"-----BEGIN PGP (?:MESSAGE|SECRET KEY BLOCK)-----", _always),
    "a JSON web token": _Shape(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.", _always),
    "a bearer token": _Shape(r"\b[Bb](?:earer|EARER)[ :]+([A-Za-z0-9._~+/=-]{16,})", _no_words),
    "a password of HTTP Basic": _Shape(r"\b[Bb](?:asic|ASIC) +([A-Za-z0-9+/_-]{8,}={0,2})", _basic),
    "a web hook": _Shape(
        r"\b(?:hooks\.slack\.com/[a-z]+/[A-Z0-9][A-Za-z0-9/_-]{16,}"
        r"|(?:[a-z]+\.)?discord(?:app)?\.com/api/(?:v[0-9]+/)?webhooks/[0-9]+/[A-Za-z0-9_-]{20,}"
        r"|hooks\.zapier\.com/hooks/catch/[0-9]+/[A-Za-z0-9]{5,}"
        r"|[a-z0-9.-]+\.webhook\.office\.com/[A-Za-z0-9@/_-]{40,})",
        _always,
    ),
    "a bot's token": _Shape(
        rf"(?:(?:\bbot|\b)[0-9]{{8,10}}:[A-Za-z0-9]{_TAIL}{{33,34}}|\b[MNO][A-Za-z0-9_-]{{23,27}}\.{_TAIL}{{6}}\.{_TAIL}{{27,}})",
        _random,
    ),
    "a storage key": _Shape(r"\b(?:[Aa]ccount|[Ss]hared[Aa]ccess)[Kk]ey=([A-Za-z0-9+/]{30,}={0,2})", _always),
    "a password in a URL": _Shape(
        r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'<>]*:([^\s/@\"'<>]+)@[A-Za-z0-9\[]",
        _in_url,
        name=True,
    ),
    "a token in a URL": _Shape(
        r"(?i:[?&#][a-z_.-]*(?:token|key|sig|signature|secret|password|passwd|pwd|credential|auth)"
        r"=([a-z0-9%._~+/=-]{12,}))",
        _random,
        name=True,
    ),
    "a named key": _Shape(
        rf"(?i:(?:(?:{_KEY_NAMES})[_ .-]?key(?:[_-]?value)?|[a-z0-9]_key|token|secret|credentials?|[_-]pat|"
        r"session_?id|authorization)[\"'`]?\s{0,3}(?:[:=]|=>|:=)\s{0,3}[\"'`]?([a-z0-9+/_.~=-]{16,}))",
        _random,
        name=True,
    ),
    "a header's token": _Shape(
        r"(?i:\bauthorization[\"'`]?\s{0,3}[:=]\s{0,3}[\"'`]?[a-z]{3,10} +([a-z0-9+/_.~=-]{16,}))", _random, name=True
    ),
    "a password": _Shape(
        r"(?i:(?:(?:password|passwd|passphrase|passcode|pwd|[_-]pass|[_-]pw)[\"'`]?\s{0,3}(?:[:=]|=>|:=)\s{0,3}"
        r"|\blogin\s+[^\s]+\s+password\s+)"
        r"(\"[^\s\"]{6,}\"|'[^\s']{6,}'|[^\s\"',;}&<>]{6,}))",
        _password,
        name=True,
    ),
    "a token": _Shape(
        rf"\b[A-Za-z][A-Za-z0-9]{{1,9}}(?:[_.-][A-Za-z0-9]{{1,9}}){{0,3}}[_.-]({_TAIL}{{30,}})", _surely_random
    ),
}
SHAPES = {name: shape.pattern for name, shape in _SHAPES.items()}
"""The pattern of each shape; `found` asks more of what a pattern matches."""

_LOOSE = (  # errors repeat keys shortened or starred out
    re.compile(r"(?<=://)([^/\s@]+)@"),  # user:password in a URL
    re.compile(r"(?i)\b(?:bearer|basic)\s+([^\s\"',}]{6,})"),
    re.compile(r"\b((?:sk|pk|rk|hf|gsk|xai|ghp|ghs|pat|key)[-_][A-Za-z0-9*._-]{6,}|(?:AIza|AKIA)[A-Za-z0-9_-]{10,})"),
    re.compile(
        r"(?i)(?:api[-_ ]?key|authorization|access[-_ ]?token|secret|password)"
        r"[^:=\n]{0,16}[:=](?!//)\s*[\"']?([^\s\"',}]{4,})"
    ),
    re.compile(r"([A-Za-z0-9_-]*\*{3,}[A-Za-z0-9_-]*)"),
)


_BY_CHANCE = (_no_words, _letters_and_digits, _surely_random)  # what they ask for may also occur in encoded data
_BLOB = re.compile(r"[A-Za-z0-9+/_=-]*")
_LONGEST_TOKEN = 1000  # characters


def _in_blob(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is a piece of encoded data, which is longer than any key."""
    run = _BLOB.match(text, end, end + _LONGEST_TOKEN)
    before = _BLOB.match(text[max(start - _LONGEST_TOKEN, 0) : start][::-1])
    return (end - start) + (len(run[0]) if run else 0) + (len(before[0]) if before else 0) > _LONGEST_TOKEN


def found(text: str) -> Iterator[Found]:
    """What in `text` has the shape of a key, a token or a password, each under the first shape that it has."""
    taken: list[tuple[int, int]] = []
    is_named = ":" in text or "=" in text or "login" in text.lower()  # else no name stands before a value
    for name, shape in _SHAPES.items():
        if shape.name and not is_named:
            continue
        for match in re.finditer(shape.pattern, text):
            start, end = match.span()
            if any(start < other_end and other_start < end for other_start, other_end in taken):
                continue
            group = match.lastindex or 0
            if shape.holds(match.group(group)) and not (shape.holds in _BY_CHANCE and _in_blob(text, start, end)):
                taken.append((start, end))
                yield Found(name, *match.span(group if shape.name else 0))


def env_secrets() -> tuple[str, ...]:
    """Values of the environment variables whose names say that they are secret, longest first."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST}
    return tuple(sorted(values, key=len, reverse=True))


def redact(text: str, *secrets: str, loosely: bool = True) -> str:
    """`text` with `[hidden]` in place of these secrets and those of the environment (as they are, broken by blanks, in
    percent or base64 encoding) and of everything in the shape of a key; with `loosely`, also of what may be a part of
    one. Names and words around them stay."""
    for secret in (*secrets, *env_secrets()):
        if len(secret) >= _SHORTEST:
            text = _spellings(secret).sub(HIDDEN, text)
    spans = [(one.start, one.end) for one in found(text)]
    if loosely:
        matches = (match for shape in _LOOSE for match in shape.finditer(text))
        spans += [match.span(1) for match in matches if _part_of_a_key(match.group(1))]
    for start, end in reversed(_merged(spans)):
        text = text[:start] + HIDDEN + text[end:]
    return text


def _part_of_a_key(text: str) -> bool:
    """Whether a text may be a part of a key: not a plain word, nor a name made of them."""
    text = text.rstrip(".:;!?")
    named = _words(text) and "." not in text  # parts of a token are joined by dots
    return "*" in text or not (named or HIDDEN in text or re.fullmatch(r"[A-Z]?[a-z]{,11}", text))


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, those that overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


@cache
def _spellings(secret: str) -> re.Pattern[str]:
    """What a secret looks like when it comes back: with blanks in it, percent-encoded, in base64 at any offset, or cut
    off after its first 12 characters."""
    letters = [rf"(?:{re.escape(c)}|{''.join(f'%{byte:02x}' for byte in c.encode())})" for c in secret]
    forms = [r"\s*".join(letters)]
    for offset in range(3):
        # the first and last characters of base64 depend on what stands beside the secret
        coded = base64.b64encode(b"\0" * offset + secret.encode()).decode().rstrip("=")
        core = coded[(0, 2, 3)[offset] : len(coded) - 1]
        forms += [re.escape(core), re.escape(core.translate(str.maketrans("+/", "-_")))]
    if len(secret) >= 20:
        forms.append(re.escape(secret[:12]) + r"[A-Za-z0-9*._-]*")
    return re.compile("|".join(f"(?i:{form})" if n == 0 else form for n, form in enumerate(forms)))
