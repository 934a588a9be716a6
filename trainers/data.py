"""A dataset reference, pinned, read and split: what all three trainers, and `score`, start from. No torch here.

A reference is resolved to one version before the first step; the run, its checkpoints and the model card name that
version's digest. The dataset's own splits are used. Where it has none, it is divided by a hash of the environments,
each of which stays whole. It is checked that no environment and no episode is in two splits.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.errors import InputError, NotFound, UsageError
from sotopia_rl_data.hub.resolve import open_dataset
from sotopia_rl_data.schema import Message

if TYPE_CHECKING:
    import pyarrow as pa

    from sotopia_rl_data.query import Dataset

log = logging.getLogger(__name__)

EPISODE_COLUMNS = ("models", "tag", "source", "dialect", "codename", "scenario", "relationship")
VALIDATION, TEST = 0.1, 0.1


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
    """The rows of a run in key order, where they come from, and how many were left out (`dropped`: reason -> rows)."""

    pinned: Pinned
    rows: tuple[DatasetRow, ...]
    targets: tuple[str, ...]
    dropped: Mapping[str, int]
    splits_by: str

    def of(self, split: str) -> tuple[DatasetRow, ...]:
        """The rows of one split, in key order."""
        return tuple(r for r in self.rows if r.split == split)

    def counts(self) -> dict[str, int]:
        """Rows in each split."""
        return {s: len(self.of(s)) for s in ("train", "validation", "test")}


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
    table = dataset.sql(select(dataset, where))
    rows, dropped = _usable_rows(table, columns, set(sentinels), need_reward)
    _check_any(ref, rows, dropped, where)
    if split_by == "stored":
        splits_by = split_by
    else:
        rows, splits_by = _with_splits(rows, dataset, split_by)
        check_disjoint(rows, by_episode=_by_episode(dataset, splits_by))
    names = tuple(full_name(t) for t in targets) or ("reward",)
    return DatasetRows(pin(dataset, ref), tuple(rows), names, dropped, splits_by)


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


def select(dataset: Dataset, where: str | None) -> str:
    """The SELECT of the rewards rows that meet `where`, in key order; in `where`, `model` is the speaker's model.

    Imported rewards without a key stay in the order of their files.
    """
    keyed = {"episode_id", "agent", "turn"} <= dataset.manifest.columns["rewards"].keys()
    order = "ORDER BY split, episode_id, agent, turn" if keyed else ""
    condition = f"WHERE ({where})" if where else ""
    if not where or not keyed or "episodes" not in dataset.manifest.configs:
        return f"SELECT * FROM rewards {condition} {order}"
    selected = ", ".join(("episode_id", *EPISODE_COLUMNS, "speaker.agent AS agent", "speaker.model AS model"))
    episodes = f"SELECT {selected} FROM (SELECT *, unnest(agents) AS speaker FROM episodes)"
    return f"SELECT rewards.* FROM rewards LEFT JOIN ({episodes}) USING (episode_id, agent) {condition} {order}"


def _usable_rows(
    table: pa.Table, columns: Sequence[str], sentinels: set[float], need_reward: bool
) -> tuple[list[DatasetRow], dict[str, int]]:
    """The rows that can be trained on, with a number for each of the target `columns`; and how many cannot, by
    reason."""
    dropped = {"no reward": 0, "no completion": 0}
    rows = []
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            targets = tuple(_number(row[c], sentinels) for c in columns)
            if need_reward and all(t is None for t in targets):
                dropped["no reward"] += 1
            elif not row["completion"] or not row["prompt"]:
                dropped["no completion"] += 1
            else:
                usable = DatasetRow(
                    split=row["split"],
                    episode_id=row.get("episode_id") or "",
                    environment_id=row.get("environment_id") or "",
                    agent=row.get("agent") or "",
                    turn=row.get("turn"),
                    prompt=tuple(row["prompt"]),
                    completion=tuple(row["completion"]),
                    targets=targets,
                    reward=_number(row.get("reward"), sentinels),
                    spread=_number(row.get("spread"), set()),
                )
                rows.append(usable)
    return rows, dropped


def _number(value: float | None, sentinels: set[float]) -> float | None:
    return None if value is None or not np.isfinite(value) or value in sentinels else float(value)


def target_table(rows: Sequence[DatasetRow]) -> NDArray[np.float64]:
    """[N, K] the rows' targets; NaN where one is missing."""
    return np.array([[np.nan if t is None else t for t in r.targets] for r in rows], dtype=np.float64)


def _check_any(ref: str, rows: Sequence[DatasetRow], dropped: Mapping[str, int], where: str | None) -> None:
    if rows:
        return
    if dropped["no reward"]:
        raise _no_rewards(ref, dropped["no reward"])
    if where:
        raise UsageError(f"No row of {ref} meets the condition {where!r}.", "give a wider --where")
    raise InputError(f"{ref} has no rows to train on.", f"see what it has: sotopia-rl-data show {ref}")


def check_rewarded(ref: str, store: str | Path | None = None) -> None:
    """Raises InputError where no row of `ref` has a reward, without reading the rows; and as `load_rows` does."""
    dataset = open_dataset(ref, store)
    target_columns(dataset, ())
    rows, rewarded = dataset.sql("SELECT count(*), count(reward) FROM rewards").columns
    if rows[0].as_py() and not rewarded[0].as_py():
        raise _no_rewards(ref, rows[0].as_py())


def _no_rewards(ref: str, rows: int) -> InputError:
    return InputError(f"None of the {rows} rows of {ref} has a reward.", f"see why: sotopia-rl-data show {ref}")


def _with_splits(rows: list[DatasetRow], dataset: Dataset, split_by: str) -> tuple[list[DatasetRow], str]:
    """The rows in the dataset's own splits, or in new ones; and what they are split by."""
    own = set(dataset.version.files("rewards"))
    if split_by == "dataset" and "train" in own and len(own) > 1:
        return rows, "dataset"
    column = grouping(rows)
    if column is None:
        return [replace(row, split="train") for row in rows], "none"
    split_of = grouped_split([getattr(row, column) for row in rows])
    return [replace(row, split=split_of[getattr(row, column)]) for row in rows], column


def _by_episode(dataset: Dataset, splits_by: str) -> bool:
    """Whether the episodes of one environment may be in several splits: they were divided by episode."""
    return splits_by == "episode_id" or (
        splits_by == "dataset" and dataset.manifest.recipe.get("split_by") == "episode"
    )


def grouping(rows: Sequence[DatasetRow]) -> str | None:
    """The column to split by: the environment, else the episode; None where there are not two values of either."""
    for column in ("environment_id", "episode_id"):
        values = {getattr(r, column) for r in rows}
        if len(values) > 1 and "" not in values:
            return column
    return None


def grouped_split(groups: Sequence[str]) -> dict[str, str]:
    """Each group's split: about 80/10/10 of the groups in the order of their hash; from three groups on, at least one
    in each split."""
    ordered = sorted(set(groups), key=lambda g: hashlib.sha256(g.encode()).digest())
    validation = max(1, round(len(ordered) * VALIDATION)) if len(ordered) > 1 else 0
    test = max(1, round(len(ordered) * TEST)) if len(ordered) > 2 else 0
    splits = ["validation"] * validation + ["test"] * test + ["train"] * (len(ordered) - validation - test)
    return dict(zip(ordered, splits, strict=True))


def check_splits(data: DatasetRows, splits: Collection[str], evaluating: bool) -> None:
    """Raises UsageError where the `splits` that still have rows are not enough for training, or for `evaluating`.

    Where nothing can be held out and no evaluation is asked for, logs a warning.
    """
    name = data.pinned.ref
    if "train" not in splits:
        raise UsageError(
            f"The train split of {name} is empty.",
            "give a wider --where, or divide the rows anew with --set split_by=grouped",
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
            f"The validation split of {name} is empty, so the best checkpoint could not be chosen.",
            "--set split_by=grouped divides it by environment; --set eval_strategy=no trains without evaluating",
        )


def check_disjoint(rows: Iterable[DatasetRow], by_episode: bool = False) -> None:
    """Raises InputError where an environment or an episode is in two splits; `by_episode`, only for an episode."""
    seen: dict[tuple[str, str], str] = {}
    for row in rows:
        groups = [("episode", row.episode_id)] + ([] if by_episode else [("environment", row.environment_id)])
        for kind, value in reversed(groups):
            other = seen.setdefault((kind, value), row.split)
            if value and other != row.split:
                raise InputError(
                    f"The {kind} {value} is in both {other} and {row.split}: held-out scores would be too good.",
                    "divide the rows anew, by environment: --set split_by=grouped",
                )
