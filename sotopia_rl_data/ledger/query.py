"""The ledger as one SQL table, `calls`: a row an attempt, on a connection that can read the ledger and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sotopia_rl_data.errors import QueryError
from sotopia_rl_data.ledger.compaction import batches, calls_schema, live_files, reading

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_EXAMPLE = "SELECT model, status, count(*), sum(input), sum(cached), sum(output) FROM calls GROUP BY ALL"


def query(directory: Path, sql: str) -> pa.Table:
    """The rows of exactly one SELECT over `calls`, in memory. Raises QueryError with what is wrong with it."""
    import duckdb

    from sotopia_rl_data.connections import unlocked

    with reading(directory), unlocked() as connection:
        _make_calls(connection, live_files(directory))
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError("A query is exactly one SELECT.", _EXAMPLE)
            return connection.sql(statements[0]).to_arrow_table()
        except (duckdb.Error, UnicodeEncodeError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
            columns = ", ".join(calls_schema().names)
            raise QueryError(f"The query failed: {reason.rstrip('.')}.", f"the table is calls({columns})") from error


def _make_calls(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> None:
    """The table `calls`, then the lock. What is not compacted yet is parsed into a table of its own."""
    import pyarrow as pa

    journals = [path for path in files if path.suffix == ".jsonl"]
    compacted = [str(path.resolve()).replace("'", "''") for path in files if path.suffix == ".parquet"]
    reader = pa.RecordBatchReader.from_batches(calls_schema(), batches(journals))
    connection.register("journal_rows", reader)
    connection.execute("CREATE TABLE journal AS SELECT * FROM journal_rows")
    connection.unregister("journal_rows")
    paths = "[" + ", ".join(f"'{path}'" for path in compacted) + "]"
    connection.execute(f"SET allowed_paths = {paths}")
    connection.execute("SET enable_external_access = false")
    also = f" UNION ALL BY NAME SELECT * FROM read_parquet({paths}, union_by_name = true)" if compacted else ""
    connection.execute(f"CREATE VIEW calls AS SELECT * FROM journal{also}")
    connection.execute("SET lock_configuration = true")
