"""Which files the paths that were named stand for, and what lies in each: found out once, before anything is read.

A file that is named must be one that can be imported. In a folder, files that hold none of the formats (manifests,
other exports) are passed over and listed; a damaged file is read all the same, so that it is listed with its reason.
A folder of the local backend is its EpisodeLog folder, with the profiles beside it.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import documents, streams
from sotopia_rl_data.importers.literals import json_value
from sotopia_rl_data.importers.shapes import Format, format_of
from sotopia_rl_data.importers.wrapped import unwrap

LOGS = "EpisodeLog"
_LINES, _TABLES, _DOCUMENTS = (".jsonl", ".ndjson"), (".csv",), (".json",)
_FIRST_RECORDS = 20
_FIRST_LINE = 16 * 2**20
_HINT = "name an episode file or folder; sotopia-rl-data import --help says which formats it reads"
_NO_FORMAT = "its records are of none of the formats."


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read. `label` is how failures name it: never more of the path than was below the one named.

    `depth` says how many containers lie above the records of a JSON document; `keyed`, that they lie under keys, as in
    a dump of a database; `profiles`, the folder that holds those of the logs. Where no record has a format, `wrong`
    says why, and `damaged` whether that is because it cannot be read.
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

    def entries(self, stream: io.BufferedReader) -> Iterator[streams.Entry]:
        """The records of the file."""
        if self.layout == "lines":
            return streams.json_lines(stream, self.label)
        if self.layout == "table":
            return streams.csv_rows(stream, self.label)
        return streams.json_document(stream, self.label, self.depth)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be read, and the files of folders that hold none of the formats."""

    sources: tuple[Source, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(source.size for source in self.sources)


def plan(paths: Sequence[str | Path]) -> Plan:
    """What `paths` hold. Raises InputError for a path that is missing or unreadable or holds nothing to import."""
    found = [source for path in paths for source in _of_path(Path(path))]
    if not found:
        raise InputError("No path was named.", _HINT)
    usable = sorted(filter(_usable, found), key=lambda s: s.format == "annotated")  # behind what they annotate
    return Plan(tuple(usable), tuple(s.label for s in found if not _usable(s)))


def _usable(source: Source) -> bool:
    return source.format is not None or source.damaged or source.profiles is not None


def _of_path(path: Path) -> list[Source]:
    try:
        if path.is_dir():
            found = list(_folder(path, path))
            if not any(s.format for s in found):
                raise InputError(f"The folder {path} holds no episodes.", _HINT)
            return found
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
    """The files of `folder` in order of their names. A local backend's other collections are no episodes."""
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
    with streams.Metered(path).buffered() as stream:
        if path.suffix.lower() in _TABLES:
            return _recognised(replace(source, layout="table"), streams.csv_rows(stream, label))
        lines = path.suffix.lower() in _LINES or _begins_with_a_line(stream)
    with streams.Metered(path).buffered() as stream:
        if lines:
            return _recognised(replace(source, layout="lines"), streams.json_lines(stream, label))
        try:
            found = documents.layout(stream)
        except InputError as error:
            return replace(source, wrong=error.message, damaged=True)
    if found is None:
        return replace(source, wrong=_NO_FORMAT)
    return replace(source, format=found.format, depth=found.depth, keyed=found.keyed)


def _begins_with_a_line(stream: io.BufferedReader) -> bool:
    """True where the first line that is not blank is a JSON object of its own, and another line follows."""
    lines = iter(lambda: stream.readline(_FIRST_LINE), b"")
    first = next((line for line in lines if line.strip()), b"")
    try:
        alone = isinstance(json_value(first), dict)
    except InputError:
        return False
    return alone and any(line.strip() for line in lines)


def _recognised(source: Source, entries: Iterable[streams.Entry]) -> Source:
    """`source` with the format of the first of its records that has one."""
    wrong: list[str] = []
    values = 0
    for record, error in itertools.islice(entries, _FIRST_RECORDS):
        inner = unwrap(record)
        form = format_of(inner.value) if isinstance(inner.value, dict) else None
        if form is not None:
            return replace(source, format=form, keyed=bool(inner.key))
        values += error is None
        wrong += [error.message] if error else []
    return replace(source, wrong=wrong[0] if wrong and not values else _NO_FORMAT, damaged=not values)
