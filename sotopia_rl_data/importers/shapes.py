"""Which format a record has, told by the keys that only that format has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

Format = Literal["episode-log", "export", "annotated", "plain", "training"]

# In this order: the first whose keys are all there. Of a group, one key is enough.
_SIGNS: tuple[tuple[Format, tuple[frozenset[str], ...]], ...] = (
    ("export", (frozenset({"raw_messages"}),)),
    ("annotated", (frozenset({"attributed_utterances"}),)),
    ("episode-log", (frozenset({"messages"}), frozenset({"environment", "agents", "rewards"}))),
    ("plain", (frozenset({"turns"}), frozenset({"agents"}))),
    ("training", (frozenset({"output"}), frozenset({"input", "instruction"}))),
)


def format_of(keys: Collection[object]) -> Format | None:
    """The format of a record with these keys, or None."""
    there = set(keys)
    return next((name for name, groups in _SIGNS if all(there & group for group in groups)), None)
