"""The seven SOTOPIA-EVAL dimensions and their ranges (Zhou et al. 2024, arXiv 2310.11667, section 3)."""

from __future__ import annotations

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

_BY_NAME = {d.name: d for d in SOTOPIA_EVAL} | {d.short.lower(): d for d in SOTOPIA_EVAL}


def dimension(name: str) -> Dimension:
    """The dimension with this name or abbreviation, in any case. Raises UsageError with the seven names."""
    found = _BY_NAME.get(name.strip().lower())
    if found is None:
        names = ", ".join(d.name for d in SOTOPIA_EVAL)
        raise UsageError(f"{name!r} is not a SOTOPIA-EVAL dimension.", f"name one of: {names}")
    return found
