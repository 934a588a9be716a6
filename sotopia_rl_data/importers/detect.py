"""Which files the paths that were named stand for, and what lies in each: found out once, before anything is read.

A file that is named must be one that can be imported. In a folder, files that hold none of the formats (manifests,
other exports) are passed over and listed; a damaged file is read all the same, so that it is listed with its reason.
A folder of the local backend is its EpisodeLog folder, with the profiles beside it.

The records of a JSON document lie alone, in a list, under the keys of a dump, inside wrappers. Only the head of it is
looked at, up to the first object (or text that holds one) with the keys of a format (`formats/`).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import stream
from sotopia_rl_data.importers.formats import annotated, format_of
from sotopia_rl_data.importers.formats.episode_log import LOGS
from sotopia_rl_data.importers.formats.format import Format
from sotopia_rl_data.importers.literals import json_value
from sotopia_rl_data.importers.record import Record

_LINES, _TABLES, _DOCUMENTS = (".jsonl", ".ndjson"), (".csv",), (".json",)
_FIRST_RECORDS = 20
_FIRST_LINE = 16 * 2**20
_FIRST_EVENTS = 2_000_000
_HINT = "name an episode file or folder; sotopia-rl-data import --help says which formats it reads"
_NO_FORMAT = "its records are of none of the formats."


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read. `label` is how failures name it: never more of the path than was below the one named.

    `depth` says how many containers lie above the records of a JSON document; `keyed`, that they lie under keys, as in
    a dump of a database; `profiles`, the folder that holds those of the logs. Where no record has a format, `wrong`
    says why, and `damaged` whether that is because it cannot be read. `size` is in bytes.
    """

    path: Path
    label: str
    size: int
    layout: Literal["lines", "table", "document"] = "document"
    format: Format | None = None
    depth: int = 0
    keyed: bool = False
    profiles: Path | None = None
    wrong: str = ""
    damaged: bool = False

    @property
    def kind(self) -> str:
        """Its format's name, or "damaged"."""
        return self.format.name if self.format is not None else "damaged"

    @property
    def usable(self) -> bool:
        """Whether it is read: it holds episodes, or what is wrong with it has to be listed."""
        return self.format is not None or self.damaged or self.profiles is not None

    def entries(self, opened: io.BufferedReader) -> Iterator[stream.Entry]:
        """The records of the file."""
        if self.layout == "lines":
            return stream.json_lines(opened, self.label)
        if self.layout == "table":
            return stream.csv_rows(opened, self.label)
        return stream.json_document(opened, self.label, self.depth)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What will be read, and the labels of the files of folders that hold none of the formats."""

    sources: tuple[Source, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(source.size for source in self.sources)

    @property
    def formats(self) -> set[Format]:
        """The formats of the sources."""
        return {source.format for source in self.sources if source.format is not None}


def plan(paths: Sequence[str | Path]) -> ImportPlan:
    """What `paths` hold. Raises InputError for a path that is missing or unreadable or holds nothing to import."""
    sources = [source for path in paths for source in _of_path(Path(path))]
    if not sources:
        raise InputError("No path was named.", _HINT)
    usable = [source for source in sources if source.usable]
    usable.sort(key=lambda source: source.format is annotated.FORMAT)  # after what they annotate
    return ImportPlan(tuple(usable), tuple(source.label for source in sources if not source.usable))


def _of_path(path: Path) -> list[Source]:
    try:
        if path.is_dir():
            sources = list(_folder(path, path))
            if all(source.format is None for source in sources):
                raise InputError(f"The folder {path} holds no episodes.", _HINT)
            return sources
        if not path.exists():
            raise InputError(f"There is no {path}.", "check the path")
        source = _file(path, path.name)
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be read: {error.strerror}.", "check its permissions"
        ) from error
    if source.format is None:
        raise InputError(f"{path} cannot be imported: {source.wrong}", _HINT)
    return [source]


def _folder(folder: Path, root: Path) -> Iterator[Source]:
    """The files of `folder` in order of their names. Other collections of a local backend hold no episodes."""
    backend = (folder / LOGS).is_dir()
    for entry in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        if entry.is_dir() and not entry.is_symlink():
            if not backend or entry.name == LOGS:
                yield from _folder(entry, root)
        elif entry.suffix.lower() in (*_LINES, *_TABLES, *_DOCUMENTS):
            yield _file(entry, entry.relative_to(root).as_posix())


def _file(path: Path, label: str) -> Source:
    """What lies in `path`."""
    profiles = path.parent.parent if path.parent.name == LOGS else None
    source = Source(path, label, path.stat().st_size, profiles=profiles)
    if not source.size:
        return replace(source, wrong="it is empty.", damaged=True)
    with stream.Metered(path).buffered() as opened:
        if path.suffix.lower() in _TABLES:
            return _recognised(replace(source, layout="table"), stream.csv_rows(opened, label))
        lines = path.suffix.lower() in _LINES or _begins_with_a_line(opened)
    with stream.Metered(path).buffered() as opened:
        if lines:
            return _recognised(replace(source, layout="lines"), stream.json_lines(opened, label))
        try:
            location = _in_document(opened)
        except InputError as error:
            return replace(source, wrong=error.message, damaged=True)
    if location is None:
        return replace(source, wrong=_NO_FORMAT)
    form, depth, keyed = location
    return replace(source, format=form, depth=depth, keyed=keyed)


def _begins_with_a_line(opened: io.BufferedReader) -> bool:
    """True where the first line that is not blank is a JSON object of its own, and another line follows."""
    lines = iter(lambda: opened.readline(_FIRST_LINE), b"")
    first = next((line for line in lines if line.strip()), b"")
    try:
        alone = isinstance(json_value(first), dict)
    except InputError:
        return False
    return alone and any(line.strip() for line in lines)


def _recognised(source: Source, entries: Iterable[stream.Entry]) -> Source:
    """`source` with the format of the first of its records that has one."""
    wrong: list[str] = []
    readable = False
    for record, error in itertools.islice(entries, _FIRST_RECORDS):
        inner = record.unwrapped()
        form = format_of(inner.value)
        if form is not None:
            return replace(source, format=form, keyed=bool(inner.key))
        if error is None:
            readable = True
        else:
            wrong.append(error.message)
    return replace(source, wrong=wrong[0] if wrong and not readable else _NO_FORMAT, damaged=not readable)


@dataclass(slots=True)
class _OpenContainer:
    """An object or a list whose end is not read yet: the keys it had so far, and the one that is being read."""

    is_object: bool
    keys: set[str] = field(default_factory=set)
    key: str = ""


def _in_document(opened: IO[bytes]) -> tuple[Format, int, bool] | None:
    """(format, how many containers lie above the records, whether they lie under keys); None where it has no records.

    Raises InputError where it is not JSON.
    """
    import ijson

    try:
        events = ijson.basic_parse(opened, use_float=True, multiple_values=True, buf_size=stream.BUFFER)
        return _first_record(itertools.islice(events, _FIRST_EVENTS))
    except (ijson.JSONError, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise InputError(f"it is not JSON: {stream.first_line(error)}.") from error


def _first_record(events: Iterator[tuple[str, Any]]) -> tuple[Format, int, bool] | None:
    above: list[_OpenContainer] = []
    for event, value in events:
        if event == "map_key":
            above[-1].key = value
            above[-1].keys.add(value)
            form = format_of(above[-1].keys)
            if form is not None:
                return _place(form, above[:-1])
        elif event == "string" and value.lstrip()[:1] in ("{", "["):
            form = format_of(Record(value, "").unwrapped().value)
            if form is not None:
                return _place(form, above)
        elif event in ("start_map", "start_array"):
            above.append(_OpenContainer(event == "start_map"))
        elif event in ("end_map", "end_array"):
            above.pop()
    return None


def _place(form: Format, above: list[_OpenContainer]) -> tuple[Format, int, bool]:
    """Where a record below `above` lies; its wrapping ({key, value}, a list of one under a key) belongs to it."""
    depth = len(above)
    in_value = depth > 0 and above[-1].is_object and above[-1].key == "value"
    alone_in_list = depth > 1 and not above[-1].is_object and ":" in above[-2].key
    if in_value or alone_in_list:
        depth -= 1
    return form, depth, any(one.is_object for one in above)
