"""What changed from one version to another: rows added, removed and changed, config by config.

Rows are matched by their identity (`tables.KEYS`); where they have none, whole rows are counted, and a changed row
counts as one removed and one added. Cells are compared by DuckDB's 64-bit hash, so that prompts and dialogues need not
be kept in memory: two different cells count as equal once in 2^64 pairs. Splits with equal digests are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.query import rows_of, unlocked
from sotopia_rl_data.schema import CONFIGS, DERIVED
from sotopia_rl_data.store import Version
from sotopia_rl_data.store.ordering import identity

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Changes:
    """One config: how many rows differ. `columns` counts the changed rows by column; `examples` names a few rows."""

    added: int
    removed: int
    changed: int
    same: int
    columns: Mapping[str, int] = field(default_factory=dict)
    new_columns: tuple[str, ...] = ()
    dropped_columns: tuple[str, ...] = ()
    examples: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.new_columns or self.dropped_columns)


@dataclass(frozen=True, slots=True)
class Diff:
    """From `a` to `b`: the changes of each config that either has, and what differs in the recipe (before, after)."""

    a: str
    b: str
    configs: Mapping[str, Changes]
    recipe: Mapping[str, tuple[Any, Any]]

    def __bool__(self) -> bool:
        return any(self.configs.values()) or bool(self.recipe)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def diff(a: Version, b: Version) -> Diff:
    """What `b` adds to, removes from and changes in `a`. Memory does not grow with the rows. Raises StoreError."""
    of_a, of_b = a.manifest, b.manifest
    configs = {c: _changes(a, b, c) for c in CONFIGS if c in (of_a.configs.keys() | of_b.configs) - set(DERIVED)}
    names = [*of_a.recipe, *(n for n in of_b.recipe if n not in of_a.recipe)]
    recipe = {n: (of_a.recipe.get(n), of_b.recipe.get(n)) for n in names if of_a.recipe.get(n) != of_b.recipe.get(n)}
    return Diff(a.ref, b.ref, configs, recipe)


def _changes(a: Version, b: Version, config: str) -> Changes:
    before, after = a.manifest.configs.get(config), b.manifest.configs.get(config)
    if before is None or after is None:
        added, removed = (sum(split.rows for split in (splits or {}).values()) for splits in (after, before))
        return Changes(added, removed, 0, 0)
    if {name: split.digest for name, split in before.items()} == {name: split.digest for name, split in after.items()}:
        return Changes(0, 0, 0, sum(split.rows for split in before.values()))
    old, new = a.manifest.columns[config], b.manifest.columns[config]
    common = [name for name in new if name in old]
    key = identity(config, common)
    try:
        with unlocked() as connection:
            hashes = ", ".join(f"hash({_name(c)}) AS {_name('h_' + c)}" for c in (*common, "split") if c not in key)
            for name, version in (("a", a), ("b", b)):
                select = ", ".join((*map(_name, key), hashes))
                connection.execute(f"CREATE VIEW {name} AS SELECT {select} FROM ({rows_of(version.files(config))})")
            found = _matched(connection, key, common) if key else _counted(connection, common)
    except duckdb.Error as error:
        raise StoreError(
            f"{a.ref} and {b.ref} cannot be compared ({str(error).splitlines()[0].rstrip('.')}).",
            f"check the files of both: sotopia-rl-data verify {a.ref} {b.ref}",
        ) from error
    return Changes(
        **found,
        new_columns=tuple(c for c in new if c not in old),
        dropped_columns=tuple(c for c in old if c not in new),
    )


def _matched(connection: DuckDBPyConnection, key: tuple[str, ...], common: list[str]) -> dict[str, Any]:
    """Rows with an identity: joined by it."""
    compared = [c for c in (*common, "split") if c not in key]
    differs = {c: f"a.{_name('h_' + c)} <> b.{_name('h_' + c)}" for c in compared}
    keys = ", ".join(map(_name, key))
    kind = f"""CASE WHEN a.h_split IS NULL THEN 'added' WHEN b.h_split IS NULL THEN 'removed'
                    WHEN {" OR ".join(differs.values())} THEN 'changed' ELSE 'same' END"""
    flags = ", ".join(f"{sql} AS {_name('d_' + c)}" for c, sql in differs.items())
    select = f"SELECT {keys}, {kind} AS kind, {flags} FROM a FULL JOIN b USING ({keys})"
    connection.execute(f"CREATE TEMP TABLE matched AS {select}")
    counts = dict(connection.execute("SELECT kind, count(*) FROM matched GROUP BY kind").fetchall())
    sums = ", ".join(f"count(*) FILTER ({_name('d_' + c)})" for c in compared)
    by_column = connection.execute(f"SELECT {sums} FROM matched WHERE kind = 'changed'").fetchone() or ()
    examples = {}
    for kind in ("added", "removed", "changed"):
        some = connection.execute(
            f"SELECT {keys} FROM matched WHERE kind = '{kind}' ORDER BY {keys} LIMIT {EXAMPLES}"
        ).fetchall()
        examples[kind] = [dict(zip(key, row, strict=True)) for row in some]
    return {
        **{kind: counts.get(kind, 0) for kind in ("added", "removed", "changed", "same")},
        "columns": {c: n for c, n in zip(compared, by_column, strict=True) if n},
        "examples": {kind: rows for kind, rows in examples.items() if rows},
    }


def _counted(connection: DuckDBPyConnection, common: list[str]) -> dict[str, Any]:
    """Rows without identity: how often each occurs in `a` and in `b`."""
    row = ", ".join(_name("h_" + c) for c in (*common, "split"))
    side = f"SELECT hash({row}) AS row, {{}} AS n FROM {{}}"
    both = f"{side.format('-1', 'a')} UNION ALL {side.format('1', 'b')}"
    query = f"""
        SELECT coalesce(sum(greatest(n, 0)), 0)::BIGINT, coalesce(sum(greatest(-n, 0)), 0)::BIGINT,
               coalesce(sum(total - greatest(-n, 0)), 0)::BIGINT
        FROM (SELECT sum(n)::BIGINT AS n, count(*) FILTER (n < 0) AS total FROM ({both}) GROUP BY row)
    """
    added, removed, same = connection.execute(query).fetchone() or (0, 0, 0)
    return {"added": added, "removed": removed, "changed": 0, "same": same}


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
