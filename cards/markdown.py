"""The few pieces of Markdown that cards are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from sotopia_rl_data import display

TEMPLATES = Path(__file__).parent / "templates"


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its $names filled in, and without the blank lines that empty values leave behind."""
    text = Template((TEMPLATES / template).read_text("utf-8")).substitute(values)
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        if line.strip() or fenced or (lines and lines[-1].strip()):
            lines.append(line.rstrip())
    return "\n".join(lines).strip()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[bool] | None = None) -> str:
    """A table; columns that hold only numbers (or those that `right` says) are aligned right, a missing value is a
    dash."""
    body = [list(row) for row in rows]
    if right is None:
        right = [all(row[i] is None or isinstance(row[i], (int, float)) for row in body) for i in range(len(columns))]
    rule = ["---:" if each else "---" for each in right]
    lines = [columns, rule, *([cell(value) for value in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Markdown(str):
    """Text that is Markdown already and safe in a table, as `plain` and `code` return it."""

    __slots__ = ()


def cell(value: Any) -> str:
    """One value in a table, as on the screen; text is escaped."""
    if isinstance(value, Markdown):
        return value
    return plain(value) if isinstance(value, str) else display.cell(value)


def plain(text: str) -> Markdown:
    """Foreign text, escaped so that it cannot become markup or break a table."""
    one_line = display.printable(" ".join(text.split()))
    return Markdown("".join(f"\\{c}" if c in "\\|`*_<>[]$" else c for c in one_line))


def code(text: str) -> Markdown:
    """Foreign text as inline code."""
    return Markdown("`" + display.printable(" ".join(text.split())).replace("`", "'").replace("|", "¦") + "`")


def count(number: int, what: str) -> str:
    """ "1 row", "1,234 rows"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
