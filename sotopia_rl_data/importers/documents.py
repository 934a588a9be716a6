"""The values inside a JSON document of any size, one at a time: the elements of its list, the entries of its object, or
of a list deeper down.

Each value is parsed by itself, so that a mistake in one value costs that value: its end is then found by its brackets
and strings alone. Only where even these do not balance is the rest of the document lost.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.opened import BUFFER
from sotopia_rl_data.importers.record import MAX_RECORD, Record, json_value, whole_text

Entry = tuple[Record, InputError | None]  # a record, and the reason if it cannot be read

_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|["\[\]{},]', re.DOTALL)
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
_NUMBER = 32  # so many characters after a number show that it has ended: "1.", "1e-" may go on


class _Window:
    """The text of a stream from `at` on, of which a growing part is in memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.buffer, self.at, self.ended = "", 0, False

    def more(self) -> None:
        """Read on: at least as much again as is in memory, which then begins at `at`."""
        data = self._stream.read(max(BUFFER, len(self.buffer) - self.at))
        self.ended = not data
        self.buffer = self.buffer[self.at :] + self._decoder.decode(data, final=self.ended)
        self.at = 0

    def next(self) -> str:
        """The next character that is not white space, which stays; "" at the end."""
        while True:
            match = _SPACE.match(self.buffer, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if self.ended:
                return ""
            self.more()

    def value(self, limit: int) -> tuple[Any, str]:
        """The value that begins here, and its text; then `at` is behind it.

        Raises InputError for a value that is wrong, and `at` is behind it as well; BrokenDocument where no end is
        found.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.at)
            except (ValueError, RecursionError):
                end = self._end()
                if end < 0 and len(self.buffer) - self.at < limit and not self.ended:
                    self.more()
                    continue
                raise self._wrong(end, limit) from None
            if isinstance(value, (int, float)) and len(self.buffer) - end < _NUMBER and not self.ended:
                self.more()  # the number may go on
                continue
            text, self.at = self.buffer[self.at : end], end
            return value, text

    def _end(self) -> int:
        """Where the value ends by its brackets and strings; -1 where that is not in memory."""
        level = 0
        for token in _TOKEN.finditer(self.buffer, self.at):
            mark = token[0]
            if mark == '"':
                return -1  # a string without its end
            if mark in "[{":
                level += 1
            elif mark in "]}":
                if level == 0:
                    return token.start()
                level -= 1
                if level == 0:
                    return token.end()
            elif mark == "," and level == 0:
                return token.start()
        return -1

    def _wrong(self, end: int, limit: int) -> InputError:
        """Why the value that begins here, and ends at `end`, cannot be read; moves behind it."""
        text = self.buffer[self.at : end if end >= 0 else None]
        if end < 0 and not self.ended and len(text) >= limit:
            self.at = len(self.buffer)
            return BrokenDocument(f"longer than {limit:,} bytes.")
        self.at = end if end >= 0 else len(self.buffer)
        try:
            json_value(text.encode("utf-8", "surrogateescape"))
        except InputError as error:
            if end >= 0:
                return error
            return BrokenDocument(f"{error.message.rstrip('.')}, and nothing can be read from here on.")
        return InputError("not JSON.")


class BrokenDocument(InputError):
    """After this nothing more of a document can be read."""


def json_document(stream: IO[bytes], name: str, depth: int, limit: int = MAX_RECORD) -> Iterator[Entry]:
    """The values that are `depth` containers below the root of a JSON document (0: the document itself; several
    documents may follow each other). A value has at most `limit` characters."""
    text, above = _Window(stream), list[tuple[str, str]]()  # the open containers: a bracket, and the key it is under
    key: str | None = None
    count = 0
    while mark := text.next():
        in_object = bool(above) and above[-1][0] == "{"
        wanted = len(above) == depth
        if mark == "," or (mark == ":" and in_object):
            text.at += 1
            continue
        if mark in "]}":
            text.at += 1
            if not above:
                yield Record(None, _place(name, depth, "", count)), BrokenDocument(f"not JSON: {mark} closes nothing.")
                return
            above.pop()
            key = None
            continue
        if not wanted and mark in "[{" and not (in_object and key is None):
            text.at += 1
            above.append((mark, key or ""))
            key = None
            continue
        place = _place(name, depth, key or "", count)
        within = ".".join(outer for _, outer in above if outer)
        try:
            value, raw = text.value(limit)
            if in_object and key is None:
                if not isinstance(value, str):
                    raise InputError("not JSON: a key of an object is not text.")
                key = value
                continue
            wrong = _not_unicode(value, raw)
        except InputError as error:
            value, raw, wrong = None, "", error
        if wanted or wrong is not None:
            yield Record(value, place, key=key or "", within=within), wrong
            count += 1
        if isinstance(wrong, BrokenDocument):
            return
        key = None
    if above:
        wrong = BrokenDocument("not JSON: the document ends before its end.")
        yield Record(None, _place(name, depth, "", count)), wrong


def _not_unicode(value: Any, raw: str) -> InputError | None:
    """Why this value's text is not Unicode, or None."""
    try:
        raw.encode()
        whole_text(value, raw)
    except UnicodeEncodeError:
        return InputError("not UTF-8 text.")
    except InputError as error:
        return error
    return None


def _place(name: str, depth: int, key: str, count: int) -> str:
    if depth == 0 and count == 0:
        return f"{name}:1"
    return f"{name}[{key or count}]"
