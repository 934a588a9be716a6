"""DuckDB connections: for our own SQL, and locked ones for a person's.

A locked connection may open the files of the views that it was given and nothing else, cannot be unlocked, and installs
and loads nothing.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

import duckdb

from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.store.columns import first_line

MEMORY_LIMIT = "2GB"


def unlocked(memory_limit: str = MEMORY_LIMIT, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A connection for our own SQL: bounded memory, spilling to a folder that goes with it; nothing is fetched."""
    connection = duckdb.connect(
        config={
            **({"threads": threads} if threads else {}),
            "memory_limit": memory_limit,
            "temp_directory": str(Path(tempfile.gettempdir()) / f"sotopia-rl-data-{secrets.token_hex(8)}"),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
    )
    connection.execute("SET enable_progress_bar = false")  # it would print on stdout
    return connection


def lock(
    connection: duckdb.DuckDBPyConnection, views: Mapping[str, Mapping[str, list[Path]]], ref: str
) -> duckdb.DuckDBPyConnection:
    """Give `connection` these views and nothing else, for good. Raises StoreError where a file is gone."""
    paths = [path for splits in views.values() for of in splits.values() for path in of]
    for path in paths:
        if not path.is_file():
            connection.close()
            raise _damaged(ref, f"{path.name} is gone")
    try:
        connection.execute(f"SET allowed_paths = {_paths(paths)}")
        connection.execute("SET enable_external_access = false")
        for name, splits in views.items():
            connection.execute(f'CREATE VIEW "{name}" AS {rows_of(splits)}')
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise _damaged(ref, first_line(error)) from error
    return connection


def rows_of(splits: Mapping[str, list[Path]]) -> str:
    """The SELECT that reads a config's files, with `split` as its last column."""
    return " UNION ALL ".join(f"SELECT *, '{s}' AS split FROM read_parquet({_paths(of)})" for s, of in splits.items())


def _damaged(ref: str, reason: str) -> StoreError:
    return StoreError(f"{ref} cannot be read ({reason}).", f"sotopia-rl-data verify {ref}")


def _paths(paths: list[Path]) -> str:
    return "[" + ", ".join("'" + str(path.resolve()).replace("'", "''") + "'" for path in paths) + "]"
