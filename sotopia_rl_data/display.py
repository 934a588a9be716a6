"""How one value is shown to a person, on a screen or in a card; and where long work reports its progress."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any, Protocol

MISSING = "–"
"""How a table shows that there is no value."""


def write_utf8(stream: IO[Any]) -> None:
    """Let `stream` write UTF-8 from here on, as data does whatever the encoding of the terminal is."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors=stream.errors)


def printable(text: str) -> str:
    """`text` with control and direction-changing characters written as escapes, so that a terminal shows them instead
    of obeying them; line breaks and tabs stay."""
    return "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in text)


def cell(value: Any) -> str:
    """One value as a table shows it."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))


class Advance(Protocol):
    """Called with the work done so far, the whole (None: unknown) and a few words (rate, cost, failures)."""

    def __call__(self, done: int, total: int | None = None, words: str = "") -> None: ...


class Display(Protocol):
    """Where long work reports its progress; the command line's `console` module is one."""

    def progress(self, title: str, unit: str) -> AbstractContextManager[Advance]:
        """A block in which work called `title` is under way, counted in `unit`s."""

    def note(self, text: str) -> None:
        """A remark."""


class Silent:
    """A Display that shows nothing."""

    @contextmanager
    def progress(self, title: str, unit: str) -> Iterator[Advance]:
        """A block whose progress is not shown."""
        yield lambda done, total=None, words="": None

    def note(self, text: str) -> None:
        """Nothing is shown."""
