"""A version's rewards as files that other trainers read: a file for each split, written row by row.

A format is a SELECT over the version and a function that makes the other program's row of each of its rows. A value
that is missing is left out, or NULL where the file is a table, and never 0.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from sotopia_rl_data.errors import InputError, NotFound, UsageError
from sotopia_rl_data.exporters.drafts import WITH_DRAFTS, Drafts, write_drafts
from sotopia_rl_data.exporters.exporting import written_beside
from sotopia_rl_data.query import Tables, sql, stream
from sotopia_rl_data.schema import SPLITS
from sotopia_rl_data.store import Version
from sotopia_rl_data.tables import MESSAGES

Row = dict[str, Any]

_SECONDS = 24 * 3600.0  # an export may take longer than a query
_ROWS = 1_024  # rows that are made at a time
NO_PAIR = "in no pair: the only completion of its prompt, one between best and worst, or equal rewards"
PAIRS_FROM = (
    "play each scene several times and label that (rollout --repeat 8), or import rows of prompt, chosen and rejected; "
    "of a dataset of rollout --best-of, export --to trl-preference writes such rows"
)
_NO_TEXT = "a draft whose text is not in the ledger"
_SPEAKERS = {"user": "human", "assistant": "gpt"}  # as ShareGPT calls the roles


@dataclass(frozen=True, slots=True)
class TrainingFormat:
    """What is written for one program: `row` makes its row of a row of `select`, a SELECT in which {rows} stands for
    the rows of `config` that are exported. With `rewarded` these are the ones that have a reward, with `scenes` each
    has the scene of its episode; `labelled`: {threshold} stands for a reward; `pairs`: of each prompt two are left.
    `schema` is that of a Parquet file; without it JSON Lines are written."""

    config: str
    select: str
    row: Callable[[Row], Row]
    rewarded: bool = False
    scenes: bool = False
    labelled: bool = False
    pairs: bool = False
    schema: pa.Schema | None = None


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What was written: rows by split; how many of the version's rows were `left_out`, by reason; and for `trl-kto` the
    reward above which a completion is desirable."""

    version: str
    directory: str
    rows: Mapping[str, int]
    left_out: Mapping[str, int]
    threshold: float | None = None


def best_and_worst(rows: str, kept: str = "completion") -> str:
    """The SELECT of the preferences in `rows`, which all have a reward: for each prompt of a split, `kept` (SQL) of its
    best and of its worst completion, and the margin between their rewards. A prompt with one completion, or with equal
    rewards, has none."""
    best, worst = "arg_max({}, ROW(reward, completion))", "arg_min({}, ROW(reward, completion))"
    return (
        f"SELECT split, prompt, {best.format(kept)} AS chosen, {worst.format(kept)} AS rejected, "
        f"max(reward) - min(reward) AS margin FROM {rows} GROUP BY split, prompt "
        f"HAVING margin > 0 AND {best.format('completion')} <> {worst.format('completion')}"
    )


def export_training(
    version: Version,
    fmt: str,
    directory: Path,
    *,
    where: str | None = None,
    threshold: float | None = None,
    ledger: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> TrainingReport:
    """Write `version` for the program that `fmt`, a key of FORMATS, names into `directory`, which must not exist or be
    empty.

    `where` is an SQL condition on the rows of the format's config. `threshold` is for `trl-kto` (None: the median of
    the rewards that are exported). `ledger` is the folder of raw answers that has the drafts of best-of-N: with it,
    `trl-preference` takes all drafts of an utterance instead of the one that was kept. `progress(n)` is called after
    each n rows. Raises NotFound where the version lacks
    the config, QueryError where `where` is wrong, InputError where no row is left, UsageError, StoreError; after an
    error `directory` is unchanged.
    """
    form = FORMATS[fmt]
    if threshold is not None and not math.isfinite(threshold):
        raise UsageError("The threshold is not a finite number.", "write it as in --threshold 0.5")
    listed = version.manifest.configs.get(form.config)
    if listed is None:
        raise NotFound(f"{version.ref} has no {form.config} to export.", _makes_rewards(version))
    with ExitStack() as opened:
        drafts = Drafts({}, 0)
        if form.pairs and ledger is not None:
            scratch = Path(opened.enter_context(TemporaryDirectory(prefix="sotopia-rl-data-")))
            drafts = write_drafts(version, ledger, scratch, _SECONDS)
        every = f"FROM {WITH_DRAFTS if drafts.files else form.config}"
        source = _Source(version, {"drafts": drafts.files} if drafts.files else {})
        chosen = f"SELECT * {every} WHERE ({where or 'true'}\n)"
        rows = f"SELECT * FROM ({chosen}) WHERE reward IS NOT NULL" if form.rewarded else chosen
        found = source.count(chosen)
        kept = source.count(rows) if form.rewarded else found
        if not kept:
            raise _nothing(version, fmt, found, kept, drafts.without_text)
        if form.labelled and threshold is None:
            threshold = source.first(f"SELECT median(reward) FROM ({rows})")
        counts: Counter[str] = Counter()
        beside = opened.enter_context(written_beside(directory))
        files = opened.enter_context(ExitStack())
        writers: dict[str, _RowFile] = {}
        with_scenes = f"({_with_scenes(version, rows) if form.scenes else rows})"
        for split, batch in source.batches(form.select.format(rows=with_scenes, threshold=threshold)):
            if split not in writers:
                writers[split] = files.enter_context(_RowFile(beside, split, form.schema))
            writers[split].write([form.row(row) for row in batch])
            counts[split] += len(batch)
            if progress is not None:
                progress(len(batch))
        if not counts:
            raise _nothing(version, fmt, found, kept, drafts.without_text)
        left_out = {
            "the condition does not hold": source.count(f"SELECT * {every}") - found,
            "no reward": found - kept,
            NO_PAIR: kept - 2 * counts.total() if form.pairs else 0,
            _NO_TEXT: drafts.without_text,
        }
    return TrainingReport(
        version.ref, str(directory), dict(counts), {why: n for why, n in left_out.items() if n}, threshold
    )


def _with_scenes(version: Version, rows: str) -> str:
    """The rows with the dataset's name, their number, and the scene of their episode where the version has episodes."""
    named = f"SELECT *, '{version.name}' AS data_source, row_number() OVER () - 1 AS index FROM ({rows})"
    if "episodes" not in version.manifest.configs:
        return named
    scenes = "SELECT episode_id, scenario, agents FROM episodes"
    return f"SELECT * FROM ({named}) LEFT JOIN ({scenes}) USING (episode_id) ORDER BY index"


@dataclass(frozen=True, slots=True)
class _Source:
    """A version, with `more` tables beside its configs."""

    version: Version
    more: Tables

    def first(self, select: str) -> Any:
        """The value in the first row of a SELECT."""
        return sql(self.version, select, _SECONDS, self.more).column(0)[0].as_py()

    def count(self, select: str) -> int:
        """How many rows a SELECT has."""
        return int(self.first(f"SELECT count(*) FROM ({select})"))

    def batches(self, select: str) -> Iterator[tuple[str, list[Row]]]:
        """The rows of a SELECT, which come split after split, some at a time."""
        with stream(self.version, select, _SECONDS, more=self.more) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, _ROWS):
                    for split, rows in groupby(batch.slice(start, _ROWS).to_pylist(), key=itemgetter("split")):
                        yield split, list(rows)


def _makes_rewards(version: Version) -> str:
    """The hint for a version without rewards or trajectories."""
    has = version.manifest.configs.keys()
    if "episodes" not in has:
        return "name a dataset of labelled episodes: sotopia-rl-data list"
    if has & {"attributions", "rewards"}:
        return f"make them from its labels: sotopia-rl-data rewards {version.name}"
    return f"label it first: sotopia-rl-data label {version.name} --judge gpt-4o"


def _nothing(version: Version, fmt: str, found: int, kept: int, without_text: int) -> InputError:
    hint = f"it has no prompt with several completions of different rewards: {PAIRS_FROM}"
    if not found:
        hint = "write a condition that holds for some rows"
    elif not kept:
        hint = "label the dataset first: none of these rows has a reward"
    if without_text:
        hint = "name the ledger of the store where its drafts were drawn, with --ledger"
    return InputError(f"No row of {version.ref} can be exported to {fmt}.", hint)


class _RowFile:
    """The file of one split: Parquet with a schema, else JSON Lines. Use it as a context manager."""

    def __init__(self, directory: Path, split: str, schema: pa.Schema | None) -> None:
        self._schema = schema
        if schema is None:
            self._file: Any = (directory / f"{split}.jsonl").open("w", encoding="utf-8")
        else:
            self._file = pq.ParquetWriter(directory / f"{split}.parquet", schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, rows: list[Row]) -> None:
        """Add rows."""
        if self._schema is None:
            self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            self._file.write_table(pa.Table.from_pylist(rows, self._schema))


def _only(*names: str) -> Callable[[Row], Row]:
    return lambda row: {name: row[name] for name in names}


def _sharegpt(row: Row) -> Row:
    said = [{"from": _SPEAKERS.get(m["role"], m["role"]), "value": m["content"]} for m in row["messages"]]
    return {"conversations": said}


def _openrlhf(row: Row) -> Row:
    """Messages, to which OpenRLHF applies the chat template, and the reward where there is one."""
    made = {"prompt": row["prompt"], "response": row["completion"]}
    return made if row["reward"] is None else made | {"reward": row["reward"]}


def _verl(row: Row) -> Row:
    """A prompt, and for the reward function the prompt again, which verl does not hand to it, what was said there, its
    reward (None: it has none) and the scene."""
    known = {name: row.get(name) for name in _SCENE.names if name not in ("messages", "completion")}
    known["messages"] = row["prompt"]
    return {
        "data_source": row["data_source"],
        "prompt": row["prompt"],
        "ability": "social interaction",
        "reward_model": {"style": "model", "ground_truth": ""},
        "extra_info": known | {"completion": "".join(message["content"] for message in row["completion"])},
    }


_SCENE = pa.schema(
    [
        ("index", pa.int64()),
        ("split", pa.string()),
        ("episode_id", pa.string()),
        ("environment_id", pa.string()),
        ("agent", pa.string()),
        ("turn", pa.int32()),
        ("messages", MESSAGES),
        ("completion", pa.string()),
        ("reward", pa.float64()),
        ("scenario", pa.string()),
        (
            "agents",
            pa.list_(pa.struct([(name, pa.string()) for name in ("agent", "name", "goal", "background", "secret")])),
        ),
    ]
)
_VERL = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", MESSAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", pa.struct(list(_SCENE))),
    ]
)

FORMATS = {
    "trl-sft": TrainingFormat("rewards", "SELECT * FROM {rows}", _only("prompt", "completion")),
    "trl-preference": TrainingFormat(
        "rewards",
        f"{best_and_worst('{rows}')} ORDER BY list_position({list(SPLITS)}, split), prompt",
        _only("prompt", "chosen", "rejected", "margin"),
        rewarded=True,
        pairs=True,
    ),
    "trl-kto": TrainingFormat(
        "rewards",
        "SELECT *, reward > {threshold} AS label FROM {rows}",
        _only("prompt", "completion", "label"),
        rewarded=True,
        labelled=True,
    ),
    "openai": TrainingFormat("trajectories", "SELECT * FROM {rows}", _only("messages")),
    "sharegpt": TrainingFormat("trajectories", "SELECT * FROM {rows}", _sharegpt),
    "verl": TrainingFormat("rewards", "SELECT * FROM {rows}", _verl, scenes=True, schema=_VERL),
    "openrlhf": TrainingFormat("rewards", "SELECT * FROM {rows}", _openrlhf),
}
"""The formats by their names on the command line."""
