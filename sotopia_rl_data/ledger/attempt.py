"""One attempt at one request, as the ledger keeps it: a line of JSON in a journal, a row in Parquet.

The line begins with a marker that cannot occur inside a JSON string (its quotes would be escaped), so that a record is
found even after torn bytes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.formats import newer
from sotopia_rl_data.json_objects import storable
from sotopia_rl_data.request import Finish, Reply, Request, Usage, usage_of
from sotopia_rl_data.secrets import redact

Status = Literal["answer", "error"]
FORMAT = 1  # the format of journals and compacted files; a file with a higher number is not read
MARKER = f'{{"v":{FORMAT},"key":"'
_MARKER = MARKER.encode()
_NUMBER = re.compile(rb'\{"v":(\d{1,9})\b')
_LATER_LINE = re.compile(rb'\n\{"v":(?!%d,)\d' % FORMAT)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request's hashes and target, when it was sent, and the answer or the error.

    `time` is when the attempt ended (Unix seconds), `seconds` how long it took. `usage` is None where the provider
    reported no tokens: unknown is not zero. An `error` is a transport error or a refusal of the request, and never a
    hit; `maybe_billed` says that the provider may have done the work all the same. `batch` is the id of the batch whose
    results held the attempt. `thought` is what the provider told apart from the text as the model's thought. `form`
    says how the request was put, where its server did not take it as it is meant.
    """

    key: str
    question: str
    time: float
    provider: str
    base_url: str
    model: str
    sampling: Mapping[str, Any]
    sample: int
    status: Status
    text: str = ""
    finish: Finish | None = None
    returned_model: str = ""
    usage: Usage | None = None
    error: str = ""
    seconds: float = 0.0
    batch: str = ""
    maybe_billed: bool = False
    thought: str = ""
    form: str = ""

    @property
    def reply(self) -> Reply:
        """The answer as the client returned it."""
        usage = self.usage or Usage()
        return Reply(self.text, self.finish or "stop", self.returned_model, usage, self.thought, self.form)

    @property
    def is_filtered(self) -> bool:
        """Whether a content filter refused the request before any model was asked, which is not billed."""
        return self.finish == "refusal" and self.usage is None and not self.returned_model

    def line(self) -> bytes:
        """The journal's line, newline included. It is ASCII, so that no text can break a line or a decoder."""
        usage = self.usage
        rest = {
            "status": self.status,
            "time": self.time,
            "provider": self.provider,
            "base_url": self.base_url,
            "model": self.model,
            "sampling": dict(self.sampling),
            "sample": self.sample,
            "text": self.text,
            "finish": self.finish,
            "returned_model": self.returned_model,
            "usage": None if usage is None else [usage.input, usage.cached, usage.written, usage.output],
            "error": self.error,
            "seconds": self.seconds,
        }
        if self.batch:
            rest["batch"] = self.batch
        if self.maybe_billed:
            rest["maybe_billed"] = True
        if self.thought:
            rest["thought"] = self.thought
        if self.form:
            rest["form"] = self.form
        body = json.dumps(rest, separators=(",", ":"))
        return f'{MARKER}{self.key}","question":"{self.question}",{body[1:]}\n'.encode()


_TEXTS = ("key", "question", "provider", "base_url", "model", "status", "text", "error", "returned_model")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*_TEXTS, "batch", "thought", "form"), (str,)),
    **dict.fromkeys(("time", "seconds"), (float, int)),
    "v": (int,),
    "sampling": (dict,),
    "sample": (int,),
    "finish": (str, type(None)),
    "usage": (list, type(None)),
    "maybe_billed": (bool,),
}
_REQUIRED = {"v", "usage", *(field.name for field in fields(Attempt) if field.default is MISSING)}


def answered(request: Request, key: str, question: str, reply: Reply, seconds: float, batch: str = "") -> Attempt:
    """The attempt that ended in a reply."""
    return Attempt(
        *_origin(request, key, question),
        "answer",
        text=storable(reply.text),
        finish=reply.finish,
        returned_model=storable(reply.model),
        usage=None if reply.usage == Usage() else reply.usage,
        seconds=round(seconds, 4),
        batch=batch,
        thought=storable(reply.thought),
        form=reply.form,
    )


def failed(
    request: Request,
    key: str,
    question: str,
    error: str,
    seconds: float,
    batch: str = "",
    maybe_billed: bool = False,
    tokens: tuple[int, int, int, int] | None = None,
) -> Attempt:
    """The attempt that ended without a reply, perhaps with `tokens` that are billed all the same. Secrets in `error`
    are redacted."""
    return Attempt(
        *_origin(request, key, question),
        "error",
        usage=None if tokens is None else Usage(*tokens),
        error=redact(storable(error)),
        seconds=round(seconds, 4),
        batch=batch,
        maybe_billed=maybe_billed,
    )


def parse_line(line: bytes, path: Path) -> Attempt | None:
    """The attempt in a line of the journal `path`; None where the line is torn. Torn bytes before the record are
    skipped. Raises StoreError where a newer version wrote the line, or another program."""
    record = parse_record(line, path)
    if record is None:
        return None
    return Attempt(**record | {"usage": kept_usage(record["usage"])})


def kept_usage(numbers: object) -> Usage | None:
    """The usage of a record; None where it is unknown, or holds numbers that no call can have."""
    usage = usage_of(*numbers) if isinstance(numbers, list) and len(numbers) == len(fields(Usage)) else Usage()
    return None if usage == Usage() else usage


def parse_record(line: bytes, path: Path) -> dict[str, Any] | None:
    """Like `parse_line`, as a dict of the fields of an Attempt; `usage` is a list of four, or None."""
    start = line.rfind(_MARKER)
    record = _parsed(line[max(start, 0) :])
    if record is None:
        if _is_newer(line):
            raise newer(path)
        return None
    if start < 0 or record.keys() - _TYPES.keys():  # a torn line does not hold a whole object
        raise newer(path)
    check_record(record, path)
    del record["v"]
    return record


def check_record(record: Mapping[str, Any], path: Path) -> None:
    """Raises StoreError where a record of the file `path` lacks a field, or one has a value of the wrong type."""
    if not record.keys() >= _REQUIRED or not all(type(value) in _TYPES[name] for name, value in record.items()):
        raise damaged(path, "a record lacks a field, or one has a value of the wrong type")


def check_lines(data: bytes, path: Path) -> None:
    """Raises StoreError where a newer version wrote a line of the journal `path`, whose bytes `data` are, from the
    beginning of a line."""
    if _is_newer(data) or any(_is_newer(data, found.start() + 1) for found in _LATER_LINE.finditer(data)):
        raise newer(path)


def damaged(path: Path, reason: object) -> StoreError:
    """The error about a file of the ledger that this program cannot have written."""
    return StoreError(
        f"The ledger's file {path} is damaged: {reason}.",
        "restore the file from a copy, or move it away: its calls are then asked, and paid for, again",
    )


def _is_newer(data: bytes, start: int = 0) -> bool:
    """Whether the line that begins at `start` has a number higher than FORMAT."""
    number = _NUMBER.match(data, start)
    return number is not None and int(number[1]) > FORMAT


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON object that is the whole line; None where the line is torn."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _origin(request: Request, key: str, question: str) -> tuple[str, str, float, str, str, str, Mapping[str, Any], int]:
    """The first fields of an Attempt that ends now: the request's hashes, the time, the target and the sample."""
    target = request.target
    return key, question, time.time(), target.provider, target.base_url, target.model, target.sampling, request.sample
