"""Which opinions the attributions hold, and which of them a recipe reads. Most of it stands in the files' footers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sotopia_rl_data.dimensions import in_order
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.rewards.recipe import Recipe
from sotopia_rl_data.rewards.rules import Rule
from sotopia_rl_data.rewards.streams import opened

Opinion = tuple[str, int]
"""(judge, sample)."""


def distinct(files: Sequence[Path], columns: Sequence[str]) -> set[tuple[Any, ...]]:
    """The distinct combinations of values in these top-level columns.

    A row group whose columns are constant (as in a version by one judge) is answered by its statistics alone.
    """
    return {combination for path in files for combination in _of_file(path, columns)}


def _of_file(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    with opened(path, columns, encoded=False) as file:
        known = file.metadata
        leaf = {known.schema.column(i).path: i for i in range(len(known.schema))}
        for g in range(known.num_row_groups):
            constants = [_constant(known.row_group(g).column(leaf[c])) for c in columns]
            if None not in constants:
                yield tuple(constants)
                continue
            rows = file.read_row_group(g, columns=list(columns))
            found = rows.group_by(list(columns), use_threads=False).aggregate([])
            yield from zip(*(found.column(c).to_pylist() for c in columns), strict=True)


def _constant(chunk: Any) -> Any:
    """The one value of a column chunk where its statistics say that there is but one, else None."""
    known = chunk.statistics
    sure = known is not None and known.has_min_max and known.has_null_count and not known.null_count
    return known.min if sure and known.min == known.max else None


def opinions(
    recipe: Recipe, rule: Rule, files: Sequence[Path], asked: bool
) -> tuple[str | None, list[Opinion], dict[str, str]]:
    """What the recipe reads: the schema, its opinions in order, and the columns that must be filtered by their value.

    Raises UsageError where the attributions hold no answers of the rule's kind, or of several schemas and none is
    named. Nothing at all is no error where it was `asked`: then every answer failed.
    """
    if rule.measure is None:
        return None, [], {}
    held = distinct(files, ("schema", "measure", "judge", "sample"))
    measures = {measure for _, measure, _, _ in held}
    if not held and asked:
        return recipe.schema, [], {}
    if rule.measure not in measures:
        raise UsageError(
            f"The rule {rule.id!r} reads {rule.measure!r} attributions, and there are {_named(measures) or 'none'}.",
            "label with a schema that asks for them, or name a rule that needs no judge: uniform, discounted",
        )
    schemas = {schema for schema, measure, _, _ in held if measure == rule.measure}
    schema = recipe.schema or min(schemas)
    if schema not in schemas or (len(schemas) > 1 and not recipe.schema):
        raise UsageError(
            f"The attributions are by the schemas {_named(schemas)}.", "name one of them in the recipe: schema: NAME"
        )
    mine = sorted((judge, sample) for s, m, judge, sample in held if (s, m) == (schema, rule.measure))
    mixed = {"schema": schema} if len({s for s, *_ in held}) > 1 else {}
    return schema, mine, mixed | ({"measure": rule.measure} if len(measures) > 1 else {})


def dimensions(recipe: Recipe, rule: Rule, files: Sequence[Path], asked: Iterable[str] | None) -> tuple[str, ...]:
    """The dimensions that get columns: those asked (None: those that the attributions hold), and for a rule without a
    judge those that the recipe weighs. Raises UsageError where a weighted dimension was never asked.
    """
    if rule.measure is None:
        return tuple(dict.fromkeys([*(asked or ()), *recipe.weights]))
    held = () if asked is not None else distinct(files, ("dimension", "measure"))
    found = tuple(dict.fromkeys(asked)) if asked is not None else in_order(d for d, m in held if m == rule.measure)
    missing = [d for d in recipe.weighted if d not in found]
    if missing:
        raise UsageError(
            f"The recipe weighs {_named(missing)}, and judges were asked about {_named(found) or 'nothing'}.",
            f"label with --dimensions {','.join([*found, *missing])}, or weigh only what was asked",
        )
    return found


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) if isinstance(names, set) else ", ".join(names)
