"""The console on which tables and dialogues are printed: rich's, made to cope with closed pipes and narrow terminals.

Imports rich: import it where something is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from sotopia_rl_data.display import MISSING, printable

READABLE = 20  # characters: a column of longer texts is at least this wide
_BESIDE = 8  # the most rows of a table that are shown side by side, each as a column


class Screen(Console):
    """Stdout or another stream. In a pipe without colour, and never narrower than `columns`."""

    def __init__(self, stream: IO[str] | None = None, columns: int = 160) -> None:
        super().__init__(file=stream, highlight=False)
        if not self.is_terminal:
            self.width = max(self.width, columns)

    def on_broken_pipe(self) -> None:
        """End quietly where the reader, such as `head`, has closed the pipe; rich's own method would exit with 1."""
        raise  # again the BrokenPipeError that rich has caught, for `cli/program.py`

    def plain(self, text: str) -> str:
        """`text` as the stream will have it, which may be longer: what its encoding lacks is written in ASCII."""
        text, encoding = printable(text), self.encoding
        return text.encode(encoding, getattr(self.file, "errors", None) or "strict").decode(encoding)

    def say(self, text: str, style: str = "") -> None:
        """Print prose: it is wrapped between words, and a word that is longer than a line stays whole."""
        for line in Text(self.plain(text), style, overflow="ignore").wrap(self, self.width):
            self.print(line, overflow="ignore", crop=False)

    def show(self, table: Table, spare: Sequence[str] = (), most_lines: int | None = None) -> tuple[list[str], int]:
        """Print a table if its words fit side by side.

        Else the columns that are called as in `spare` are left out, one after the other, until the others fit. Where
        they never do, each row is a column, if that fits, and else a paragraph. Returns the names of the columns left
        out, and the number of rows shown: of paragraphs as many as fit in `most_lines`, but one at least.
        """
        names = [str(column.header) for column in table.columns]
        if self._narrowed(table, spare):
            self.print(table)
            kept = {str(column.header) for column in table.columns}
            return [name for name in names if name not in kept], table.row_count
        turned = _turned(table)
        if table.row_count <= _BESIDE and self._fits(turned, list(map(_widths, turned.columns))):
            self.print(turned)
            return [], table.row_count
        printed = shown = 0
        if names[0]:
            self.print(Text(names[0], "bold"))
        for row in zip(*(column.cells for column in table.columns), strict=True):
            lines = list(self._paragraph(names, list(map(str, row))))
            if most_lines is not None and shown and printed + len(lines) > most_lines:
                break
            for line in lines:
                self.print(line)
            printed, shown = printed + len(lines), shown + 1
        return [], shown

    def _narrowed(self, table: Table, spare: Sequence[str]) -> bool:
        """Narrow `table` until it fits: one space between columns instead of two, then without spare columns. False
        where it never does; the table is then as it was."""
        columns, padding = list(table.columns), table.padding
        widths = list(map(_widths, columns))
        if self._fits(table, widths):
            return True
        table.padding = (0, 1, 0, 0)
        for name in ("", *spare):
            kept = [place for place, column in enumerate(table.columns) if not name or str(column.header) != name]
            _keep(table, [table.columns[place] for place in kept])
            widths = [widths[place] for place in kept]
            if self._fits(table, widths):
                return True
        _keep(table, columns)
        table.padding = padding
        return False

    def _paragraph(self, names: Sequence[str], values: Sequence[str]) -> Iterator[Text]:
        """The lines of a row: its first value, then each other with its column's name, as many in a line as fit."""
        yield from Text(values[0]).wrap(self, self.width, overflow="fold")
        line = Text()
        for name, value in zip(names[1:], values[1:], strict=True):
            if value in ("", self.plain(MISSING)):
                continue
            part = Text(f"  {name}: {value}" if name else f"  {value}")
            if line and line.cell_len + part.cell_len > self.width:
                yield line
                line = Text()
            line.append(part)
            if line.cell_len > self.width:
                first, *others = line.wrap(self, self.width - 4, overflow="fold")
                *whole, line = [first, *(Text("    ").append(other) for other in others)]
                yield from whole
        if line:
            yield line

    def _fits(self, table: Table, widths: Sequence[tuple[int, int]]) -> bool:
        """Whether the words of a table fit side by side; then each column has a width in which they do. `widths` are
        the columns' least and largest."""
        _, right, _, left = table.padding
        room = self.width - len(widths) * (left + right) - sum(least for least, _ in widths)
        if room < 0:
            return False
        needs = sorted(range(len(widths)), key=lambda place: widths[place][1] - widths[place][0])
        for waiting, place in zip(range(len(needs), 0, -1), needs, strict=True):
            least, most = widths[place]
            more = min(most - least, room // waiting)
            table.columns[place].width, room = least + more, room - more
        return True


def _keep(table: Table, columns: Sequence[Column]) -> None:
    """Leave only these columns in `table`. Each knows its place, by which rich pads it."""
    table.columns[:] = columns
    for place, column in enumerate(columns):
        column._index = place


def _widths(column: Column) -> tuple[int, int]:
    """How narrow a column can be read (no word of it is cut, and longer texts keep `READABLE` columns), and how wide
    it is where nothing is wrapped."""
    head, cells = str(column.header), list(map(str, column.cells))
    longest = max(map(cell_len, cells), default=0)
    words = max((cell_len(word) for text in (head, *cells) for word in text.split()), default=0)
    return max(words, min(READABLE, longest)), max(cell_len(head), longest)


def _turned(table: Table) -> Table:
    """The table with its columns as rows, and its rows side by side."""
    turned = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    turned.add_column(style="bold")
    for _ in range(table.row_count):
        turned.add_column(overflow="fold")
    for column in table.columns:
        turned.add_row(column.header, *column.cells)
    return turned
