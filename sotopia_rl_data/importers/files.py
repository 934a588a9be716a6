"""Which files the named paths hold, and the format of each, told before anything is imported.

A named file must be importable. In a folder, links that lead out of it and files of no known format (manifests,
pictures, other exports) are passed over and listed, training rows too if there are episodes; a damaged file is still
read, so that it is listed with the reason. Of a folder of the local backend only EpisodeLog is read, and the profiles
beside it; of a ConvoKit corpus the utterances, and what lies beside them.

How a file is laid out is told by its first bytes (Parquet, Arrow, what packs it), else by its name (lines, tables),
else by looking. The records of a JSON document may stand alone, in a list, under the keys of a dump, or inside
wrappers. Only the head of the document is looked at, for the outermost object with the keys of a format.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers import stream
from sotopia_rl_data.importers.documents import Entry, json_document
from sotopia_rl_data.importers.formats import EXAMPLES, annotated, chat, convokit, episode_log, format_of, nearest
from sotopia_rl_data.importers.formats.format import Beside, Format
from sotopia_rl_data.importers.opened import BUFFER, Metered, lies_in
from sotopia_rl_data.importers.record import Record, json_value, rows_across
from sotopia_rl_data.schema import Failure

PACKINGS, TABLES = (".gz", ".zst", ".bz2", ".xz"), (".csv", ".tsv")
_LINES, _DOCUMENTS, _ARROWS = (".jsonl", ".ndjson"), (".json",), (".parquet", ".arrow", ".feather")
ENDINGS = (*_LINES, *_DOCUMENTS, *TABLES, *_ARROWS)
LIBRARY_FILES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What the `datasets` library writes beside its data."""
_FIRST_RECORDS = 20
_FIRST_LINE = 16 * 2**20
_HEAD = 4 * 2**20  # the longest document that is looked at as a whole
_DEEPEST = 4
_NODES = 5_000
_DEEPEST_FOLDER = 64  # folders in a folder that was named
_NAMES, _NAME = 12, 60  # how many columns are named in a sentence, and with how many characters each
_HINT = "say which columns are what, as in --map Who=speaker,Said=text; sotopia-rl-data import --help has the formats"
_FOLDER_HINT = "name the folder that has the files"
_DAMAGED_HINT = "check that the file is whole and its text UTF-8; sotopia-rl-data import --help has the formats"
_LINK_HINT = "links that lead out of a folder are not followed: name the file that is meant"
_NO_FORMAT = "its records are of none of the formats"


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read. `label` is its name in failures: the path below the folder that was named, never more.

    `depth` is the number of containers above the records of a JSON document. `keyed`: the records are under keys, as in
    a dump of a database; `listed`: they are in a list, which `within` names by the keys above it; `across`: they are
    the rows of an object of columns. `profiles` is the folder with the profiles that the logs name. `columns` renames
    keys of records ({old: new}), which are all that is kept with `only`, and `used` has those that were found. `header`
    has the names of the columns of a table that has its format by `columns` alone. If no record has a format, `wrong`
    says why, `hint` what to do, and `damaged` whether the reason is that the file cannot be read. `size` is in bytes.
    """

    path: Path
    label: str
    size: int
    layout: Literal["lines", "table", "arrow", "document"] = "document"
    format: Format | None = None
    depth: int = 0
    keyed: bool = False
    listed: bool = False
    across: bool = False
    within: str = ""
    profiles: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    only: bool = False
    used: set[str] = field(default_factory=set, hash=False, compare=False)
    header: tuple[str, ...] = ()
    wrong: str = ""
    hint: str = _HINT
    damaged: bool = False

    @property
    def kind(self) -> str:
        """The name of the format, or "damaged"."""
        return self.format.name if self.format is not None else "damaged"

    @property
    def usable(self) -> bool:
        """Whether the file is read: it has records of a format, or its damage has to be listed."""
        return self.format is not None or self.damaged or self.profiles is not None

    def entries(self, meter: Metered) -> Iterator[Entry]:
        """The records of the file, with the keys that `columns` gives them."""
        entries = self._entries(meter)
        return ((self._renamed(record), wrong) for record, wrong in entries) if self.columns else entries

    def _entries(self, meter: Metered) -> Iterator[Entry]:
        if self.layout == "arrow":
            meter.whole()
            return stream.arrow_rows(self.path, self.label, self.columns if self.only else None)
        opened = meter.buffered()
        if self.layout == "lines":
            return stream.json_lines(opened, self.label)
        if self.layout == "table":
            return stream.csv_rows(opened, self.label)
        records = json_document(opened, self.label, self.depth)
        return self._across(records) if self.across else records

    def _across(self, documents: Iterator[Entry]) -> Iterator[Entry]:
        """The rows of the objects of columns that the documents are."""
        for document, wrong in documents:
            rows = rows_across(document.value)
            if wrong is None and not rows:
                wrong = InputError("its columns are not of one length.")
            if wrong is not None:
                yield document, wrong
            for i, row in enumerate(rows):
                yield Record(row, f"{self.label}[{i}]"), None

    def _renamed(self, record: Record) -> Record:
        """The record with the keys of `columns`; such a key takes the place of another with its new name."""
        value, columns = record.value, self.columns
        inner = record if isinstance(value, dict) and columns.keys() & value.keys() else record.unwrapped()
        if not isinstance(inner.value, dict) or not (self.only or columns.keys() & inner.value.keys()):
            return record
        named = {key: columns[key] for key in inner.value if key in columns}
        self.used.update(named)
        kept = {key: one for key, one in inner.value.items() if key not in named and key not in named.values()}
        kept = {} if self.only else kept
        return replace(inner, value=kept | {new: inner.value[key] for key, new in named.items()})


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The files that will be read, and the labels of files in folders that are passed over."""

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

    @property
    def warnings(self) -> list[str]:
        """What nothing but the user knows: whether a first line names the columns or is a row of data."""
        return [
            f"{one.label}: the first line is taken for the names of the columns: {_listed(one.header)}"
            for one in self.sources
            if one.header
        ]


def plan(
    paths: Sequence[str | Path],
    columns: Mapping[str, str] | None = None,
    form: Format | None = None,
    only: bool = False,
) -> ImportPlan:
    """The files of `paths`. `columns` renames keys of their records ({old: new}), and with `only` no other key counts;
    `form` is their format, where it shall not be detected.

    Raises InputError for a path that is missing, unreadable, or without anything to import.
    """
    looked = _Look(columns or {}, form, only)
    sources = [source for path in paths for source in looked.path(Path(path))]
    if not sources:
        raise InputError("There is no path to import from.", _HINT)
    usable = [source for source in sources if source.usable]
    usable.sort(
        key=lambda source: source.format is annotated.FORMAT
    )  # annotations come after the episodes they annotate
    return ImportPlan(tuple(usable), tuple(source.label for source in sources if not source.usable))


def look(path: Path, label: str) -> tuple[Source, str]:
    """A file as it is found, and the columns of its first records, as a sentence lists them."""
    found = _Look({}, None)._file(path, label)
    if found.damaged:
        return found, ""
    names: dict[str, None] = {}
    for record, _ in itertools.islice(found.entries(Metered(path)), _FIRST_RECORDS):
        value = record.value
        while isinstance(value, list) and value:
            value = value[0]
        names |= dict.fromkeys(value if isinstance(value, dict) else ())
    return found, _listed([*names])


@dataclass(frozen=True, slots=True)
class _Look:
    """How files are looked at: with which columns renamed, as which format (None: it is detected), and whether no other
    column counts."""

    columns: Mapping[str, str]
    form: Format | None
    only: bool = False

    def path(self, path: Path) -> list[Source]:
        """The files of a path that was named."""
        try:
            if path.is_dir():
                sources = list(self._folder(path, path))
                if {source.format for source in sources} - EXAMPLES - {None}:
                    # training rows beside episodes, as in a folder of runs, are another dataset
                    sources = [replace(s, format=None) if s.format in EXAMPLES else s for s in sources]
                if all(source.format is None for source in sources):
                    hint = _HINT if sources else "put files in it, or name another folder"
                    hint = next((source.hint for source in sources if source.hint == _LINK_HINT), hint)
                    raise InputError(f"The folder {path} has no file in a format that can be imported.", hint)
                return sources
            if not path.exists():
                raise InputError(f"There is no file or folder {path}.", "check the path")
            if not path.is_file():
                raise InputError(
                    f"{path} cannot be imported: it is not a regular file.",
                    "write what comes from it to a file, and import that",
                )
            source = self._file(path, _printable(path.name))
        except OSError as error:
            raise InputError(
                f"The path {error.filename or path} cannot be read: {error.strerror}.",
                "check its permissions and its disk",
            ) from error
        if source.format is None:
            hint = _DAMAGED_HINT if source.damaged else source.hint
            raise InputError(f"The file {path} cannot be imported: {source.wrong}", hint)
        return [source]

    def _folder(self, folder: Path, root: Path) -> Iterator[Source]:
        """The files of `folder` by name. In a local backend only the collection EpisodeLog holds episodes."""
        backend = (folder / episode_log.LOGS).is_dir()
        corpus = (folder / convokit.UTTERANCES).is_file()
        for entry in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
            label = _printable(entry.relative_to(root).as_posix())
            if entry.is_dir() and not entry.is_symlink():
                if label.count("/") >= _DEEPEST_FOLDER:
                    raise InputError(f"The folder {root} has folders more than {_DEEPEST_FOLDER} deep.", _FOLDER_HINT)
                if not backend or entry.name == episode_log.LOGS:
                    yield from self._folder(entry, root)
            elif entry.name in LIBRARY_FILES or _ending(entry) not in ENDINGS:
                yield Source(entry, label, 0)
            elif not lies_in(root, entry):
                yield Source(entry, label, 0, hint=_LINK_HINT if entry.is_file() else _HINT)
            elif not (corpus and entry.name in convokit.COMPANIONS):
                yield self._file(entry, label)

    def _file(self, path: Path, label: str) -> Source:
        """The file `path`, with its layout and format."""
        profiles = path.parent.parent if path.parent.name == episode_log.LOGS else None
        source = Source(path, label, path.stat().st_size, profiles=profiles, columns=self.columns, only=self.only)
        if not source.size:
            return replace(source, wrong="it is empty.", damaged=True)
        try:
            source = replace(source, layout=_layout(path))
            if source.layout == "document":
                return self._document(source)
            found = self._recognised(source, source.entries(Metered(path)))
            return replace(found, header=self._header(found))
        except InputError as error:
            return replace(source, wrong=error.message, damaged=True)

    def _recognised(self, source: Source, entries: Iterable[Entry]) -> Source:
        """`source` with the format of its first record that has one; of a table, whose rows may have empty cells, that
        of its first rows together."""
        reasons: list[str] = []
        first: Any = None
        readable = False
        looked = list(itertools.islice(entries, _FIRST_RECORDS))
        if source.layout == "table":
            together = {key: cell for record, _ in looked for key, cell in (record.value or {}).items()}
            form = self._format(together) if together else None
            if form is not None:
                return replace(source, format=form)
        for record, error in looked:
            inner = record.unwrapped()
            form = self._format(inner.value)
            if form is not None:
                return replace(source, format=form, keyed=bool(inner.key))
            if error is None:
                readable, first = True, first or inner.value
            else:
                reasons.append(error.message)
        if source.layout == "table" and _ending(source.path) not in TABLES:
            wrong = "it is neither JSON, nor a table with the columns of one of the formats."
            return replace(source, wrong=wrong, hint=_HINT if readable else _DAMAGED_HINT, damaged=False)
        if not looked:
            return replace(source, wrong="it has no records.", damaged=True)
        if readable or not reasons:
            return _of_no_format(source, first, damaged=not readable)
        return replace(source, wrong=reasons[0], damaged=True)

    def _header(self, found: Source) -> tuple[str, ...]:
        """The names of the columns of a table whose format nobody would know without `columns`."""
        if not self.columns or found.layout != "table" or found.format is None:
            return ()
        plain = replace(found, columns={}, format=None)
        if _Look({}, None)._recognised(plain, plain.entries(Metered(plain.path))).format is not None:
            return ()
        records = itertools.islice(plain.entries(Metered(plain.path)), _FIRST_RECORDS)
        return tuple(dict.fromkeys(key for record, _ in records for key in record.value or ()))

    def _format(self, value: Any) -> Format | None:
        if self.form is None:
            return format_of(value)
        return self.form if isinstance(value, Mapping) or format_of(value) is self.form else None

    def _document(self, source: Source) -> Source:
        """`source` with the place and the format of the outermost record at the head of a JSON document.

        A document of a few megabytes is looked at as a whole; of a larger one its first elements are.
        """
        reason, first = "", None
        columns: dict[str, tuple[int, Any]] = {}  # by name, of a document that is too long: length and first cell
        for depth in range(_DEEPEST + 1):
            limit = _HEAD if depth == 0 else _FIRST_LINE
            looked = replace(source, depth=depth)
            for record, wrong in itertools.islice(_head(looked, limit), _FIRST_RECORDS):
                if wrong is not None:
                    reason = reason or wrong.message
                    continue
                first = first or record.value
                if depth == 1 and record.key and isinstance(record.value, (list, dict)) and record.value:
                    columns[record.key] = len(record.value), next(iter(_inside(record.value)))
                found = self._first_record(record, depth)
                if found is not None:
                    return replace(source, **found)
            if not reason:
                break  # the whole document was looked at
        row = {name: cell for name, (_, cell) in columns.items()}
        if len({length for length, _ in columns.values()}) == 1 and self._format(row) is not None:
            told = f"it is an object of columns longer than {_HEAD:,} bytes."
            return replace(source, wrong=told, hint="save its rows as JSON Lines, CSV or Parquet")
        if first is None or (reason and not isinstance(first, Mapping)):
            return replace(source, wrong=reason or "it is empty.", damaged=True)
        return _of_no_format(source, first, damaged=False)

    def _first_record(self, entry: Record, depth: int) -> dict[str, Any] | None:
        """Where the outermost record in a value is; None where it has none."""
        inside = entry.within.split(".") if entry.within else []
        level = [(entry, depth, bool(entry.key or inside), not entry.key and depth > 0, entry.within, True)]
        seen = 0
        while level and depth <= _DEEPEST:
            below = []
            for record, at, keyed, listed, within, whole in level:
                seen += 1
                inner = record if _stands_alone(record) else record.unwrapped()
                form = self._format(inner.value) if whole or isinstance(inner.value, Mapping) else None
                of_rows = self._format_across(record, form) if at == 0 else None
                if form is not None or of_rows is not None:
                    found = {"format": of_rows or form, "depth": at, "keyed": keyed, "listed": listed, "within": within}
                    return found | ({"across": True} if of_rows is not None else {})
                if seen > _NODES:
                    return None
                path = ".".join(filter(None, [within, record.key])) if at else ""
                values = _inside(record.value)
                # messages alone are chats where all beside them are, too, and no object in a list is around them
                whole = whole and not (listed and isinstance(record.value, dict)) and all(map(chat.is_bare, values))
                if isinstance(record.value, dict):
                    below += [
                        (Record(value, "", key=key), at + 1, True, False, path, whole)
                        for key, value in record.value.items()
                    ]
                else:
                    below += [(Record(value, ""), at + 1, keyed, True, path, whole) for value in values]
            level = below
        return None

    def _format_across(self, record: Record, form: Format | None) -> Format | None:
        """The format of the rows of a document that is an object of columns: that cannot be read as a record, while its
        first row can. None for any other."""
        rows = rows_across(record.value)
        found = self._format(rows[0]) if rows else None
        is_row = self._can_read(Record(rows[0], record.source), found) if rows else False
        return found if is_row and not self._can_read(record, form) else None

    @staticmethod
    def _can_read(record: Record, form: Format | None) -> bool:
        items = [] if form is None else list(form.reader(Beside(Path())).add(record))
        return form is not None and not any(isinstance(item, Failure) for item, _ in items)


def _inside(value: Any) -> list[Any]:
    """The values in an object, or the first ones in a list."""
    return (
        list(value.values()) if isinstance(value, dict) else value[:_FIRST_RECORDS] if isinstance(value, list) else []
    )


def _stands_alone(record: Record) -> bool:
    """Whether a list of one is a list of records, and not a record as a database wraps it (whose key has a colon)."""
    return isinstance(record.value, list) and ":" not in record.key


def _head(source: Source, limit: int) -> Iterator[Entry]:
    """The first values of a JSON document at the source's depth."""
    return json_document(Metered(source.path).buffered(), source.label, source.depth, limit)


def _of_no_format(source: Source, record: Any, damaged: bool) -> Source:
    """`source` with why it cannot be imported and what to do about it; `record` is its first."""
    while isinstance(record, list) and record:
        record = record[0]
    near, hint = nearest(record)
    if not near and isinstance(record, Mapping) and record:
        near = f"they have {_listed(list(map(str, record)))}"
        lost = sorted(source.columns.keys() - source.used)
        near += f", but not {_listed(lost)}, which --map names" if lost else ""
    wrong = f"{_NO_FORMAT}; {near}." if near else f"{_NO_FORMAT}."
    return replace(source, wrong=wrong, hint=hint or _HINT, damaged=damaged)


def _listed(names: Sequence[str]) -> str:
    """The first names, each of a length to be read."""
    return ", ".join(name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in names[:_NAMES])


def _ending(path: Path) -> str:
    """The ending of a file's name, before that of what packs it."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in PACKINGS:
        endings.pop()
    return endings[-1] if endings else ""


def _printable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8, which it may have, become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def _layout(path: Path) -> Literal["lines", "table", "arrow", "document"]:
    """How the file is laid out: by its first bytes, its name, or its first line."""
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith((stream.PARQUET, stream.ARROW_FILE, stream.ARROW_STREAM)):
        return "arrow"
    if _ending(path) in TABLES:
        return "table"
    with Metered(path).buffered() as opened:
        head = opened.peek(BUFFER).lstrip()
        if _ending(path) in _LINES:
            return "document" if _begins_with_a_document(opened) else "lines"
        if _ending(path) not in _DOCUMENTS and head[:1] not in (b"{", b"[", b'"'):
            return "table"
        return "lines" if _begins_with_a_line(opened) else "document"


def _begins_with_a_document(opened: io.BufferedReader[Any]) -> bool:
    """True where what is called lines is one JSON document: its first line is a bracket alone, or a list of records
    after which nothing comes."""
    lines = iter(lambda: opened.readline(_FIRST_LINE), b"")
    first = next((line.strip() for line in lines if line.strip()), b"")
    if first in (b"{", b"["):
        return True
    return first.startswith(b"[") and not any(line.strip() for line in lines)


def _begins_with_a_line(opened: io.BufferedReader[Any]) -> bool:
    """True where the first line that is not blank is a whole JSON object, and another such line follows."""
    lines = iter(lambda: opened.readline(_FIRST_LINE), b"")
    first = next((line for line in lines if line.strip()), b"")
    try:
        alone = isinstance(json_value(first), dict)
    except InputError:
        return False
    return alone and any(line.strip() for line in lines)
