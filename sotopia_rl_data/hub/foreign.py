"""Other people's datasets on the Hub, without our manifest: their files go through the importers, pinned by commit.

Formats that the importers know (library exports, annotated rows, `{input, output, value}` as in sotopia-rl's published
rewards, `{instruction, input, output}` as in sotopia-pi) need nothing more, but the user may have to say which value
means a missing reward. Other formats need a map from their columns to prompt, completion and reward. Splits are made
here, by scenario, so that no scenario is on both sides. Loading scripts are left out: no code of a repository is ever
run.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.hub.client import Hub
from sotopia_rl_data.hub.pull import Pulled
from sotopia_rl_data.importers.documents import Entry, json_document
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.opened import Metered
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.importers.stream import csv_rows, json_lines
from sotopia_rl_data.refs import DatasetRef
from sotopia_rl_data.store import Store, versions
from sotopia_rl_data.store.versions import note_published

TARGETS = ("prompt", "completion", "reward")
_DATA = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")
_NO_DATA = ("dataset_info.json", "dataset_infos.json", "state.json", "manifest.json", "package.json")
_ROWS = 1000
Row = Mapping[str, Any]


def parse_map(text: str) -> dict[str, str]:
    """ "input=prompt,output=completion,value=reward" as {"prompt": "input", …}. Raises UsageError."""
    pairs = [part.partition("=") for part in text.split(",")]
    columns = {target.strip(): column.strip() for column, equals, target in pairs if equals}
    if len(columns) != len(pairs) or not {"prompt", "completion"} <= columns.keys() <= set(TARGETS):
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
    names = [path for path in sorted(tree) if _is_data(path) and fnmatch.fnmatch(path, pattern)]
    if not names:
        raise InputError(f"{ref} has no data files on the Hub that could be imported.", f"see {hub.page(ref.name)}")
    for name in names:
        leave_out = f"leave it out with --file GLOB; see {hub.page(ref.name)}"
        if not can_be_path(name):
            raise InputError(f"{ref} has a data file whose name {name!r} is not a plain relative path.", leave_out)
        if f"{name}.jsonl" in tree:
            raise InputError(
                f"{ref} has the data files {name!r} and {name + '.jsonl'!r}; the first, converted to JSON Lines, would "
                "get the name of the second.",
                leave_out,
            )
    with TemporaryDirectory(prefix="sotopia-rl-data-pull-") as folder:
        total, done = sum(tree[name].size for name in names), 0
        columns_of_files: list[list[str]] = []
        for name in names:
            source = hub.file(ref.name, name, commit, most=tree[name].size)
            columns_of_files.append(_prepare(source, name, Path(folder), columns))
            done += tree[name].size
            if progress is not None:
                progress(done, total)
        try:
            named = DatasetRef(ref.name, _version(store, ref, hub, commit))
            report = import_dataset(store, [folder], named, options=ImportOptions(sentinel=sentinel))
        except InputError as error:
            raise _unknown(ref, hub, names, columns_of_files, columns) from error
    note_published(report.version.dir, hub.published(ref.name, report.version.version, commit))
    report.version.keep_notes()
    for warning in report.warnings:
        store.display.note(warning)
    return Pulled(report.version, commit, report.created, len(names))


def can_be_path(path: str) -> bool:
    """Whether a stranger's path is relative and normalised, and no shell, glob or terminal reads more into it."""
    parts = path.split("/")
    plain = path.isprintable() and not set(path) & set("\\*?[]{}")
    return plain and all(part not in ("", ".", "..") and part == part.strip() for part in parts) and len(path) < 500


def _is_data(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower().endswith(_DATA) and name not in _NO_DATA and not path.startswith(".")


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


def _prepare(source: Path, name: str, folder: Path, columns: Mapping[str, str]) -> list[str]:
    """Put a file where the importers find it, converted to JSON lines where necessary; returns its columns."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not columns and source.suffix != ".parquet":
        target.symlink_to(source.resolve())
        return list(next(_rows(source), {}))
    names: list[str] = []
    with target.with_name(f"{target.name}.jsonl").open("x", encoding="utf-8") as lines:
        for row in _rows(source):
            names = names or list(row)
            lines.write(json.dumps(_training(row, columns) if columns else row, default=str) + "\n")
    return names


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a data file as objects; other entries are skipped."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS):
                yield from batch.to_pylist()
        return
    with Metered(path).buffered() as stream:
        entries: Iterator[Entry]
        if path.suffix.lower() == ".csv":
            entries = csv_rows(stream, path.name)
        elif stream.peek(64).lstrip()[:1] == b"[":
            entries = json_document(stream, path.name, 1)
        else:
            entries = json_lines(stream, path.name)
        for entry, error in entries:
            if error is None and isinstance(entry.value, dict):
                yield entry.value


def _training(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """A row with the column names that the importer of training rows reads."""
    prompt, completion = row.get(columns["prompt"]), row.get(columns["completion"])
    if isinstance(completion, Sequence) and not isinstance(completion, str) and len(completion) == 1:
        completion = completion[0].get("content") if isinstance(completion[0], dict) else completion[0]
    training = {"input": prompt} if isinstance(prompt, str) or prompt is None else _conversation(prompt)
    training["output"] = completion
    if "reward" in columns:
        training["value"] = row.get(columns["reward"])
    return training


def _conversation(messages: Any) -> dict[str, Any]:
    """A list of messages (user and assistant in turn, perhaps after a system message) as system, history, input."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return {"input": messages}
    system = [message.get("content") for message in messages if message.get("role") == "system"]
    turns = [message for message in messages if message.get("role") != "system"]
    in_turn = [message.get("role") for message in turns] == [("user", "assistant")[i % 2] for i in range(len(turns))]
    if not in_turn or len(turns) % 2 == 0 or len(system) > 1:
        return {"input": messages}  # the importer rejects this and names the row
    texts = [message.get("content") for message in turns]
    history = [texts[i : i + 2] for i in range(0, len(texts) - 1, 2)]
    return {"system": system[0] if system else "", "history": history, "input": texts[-1]}


def _unknown(
    ref: DatasetRef, hub: Hub, names: Sequence[str], columns_of_files: Sequence[list[str]], columns: Mapping[str, str]
) -> InputError:
    listed = ", ".join(next((names for names in columns_of_files if names), ["no columns"]))
    if columns:
        reason = "--map names columns that are not among them: " + ", ".join(
            f"{column}={target}" for target, column in columns.items()
        )
    else:
        reason = "no importer knows this format"
    return InputError(
        f"The rows of {ref} ({names[0]}{' …' if len(names) > 1 else ''}) have the columns {listed}: {reason}.",
        f"see {hub.page(ref.name)}, and say which columns are what, as in: "
        f"sotopia-rl-data pull {ref} --map question=prompt,answer=completion,score=reward",
    )
