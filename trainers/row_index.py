"""Which rows of a dataset a run uses, in which split, and where their texts lie: an Arrow file for each split.

Only ids, numbers and places are selected and sorted. A sort that carries the texts too holds the whole dataset in
memory, which DuckDB refuses from some size on, or now and then refuses, as its threads happen to meet. No torch here.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from sotopia_rl_data.errors import InputError, QueryError, UsageError

if TYPE_CHECKING:
    from sotopia_rl_data.query import Dataset

EPISODE_COLUMNS = ("models", "tag", "source", "dialect", "codename", "scenario", "relationship")
VALIDATION, TEST = 0.1, 0.1
_SECONDS = 24 * 3600.0  # of the query
_MEMORY = "512MB"  # of the checks
_KEYS = {"episode_id": "''", "environment_id": "''", "agent": "''", "turn": "NULL"}  # where imported rows lack them


@dataclass(frozen=True, slots=True)
class RowChoice:
    """Which rows are used: those that meet the SQL condition `where` and, with `need_reward`, have a number in one of
    the target `columns` that is not among the `sentinels`. `split_by` is as in `load_rows`."""

    columns: tuple[str, ...]
    where: str | None
    split_by: str
    sentinels: tuple[float, ...]
    need_reward: bool

    def key(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return {
            "columns": list(self.columns),
            "where": self.where,
            "split_by": self.split_by,
            "sentinels": sorted(repr(value) for value in self.sentinels),
            "need_reward": self.need_reward,
        }


def schema(targets: int) -> pa.Schema:
    """The columns of the index. `file` is the number of a file among all of the config, `row` a row's number in it;
    `target_0`, … are the targets (NULL: missing)."""
    numbers = [(f"target_{k}", pa.float64()) for k in range(targets)]
    return pa.schema(
        [
            *[(name, pa.string()) for name in ("split", "episode_id", "environment_id", "agent")],
            ("turn", pa.int32()),
            ("file", pa.int32()),
            ("row", pa.int64()),
            ("reward", pa.float64()),
            ("spread", pa.float64()),
            *numbers,
        ]
    )


def write_index(folder: Path, dataset: Dataset, ref: str, choice: RowChoice) -> dict[str, Any]:
    """Write the index of the chosen rows of `dataset` into `folder`; the rows of each split, what they are split by,
    what was dropped. Raises UsageError, QueryError, InputError."""
    own = set(dataset.version.files("rewards"))
    is_stored = choice.split_by == "stored"
    keeps_splits = is_stored or (choice.split_by == "dataset" and "train" in own and len(own) > 1)
    path = folder / "all.arrow"
    dropped = _write_usable(path, dataset, choice, keeps_splits)
    chosen = memory_mapped(path)
    _check_any(ref, chosen.num_rows, dropped, choice.where)
    splits_by, split_of = (choice.split_by, {}) if keeps_splits else _new_splits(chosen)
    sizes = _write_splits(folder, chosen, splits_by, split_of)
    path.unlink()
    if not is_stored:
        splits = {split: memory_mapped(split_file(folder, split)) for split in sizes}
        check_disjoint(splits, _by_episode(dataset, splits_by))
    return {"rows": sizes, "splits_by": splits_by, "dropped": dropped}


def split_file(folder: Path, split: str) -> Path:
    """The file of a split's index."""
    return folder / f"{split}.arrow"


def memory_mapped(path: Path) -> pa.Table:
    """An Arrow file (a stream of batches) that is read from the disk as it is used."""
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def check_where(where: str, dimensions: Sequence[str]) -> None:
    """Raises QueryError where `where` is not a condition over rewards on these dimensions and their episodes: known
    before there are any."""
    import duckdb

    from sotopia_rl_data.query import check_select, lock, no_condition, unlocked
    from sotopia_rl_data.tables import EPISODES, rewards_schema

    places = pa.schema([("split", pa.string()), ("filename", pa.string()), ("file_row_number", pa.int64())])
    empty = {
        "rewards": pa.schema([*rewards_schema(dimensions), *places]),
        "episodes": pa.schema([*EPISODES, *places]),
    }
    known = {table: columns.names for table, columns in empty.items()}
    with unlocked(_MEMORY) as connection:
        for table, columns in empty.items():
            connection.register(table, columns.empty_table())
        lock(connection, {}, "the study")
        text = select(known, (), where, by_split=False)
        try:
            check_select(connection, text, "")
            connection.sql(text)
        except (duckdb.Error, QueryError, UnicodeEncodeError) as error:
            raise no_condition(where, error, [*rewards_schema(dimensions).names, *EPISODE_COLUMNS, "model"]) from error


def select(known: Mapping[str, Collection[str]], columns: Sequence[str], where: str | None, by_split: bool) -> str:
    """The SELECT of ids, numbers and places of the rewards rows that meet `where`, in key order, `by_split` within each
    split; in `where`, `model` is the speaker's model. `known` are the columns of each table.

    Imported rewards without a key stay in the order of their files.
    """
    present = known["rewards"]
    is_keyed = {"episode_id", "agent", "turn"} <= set(present)
    order = f"ORDER BY {'split, ' if by_split else ''}episode_id, agent, turn" if is_keyed else ""
    keys = [f"coalesce({name}, {default})" if name in present else default for name, default in _KEYS.items()]
    numbers = [name if name in present else "NULL" for name in ("reward", "spread", *columns)]
    is_whole = "coalesce(len(prompt), 0) > 0 AND coalesce(len(completion), 0) > 0"
    fields = ["split", "filename", "file_row_number", is_whole, *keys, *numbers]
    named = ", ".join(f"{value} AS c{at}" for at, value in enumerate(fields))
    condition = f"WHERE ({where})" if where else ""
    if not where or not is_keyed or "episodes" not in known:
        return f"SELECT {named} FROM rewards {condition} {order}"
    selected = ", ".join(("episode_id", *EPISODE_COLUMNS, "speaker.agent AS agent", "speaker.model AS model"))
    episodes = f"SELECT {selected} FROM (SELECT *, unnest(agents) AS speaker FROM episodes)"
    return f"SELECT {named} FROM rewards LEFT JOIN ({episodes}) USING (episode_id, agent) {condition} {order}"


def _write_usable(path: Path, dataset: Dataset, choice: RowChoice, by_split: bool) -> dict[str, int]:
    """Write the rows that can be trained on; how many cannot, by reason."""
    from sotopia_rl_data.query import stream

    files = pa.array([str(file.resolve()) for of in dataset.version.files("rewards").values() for file in of])
    text = select(dataset.manifest.columns, choice.columns, choice.where, by_split)
    dropped = {"no reward": 0, "no completion": 0}
    columns = schema(len(choice.columns))
    with (
        stream(dataset.version, text, _SECONDS, with_places=True) as reader,
        pa.ipc.new_stream(path, columns) as writer,
    ):
        for batch in reader:
            split, file, row, is_whole, episode, environment, agent, turn, reward, spread, *targets = batch.columns
            numbers = [_numbers(target, choice.sentinels) for target in targets]
            usable = pa.scalar(True)
            if choice.need_reward:
                usable = _any([pc.is_valid(number) for number in numbers])
                dropped["no reward"] += batch.num_rows - pc.sum(usable).as_py()
            dropped["no completion"] += pc.sum(pc.and_(usable, pc.invert(is_whole))).as_py() or 0
            ids = (split, episode, environment, agent, turn, pc.index_in(file, files), row)
            values = [*ids, _numbers(reward, choice.sentinels), _numbers(spread, ()), *numbers]
            arrays = [value.cast(one.type) for value, one in zip(values, columns, strict=True)]
            writer.write_batch(pa.record_batch(arrays, columns).filter(pc.and_(usable, is_whole)))
    return dropped


def _numbers(column: pa.Array, sentinels: Collection[float]) -> pa.Array:
    """Finite numbers as they are, NULL for all else and for sentinels."""
    values = column.cast(pa.float64())
    is_number = pc.and_(pc.is_finite(values), pc.invert(pc.is_in(values, pa.array(list(sentinels), pa.float64()))))
    return pc.if_else(pc.fill_null(is_number, False), values, pa.scalar(None, pa.float64()))


def _any(flags: Sequence[pa.Array]) -> pa.Array:
    found, *others = flags
    for flag in others:
        found = pc.or_(found, flag)
    return found


def _check_any(ref: str, count: int, dropped: Mapping[str, int], where: str | None) -> None:
    if count:
        return
    if dropped["no reward"]:
        raise no_rewards(ref, dropped["no reward"])
    if where:
        raise UsageError(f"No row of {ref} meets the condition {where!r}.", "give a wider --where")
    raise InputError(f"{ref} has no rows to train on.", f"see what it has: sotopia-rl-data show {ref}")


def no_rewards(ref: str, rows: int) -> InputError:
    """What is wrong with a dataset in which none of its `rows` has a reward."""
    return InputError(f"None of the {rows} rows of {ref} has a reward.", f"see why: sotopia-rl-data show {ref}")


# --- splits -----------------------------------------------------------------------------------------------------------


def _new_splits(rows: pa.Table) -> tuple[str, dict[str, str]]:
    """What to split by ("none": there are not two groups of anything), and each group's split."""
    for column in ("environment_id", "episode_id"):
        groups = [group for (group,) in _asked({"rows": rows}, f"SELECT DISTINCT {column} FROM rows")]
        if len(groups) > 1 and "" not in groups:
            return column, grouped_split(groups)
    return "none", {}


def grouped_split(groups: Sequence[str]) -> dict[str, str]:
    """Each group's split: about 80/10/10 of the groups in the order of their hash; from three groups on, at least one
    in each split."""
    ordered = sorted(set(groups), key=lambda g: hashlib.sha256(g.encode()).digest())
    validation = max(1, round(len(ordered) * VALIDATION)) if len(ordered) > 1 else 0
    test = max(1, round(len(ordered) * TEST)) if len(ordered) > 2 else 0
    splits = ["validation"] * validation + ["test"] * test + ["train"] * (len(ordered) - validation - test)
    return dict(zip(ordered, splits, strict=True))


def _write_splits(folder: Path, rows: pa.Table, splits_by: str, split_of: Mapping[str, str]) -> dict[str, int]:
    """Write each split's rows into a file of their own; how many there are. Without `split_of`, rows keep their split,
    or are all `train` where they are split by none."""
    groups, splits = pa.array(split_of.keys(), pa.string()), pa.array(split_of.values(), pa.string())
    sizes: Counter[str] = Counter()
    with ExitStack() as stack:
        writers: dict[str, Any] = {}
        for batch in rows.to_batches():
            if split_of:
                split = splits.take(pc.index_in(batch.column(splits_by), groups))
            else:
                split = pa.repeat("train", batch.num_rows) if splits_by == "none" else batch.column("split")
            batch = batch.set_column(0, "split", split)
            for name in pc.unique(split).to_pylist():
                if name not in writers:
                    writers[name] = stack.enter_context(pa.ipc.new_stream(split_file(folder, name), rows.schema))
                mine = batch.filter(pc.equal(split, name))
                writers[name].write_batch(mine)
                sizes[name] += mine.num_rows
    return dict(sizes)


def _by_episode(dataset: Dataset, splits_by: str) -> bool:
    """Whether the episodes of one environment may be in several splits: they were divided by episode."""
    return splits_by == "episode_id" or (
        splits_by == "dataset" and dataset.manifest.recipe.get("split_by") == "episode"
    )


def check_disjoint(splits: Mapping[str, pa.Table], by_episode: bool = False) -> None:
    """Raises InputError where an environment or an episode is in two splits; `by_episode`, only for an episode."""
    for kind in ("episode",) if by_episode else ("environment", "episode"):
        groups = " UNION ALL ".join(
            f"SELECT DISTINCT {kind}_id AS id, '{split}' AS split FROM {split}" for split in splits
        )
        found = _asked(
            splits,
            f"""SELECT id, min(split), max(split) FROM ({groups}) WHERE id <> '' GROUP BY id
                HAVING count(*) > 1 ORDER BY id LIMIT 1""",
        )
        for group, one, other in found:
            raise InputError(
                f"The {kind} {group} is in both {one} and {other}: held-out scores would be too good.",
                "divide the rows anew, by environment: --set split_by=grouped",
            )


def _asked(tables: Mapping[str, pa.Table], text: str) -> Iterator[tuple[Any, ...]]:
    """The rows of our own SELECT over Arrow tables."""
    from sotopia_rl_data.query import unlocked

    with unlocked(_MEMORY) as connection:
        for name, table in tables.items():
            connection.register(name, table)
        yield from connection.execute(text).fetchall()
