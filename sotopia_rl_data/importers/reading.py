"""From files to items: each record goes to the reader of its file's format, and what is wrong becomes a Failure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import annotated
from sotopia_rl_data.importers.examples import Example, read_example
from sotopia_rl_data.importers.labels import Row
from sotopia_rl_data.importers.library import read_episode_log, read_export_row
from sotopia_rl_data.importers.plain import read_plain
from sotopia_rl_data.importers.profiles import Beside, Found, Profiles
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.importers.scores import Refused
from sotopia_rl_data.importers.shapes import Format, format_of
from sotopia_rl_data.importers.sources import LOGS, Plan, Source, plan
from sotopia_rl_data.importers.streams import Metered
from sotopia_rl_data.importers.wrapped import collection, identity, unwrap
from sotopia_rl_data.schema import Attribution, Episode, Failure

Item = Episode | Example | Attribution | Failure
OnProgress = Callable[[int, int], None]
OnFile = Callable[[Source, str], None]
_PENDING = 10_000  # episodes of annotated rows that wait for their other row


def read(paths: Sequence[str | Path], *, on_progress: OnProgress | None = None) -> Iterator[Item]:
    """Every item of `paths`: files of any format, or folders of them. Memory does not grow with their size.

    A rejected record is a Failure that names its `source` ("file.jsonl:17") and keeps the `record`; a score that was
    refused is a Failure of its agent, right behind its Episode; labels of annotated rows are Attributions, behind
    theirs. `on_progress(done, total)` is called in bytes. Raises InputError, before the first item, for a path that is
    missing or holds nothing to import.
    """
    return (item for item, _ in read_plan(plan(paths), on_progress=on_progress))


def read_plan(
    found: Plan, *, on_progress: OnProgress | None = None, on_file: OnFile | None = None
) -> Iterator[tuple[Item, Record]]:
    """Every item of the files of a plan, with its record. `on_file` is told each file, once read, and its SHA-256."""
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(min(done, found.size), found.size)

    kept: dict[Path, Beside] = {}
    for source in found.sources:
        profiles = _profiles(source, kept)
        meter = Metered(source.path, tick)
        with closing(meter):
            yield from _items(source, meter, profiles)
        if on_file is not None:
            on_file(source, meter.sha256.hexdigest())


def _profiles(source: Source, kept: dict[Path, Beside]) -> Profiles | None:
    """The profiles that the logs of `source` may name: in folders beside it, or between its own records."""
    if source.profiles is not None:
        return kept.setdefault(source.profiles, Beside(source.profiles))
    if source.format != "episode-log" or not source.keyed:
        return None
    found = Found()
    with Metered(source.path).buffered() as stream:
        for record, wrong in source.entries(stream):
            if wrong is None:
                inner = unwrap(record)
                found.add(identity(inner.key), inner.value)
    return found


def _items(source: Source, meter: Metered, profiles: Profiles | None) -> Iterator[tuple[Item, Record]]:
    rows = _Rows()
    try:
        for record, wrong in source.entries(meter.buffered()):
            if wrong is not None:
                yield record.failure(wrong.message), record
            elif source.format == "annotated":
                yield from rows.add(record)
            elif not _passed_over(inner := unwrap(record)):
                yield from ((item, inner) for item in _record(inner, source, profiles))
    except InputError as error:  # it does not even begin as JSON
        nothing = Record(None, f"{source.label}:1", b"")
        yield nothing.failure(error.message), nothing
    except OSError as error:
        raise InputError(f"{source.path} cannot be read: {error.strerror}.", "check its permissions") from error
    yield from rows.rest()


def _passed_over(record: Record) -> bool:
    """True for a dump's records of other collections (profiles, combinations, annotations …)."""
    other = collection(record.key) not in ("", LOGS)
    return other and not (isinstance(record.value, Mapping) and format_of(record.value))


def _record(record: Record, source: Source, profiles: Profiles | None) -> Iterator[Item]:
    keys = record.value if isinstance(record.value, Mapping) else ()
    try:
        form = source.format or format_of(keys)  # a file of a log folder may begin with what has no format
        if form == "training":
            yield read_example(record.value)
            return
        episode, refused = _episode(record, form, profiles)
    except InputError as error:
        yield record.failure(error.message)
        return
    yield episode
    yield from (_refusal(one, episode, record) for one in refused)


def _episode(record: Record, form: Format | None, profiles: Profiles | None) -> tuple[Episode, tuple[Refused, ...]]:
    if form == "export":
        return read_export_row(record.value)
    if form == "plain":
        return read_plain(record.value)
    if form == "episode-log":
        return read_episode_log(record.value, identity(record.key), profiles)
    raise InputError("it is a record of none of the formats.")


def _refusal(refused: Refused, episode: Episode, record: Record) -> Failure:
    return Failure(refused.reason, episode.episode_id, refused.agent, dimension=refused.dimension, source=record.source)


class _Rows:
    """Annotated rows that wait for the other rows of their episode. Few do: a file has them side by side."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, list[tuple[Record, Row]]] = OrderedDict()

    def add(self, record: Record) -> Iterator[tuple[Item, Record]]:
        """Take a row; the items of its episode where that is now complete."""
        try:
            row = annotated.read_row(record.value)
        except InputError as error:
            yield record.failure(error.message), record
            return
        waiting = self._waiting.setdefault(row.episode_id, [])
        waiting.append((record, row))
        if annotated.complete([row for _, row in waiting]):
            yield from self._join(self._waiting.pop(row.episode_id))
        elif len(self._waiting) > _PENDING:
            yield from self._join(self._waiting.popitem(last=False)[1])

    def rest(self) -> Iterator[tuple[Item, Record]]:
        """The items of what is left at the end of the file: episodes of which only one agent was judged."""
        while self._waiting:
            yield from self._join(self._waiting.popitem(last=False)[1])

    def _join(self, waiting: list[tuple[Record, Row]]) -> Iterator[tuple[Item, Record]]:
        try:
            for item in annotated.join([row for _, row in waiting]):
                record = waiting[0][0]
                yield replace(item, source=record.source) if isinstance(item, Failure) else item, record
        except InputError as error:
            yield from ((record.failure(error.message), record) for record, _ in waiting)
