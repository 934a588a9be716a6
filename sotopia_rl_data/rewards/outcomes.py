"""Whose episode scores are G. An episode may be scored by several evaluators; a reward comes from one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.rewards.streams import read


def evaluators(files: Sequence[Path], dimensions: Sequence[str]) -> set[str]:
    """Who scored any of these dimensions in the episodes of these Parquet files."""
    found: set[str] = set()
    for batch in read(files, ["scores"], 1 << 14):
        items = pc.list_flatten(batch.column("scores"))
        evaluator = pc.struct_field(items, "evaluator")
        if set(pc.unique(evaluator).to_pylist()) - found:
            scored = pc.is_in(pc.struct_field(items, "dimension"), value_set=pa.array(dimensions))
            found.update(pc.unique(evaluator.filter(scored)).to_pylist())
    return found


def choose_evaluator(found: Iterable[str], named: str | None, dimensions: Sequence[str], needed: bool = True) -> str:
    """The one evaluator whose scores are G; "" where no score is `needed`, none was named, and there is not just one.

    Raises UsageError, naming those found, where there are several and none is named, or the named one is not among
    them; InputError where nobody scored any of `dimensions`.
    """
    names = sorted(set(found))
    if not needed and named is None and len(names) != 1:
        return ""
    if not names:
        raise InputError(
            f"No episode has a score on {', '.join(dimensions)}.", "import episodes whose evaluation did not fail"
        )
    if named is None and len(names) > 1:
        raise UsageError(
            f"The episodes are scored by several evaluators: {', '.join(names)}.", f"name one: --evaluator {names[0]}"
        )
    if named is not None and named not in names:
        raise UsageError(
            f"No episode is scored by {named!r}.",
            f"name one that is there: --evaluator {names[0]}"
            if len(names) == 1
            else f"name one of: {', '.join(names)}",
        )
    return named or names[0]
