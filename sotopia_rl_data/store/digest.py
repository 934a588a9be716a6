"""The canonical digest of rows: the same content has the same digest, whatever the machine, chunks or library versions.

Each column is a tree of streams, each stream a SHA-256. A stream is the plain concatenation of its values, so that
batch boundaries make no difference:

    every column   the positions of its NULLs (int64); below, only what is not NULL is encoded
    int            int64, whatever the width          bool    one byte, 0 or 1
    float          float64; -0.0 is 0.0, NaN and infinities are refused
    string         lengths in bytes (int64), then the UTF-8 bytes
    list           lengths (int64), then its items as one column
    struct         each field as a column, by name

All numbers are little-endian. A column's digest is over (kind, rows, NULLs, streams); a split's over its columns by
name; a version's over every config, split and the recipe. Column order, integer width, dictionary or view encodings and
the Parquet files do not change it. Row order does: rows are digested in key order (see `ordering.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.store.columns import first_line, plain_schema

_ENCODING = 1


class RowDigest:
    """A running digest of rows that arrive in key order, in any number of pieces, in constant memory."""

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = {field.name: _Column(field.type, field.name) for field in plain_schema(schema)}
        self.rows = 0

    def update(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add rows. Raises InputError where a float is NaN or infinite."""
        for name, column in self._columns.items():
            data = rows.column(name)
            for chunk in data.chunks if isinstance(data, pa.ChunkedArray) else [data]:
                column.update(chunk if chunk.type == column.type else _cast(chunk, column.type, name))
        self.rows += rows.num_rows

    def hexdigest(self) -> str:
        """Hex SHA-256 over the columns by name."""
        return sha256_of([_ENCODING, self.rows, {name: column.digest() for name, column in self._columns.items()}])


def version_digest(splits: Mapping[str, Mapping[str, str]], recipe: Mapping[str, Any]) -> str:
    """A version's digest: `splits[config][split]` is the digest of the split's rows; `recipe` is what determined
    them."""
    configs = {config: dict(digests) for config, digests in splits.items()}
    return sha256_of({"encoding": _ENCODING, "configs": configs, "recipe": recipe})


class _Values(Protocol):
    """How the non-NULL values of one kind are encoded."""

    kind: str

    def update(self, values: pa.Array) -> None: ...

    def digest(self) -> Any: ...


class _Column:
    """One column at any depth: where it is NULL, and the values that are not."""

    def __init__(self, kind: pa.DataType, path: str) -> None:
        self.type = kind
        self._values = _values(kind, path)
        self._nulls = hashlib.sha256()
        self._rows = 0

    def update(self, array: pa.Array) -> None:
        if array.null_count:
            where = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)) + self._rows
            self._nulls.update(where.astype("<i8").data)
        self._rows += len(array)
        self._values.update(array.drop_null() if array.null_count else array)

    def digest(self) -> str:
        return sha256_of([self._values.kind, self._rows, self._nulls.hexdigest(), self._values.digest()])


def _values(kind: pa.DataType, path: str) -> _Values:
    if pt.is_integer(kind):
        return _Numbers("int", pa.int64(), "<i8", path)
    if pt.is_floating(kind):
        return _Numbers("float", pa.float64(), "<f8", path)
    if pt.is_boolean(kind):
        return _Numbers("bool", pa.uint8(), "u1", path)
    if pt.is_string(kind):
        return _Text()
    if pt.is_list(kind):
        return _Lists(kind, path)
    return _Structs(kind, path)


def _cast(array: pa.Array, kind: pa.DataType, column: str) -> pa.Array:
    try:
        return array.cast(kind)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"The values of column {column!r} cannot be stored as {kind}: {first_line(error)}.",
            f"change the values that do not fit into {kind}",
        ) from error


class _Numbers:
    def __init__(self, kind: str, arrow: pa.DataType, dtype: str, path: str) -> None:
        self.kind, self._arrow, self._dtype, self._path = kind, arrow, dtype, path
        self._stream = hashlib.sha256()

    def update(self, values: pa.Array) -> None:
        numbers = values.cast(self._arrow).to_numpy(zero_copy_only=False).astype(self._dtype, copy=False)
        if self.kind == "float":
            if not np.isfinite(numbers).all():
                raise InputError(
                    f"Column {self._path!r} has a NaN or an infinity, but only finite numbers can be stored.",
                    "write a missing number as NULL",
                )
            numbers = numbers + 0.0  # -0.0 + 0.0 is 0.0
        self._stream.update(np.ascontiguousarray(numbers).data)

    def digest(self) -> str:
        return self._stream.hexdigest()


class _Text:
    kind = "string"

    def __init__(self) -> None:
        self._lengths, self._bytes = hashlib.sha256(), hashlib.sha256()

    def update(self, values: pa.Array) -> None:
        if not len(values):
            return
        _, offsets_buffer, data = values.buffers()
        offsets = np.frombuffer(offsets_buffer, "<i4")
        offsets = offsets[values.offset : values.offset + len(values) + 1]
        self._lengths.update(np.diff(offsets).astype("<i8").data)
        if data is not None:
            self._bytes.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])

    def digest(self) -> list[str]:
        return [self._lengths.hexdigest(), self._bytes.hexdigest()]


class _Lists:
    kind = "list"

    def __init__(self, kind: pa.DataType, path: str) -> None:
        self._lengths = hashlib.sha256()
        self._items = _Column(kind.value_type, f"{path}[]")

    def update(self, values: pa.Array) -> None:
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        self._lengths.update(np.ascontiguousarray(lengths.astype("<i8")).data)
        self._items.update(values.flatten())

    def digest(self) -> list[str]:
        return [self._lengths.hexdigest(), self._items.digest()]


class _Structs:
    kind = "struct"

    def __init__(self, kind: pa.DataType, path: str) -> None:
        self._fields = {field.name: (i, _Column(field.type, f"{path}.{field.name}")) for i, field in enumerate(kind)}

    def update(self, values: pa.Array) -> None:
        for i, column in self._fields.values():
            column.update(values.field(i))

    def digest(self) -> dict[str, str]:
        return {name: column.digest() for name, (_, column) in self._fields.items()}
