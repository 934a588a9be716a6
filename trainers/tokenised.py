"""A run's rows as token ids: made once, by several processes, kept in the cache, memory-mapped.

The rows are cut into slices at the ends of episodes. A process reads a slice's texts, encodes some episodes at a time
and writes an Arrow file, so no process ever holds more than that. After a `kill -9` whole slices are kept. What the
rows become is the encoder's matter: `encode` gets whole episodes in key order and returns a table of the rows that fit,
and counts.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from numpy.typing import NDArray

from sotopia_rl_data.control_tokens import RULE
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.trainers.cache import cached, whole_file
from sotopia_rl_data.trainers.data import DatasetRow, DatasetRows

if TYPE_CHECKING:
    from datasets import Dataset

SLICE = 16_384  # rows, and the rest of the last one's episode
CHUNK = 256  # rows that are encoded at a time, and the rest of the last one's episode
BATCH = 4_096  # rows in a batch of a file

Encode = Callable[[Sequence[DatasetRow]], tuple[pa.Table, Mapping[str, int]]]


@dataclass(frozen=True, slots=True)
class Tokenised:
    """The rows of each split that fit, memory-mapped, and each split's sums of what `encode` counted."""

    splits: Mapping[str, Dataset]
    counts: Mapping[str, Mapping[str, int]]

    def total(self, what: str) -> int:
        """A count, summed over the splits."""
        return sum(counts.get(what, 0) for counts in self.counts.values())


@dataclass(frozen=True, slots=True)
class _Slice:
    split: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.start:09d}"


@dataclass(frozen=True, slots=True)
class _Work:
    data: DatasetRows
    encode: Encode
    folder: Path
    slice_rows: int


def tokenised(
    data: DatasetRows, encode: Encode, settings: Mapping[str, Any], show: bool = False, slice_rows: int = SLICE
) -> Tokenised:
    """The rows of `data` as `encode` makes them, which `settings` (JSON values) decide: they are the key in the cache.
    `show` a bar where it takes long. Raises InputError where the cache cannot be written, and what `encode` raises."""
    key = {"rows": data.folder.name, "shard": slice_rows, "control_tokens": RULE, **settings}
    folder, facts = cached("tokens", key, lambda unfinished: _write(_Work(data, encode, unfinished, slice_rows), show))
    from datasets import Dataset, concatenate_datasets

    splits = {}
    for split, names in facts["shards"].items():
        splits[split] = concatenate_datasets([Dataset.from_file(str(folder / f"{name}.arrow")) for name in names])
    return Tokenised(splits, facts["counts"])


def lengths_of(rows: Dataset, column: str) -> NDArray[np.int64]:
    """[N] the tokens of each row in a column of token ids."""
    ids = rows.select_columns(column).with_format("arrow")[:].column(column)
    lengths: NDArray[np.int64] = pc.list_value_length(ids).to_numpy().astype(np.int64)
    return lengths


def _write(work: _Work, show: bool) -> dict[str, dict[str, Any]]:
    """Write all slices; the names of each split's that have rows, and its counts."""
    slices = [one for split, size in work.data.sizes.items() for one in _slices(work, split, size)]
    facts: dict[str, dict[str, Any]] = {"shards": {}, "counts": {split: Counter() for split in work.data.sizes}}
    for one, counts in zip(slices, _done(work, slices, show), strict=True):
        if counts["rows"]:
            facts["shards"].setdefault(one.split, []).append(one.name)
        facts["counts"][one.split].update(counts)
    return facts


def _slices(work: _Work, split: str, size: int) -> Iterator[_Slice]:
    episodes = work.data.index(split).column("episode_id")
    start = 0
    while start < size:
        stop = min(start + work.slice_rows, size)
        last = episodes[stop - 1].as_py()
        while stop < size and last and episodes[stop].as_py() == last:
            stop += 1
        yield _Slice(split, start, stop)
        start = stop


def _done(work: _Work, slices: Sequence[_Slice], show: bool) -> Iterator[dict[str, int]]:
    """Each slice's counts, in order, once it is written."""
    global _WORK
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(len(slices), cores)
    if processes < 2 or len(work.data) <= work.slice_rows:
        yield from (_make(work, one) for one in slices)
        return
    from transformers.utils.logging import tqdm

    _WORK = work
    # Forked processes have the tokenizer as it is. They use neither torch nor DuckDB, whose threads they do not have.
    context = multiprocessing.get_context("fork")
    stopped = context.RawValue("b", False)  # without a lock, which a killed process could hold for ever
    with ProcessPoolExecutor(processes, context, _begin, (os.getpid(), stopped)) as pool:
        try:
            done = pool.map(_make_in_worker, slices)
            yield from tqdm(done, desc="tokenising", total=len(slices), unit="slice", disable=not show)
        except BrokenProcessPool as error:
            raise SotopiaDataError(
                "A process that tokenised rows was killed; a lack of memory is the usual cause.",
                "run the same command again: what was tokenised is kept",
            ) from error
        except BaseException:
            stopped.value = True
            raise


_WORK: _Work | None = None


def _begin(parent: int, stopped: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C ends the parent, which stops this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a core for each process
    pa.set_cpu_count(1)
    threading.Thread(target=_end_with, args=(parent, stopped), daemon=True).start()


def _end_with(parent: int, stopped: Any) -> None:
    """End when the process that started this one has ended, however it did, or has `stopped`: until then the cache is
    locked."""
    while os.getppid() == parent and not stopped.value:
        time.sleep(0.2)
    os._exit(1)


def _make_in_worker(one: _Slice) -> dict[str, int]:
    assert _WORK is not None
    return _make(_WORK, one)


def _make(work: _Work, one: _Slice) -> dict[str, int]:
    """Write a slice's rows, if there are any, and its counts; where it is written already, its counts are read."""
    facts = work.folder / f"{one.name}.json"
    if facts.exists():
        return dict(json.loads(facts.read_text(encoding="utf-8")))
    counts: Counter[str] = Counter(rows=0)

    def tables() -> Iterator[pa.Table]:
        for rows in _chunks(work.data.read(one.split, one.start, one.stop)):
            table, counted = work.encode(rows)
            counts.update({"rows": table.num_rows, **counted})
            yield table

    with whole_file(work.folder / f"{one.name}.arrow") as path:
        _write_tables(path, tables())
    with whole_file(facts) as path:
        path.write_text(json.dumps(counts), encoding="utf-8")
    return dict(counts)


def _write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Tables as batches of some BATCH rows: with many small ones, a big dataset would be slow to open."""
    writer, waiting = None, []
    for table in tables:
        writer = writer or pa.ipc.new_stream(path, table.schema)
        waiting.append(table)
        if sum(one.num_rows for one in waiting) >= BATCH:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
            waiting = []
    if writer is not None:
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
        writer.close()


def _chunks(rows: Iterable[DatasetRow]) -> Iterator[list[DatasetRow]]:
    """Rows some CHUNK at a time, with whole episodes."""
    chunk: list[DatasetRow] = []
    for row in rows:
        if len(chunk) >= CHUNK and not (row.episode_id and row.episode_id == chunk[-1].episode_id):
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk
