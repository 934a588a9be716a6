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
import html
import json
import os
import re
from bisect import bisect
from collections.abc import Iterable, Iterator
from functools import cache
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from sotopia_rl_data.secret_names import (
    LONGEST_TOKEN,
    PUBLIC,
    SECRET_NAMES,
    SUSPICIOUS_NAMES,
    named,
    names_a_secret,
    small_letters,
)
from sotopia_rl_data.secret_shapes import SHAPES, Found, relaxed
from sotopia_rl_data.secret_values import (
    UUID,
    has_no_words,
    is_made_of_words,
    is_mixed,
    is_not_filled,
    is_password,
    is_surely_random,
    is_unknown_token,
    looks_random,
)

HIDDEN = "[hidden]"
_SHORTEST = 8  # characters; shorter values (TOKENIZERS_TOKEN=1 …) would blank out ordinary words
_LONGEST_SPELLED = 1000  # characters of a secret that is looked for in all its spellings
_URL = re.compile(r"""https?://[^\s'"\\]*[^\s'"\\:]""")
SUSPICIOUS = (
    SUSPICIOUS_NAMES,
    "|".join(f"(?:{shape.filter or relaxed(shape.pattern)})" for shape in SHAPES.values()),
)
"""Patterns (for Python's re and for RE2, which Arrow has): the first matches every text in which `found` finds a named
secret, the second every text with one of `SHAPES`. RE2 takes five times as long over both in one."""

_LOOSE = (  # errors repeat keys shortened or starred out
    re.compile(r"(?<=://)([^/\s@]+)@"),  # user:password in a URL
    re.compile(r"(?i)\b(?:bearer|basic)\s+([^\s\"',}]{6,})"),
    re.compile(r"\b((?:sk|pk|rk|hf|gsk|xai|ghp|ghs|pat|key)[-_][A-Za-z0-9*._-]{6,}|(?:AIza|AKIA)[A-Za-z0-9_-]{10,})"),
    re.compile(
        r"(?i)(?:api[-_ ]?key|authorization|access[-_ ]?token|secret|password)"
        r"[^:=\n]{0,16}[:=](?!//)\s*[\"']?([^\s\"',}]{4,})"
    ),
    re.compile(r"((?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]+)?\*{3,}[A-Za-z0-9_-]*)"),
)


# Encoded data may meet these conditions by chance.
_BY_CHANCE = (is_not_filled, has_no_words, is_mixed, is_surely_random, is_unknown_token)
_LONGEST_UNKNOWN = 256  # characters of a token of whose service nothing is known
_BLOB = re.compile(r"[A-Za-z0-9+/_=-]*")
_DIGEST = re.compile(r"(?i)(?:sha-?[0-9]{1,3}|md5|h1|integrity|checksum)[=:-]")
_IN_A_PICTURE = re.compile(r"(?:url\((?:&quot;|[\"'])?|href=[\"'])#$")
_ID = re.compile(r"(?:\bid|site_?key)[\"']?\s?[:=]\s?[\"']?[\w-]{0,40}$|\$[0-9][a-z]?\$\S{0,40}$")  # or a hash


def _encoded(text: str, start: int, end: int, longest: int = LONGEST_TOKEN) -> bool:
    """Whether text[start:end] is a piece of encoded data, which is longer than a key may be, or of a file's digest."""
    run = _BLOB.match(text, end, end + longest)
    before = _BLOB.match(text[max(start - longest, 0) : start][::-1])
    first, last = start - len(before[0] if before else ""), run.end() if run else end
    return last - first > longest or bool(_DIGEST.search(text, max(first - 12, 0), first + 12))


def found(text: str, names: bool = True, shapes: bool = True) -> Iterator[Found]:
    """What in `text` has the shape of a key, a token or a password, each under the first shape that it has. Who knows
    that one of the patterns of `SUSPICIOUS` does not match says it: without `names`, or without `shapes`."""
    taken: list[tuple[int, int]] = []
    for one in _candidates(text, names, shapes):
        at = bisect(taken, (one.start, one.end))
        if not any(start < one.end and one.start < end for start, end in taken[max(at - 1, 0) : at + 1]):
            taken.insert(at, (one.start, one.end))
            yield one


def _candidates(text: str, names: bool = True, shapes: bool = True) -> Iterator[Found]:
    small = small_letters(text)
    for name, shape in SHAPES.items() if shapes else ():
        where = small if "(?i" in shape.pattern else text
        if not any(part in where for part in shape.parts.split(" ")):
            continue
        if shape.name and shape.filter and not re.search(shape.filter, text):
            continue
        for match in re.finditer(shape.pattern, text):
            group = match.lastindex or 0
            start, end = match.span()
            if shape.name and any(PUBLIC.search(text, max(end - 20, 0), end) for end in (match.end(1), end)):
                continue
            if (group == 2 and match[1] == match[2]) or (shape.holds is is_mixed and UUID.match(match[0])):
                continue
            if shape.holds in (is_surely_random, is_unknown_token) and (
                _IN_A_PICTURE.search(text, max(start - 12, 0), start)
                or _ID.search(text, max(start - 60, 0), start)
                or _encoded(text, start, end, _LONGEST_UNKNOWN)
            ):
                continue
            if shape.holds(match.group(group)) and not (shape.holds in _BY_CHANCE and _encoded(text, start, end)):
                yield Found(name, *match.span(group if shape.name else 0))
    if names:
        yield from named(text)


def env_secrets() -> dict[str, str]:
    """What of the environment is secret, longest first, each with its variable: values of variables whose names say so,
    and the passwords and tokens in addresses (HF_ENDPOINT, HTTPS_PROXY, …)."""
    known = {value: name for name, value in os.environ.items() if names_a_secret(name, value)}
    for name, value in os.environ.items():
        known |= dict.fromkeys(_in_address(value) if "://" in value else (), name)
    return {value: known[value] for value in sorted(known, key=len, reverse=True) if len(value) >= _SHORTEST}


def without_credentials(url: str) -> str:
    """A URL without what may be secret in it: user, password, query and fragment."""
    scheme, host, path, _, _ = _split(url)
    return urlunsplit((scheme, host.rpartition("@")[2], path, "", ""))


def without_server(error: str, base_url: str) -> str:
    """The error of a server as data may carry it: without its URL and host, which may be private. Of a fleet, whose
    `base_url` is its name, every URL is left out."""
    if not base_url:
        return error
    server = _split(base_url)
    if not (server.scheme.startswith("http") and server.netloc):
        return without_urls(error, "its provider").replace(base_url, "its provider")
    host = rf"(?<![\w.-]){re.escape(server.netloc)}(?![\w-])"
    return re.sub(f"{re.escape(base_url)}|{host}", "its provider", error)


def without_urls(text: str, instead: str = "URL") -> str:
    """`text` with `instead` in place of every URL of a server, with the password that it may hold."""
    return _URL.sub(instead, text)


def _in_address(url: str) -> Iterator[str]:
    """The password, or a token in the place of the user, and the tokens of a URL, as they stand there and decoded. A
    short plain word, or the user's name again, is not a secret: it would be found in every dialogue that has it."""
    _, host, _, query, _ = _split(url)
    user, _, password = host.rpartition("@")[0].partition(":")
    of_query = [value for name, value in parse_qsl(query) if name.lower().endswith(SECRET_NAMES)]
    if password:
        of_user = password if password != user and is_password(f'"{unquote(password)}"') else ""
    else:
        of_user = user if looks_random(user) else ""
    for secret in (of_user, *of_query):
        yield from {secret, unquote(secret)}


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def redact(text: str, *secrets: str, loosely: bool = True) -> str:
    """`text` with `[hidden]` in place of these secrets and those of the environment (as they are, broken by blanks, in
    percent or base64 encoding) and of everything in the shape of a key; with `loosely`, also of what may be a part of
    one. Names and words around them stay."""
    text = hide(text, *secrets, *env_secrets())
    spans = [(one.start, one.end) for one in _candidates(text)]
    if loosely:
        matches = (match for shape in _LOOSE for match in shape.finditer(text))
        spans += [match.span(1) for match in matches if _part_of_a_key(match.group(1))]
    for start, end in reversed(_merged(spans)):
        text = text[:start] + HIDDEN + text[end:]
    return text


def hide(text: str, *secrets: str) -> str:
    """`text` with `[hidden]` in place of these secrets: as they are, broken by blanks, escaped, or in base64."""
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = spellings(secret).sub(HIDDEN, text)
    return text


def _part_of_a_key(text: str) -> bool:
    """Whether a text may be a part of a key: not a plain word, nor a name made of them."""
    text = text.rstrip(".:;!?")
    named = is_made_of_words(text) and "." not in text  # parts of a token are joined by dots
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
def spellings(secret: str) -> re.Pattern[str]:
    """What a secret looks like when it comes back: with blanks in it, escaped as in an address, JSON or HTML, in
    hexadecimal or at any offset in base64, or cut off after its first 12 characters. (For RE2, too.)"""
    if len(secret) > _LONGEST_SPELLED:
        return re.compile(re.escape(secret))
    data = os.fsencode(secret)
    forms = [f"(?i:{_broken(map(_letter, ''.join(secret.split())))}|{data.hex()})"]
    for offset in range(3):
        # the first and last characters of base64 depend on what stands beside the secret
        coded = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        core = coded[(0, 2, 3)[offset] : len(coded) - 1]
        forms.append(_broken("[+-]" if c == "+" else "[/_]" if c == "/" else c for c in core))
    if len(secret) >= 20:
        forms.append(re.escape(secret[:12]) + r"[A-Za-z0-9*._-]*")
    return re.compile("|".join(forms))


def _broken(patterns: Iterable[str]) -> str:
    """A pattern of these, one after the other, with blanks, line breaks or characters of no width between them."""
    return "[\\s\u200b-\u200d\u2060\ufeff]*".join(patterns)


def _letter(c: str) -> str:
    """A pattern of a character of a secret, as it is or escaped, be it twice (`%2573`)."""
    percent = _broken(f"%(?:25)*{byte:02x}" for byte in os.fsencode(c))
    ways = [json.dumps(c, ensure_ascii=False)[1:-1], html.escape(c), f"\\u{ord(c):04x}", f"&#{ord(c)};", f"\\{c}"]
    return f"(?:{'|'.join([re.escape(c), percent, *map(re.escape, dict.fromkeys(ways))])})"
