"""`--where`: a DuckDB condition over the columns of the rows that are imported, and over nothing else."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from sotopia_rl_data.errors import QueryError
from sotopia_rl_data.query import lock, unlocked

_ROW = "__row"


class Condition:
    """Keeps the rows for which `text` is true. It is one expression, never a statement; NULL is not true."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        """Raises QueryError where `text` is no condition over the columns of `schema`."""
        self._columns = schema.names
        self._connection = lock(unlocked(), {}, "this import")
        try:
            self._expression = duckdb.SQLExpression(text)
        except duckdb.Error as error:
            raise self._told(error) from error
        self.keep(schema.empty_table())

    def keep(self, rows: pa.Table) -> pa.Table:
        """The rows of `rows` that fulfil the condition, in their order. Raises QueryError."""
        numbered = rows.append_column(_ROW, pa.array(range(rows.num_rows), pa.int64()))
        try:
            kept = self._connection.from_arrow(numbered).filter(self._expression).select(_ROW).to_arrow_table()
        except duckdb.Error as error:
            raise self._told(error) from error
        return rows.take(kept.column(_ROW).sort())

    def __enter__(self) -> Condition:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _told(self, error: duckdb.Error) -> QueryError:
        reason = str(error).strip().splitlines()[0].rstrip(".!")
        return QueryError(f"--where is not a condition: {reason}.", f"the columns are {', '.join(self._columns)}")
