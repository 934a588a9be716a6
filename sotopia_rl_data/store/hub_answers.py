"""How much a server in the Hub's place may send. What it says is data of a stranger: each answer other than a file is
read up to a size and for a time before anything is made of it, and so are all answers to one question together. (What a
download may have is in `hub/client.py`.)
"""

from __future__ import annotations

import math
import re
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import get_session, set_client_factory
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import _http

from sotopia_rl_data.errors import HubError, HubUnavailable

MOST_BYTES = 16 << 20  # of an answer, on the wire and unpacked; a page of a tree has 1,000 files in some 300 kB
MOST_BYTES_TOGETHER = 96 << 20  # of all answers to one question
MOST_ANSWERS = 1_000  # to one question: a tree of a million files has as many pages
LONGEST_S = 300.0  # for an answer, for all answers to one question, and for a wait that the server asks for
HTTP_LIBRARY = sys.modules[HTTPError.__module__.partition(".")[0]]  # httpx or httpx2, as huggingface_hub has it
_FILE = "sotopia_rl_data.file"  # marks the request for a file in its extensions, which a redirect keeps
_FILE_PATHS = ("/resolve/", "/resolve-cache/")
_AGENTS = "/api/agent-harnesses"  # huggingface_hub keeps any answer for a day, and stumbles over it at each question
_WAIT = re.compile(r"\bt=([0-9]+)")  # in the header RateLimit
_FILE_NAMES = ("ETag", "X-Linked-ETag", "X-Repo-Commit")  # headers that become names in huggingface_hub's cache
_PLAIN = re.compile(r'(?:W/)?+"?+(?!\.{0,2}"?$)[^/\\]*')
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")
_installing = threading.Lock()


@dataclass(slots=True)
class _Question:
    """What answers may still come to it."""

    answers: float = field(default_factory=lambda: MOST_ANSWERS)
    bytes: float = field(default_factory=lambda: MOST_BYTES_TOGETHER)
    until: float = field(default_factory=lambda: time.monotonic() + LONGEST_S)


_TRANSFER = _Question(math.inf, math.inf, math.inf)


_asked: ContextVar[_Question | None] = ContextVar("_asked", default=None)


@contextmanager
def bounded_answers(transfer: bool = False) -> Iterator[None]:
    """What this thread asks of the Hub inside is answered within these bounds; raises HubError where it is not. A
    `transfer` of files may take hours and many parts: only each of its answers is bounded.

    huggingface_hub has one session for the whole process, and makes another after an error: each is given hooks. They
    do nothing outside: others may read a job's log from it as it grows.
    """
    with _installing:
        if _read not in get_session().event_hooks["response"]:
            _hook_sessions()
    before = _asked.set(_TRANSFER if transfer else _Question())
    try:
        yield
    finally:
        _asked.reset(before)


def _hook_sessions() -> None:
    make = getattr(_http, "_GLOBAL_CLIENT_FACTORY", None)  # the user's own, if one was set
    if make is None:  # another huggingface_hub than those known: the session of now alone
        _hook(get_session())
    else:
        set_client_factory(lambda: _hook(make()))


def _hook(session: Any) -> Any:
    session.event_hooks["request"].append(_prepare)
    session.event_hooks["response"].append(_read)
    return session


def _prepare(request: Any) -> None:
    if _asked.get() is None:
        return
    if request.url.path.endswith(_AGENTS):
        raise HubError("What the Hub knows of agents is not asked.", "")  # huggingface_hub goes on without
    if _FILE in request.extensions or any(path in request.url.path for path in _FILE_PATHS):
        request.extensions[_FILE] = True
    else:
        request.headers["Accept-Encoding"] = "gzip"


def _read(response: Any) -> None:
    """Reads an answer to its end, within the bounds; a file only where a range of it, or an error, is what comes."""
    question, request = _asked.get(), response.request
    if question is None:
        return
    _check_wait(response)
    _check_names(response)
    if _FILE in request.extensions and response.status_code in (200, 206):
        asked = _RANGE.fullmatch(request.headers.get("Range", ""))
        if asked is not None and request.method != "HEAD":
            _read_up_to(int(asked[2]) - int(asked[1]) + 1, response, question.until)
        return
    question.answers -= 1
    if question.answers < 0:
        raise _refused(response, f"has more than {MOST_ANSWERS:,} pages")
    question.bytes -= _read_up_to(MOST_BYTES, response, question.until)
    if question.bytes < 0:
        raise _refused(response, f"has more than {MOST_BYTES_TOGETHER >> 20} MiB with its other pages")


def _read_up_to(most: int, response: Any, until: float) -> int:
    """Puts what was read, unpacked, in the place of what is to come; its length."""
    body, stream, until = bytearray(), response.stream, min(until, time.monotonic() + LONGEST_S)
    try:
        for piece in stream:
            body += piece
            if len(body) > most:
                raise _refused(response, f"has more than {_size(most)}")
            if time.monotonic() > until:
                raise _refused(response, f"takes longer than {LONGEST_S:.0f} s")
    finally:
        stream.close()
    plain = _unpacked(response, bytes(body), most)
    response.stream = HTTP_LIBRARY.ByteStream(plain)
    return len(plain)


def _check_wait(response: Any) -> None:
    """huggingface_hub waits as long as it is told to: no longer than for the answers themselves."""
    told = [response.headers.get("Retry-After", ""), *_WAIT.findall(response.headers.get("RateLimit", ""))]
    longest = max((int(wait) for wait in told if wait.isdecimal() and wait.isascii()), default=0)
    if response.status_code in (429, 503) and longest > LONGEST_S:
        raise HubUnavailable(f"{response.url.host} asks to wait for {longest} s.", "run the same command again then")


def _check_names(response: Any) -> None:
    """`ETag: ../../x` would be written outside the cache."""
    for header in _FILE_NAMES if response.request.method == "HEAD" else ():
        name = response.headers.get(header)
        if name is not None and not _PLAIN.fullmatch(name):
            raise _refused(response, f"names a file by {name[:60]!r} ({header})")


def _size(most: int) -> str:
    return f"{most >> 20} MiB" if most >= MOST_BYTES else f"{most:,} bytes"


def _unpacked(response: Any, body: bytes, most: int) -> bytes:
    packed = response.headers.pop("Content-Encoding", "identity").strip().lower()
    if packed in ("", "identity") or not body:
        return body
    if packed != "gzip":
        raise _refused(response, f"is packed with {packed!r}, where gzip was asked for")
    unpacker, plain = zlib.decompressobj(31), b""
    with suppress(zlib.error):
        plain = unpacker.decompress(body, most)
    if unpacker.unconsumed_tail:
        raise _refused(response, f"has more than {_size(most)} unpacked")
    if not unpacker.eof:
        raise _refused(response, "is said to be packed with gzip, and is not, or not whole")
    return plain


def _refused(response: Any, why: str) -> HubError:
    return HubError(f"An answer of {response.url.host} {why}; it was not read.", "check HF_ENDPOINT")
