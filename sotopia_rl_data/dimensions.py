"""The seven SOTOPIA-EVAL dimensions and their ranges (Zhou et al. 2024, arXiv 2310.11667, section 3), and the names of
people's own dimensions, whose ranges and meanings are defined in a rubric."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sotopia_rl_data.errors import UsageError


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension an episode is scored on. A score lies in [low, high]; `short` is the paper's abbreviation."""

    name: str
    short: str
    low: float
    high: float


SOTOPIA_EVAL: tuple[Dimension, ...] = (
    Dimension("believability", "BEL", 0, 10),
    Dimension("relationship", "REL", -5, 5),
    Dimension("knowledge", "KNO", 0, 10),
    Dimension("secret", "SEC", -10, 0),
    Dimension("social_rules", "SOC", -10, 0),
    Dimension("financial_and_material_benefits", "FIN", -5, 5),
    Dimension("goal", "GOAL", 0, 10),
)

OWN_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""The names that people's own dimensions may have; they become the columns `raw_<name>` and `norm_<name>`."""

_BY_NAME = {d.name: d for d in SOTOPIA_EVAL} | {d.short.lower(): d for d in SOTOPIA_EVAL}


def dimension(name: str) -> Dimension:
    """The dimension with this name or abbreviation, in any case. Raises UsageError with the seven names."""
    key = name.strip().lower()
    if key not in _BY_NAME:
        names = ", ".join(d.name for d in SOTOPIA_EVAL)
        raise UsageError(f"{name!r} is not a SOTOPIA-EVAL dimension.", f"name one of: {names}")
    return _BY_NAME[key]


def is_known(name: str) -> bool:
    """Whether this is the name or abbreviation of a SOTOPIA-EVAL dimension."""
    return name.strip().lower() in _BY_NAME


def full_name(name: str, own: Collection[str] = ()) -> str:
    """The full name of a SOTOPIA-EVAL dimension; or, if `own` dimensions are named, that of one of these.

    Raises UsageError with the possible names.
    """
    if not own:
        return dimension(name).name
    full = name.strip() if name.strip() in own or not is_known(name) else dimension(name).name
    if full not in own:
        raise UsageError(
            f"{name!r} is not one of the dimensions that are asked about.", f"name one of: {', '.join(own)}"
        )
    return full


def with_scored(names: Iterable[str]) -> tuple[str, ...]:
    """The dimensions that may be named where `names` are asked about: SOTOPIA-EVAL's, and those of `names` that are the
    episodes' own; () where none is."""
    theirs = [name for name in names if not is_known(name)]
    return (*(one.name for one in SOTOPIA_EVAL), *theirs) if theirs else ()


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once: first SOTOPIA-EVAL's dimensions in its order, then all others in alphabetical order."""
    place = {dimension.name: i for i, dimension in enumerate(SOTOPIA_EVAL)}
    return tuple(sorted(set(names), key=lambda name: (place.get(name, len(place)), name)))
