"""How much a server in the Hub's place may send. Its answers about repositories are data of a stranger: each is read
up to a size and a time before anything is made of it, and one question may take so many of them. (What a download
may have is in `hub/client.py`.)
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from huggingface_hub import get_session

from sotopia_rl_data.errors import HubError

MOST_BYTES = 64 << 20  # of an answer, on the wire and unpacked; a page of a tree has 1,000 files in some 300 kB
MOST_ANSWERS = 1_000  # to one question: a tree of a million files
LONGEST_S = 300.0  # for one answer
_ASKED = "sotopia_rl_data"  # marks a request in its extensions, which a redirect keeps
_PATHS = ("/api/", "/info/lfs/")
_left: ContextVar[list[int] | None] = ContextVar("_left", default=None)  # how many more answers may come


@contextmanager
def bounded_answers() -> Iterator[None]:
    """What this thread asks of the Hub inside is answered within these bounds; raises HubError where it is not.

    huggingface_hub has one session for the whole process. The hooks that it is given here do nothing outside: others
    may read a job's log from it as it grows.
    """
    hooks = get_session().event_hooks
    if _read not in hooks["response"]:
        hooks["request"].append(_mark)
        hooks["response"].append(_read)
    before = _left.set([MOST_ANSWERS])
    try:
        yield
    finally:
        _left.reset(before)


def _mark(request: Any) -> None:
    """A question about a repository is one by its path, or came by a redirect of one."""
    if _left.get() is None:
        return
    if _ASKED in request.extensions or any(path in request.url.path for path in _PATHS):
        request.extensions[_ASKED] = True
        request.headers["Accept-Encoding"] = "gzip"


def _read(response: Any) -> None:
    """Reads an answer to its end, within the bounds."""
    left = _left.get()
    if left is None or _ASKED not in response.request.extensions:
        return
    left[0] -= 1
    if left[0] < 0:
        raise _refused(response, f"has more than {MOST_ANSWERS:,} pages")
    body, until, stream = bytearray(), time.monotonic() + LONGEST_S, response.stream
    try:
        for piece in stream:
            body += piece
            if len(body) > MOST_BYTES:
                raise _refused(response, f"has more than {MOST_BYTES >> 20} MiB")
            if time.monotonic() > until:
                raise _refused(response, f"takes longer than {LONGEST_S:.0f} s")
    finally:
        stream.close()
    library = sys.modules[type(response).__module__.partition(".")[0]]  # httpx or httpx2, as huggingface_hub has it
    response.stream = library.ByteStream(_unpacked(response, bytes(body)))


def _unpacked(response: Any, body: bytes) -> bytes:
    packed = response.headers.pop("Content-Encoding", "identity").strip().lower()
    if packed in ("", "identity") or not body:
        return body
    if packed != "gzip":
        raise _refused(response, f"is packed with {packed!r}, where gzip was asked for")
    unpacker, plain = zlib.decompressobj(31), b""
    with suppress(zlib.error):
        plain = unpacker.decompress(body, MOST_BYTES)
    if unpacker.unconsumed_tail:
        raise _refused(response, f"has more than {MOST_BYTES >> 20} MiB unpacked")
    if not unpacker.eof:
        raise _refused(response, "is said to be packed with gzip, and is not, or not whole")
    return plain


def _refused(response: Any, why: str) -> HubError:
    return HubError(f"An answer of {response.url.host} {why}; it was not read.", "check HF_ENDPOINT")
