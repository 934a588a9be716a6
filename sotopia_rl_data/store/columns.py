"""The column types of a dataset, and how any Arrow table is converted to them.

Tables come from Arrow, Polars and DuckDB, which store the same column as `string`, `large_string`, `string_view` or a
dictionary. A version has one type for all of these, so that `load_dataset` shows the same features whatever wrote the
table. Types that other tools read differently (decimals, times, binary) are refused, with the cast that helps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from sotopia_rl_data.errors import InputError


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """`schema` with every column in its plain type and no metadata.

    Raises InputError for a type that a dataset cannot have, for names that differ only in case (SQL cannot tell them
    apart), and for a column `split`, which every reader adds.
    """
    names = [name.lower() for name in schema.names]
    if "split" in names:
        raise InputError(
            f"The table has a column {schema.names[names.index('split')]!r}, but every reader adds one called 'split'.",
            "rename the column",
        )
    if len(set(names)) < len(names):
        raise InputError(
            f"The columns {', '.join(schema.names)} include two names that are equal or differ only in case.",
            "rename one of the two",
        )
    return pa.schema([(field.name, plain_type(field.type, field.name)) for field in schema])


def plain_type(kind: pa.DataType, column: str) -> pa.DataType:
    """bool, int32, int64, float64, string, and lists and structs of them. Raises InputError, naming `column`."""
    if pt.is_boolean(kind):
        return pa.bool_()
    if pt.is_integer(kind):
        return pa.int32() if kind.bit_width < 32 or kind.equals(pa.int32()) else pa.int64()
    if pt.is_floating(kind):
        return pa.float64()
    if is_text(kind):
        return pa.string()
    if pt.is_dictionary(kind):
        return plain_type(kind.value_type, column)
    if is_list(kind):
        return pa.list_(plain_type(kind.value_type, column))
    if pt.is_struct(kind):
        return pa.struct([(field.name, plain_type(field.type, f"{column}.{field.name}")) for field in kind])
    raise InputError(
        f"Column {column!r} has the type {kind}, which a dataset cannot store.",
        "convert the column to numbers, strings or booleans",
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether `kind` is one of Arrow's types for UTF-8 text."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether `kind` is one of Arrow's list types."""
    return bool(
        pt.is_list(kind)
        or pt.is_large_list(kind)
        or pt.is_fixed_size_list(kind)
        or pt.is_list_view(kind)
        or pt.is_large_list_view(kind)
    )


def type_names(schema: pa.Schema) -> dict[str, str]:
    """The columns as the manifest names them: {"turn": "int32", "models": "list<string>"}."""
    return {field.name: _type_name(field.type) for field in schema}


def _type_name(kind: pa.DataType) -> str:
    if is_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pt.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {_type_name(field.type)}' for field in kind)}>"
    return str(kind)


def odd_columns(config: str, columns: Mapping[str, str]) -> str:
    """What readers of `config` would not expect of these columns; "" where nothing is odd."""
    from sotopia_rl_data import tables

    known = tables.KNOWN
    if config in known:
        expected = type_names(known[config])
        if config == "attributions" and "reasoning" not in columns:
            del expected["reasoning"]  # a version made before judges' reasons were kept
        odd = [name for name in {**expected, **columns} if expected.get(name) != columns.get(name)]
    elif config == "trajectories":
        expected = type_names(tables.trajectories_schema([]))
        odd = [name for name in {**expected, **columns} if expected.get(name) != columns.get(name)]
        # The fields of reward_components are the dimensions of the dataset.
        components = columns.get("reward_components", "struct<>")
        odd = [name for name in odd if name != "reward_components" or not components.startswith("struct<")]
    else:
        expected = type_names(tables.rewards_schema([]))
        expected |= {name: "int64" for name in ("turn", "n_opinions") if columns.get(name) == "int64"}
        odd = [name for name in expected if columns.get(name, expected[name]) != expected[name]]
        odd += [name for name in columns if name.startswith(("raw_", "norm_")) and columns[name] != "double"]
        odd += [name for name in ("prompt", "completion", "reward") if name not in columns]
        named = [name for name in tables.KEYS["rewards"] if name in columns]
        odd += named if 0 < len(named) < 3 else []
    return f"the column {odd[0]!r} is {columns.get(odd[0], 'missing')}, not {expected.get(odd[0])}" if odd else ""


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """`table` with the columns, order and types of `schema`. Raises InputError, naming `where`, if it does not fit."""
    have, want = set(table.column_names), set(schema.names)
    if have != want or len(table.column_names) != len(want):
        problems = []
        if want - have:
            problems.append(f"lacks the columns {sorted(want - have)}")
        if have - want:
            problems.append(f"has the extra columns {sorted(have - want)}")
        raise InputError(
            f"A table for {where} {' and '.join(problems) or 'has two columns of the same name'}.",
            f"write exactly these columns: {', '.join(schema.names)}",
        )
    if table.schema.equals(schema):
        return table.replace_schema_metadata(None)
    try:
        return _cast(table.select(schema.names), schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(
            f"A table for {where} cannot be converted to the column types of that split: {first_line(error)}.",
            f"write columns of these types: {type_names(schema)}",
        ) from error


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    try:
        return table.cast(schema)
    except pa.ArrowInvalid:
        # The offsets of a slice that starts more than 2 GB into a text column do not fit into 32 bits. The offsets of a
        # copy of the slice start at 0.
        return table.take(pa.array(range(table.num_rows), pa.int64())).cast(schema)


def first_line(error: Any) -> str:
    """The first line of an error's text, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
