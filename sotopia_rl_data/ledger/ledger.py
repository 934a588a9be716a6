"""Every raw answer that was ever paid for, under the key of what determines it.

An attempt is durable before anyone parses it. A key may have several attempts; the caller decides which of them counts
(`lookup.py` takes the newest that is accepted). Nothing is ever changed or removed. Replies stay on the disk and are
read when they are looked up.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.ledger import calls
from sotopia_rl_data.ledger.attempt import MARKER, Attempt, Status, answered, failed, parse_line
from sotopia_rl_data.ledger.claims import Claims
from sotopia_rl_data.ledger.index import KeyIndex, Place, end_of_records, index_of, keys_from
from sotopia_rl_data.ledger.journal import Journal, check_writable, is_being_written
from sotopia_rl_data.ledger.lines import Lines
from sotopia_rl_data.ledger.segments import Segments, local_folder
from sotopia_rl_data.store.disk import time_of_change

if TYPE_CHECKING:
    import pyarrow as pa


log = logging.getLogger(__name__)
__all__ = ["Attempt", "Ledger", "Status", "answered", "failed"]

_GROUPS_KEPT = 32
_LINE_GUESS = 8_192  # bytes: most records are shorter


class Ledger:
    """The attempts in a directory, or at `s3://BUCKET/PREFIX`: then `directory` is this machine's part of them, and
    `segments` exchanges them. Opening only builds the index; the first record creates the directory.

    Several processes may append at once, each to a journal of its own; `reload` shows what others have appended since
    the ledger was opened. Raises StoreError where the directory cannot be read or written.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = local_folder(directory)
        self._place = os.fspath(self.directory)
        self.segments = Segments.of(self.directory)
        if self.segments is not None:
            self.segments.fetch()
        self._journal = Journal(self.directory)
        self._groups: OrderedDict[tuple[Path, int], pa.Table] = OrderedDict()
        self._files: list[Path] = []
        self._questions: KeyIndex | None = None
        self._noted: dict[str, list[Attempt]] | None = None
        self._watched: dict[Path, int] = {}  # journal that another process writes -> how many of its bytes are indexed
        self._listed_at = -1  # the directory's time of change when it was last listed; -1: list it again
        self.claims = Claims(self.directory)
        self.reload()

    @classmethod
    def default(cls, store_root: Path | str) -> Ledger:
        """The ledger of a store: `<store>/.ledger`."""
        return cls(Path(store_root) / ".ledger")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of attempts. A torn record counts until its journal is compacted."""
        return len(self._index)

    @property
    def address(self) -> str:
        """Where it is: its directory, or its place in a bucket."""
        return str(self.directory) if self.segments is None else self.segments.address

    @property
    def size_bytes(self) -> int:
        """About how much memory the index takes; it holds no replies."""
        return self._index.size_bytes

    def append(self, attempt: Attempt) -> None:
        """Keep an attempt for good. After that, a killed process cannot lose it. Raises StoreError."""
        offset = self._journal.append(attempt.line())
        path = self._journal.path
        if path is not None and (not self._files or self._files[-1] != path):
            self._files.append(path)
        place = (len(self._files) - 1, offset)
        self._index.add(attempt.key, place)
        if self._questions is not None:
            self._questions.add(attempt.question, place)
        if self.segments is not None:
            self.segments.appended()

    def flush(self) -> None:
        """Have all attempts where a version may be made of them: in the bucket, if the ledger is there. Raises
        StoreError where the bucket is away."""
        if self.segments is not None:
            self.segments.flush()

    def check(self) -> None:
        """Raises StoreError where no attempt could be kept, before an answer is paid for. Writes no attempt."""
        if self._journal.path is None:
            check_writable(self.directory)
        if self.segments is not None:
            self.segments.check()

    def attempts(self, key: str) -> list[Attempt]:
        """All attempts at a request, newest first, transport errors included. Empty where it was never sent."""
        found = [a for a in self._find(lambda: self._index, key) if a.key == key]
        if found and self._noted is not None:
            self._noted[key] = found
        return found

    @contextmanager
    def noting(self) -> Iterator[dict[str, list[Attempt]]]:
        """What `attempts` finds inside the block, by key."""
        noted = self._noted = {}
        try:
            yield noted
        finally:
            self._noted = None

    def tries(self, key: str) -> int:
        """How many attempts at a request there are, from the index alone; too many where other keys begin alike."""
        return sum(1 for _ in self._index.find(key))

    def attempts_at(self, question: str) -> list[Attempt]:
        """All attempts at a question (`Request.question`), from any target, newest first."""
        return [a for a in self._find(self._by_question, question) if a.question == question]

    def scan(self) -> Iterator[Attempt]:
        """Every attempt, file by file, including those that other processes have appended until now."""
        with calls.reading(self.directory):
            for path in calls.live_files(self.directory):
                yield from calls.attempts_in(path)

    def compact(self) -> int:
        """Move the journals that no living process writes into Parquet; returns the number of records moved. Safe at
        any time."""
        if not self.directory.is_dir():
            return 0
        self._journal.close()
        if self.segments is None:
            moved = calls.compact(self.directory)
        else:
            with self.segments.settled() as journals:
                moved = calls.compact(self.directory, journals)
        self.reload()
        return moved

    def tidy(self, journal_bytes: int = 64 << 20, journals: int = 64) -> int:
        """`compact` where the journals have grown beyond this size or number; returns the number of records moved."""
        sizes = [path.stat().st_size for path in self.directory.glob("journal-*.jsonl")]
        return self.compact() if sum(sizes) > journal_bytes or len(sizes) > journals else 0

    def query(self, sql: str, seconds: float | None = None) -> pa.Table:
        """The rows of exactly one SELECT over the table `calls`, which has one row for each attempt. Raises
        QueryError, also where it takes longer than `seconds` (default: 300)."""
        return calls.query(self.directory, sql, seconds)

    def reload(self) -> None:
        """Read the index again, to see what other processes have appended or compacted."""
        self._groups.clear()
        self._lines = Lines()
        self._questions = None
        try:
            with calls.reading(self.directory):
                self._files = calls.live_files(self.directory) if self.directory.is_dir() else []
                self._listed_at = time_of_change(self.directory) if self._files else -1
                others = [path for path in self._files if path != self._journal.path and not _is_compacted(path)]
                self._watched = {path: end_of_records(path) for path in others if is_being_written(path)}
                self._index = index_of(self._files)
                log.debug("read %s: %d attempts in %d files", self.directory, len(self._index), len(self._files))
        except OSError as error:
            raise StoreError(
                f"The ledger in {self.directory} cannot be read: {error.strerror or error}.", "make the folder readable"
            ) from error

    def has_news(self) -> bool:
        """Whether other processes may have changed something since the last look. Costs a microsecond where no other
        process is at work."""
        try:
            if os.stat(self._place).st_mtime_ns != self._listed_at:
                return True
        except FileNotFoundError:
            return False
        try:
            return any(os.stat(path).st_size != start for path, start in self._watched.items())
        except FileNotFoundError:  # a journal was compacted
            return True

    def catch_up(self) -> bool:
        """Index the attempts that other processes have appended since the last look; returns whether there were any."""
        if not self.has_news():
            return False
        if os.stat(self._place).st_mtime_ns != self._listed_at:
            with calls.reading(self.directory):
                live, listed_at = calls.live_files(self.directory), time_of_change(self.directory)
            new = [path for path in live if path not in self._files]
            if any(map(_is_compacted, new)) or any(path not in live for path in self._files):
                self.reload()
                return True
            self._files += new
            self._watched |= dict.fromkeys(new, 0)
            self._listed_at = listed_at
        grown = [path for path, start in self._watched.items() if self._read_on(path, start)]
        return bool(grown)

    def close(self) -> None:
        """Flush to the disk, let other processes compact this ledger's journal, and give up all claims."""
        self._journal.close()
        if self.segments is not None:
            self.segments.close()
        self.claims.close()

    def _read_on(self, path: Path, start: int) -> bool:
        """Index the records of a journal beyond `start`; returns whether there were any."""
        try:
            if path.stat().st_size == start:
                return False
            found, self._watched[path] = keys_from(path, start)
        except FileNotFoundError:  # it was compacted
            self._listed_at = -1
            return False
        number = self._files.index(path)
        for key, offset in found:
            if (number, offset) not in self._index.find(key):
                self._index.add(key, (number, offset))
        if found:
            self._questions = None
        return bool(found)

    def _by_question(self) -> KeyIndex:
        if self._questions is None:
            self._questions = index_of(self._files, "question")
        return self._questions

    def _find(self, index: Callable[[], KeyIndex], key: str) -> list[Attempt]:
        try:
            attempts = [self._read(place) for place in index().find(key)]
        except FileNotFoundError:  # another process compacted the journal
            with calls.reading(self.directory):
                self.reload()
                attempts = [self._read(place) for place in index().find(key)]
        return sorted((attempt for attempt in attempts if attempt is not None), key=lambda attempt: -attempt.time)

    def _read(self, place: Place) -> Attempt | None:
        path = self._files[place[0]]
        return self._row(path, place[1]) if path.suffix == ".parquet" else _line_at(path, place[1])

    def _row(self, path: Path, row: int) -> Attempt:
        quick = self._lines.attempt(path, row)
        if quick is not None:
            return quick
        import pyarrow.parquet as pq

        group, within = divmod(row, calls.ROWS_A_GROUP)
        table = self._groups.get((path, group))
        if table is None:
            table = pq.ParquetFile(path).read_row_group(group)
            self._groups[path, group] = table
            if len(self._groups) > _GROUPS_KEPT:
                self._groups.popitem(last=False)
        else:
            self._groups.move_to_end((path, group))
        return calls.row_attempt(table.slice(within, 1).to_pylist()[0], path)


def _is_compacted(path: Path) -> bool:
    return path.suffix == ".parquet"


def _line_at(path: Path, offset: int) -> Attempt | None:
    """The record that begins at `offset` of a journal; None where it is torn."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(fd, _LINE_GUESS, offset)
        while b"\n" not in data:
            more = os.pread(fd, len(data) * 2, offset + len(data))
            if not more:
                return None
            data += more
    finally:
        os.close(fd)
    line = data[: data.index(b"\n") + 1]
    return parse_line(line, path) if line.rfind(MARKER.encode()) == 0 else None
