"""From files to items: each record goes to the reader of its file's format, and what is wrong becomes a Failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.detect import ImportPlan, Source, plan
from sotopia_rl_data.importers.formats import episode_log, format_of
from sotopia_rl_data.importers.formats.format import Format, Item, Located, Reader
from sotopia_rl_data.importers.profiles import GatheredProfiles, ProfileLookup, StoredProfiles
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.importers.stream import Metered

OnProgress = Callable[[int, int], None]
OnFile = Callable[[Source, str], None]


def read(paths: Sequence[str | Path], *, on_progress: OnProgress | None = None) -> Iterator[Item]:
    """Every item of `paths`: files of any format, or folders of them. Memory does not grow with their size.

    A rejected record is a Failure that names its `source` ("file.jsonl:17") and keeps the `record`; a score that was
    refused is a Failure of its agent, right after its Episode; labels of annotated rows are Attributions, after
    theirs. `on_progress(done, total)` is called in bytes. Raises InputError, before the first item, for a path that is
    missing or holds nothing to import.
    """
    return (item for item, _ in read_plan(plan(paths), on_progress=on_progress))


def read_plan(
    import_plan: ImportPlan, *, on_progress: OnProgress | None = None, on_file: OnFile | None = None
) -> Located:
    """Every item of the files of a plan, with its record. `on_file` is told each file, once read, and its SHA-256."""
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
    """The profiles that the logs of `source` may name: in folders beside it, or between its own records."""
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
            form = source.format or format_of(inner.value)  # a file of a log folder may begin with what has no format
            if inner.collection not in ("", episode_log.LOGS) and format_of(inner.value) is None:
                continue  # what else a dump holds: profiles, combinations, annotations …
            if form is None:
                yield inner.failure("it is a record of none of the formats."), inner
                continue
            if form not in readers:
                readers[form] = form.reader(profiles)
            yield from readers[form].add(inner)
    except InputError as error:  # it does not even begin as JSON
        nothing = Record(None, f"{source.label}:1", b"")
        yield nothing.failure(error.message), nothing
    except OSError as error:
        raise InputError(f"{source.path} cannot be read: {error.strerror}.", "check its permissions") from error
    for reader in readers.values():
        yield from reader.rest()
