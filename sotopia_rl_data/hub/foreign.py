"""Other people's datasets on the Hub, without our manifest: their files go through the importers, pinned by commit.

Formats that the importers know (library exports, annotated rows, `{input, output, value}` as in sotopia-rl's published
rewards, `{instruction, input, output}` as in sotopia-pi) need nothing more, but the user may have to say which value
means a missing reward. Other formats need a map from their columns to prompt, completion and reward. Splits are made
here, by scenario, so that no scenario is on both sides. Loading scripts are left out: no code of a repository is ever
run.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.hub.client import Hub
from sotopia_rl_data.hub.pull import Pulled
from sotopia_rl_data.importers.files import look
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.importers.reading import UnreadableFile
from sotopia_rl_data.importers.stream import ARROW_FILE, ARROW_STREAM, PARQUET
from sotopia_rl_data.refs import DatasetRef
from sotopia_rl_data.store import Store, versions
from sotopia_rl_data.store.versions import note_published

TARGETS = ("prompt", "completion", "reward")
_DATA = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")
_NO_DATA = ("dataset_info.json", "dataset_infos.json", "state.json", "manifest.json", "package.json")


def parse_map(text: str) -> dict[str, str]:
    """ "input=prompt,output=completion,value=reward" as {"prompt": "input", …}. Raises UsageError."""
    pairs = [part.partition("=") for part in text.split(",")]
    columns = {target.strip(): column.strip() for column, equals, target in pairs if equals}
    twice = len(set(columns.values())) < len(pairs)
    if twice or not {"prompt", "completion"} <= columns.keys() <= set(TARGETS):
        raise UsageError(
            f"{text!r} is not a map of columns.",
            "write --map COLUMN=prompt,COLUMN=completion, and COLUMN=reward where there are rewards",
        )
    return columns


def import_foreign(
    store: Store,
    ref: DatasetRef,
    hub: Hub,
    commit: str,
    columns: Mapping[str, str],
    progress: Callable[[int, int], object] | None = None,
    pattern: str = "*",
    sentinel: float | None = None,
) -> Pulled:
    """The files of another person's dataset at `commit`, imported as the next version of the same name.

    `columns` maps prompt, completion and reward to columns; {} where the importers know the format. `pattern` chooses
    among the files, and `sentinel` is the reward that stands for none. Raises InputError where nothing can be imported,
    and what importing raises; the store is then unchanged.
    """
    known = None if columns or pattern != "*" or sentinel is not None else store.by_commit(ref.name, commit)
    if known is not None:
        return Pulled(known, commit, False)
    tree = hub.tree(ref.name, commit)
    names = [path for path in sorted(tree) if _is_data(path) and tree[path].size and fnmatch.fnmatch(path, pattern)]
    if not names:
        raise InputError(f"{ref} has no data files on the Hub that could be imported.", f"see {hub.page(ref.name)}")
    leave_out = f"leave it out with --file GLOB; see {hub.page(ref.name)}"
    for name in names:
        if not can_be_path(name):
            raise InputError(f"{ref} has a data file whose name {name!r} is not a plain relative path.", leave_out)
    with TemporaryDirectory(prefix="sotopia-rl-data-pull-") as folder:
        total, done = sum(tree[name].size for name in names), 0
        for name in names:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(hub.file(ref.name, name, commit, most=tree[name].size).resolve())
            if name.lower().endswith(".parquet") and not _is_arrow(target):
                raise InputError(f"{ref}: {name}: it is not Parquet.", leave_out)
            done += tree[name].size
            if progress is not None:
                progress(done, total)
        named = DatasetRef(ref.name, _version(store, ref, hub, commit))
        options = ImportOptions(
            columns={column: target for target, column in columns.items()},
            form="completion" if columns else None,
            only_columns=bool(columns),
            sentinel=sentinel,
            whole_files=True,
        )
        try:
            report = import_dataset(store, [folder], named, options=options)
        except UnreadableFile as error:
            raise InputError(f"{ref}: {error.message}", leave_out) from error
        except InputError as error:
            raise _unknown(ref, hub, Path(folder), names, columns, error) from error
    note_published(report.version.dir, hub.published(ref.name, report.version.version, commit))
    report.version.keep_notes()
    for warning in report.warnings:
        store.display.note(warning)
    if report.skipped:
        more = f" and {len(report.skipped) - 3:,} more" if len(report.skipped) > 3 else ""
        store.display.note(f"left out, of no known format: {', '.join(report.skipped[:3])}{more}")
    if report.failures:
        told = f"{report.rejected[0].source}: {report.rejected[0].reason}"
        store.display.note(f"{report.failures:,} rows of `failures` say what was not read; {told}")
    return Pulled(report.version, commit, report.created, len(names))


def can_be_path(path: str) -> bool:
    """Whether a stranger's path is relative and normalised, and no shell, glob or terminal reads more into it."""
    parts = path.split("/")
    plain = path.isprintable() and not set(path) & set("\\*?[]{}")
    return plain and all(part not in ("", ".", "..") and part == part.strip() for part in parts) and len(path) < 500


def _is_data(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower().endswith(_DATA) and name not in _NO_DATA and not path.startswith(".")


def _is_arrow(path: Path) -> bool:
    """Whether a file begins as a Parquet or Arrow file does, and not as a pointer to one, or a page about an error."""
    with path.open("rb") as file:
        return file.read(8).startswith((PARQUET, ARROW_FILE, ARROW_STREAM))


def _version(store: Store, ref: DatasetRef, hub: Hub, commit: str) -> str | None:
    """The version number of the repository's tag on this commit; without one, a number that no tag there has."""
    tags = {tag: sha for tag, sha in hub.tags(ref.name).items() if versions.number(tag)}
    own = [tag for tag, sha in tags.items() if sha == commit]
    if ref.version or own:
        return ref.version or own[0]
    if not tags:
        return None
    newest = max(filter(None, map(versions.number, [*tags, *store.versions(ref.name)])))
    return versions.spelled((newest[0], newest[1] + 1, 0))


def _unknown(
    ref: DatasetRef, hub: Hub, folder: Path, names: Sequence[str], columns: Mapping[str, str], error: InputError
) -> InputError:
    """Why nothing was imported: what is wrong with a file, or with the columns that there are."""
    page = hub.page(ref.name)
    looked = [look(folder / name, name) for name in names]
    listed = next((listed for _, listed in looked if listed), "")
    if not listed:
        file = next((file for file, _ in looked if file.damaged), looked[0][0])
        hint = f"leave it out with --file GLOB, or name the columns to read with --map; see {page}"
        return InputError(f"{ref}: {file.label}: {file.wrong or error.message}", hint)
    known = columns or any(file.format is not None for file, _ in looked)
    reason = f"{error.message[:1].lower()}{error.message[1:]}" if known else "no importer knows this format."
    example = f"sotopia-rl-data pull {ref} --map question=prompt,answer=completion,score=reward"
    return InputError(
        f"The rows of {ref} ({names[0]}{' …' if len(names) > 1 else ''}) have the columns {listed}: {reason}",
        f"see {page}, and say which columns are what" + (" with --map" if known else f", as in: {example}"),
    )
