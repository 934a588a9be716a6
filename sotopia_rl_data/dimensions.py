"""The seven SOTOPIA-EVAL dimensions and their ranges (Zhou et al. 2024, arXiv 2310.11667, section 3); and how names of
somebody's own are told and ordered beside them: their ranges and meanings are a rubric's business."""

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
"""What a dimension of one's own may be called: it becomes the columns `raw_<name>` and `norm_<name>`."""

_BY_NAME = {d.name: d for d in SOTOPIA_EVAL} | {d.short.lower(): d for d in SOTOPIA_EVAL}


def dimension(name: str) -> Dimension:
    """The dimension with this name or abbreviation, in any case. Raises UsageError with the seven names."""
    found = _BY_NAME.get(name.strip().lower())
    if found is None:
        names = ", ".join(d.name for d in SOTOPIA_EVAL)
        raise UsageError(f"{name!r} is not a SOTOPIA-EVAL dimension.", f"name one of: {names}")
    return found


def full_name(name: str, own: Collection[str] = ()) -> str:
    """The full name of a dimension of SOTOPIA-EVAL, or of one of `own`, which have none but theirs.

    Raises UsageError with the names that there are.
    """
    if not own:
        return dimension(name).name
    if name.strip() not in own:
        raise UsageError(f"{name!r} is not one of the dimensions.", f"name one of: {', '.join(own)}")
    return name.strip()


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once: SOTOPIA-EVAL's in its order, then others by the alphabet, however they were listed."""
    place = {one.name: i for i, one in enumerate(SOTOPIA_EVAL)}
    return tuple(sorted(set(names), key=lambda name: (place.get(name, len(place)), name)))
