"""The console on which tables and dialogues are printed: rich's, made to cope with closed pipes and narrow terminals.

Imports rich: import it where something is printed.
"""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

READABLE = 20  # characters: a column of longer texts is at least this wide


class Screen(Console):
    """Stdout or another stream. In a pipe without colour, and never narrower than `columns`."""

    def __init__(self, stream: IO[str] | None = None, columns: int = 160) -> None:
        super().__init__(file=stream, highlight=False)
        if not self.is_terminal:
            self.width = max(self.width, columns)

    def on_broken_pipe(self) -> None:
        """End quietly where the reader, such as `head`, has closed the pipe; rich's own method would exit with 1."""
        raise  # again the BrokenPipeError that rich has caught, for `cli/program.py`

    def show(self, table: Table) -> None:
        """Print a table if its words fit side by side; else each row as a paragraph, with a line for each column."""
        if self._fits(table):
            return self.print(table)
        table.padding = (0, 1, 0, 0)  # one space between the columns, where the table had two
        if self._fits(table):
            return self.print(table)
        for number, row in enumerate(zip(*(column.cells for column in table.columns), strict=True)):
            shown = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
            shown.add_column(style="bold", no_wrap=True)
            shown.add_column(overflow="fold")
            for column, value in zip(table.columns, row, strict=True):
                shown.add_row(column.header, value)
            if number:
                self.print(Text())
            self.print(shown)
        return None

    def _fits(self, table: Table) -> bool:
        _, right, _, left = table.padding
        padded = len(table.columns) if table.pad_edge else len(table.columns) - 1
        gaps = padded * (left + right)
        if table.box is not None:
            gaps += 2
        return not table.row_count or sum(map(self._least, table.columns)) + gaps <= self.width

    def _least(self, column: Column) -> int:
        """How narrow a column can be read: no word of it is cut, and longer text keeps `READABLE` columns."""
        wide = self.options.update(max_width=1 << 16)
        sizes = [Measurement.get(self, wide, text) for text in (column.header, *column.cells)]
        return max(*(size.minimum for size in sizes), min(READABLE, max(size.maximum for size in sizes)))
