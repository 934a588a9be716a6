"""Help that fits a narrow terminal: there each option is above its meaning. click's own is at least 50 columns wide.
Its commands are spelled as the program was called, and no name of a value is broken at a hyphen."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import click

from sotopia_rl_data.cli.console import PROGRAM, as_called, called

_UNBROKEN = "\N{NON-BREAKING HYPHEN}"
_NARROW = 60  # columns: below this, options and meanings do not fit side by side


class Help(click.HelpFormatter):
    """click's help, as narrow as the terminal."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        super().__init__(indent_increment, width, max_width)
        if width is None:
            self.width = min(self.width, shutil.get_terminal_size().columns - 2)

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog.replace(PROGRAM, called(), 1), args, prefix)

    def write_text(self, text: str) -> None:
        super().write_text(_whole(as_called(text)))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        if self.width >= _NARROW:
            super().write_dl([(_whole(term), _whole(meaning)) for term, meaning in rows], col_max, col_spacing)
            return
        for term, meaning in rows:
            self.write_text(term)
            with self.indentation():
                self.write_text(meaning)

    def getvalue(self) -> str:
        return super().getvalue().replace(_UNBROKEN, "-")


def _whole(text: str) -> str:
    """`text`, whose lines are not broken at a hyphen."""
    return text.replace("-", _UNBROKEN)


class HelpContext(click.Context):
    """A context whose help fits."""

    formatter_class = Help


def fit_help(command: click.Command) -> click.Command:
    """`command`, its help and that of every command below it as narrow as the terminal."""
    command.context_class = HelpContext
    for inner in getattr(command, "commands", {}).values():
        about = (inner.help or "").partition("\n\n")[0]
        inner.short_help = inner.short_help or " ".join(about.split())  # click cuts it to a line
        fit_help(inner)
    return command
