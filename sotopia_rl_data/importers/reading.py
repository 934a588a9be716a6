"""From the named paths to items. `files.py` finds the files and the format of each, before anything is imported; `read`
hands each record to the reader of its format, and turns whatever is wrong with it into a Failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.documents import BrokenDocument
from sotopia_rl_data.importers.files import ImportPlan, Source, plan
from sotopia_rl_data.importers.formats import episode_log, format_of
from sotopia_rl_data.importers.formats.format import Beside, Format, Item, Located, Ranges, Reader
from sotopia_rl_data.importers.formats.methods import FileOpinions
from sotopia_rl_data.importers.opened import Metered
from sotopia_rl_data.importers.opinions import AnnotatedFiles, opinions_of
from sotopia_rl_data.importers.profiles import GatheredProfiles, ProfileLookup, StoredProfiles
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.schema import Episode

OnProgress = Callable[[int, int], None]
OnFile = Callable[[Source, str], None]


class UnreadableFile(InputError):
    """A file that cannot be read to its end."""


def read(paths: Sequence[str | Path], *, on_progress: OnProgress | None = None) -> Iterator[Item]:
    """Every item of `paths`: files of any format, or folders of files. Memory does not grow with their size, but for
    some hundred bytes of each annotated row.

    A rejected record becomes a Failure with its `source` ("file.jsonl:17") and the `record`. A refused score becomes a
    Failure of its agent, right after the Episode; the labels of annotated rows become Attributions after their
    Episode. `on_progress(done, total)` counts bytes. Raises InputError, before the first item, for a path that is
    missing or has nothing to import.
    """
    return (item for item, _ in read_plan(plan(paths), on_progress=on_progress))


def read_plan(
    import_plan: ImportPlan,
    *,
    ranges: Ranges | None = None,
    opinions: AnnotatedFiles | None = None,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
    whole_files: bool = False,
) -> Located:
    """Every item of the files of a plan, with its record. `ranges` are those of declared dimensions, `opinions` what is
    known of annotated files (None: it is gathered first); `on_file` gets each file that was read, and its SHA-256.
    A file that cannot be read to its end gives a Failure, or with `whole_files` raises UnreadableFile, as does one in
    whose first records nothing can be read."""
    done = 0
    opinions = opinions_of(import_plan) if opinions is None else opinions

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(min(done, import_plan.size), import_plan.size)

    stored: dict[Path, StoredProfiles] = {}
    for source in import_plan.sources:
        of_file = opinions.files.get(source.path, FileOpinions())
        beside = Beside(source.path.parent, _profiles(source, stored), ranges or {}, of_file)
        meter = Metered(source.path, tick)
        with closing(meter):
            for item, record in _items(source, meter, beside, whole_files):
                if not isinstance(item, Episode):
                    yield item, record
                elif item.too_long:
                    yield record.failure(item.too_long), record
                else:
                    yield opinions.with_assumed(item), record
        if on_file is not None:
            on_file(source, meter.sha256.hexdigest())


def _profiles(source: Source, stored: dict[Path, StoredProfiles]) -> ProfileLookup | None:
    """The profiles that the logs of `source` may name: from folders beside the file, or from its own records."""
    if source.profiles is not None:
        return stored.setdefault(source.profiles, StoredProfiles(source.profiles))
    if source.format is not episode_log.FORMAT or not source.keyed:
        return None
    gathered = GatheredProfiles()
    for record, wrong in source.entries(Metered(source.path)):
        if wrong is None:
            inner = record.unwrapped()
            gathered.add(inner.identity, inner.value)
    return gathered


@dataclass(slots=True)
class _RecordLists:
    """Which lists of a JSON document hold records: those whose first object is of a format, as in the list that told
    the file's format. Whatever else a document has beside its records is not a record."""

    source: Source
    _holds: dict[str, bool] = field(default_factory=dict)

    def hold(self, record: Record) -> bool:
        """Whether `record` is in such a list."""
        if not self.source.listed or not record.within:
            return True
        if record.within not in self._holds:
            if not isinstance(record.unwrapped().value, dict):
                return record.within == self.source.within
            told = format_of(record.unwrapped().value) is not None
            self._holds[record.within] = told or record.within == self.source.within
        return self._holds[record.within]


def _items(source: Source, meter: Metered, beside: Beside, whole_files: bool) -> Located:
    readers: dict[Format, Reader] = {}
    lists = _RecordLists(source)
    try:
        if not source.size:
            raise InputError(source.wrong)
        for record, wrong in source.entries(meter):
            if wrong is not None:
                if whole_files and (source.damaged or isinstance(wrong, BrokenDocument)):
                    raise wrong
                yield record.failure(wrong.message), record
                continue
            if not lists.hold(record):
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
                readers[form] = form.reader(beside)
            yield from readers[form].add(inner)
    except InputError as error:  # from here on the file has no record that could be named
        if whole_files:
            raise UnreadableFile(f"{source.label}: {error.message}") from error
        nothing = Record(None, f"{source.label}:1", b"")
        yield nothing.failure(error.message), nothing
    except OSError as error:
        raise InputError(
            f"The file {source.path} cannot be read: {error.strerror}.", "check its permissions and its disk"
        ) from error
    for reader in readers.values():
        yield from reader.rest()
