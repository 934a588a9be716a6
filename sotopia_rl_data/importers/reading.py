"""From the named paths to items. `plan` finds the files and the format of each, before anything is imported; `read`
hands each record to the reader of its format, and turns whatever is wrong with it into a Failure.

A named file must be importable. In a folder, files of no known format (manifests, other exports) are passed over and
listed; a damaged file is still read, so that it is listed with the reason. Of a folder of the local backend only
EpisodeLog is read, and the profiles beside it.

The records of a JSON document may stand alone, in a list, under the keys of a dump, or inside wrappers. Only the head
of the document is looked at, up to the first object (or text that holds an object) with the keys of a format.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import stream
from sotopia_rl_data.importers.formats import annotated, episode_log, format_of
from sotopia_rl_data.importers.formats.format import Format, Item, Located, Reader
from sotopia_rl_data.importers.profiles import GatheredProfiles, ProfileLookup, StoredProfiles
from sotopia_rl_data.importers.record import Record, json_value
from sotopia_rl_data.importers.stream import Metered

_LINES, _TABLES, _DOCUMENTS = (".jsonl", ".ndjson"), (".csv",), (".json",)
_FIRST_RECORDS = 20
_FIRST_LINE = 16 * 2**20
_FIRST_EVENTS = 2_000_000
_HINT = "name an episode file or folder; sotopia-rl-data import --help says which formats it reads"
_NO_FORMAT = "its records are of none of the formats."


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read. `label` is its name in failures: the path below the folder that was named, never more.

    `depth` is the number of containers above the records of a JSON document. `keyed`: the records are under keys, as
    in a dump of a database. `profiles` is the folder with the profiles that the logs name. If no record has a format,
    `wrong` says why, and `damaged` whether the reason is that the file cannot be read. `size` is in bytes.
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
        """The name of the format, or "damaged"."""
        return self.format.name if self.format is not None else "damaged"

    @property
    def usable(self) -> bool:
        """Whether the file is read: it has records of a format, or its damage has to be listed."""
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
    """The files that will be read, and the labels of files in folders that are of no known format."""

    sources: tuple[Source, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(source.size for source in self.sources)

    @property
    def formats(self) -> set[Format]:
        """The formats of the sources."""
        return {source.format for source in self.sources if source.format is not None}


def plan(paths: Sequence[str | Path]) -> ImportPlan:
    """The files of `paths`. Raises InputError for a path that is missing, unreadable, or without anything to import."""
    sources = [source for path in paths for source in _of_path(Path(path))]
    if not sources:
        raise InputError("There is no path to import from.", _HINT)
    usable = [source for source in sources if source.usable]
    usable.sort(
        key=lambda source: source.format is annotated.FORMAT
    )  # annotations come after the episodes they annotate
    return ImportPlan(tuple(usable), tuple(source.label for source in sources if not source.usable))


def _of_path(path: Path) -> list[Source]:
    try:
        if path.is_dir():
            sources = list(_folder(path, path))
            if all(source.format is None for source in sources):
                raise InputError(f"The folder {path} has no file in a format that can be imported.", _HINT)
            return sources
        if not path.exists():
            raise InputError(f"There is no file or folder {path}.", "check the path")
        source = _file(path, path.name)
    except OSError as error:
        raise InputError(
            f"The path {error.filename or path} cannot be read: {error.strerror}.", "check its permissions and its disk"
        ) from error
    if source.format is None:
        raise InputError(f"The file {path} cannot be imported: {source.wrong}", _HINT)
    return [source]


def _folder(folder: Path, root: Path) -> Iterator[Source]:
    """The files of `folder` by name. In a local backend only the collection EpisodeLog holds episodes."""
    backend = (folder / episode_log.LOGS).is_dir()
    for entry in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        if entry.is_dir() and not entry.is_symlink():
            if not backend or entry.name == episode_log.LOGS:
                yield from _folder(entry, root)
        elif entry.suffix.lower() in (*_LINES, *_TABLES, *_DOCUMENTS):
            yield _file(entry, entry.relative_to(root).as_posix())


def _file(path: Path, label: str) -> Source:
    """The file `path`, with its layout and format."""
    profiles = path.parent.parent if path.parent.name == episode_log.LOGS else None
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
    """True where the first line that is not blank is a whole JSON object, and another such line follows."""
    lines = iter(lambda: opened.readline(_FIRST_LINE), b"")
    first = next((line for line in lines if line.strip()), b"")
    try:
        alone = isinstance(json_value(first), dict)
    except InputError:
        return False
    return alone and any(line.strip() for line in lines)


def _recognised(source: Source, entries: Iterable[stream.Entry]) -> Source:
    """`source` with the format of its first record that has one."""
    reasons: list[str] = []
    readable = False
    for record, error in itertools.islice(entries, _FIRST_RECORDS):
        inner = record.unwrapped()
        form = format_of(inner.value)
        if form is not None:
            return replace(source, format=form, keyed=bool(inner.key))
        if error is None:
            readable = True
        else:
            reasons.append(error.message)
    if readable or not reasons:
        return replace(source, wrong=_NO_FORMAT, damaged=not readable)
    return replace(source, wrong=reasons[0], damaged=True)


@dataclass(slots=True)
class _OpenContainer:
    """An object or a list whose end has not been read: the keys so far, and the key whose value is being read."""

    is_object: bool
    keys: set[str] = field(default_factory=set)
    key: str = ""


def _in_document(opened: IO[bytes]) -> tuple[Format, int, bool] | None:
    """(format, number of containers above the records, whether they are under keys); None where no record is found.

    Raises InputError where the file is not JSON.
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
    """Where a record below `above` is. A wrapping ({key, value}, or a list of one under a key) is part of it."""
    depth = len(above)
    in_value = depth > 0 and above[-1].is_object and above[-1].key == "value"
    alone_in_list = depth > 1 and not above[-1].is_object and ":" in above[-2].key
    if in_value or alone_in_list:
        depth -= 1
    return form, depth, any(one.is_object for one in above)


OnProgress = Callable[[int, int], None]
OnFile = Callable[[Source, str], None]


def read(paths: Sequence[str | Path], *, on_progress: OnProgress | None = None) -> Iterator[Item]:
    """Every item of `paths`: files of any format, or folders of files. Memory does not grow with their size.

    A rejected record becomes a Failure with its `source` ("file.jsonl:17") and the `record`. A refused score becomes a
    Failure of its agent, right after the Episode; the labels of annotated rows become Attributions after their
    Episode. `on_progress(done, total)` counts bytes. Raises InputError, before the first item, for a path that is
    missing or has nothing to import.
    """
    return (item for item, _ in read_plan(plan(paths), on_progress=on_progress))


def read_plan(
    import_plan: ImportPlan, *, on_progress: OnProgress | None = None, on_file: OnFile | None = None
) -> Located:
    """Every item of the files of a plan, with its record. `on_file` gets each file that was read, and its SHA-256."""
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(min(done, import_plan.size), import_plan.size)

    stored: dict[Path, StoredProfiles] = {}
    for source in import_plan.sources:
        profiles = _profiles(source, stored)
        meter = Metered(source.path, tick)
        with closing(meter):
            yield from _items(source, meter, profiles)
        if on_file is not None:
            on_file(source, meter.sha256.hexdigest())


def _profiles(source: Source, stored: dict[Path, StoredProfiles]) -> ProfileLookup | None:
    """The profiles that the logs of `source` may name: from folders beside the file, or from its own records."""
    if source.profiles is not None:
        return stored.setdefault(source.profiles, StoredProfiles(source.profiles))
    if source.format is not episode_log.FORMAT or not source.keyed:
        return None
    gathered = GatheredProfiles()
    with Metered(source.path).buffered() as stream:
        for record, wrong in source.entries(stream):
            if wrong is None:
                inner = record.unwrapped()
                gathered.add(inner.identity, inner.value)
    return gathered


def _items(source: Source, meter: Metered, profiles: ProfileLookup | None) -> Located:
    readers: dict[Format, Reader] = {}
    try:
        for record, wrong in source.entries(meter.buffered()):
            if wrong is not None:
                yield record.failure(wrong.message), record
                continue
            inner = record.unwrapped()
            # A file in a folder of logs is read even if its first records tell no format; each record is then asked.
            form = source.format or format_of(inner.value)
            if inner.collection not in ("", episode_log.LOGS) and format_of(inner.value) is None:
                continue  # a dump also has records that are not episodes: profiles, combinations, annotations …
            if form is None:
                yield inner.failure("it is a record of none of the formats."), inner
                continue
            if form not in readers:
                readers[form] = form.reader(profiles)
            yield from readers[form].add(inner)
    except InputError as error:  # the file does not begin as JSON, so it has no record that could be named
        nothing = Record(None, f"{source.label}:1", b"")
        yield nothing.failure(error.message), nothing
    except OSError as error:
        raise InputError(
            f"The file {source.path} cannot be read: {error.strerror}.", "check its permissions and its disk"
        ) from error
    for reader in readers.values():
        yield from reader.rest()
