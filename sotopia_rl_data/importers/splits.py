"""What to say where the episodes of an import leave a split empty, and what fills all three.

A split is a hash of the environment, so that an append moves nothing. With few environments one split is often empty:
another seed may fill it, or a division by episode, which puts episodes of one environment on both sides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.schema import SPLITS, split_of

_SEEDS = 2_000


def empty_splits(
    sizes: Mapping[str, int], environments: Collection[str], episodes: Collection[str], options: ImportOptions
) -> list[str]:
    """A warning that names the empty splits and what to add to the command, or nothing. `environments` and `episodes`
    are ids. Of a part of an import it says nothing."""
    empty = [split for split in SPLITS if not sizes.get(split)]
    if not empty or options.shard is not None:
        return []
    said = f"nothing is in the split{'s' if len(empty) > 1 else ''} {' and '.join(empty)}"
    by_environment = options.split_by == "environment"
    filling = []
    if by_environment:
        there_are = "there is 1" if len(environments) == 1 else f"there are {len(environments):,}"
        said += f": each environment goes to one split, and {there_are}"
        seed = filling_seed(environments, options.seed)
        if seed is not None:
            filling.append(f"--seed {seed}")
    seed = filling_seed(episodes, options.seed)
    if seed is not None:
        own = "" if seed == options.seed else f" --seed {seed}"
        filling.append(f"--split-by episode{own}" if by_environment else own.strip())
    if not filling:
        return [f"{said}; there are too few episodes to fill all three"]
    note = ", which has the same scenarios on both sides" if by_environment and filling[-1].startswith("--sp") else ""
    return [f"{said}; all three are filled by {', or by '.join(filling)}{note}"]


def filling_seed(ids: Collection[str], first: int) -> int | None:
    """The first seed, `first` before all others, by which these ids fall into all splits; None where none is found."""
    if len(ids) < len(SPLITS):
        return None
    return next((s for s in (first, *range(_SEEDS)) if {split_of(one, s) for one in ids} == set(SPLITS)), None)
