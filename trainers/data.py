"""A dataset reference, pinned, read and split: what all trainers, and `score`, start from. No torch here.

A reference is resolved to one version before the first step; the run, its checkpoints and the model card name that
version's digest. The dataset's own splits are used. Where it has none, it is divided by a hash of the environments,
each of which stays whole. It is checked that no environment and no episode is in two splits.

No list of rows is held. The rows that a run uses are found once and kept as an index in the cache: for each split an
Arrow file of ids, numbers, and the place of the row's text in the version's files. Only the index is sorted: in DuckDB,
sorting the texts too needs the whole dataset in memory.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.errors import NotFound, UsageError
from sotopia_rl_data.hub.resolve import open_dataset
from sotopia_rl_data.schema import Message
from sotopia_rl_data.trainers.cache import cached
from sotopia_rl_data.trainers.row_index import (
    RowChoice,
    memory_mapped,
    no_rewards,
    schema,
    split_file,
    write_index,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from sotopia_rl_data.query import Dataset

log = logging.getLogger(__name__)

_BATCH = 1024  # rows that are read at a time
_GROUPS = 4  # row groups in memory: some 32 MB each
_OTHERS = len(schema(0))  # columns of the index beside the targets


@dataclass(frozen=True, slots=True)
class Pinned:
    """The version that a run uses: `ref` as it was named, and the version and digest that it was resolved to."""

    ref: str
    name: str
    version: str
    digest: str
    commit: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One utterance of the `rewards` config. `targets` holds a number for each target (None: missing); `spread` is how
    far opinions differ. Imported rewards may have no episode, environment or agent ("") and no turn (None)."""

    split: str
    episode_id: str
    environment_id: str
    agent: str
    turn: int | None
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    targets: tuple[float | None, ...] = ()
    reward: float | None = None
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class DatasetRows:
    """The rows of a run, by split in key order, where they come from, and how many were left out (`dropped`: reason ->
    rows). They stay on the disk: `folder` has their index, `files` their texts; `sizes` counts the rows of a split."""

    pinned: Pinned
    targets: tuple[str, ...]
    dropped: Mapping[str, int]
    splits_by: str
    sizes: Mapping[str, int]
    folder: Path
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __iter__(self) -> Iterator[DatasetRow]:
        for split in self.sizes:
            yield from self.read(split)

    def counts(self) -> dict[str, int]:
        """Rows in each split."""
        return {s: self.sizes.get(s, 0) for s in ("train", "validation", "test")}

    def of(self, split: str) -> tuple[DatasetRow, ...]:
        """All rows of one split, in memory."""
        return tuple(self.read(split))

    def index(self, split: str) -> pa.Table:
        """The ids, numbers and places of a split's rows (see `row_index.schema`), memory-mapped."""
        return memory_mapped(split_file(self.folder, split))

    def read(self, split: str, start: int = 0, stop: int | None = None) -> Iterator[DatasetRow]:
        """The rows of one split, or those from `start` to `stop`, in key order, read as they are taken."""
        if split in self.sizes:
            with RowTexts(self.files) as texts:
                yield from _rows_in(texts, split, self.index(split), start, stop)

    def blocks(self, size: int, numbers: Iterable[int] | None = None) -> Iterator[list[DatasetRow]]:
        """The rows of all splits, one after the other, `size` at a time; only the blocks with these `numbers` (from 0),
        where they are given."""
        indexes = {split: self.index(split) for split in self.sizes}
        with RowTexts(self.files) as texts:
            for number in range(-(-len(self) // size)) if numbers is None else numbers:
                start, block = number * size, list[DatasetRow]()
                for split, index in indexes.items():
                    if len(block) < size and start < len(index):
                        block += _rows_in(texts, split, index, start, start + size - len(block))
                    start = max(0, start - len(index))
                yield block


def _rows_in(texts: RowTexts, split: str, index: pa.Table, start: int, stop: int | None) -> Iterator[DatasetRow]:
    for batch in index.slice(start, None if stop is None else stop - start).to_batches(_BATCH):
        found = texts.read(batch.column("file").to_numpy(), batch.column("row").to_numpy())
        for row, (prompt, completion) in zip(batch.to_pylist(), found, strict=True):
            yield DatasetRow(
                split=split,
                episode_id=row["episode_id"],
                environment_id=row["environment_id"],
                agent=row["agent"],
                turn=row["turn"],
                prompt=tuple(prompt),
                completion=tuple(completion),
                targets=tuple(row[f"target_{k}"] for k in range(len(row) - _OTHERS)),
                reward=row["reward"],
                spread=row["spread"],
            )


class RowTexts:
    """Prompts and completions by their places in Parquet files. Holds the row groups that were used last, since rows in
    key order lie together. Use it as a context manager."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._stack = ExitStack()
        self._open: dict[int, tuple[Any, NDArray[np.int64]]] = {}  # by number: the file, and where its groups begin
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, files: NDArray[np.int32], rows: NDArray[np.int64]) -> list[tuple[list[Message], list[Message]]]:
        """The prompt and the completion at each place: number of the file, number of the row in it."""
        texts: list[Any] = [None] * len(rows)
        for number in np.unique(files):
            at = np.flatnonzero(files == number)
            group_of = np.searchsorted(self._starts(int(number)), rows[at], side="right") - 1
            for group in np.unique(group_of):
                mine = at[group_of == group]
                found = self._group(int(number), int(group)).take(rows[mine] - self._starts(int(number))[group])
                pairs = zip(found.column("prompt").to_pylist(), found.column("completion").to_pylist(), strict=True)
                for place, pair in zip(mine, pairs, strict=True):
                    texts[place] = pair
        return texts

    def _starts(self, number: int) -> NDArray[np.int64]:
        if number not in self._open:
            import pyarrow.parquet as pq

            file = self._stack.enter_context(pq.ParquetFile(self._files[number]))
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self._open[number] = file, np.cumsum([0, *sizes[:-1]])
        return self._open[number][1]

    def _group(self, number: int, group: int) -> pa.Table:
        key = (number, group)
        if key not in self._groups:
            file, _ = self._open[number]
            self._groups[key] = file.read_row_group(group, columns=["prompt", "completion"], use_threads=False)
            if len(self._groups) > _GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def load_rows(
    ref: str,
    *,
    store: str | Path | None = None,
    targets: Sequence[str] = (),
    where: str | None = None,
    split_by: str = "dataset",
    sentinels: Iterable[float] = (),
    need_reward: bool = True,
) -> DatasetRows:
    """The `rewards` rows of `ref` that can be trained on.

    `targets` are dimensions (`norm_<dimension>` columns); none: the aggregate `reward`. `where` is an SQL condition
    over the rows, which may also name columns of the episode (models, tag …) and `model`, the speaker's own.
    `split_by` is "dataset" for its own splits where it has a train split and another, "grouped" for new ones, or
    "stored" for the splits as they lie, whatever they are. With
    `need_reward`, rows in which every target is NULL, NaN or a sentinel are dropped and counted. Raises NotFound,
    UsageError, QueryError, InputError.
    """
    dataset = open_dataset(ref, store)
    columns = target_columns(dataset, targets, need_reward)
    choice = RowChoice(columns, where, split_by, tuple(sentinels), need_reward)
    files = [(split, path) for split, paths in dataset.version.files("rewards").items() for path in paths]
    key = {
        "digest": dataset.version.digest,  # of the rows, however they are divided into files
        "files": [[split, path.name, path.stat().st_size] for split, path in files],
        "choice": choice.key(),
    }
    folder, facts = cached("rows", key, lambda unfinished: write_index(unfinished, dataset, ref, choice))
    return DatasetRows(
        pinned=pin(dataset, ref),
        targets=tuple(full_name(t) for t in targets) or ("reward",),
        dropped=facts["dropped"],
        splits_by=facts["splits_by"],
        sizes=facts["rows"],
        folder=folder,
        files=tuple(path for _, path in files),
    )


def pin(dataset: Dataset, ref: str) -> Pinned:
    """The version that `ref` was resolved to."""
    from sotopia_rl_data.store.versions import commit_of

    version = dataset.version
    recipe = dict(version.manifest.recipe)
    return Pinned(ref, version.name, version.version, version.digest, commit_of(version), recipe)


def target_columns(dataset: Dataset, targets: Sequence[str], need_reward: bool = True) -> tuple[str, ...]:
    """The column of each target. Raises NotFound, which lists the columns, where one is missing."""
    columns = dataset.manifest.columns.get("rewards", {})
    needed = tuple(f"norm_{full_name(target)}" for target in targets)
    if not needed and need_reward:
        needed = ("reward",)
    for column in ("prompt", "completion", *needed):
        if column not in columns:
            present = ", ".join(columns) or "no columns at all"
            raise NotFound(
                f"The rewards of {dataset.version.ref} have no column {column!r}; they have {present}.",
                "label the dataset for it, or name other targets",
            )
    return needed


def full_name(target: str) -> str:
    """A dimension's full name from its name or abbreviation; the name of one's own dimension stays as it is."""
    from sotopia_rl_data.dimensions import dimension

    try:
        return dimension(target).name
    except UsageError:
        return target


def check_rewarded(ref: str, store: str | Path | None = None) -> None:
    """Raises InputError where no row of `ref` has a reward, without reading the rows; and as `load_rows` does."""
    dataset = open_dataset(ref, store)
    target_columns(dataset, ())
    rows, rewarded = dataset.sql("SELECT count(*), count(reward) FROM rewards").columns
    if rows[0].as_py() and not rewarded[0].as_py():
        raise no_rewards(ref, rows[0].as_py())


def target_table(rows: pa.Table, targets: int) -> NDArray[np.float64]:
    """[N, K] the rows' targets, from their columns; NaN where one is missing."""
    columns = [rows.column(f"target_{k}").to_numpy() for k in range(targets)]
    return np.column_stack(columns).astype(np.float64)


def check_splits(data: DatasetRows, splits: Collection[str], evaluating: bool, lacks: str = "is empty") -> None:
    """Raises UsageError where the `splits` that still have rows are not enough for training, or for `evaluating`.

    Where nothing can be held out and no evaluation is asked for, logs a warning. `lacks` says what a split is that has
    none.
    """
    name, can_regroup = data.pinned.ref, data.splits_by == "dataset"
    if "train" not in splits:
        raise UsageError(
            f"The train split of {name} {lacks}.",
            "give a wider --where" + (", or divide the rows anew with --set split_by=grouped" if can_regroup else ""),
        )
    if data.splits_by == "none":
        reason = f"{name} has no splits, and its rows are not of several environments or episodes to divide them by"
        if evaluating:
            raise UsageError(
                f"{reason}, so nothing can be held out.",
                "--set eval_strategy=no trains on all rows without evaluating",
            )
        log.warning("%s: training uses all rows and evaluates nothing.", reason)
    elif "validation" not in splits and evaluating:
        raise UsageError(
            f"The validation split of {name} {lacks}, so the best checkpoint could not be chosen.",
            ("--set split_by=grouped divides it by environment; " if can_regroup else "")
            + "--set eval_strategy=no trains without evaluating",
        )
