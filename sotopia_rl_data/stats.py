"""A version in numbers: rows, distributions of rewards and dimensions, opinions, failures by reason.

Leaves out agreement between judges and correlation between dimensions (`agreement/`). Sums run in row order on one
thread, so that the same version gives the same digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.query import connect
from sotopia_rl_data.store import Version

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_REASONS = 20


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of the values that are not NULL: mean, sample standard deviation, quartiles (interpolated). None: no values."""

    count: int
    nulls: int
    mean: float | None
    sd: float | None
    min: float | None
    q25: float | None
    median: float | None
    q75: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What one judge said of one dimension under one schema: how many labels, their mean, sd and range."""

    judge: str
    schema: str
    dimension: str
    labels: int
    mean: float
    sd: float | None
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Stats:
    """`rows[config][split]`; `columns[column]["all" or split]` for reward, raw_*, norm_* and spread of `rewards`;
    `opinions[n]` rows with n opinions; `judges`: what each judge (an LLM, a person, a reward model) said by schema and
    dimension, in its own units; `failures[reason]`, most frequent first; `episodes`: counts of what they hold.
    """

    ref: str
    rows: Mapping[str, Mapping[str, int]]
    columns: Mapping[str, Mapping[str, Distribution]]
    opinions: Mapping[int, int]
    judges: tuple[Judged, ...]
    failures: Mapping[str, int]
    episodes: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def stats(version: Version) -> Stats:
    """The numbers of `version`. Raises StoreError where its files cannot be read."""
    manifest = version.manifest
    rewards = manifest.columns.get("rewards", {})
    numbers = [c for c, kind in rewards.items() if kind == "double"]
    with connect(version, threads=1) as connection:
        return Stats(
            version.ref,
            {
                config: {name: split.rows for name, split in splits.items()}
                for config, splits in manifest.configs.items()
            },
            {column: _distributions(connection, column) for column in numbers},
            _opinions(connection) if "n_opinions" in rewards else {},
            _judges(connection) if "attributions" in manifest.configs else (),
            _failures(connection) if "failures" in manifest.configs else {},
            _episodes(connection) if "episodes" in manifest.configs else {},
        )


def _distributions(connection: DuckDBPyConnection, column: str) -> dict[str, Distribution]:
    name = '"' + column.replace('"', '""') + '"'
    measures = (
        f"count({name}), count(*) - count({name}), avg({name}), stddev_samp({name}), min({name}), "
        f"quantile_cont({name}, [0.25, 0.5, 0.75]), max({name})"
    )
    found = connection.execute(f"SELECT split, {measures} FROM rewards GROUP BY split").fetchall()
    found += connection.execute(f"SELECT 'all', {measures} FROM rewards").fetchall()
    rows = {split: (*head, *(quartiles or (None,) * 3), high) for split, *head, quartiles, high in found}
    return {split: Distribution(*rows[split]) for split in ("all", "train", "validation", "test") if split in rows}


def _opinions(connection: DuckDBPyConnection) -> dict[int, int]:
    query = "SELECT coalesce(n_opinions, 0), count(*) FROM rewards GROUP BY 1 ORDER BY 1"
    return dict(connection.execute(query).fetchall())


def _judges(connection: DuckDBPyConnection) -> tuple[Judged, ...]:
    query = """
        SELECT judge, schema, dimension, count(*), avg(raw), stddev_samp(raw), min(raw), max(raw)
        FROM attributions WHERE turn >= 0 GROUP BY 1, 2, 3 ORDER BY 3, 1, 2
    """
    return tuple(Judged(*row) for row in connection.execute(query).fetchall())


def _failures(connection: DuckDBPyConnection) -> dict[str, int]:
    query = f"SELECT reason, count(*) AS n FROM failures GROUP BY 1 ORDER BY n DESC, reason LIMIT {_REASONS}"
    return dict(connection.execute(query).fetchall())


def _episodes(connection: DuckDBPyConnection) -> dict[str, int]:
    query = """
        SELECT count(*), count(DISTINCT environment_id), coalesce(sum(len(agents)), 0)::BIGINT,
               coalesce(sum(len(turns)), 0)::BIGINT, coalesce(sum(len(scores)), 0)::BIGINT
        FROM episodes
    """
    names = ("episodes", "environments", "agents", "utterances", "scores")
    return dict(zip(names, connection.execute(query).fetchone() or (0,) * len(names), strict=True))
