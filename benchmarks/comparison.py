"""How often `compare` is wrong: equals called different, a planted difference overlooked; and how long it takes.

    PYTHONPATH=. python benchmarks/comparison.py [--simulations 1000]

Runs are simulated at the size of SOTOPIA-hard (14 scenarios × 5 pairs of agents × 2 positions = 140 pairs) and of
SOTOPIA-all (90 × 5 × 2). How hard a scenario (sd 1.5 points) and a pair of agents in it (sd 1) are is common to both
runs; on top comes what one episode happens to give (sd 1), and the planted difference. Scores are whole numbers within
their dimension's range. What is measured is what `compare` calls when the episodes have been read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from sotopia_rl_data.comparing import ComparisonOptions, MethodContrast
from sotopia_rl_data.comparing.measure import compare_units
from sotopia_rl_data.comparing.methods import SEVEN, Unit
from sotopia_rl_data.dimensions import dimension

HARD, ALL = (14, 5, 2), (90, 5, 2)


def run(number: int, seed: int, shift: float, size: tuple[int, int, int], names: Sequence[str]) -> list[Unit]:
    """One method's units."""
    common, own = np.random.default_rng(7), np.random.default_rng([seed, number])
    low, high = np.array([(dimension(name).low, dimension(name).high) for name in names]).T
    level = (low + high) / 2 + common.normal(0, 1.5, (size[0], 1, 1, len(names)))
    level = level + common.normal(0, 1.0, (*size, len(names)))
    scores = np.clip(np.round(level + own.normal(0, 1.0, level.shape) + shift), low, high)
    return [
        Unit(
            run=number,
            episode_id=f"{number}-{place}",
            environment=f"env{place[0]}",
            codename=f"env{place[0]}",
            cast=(f"a{place[1]}", f"b{place[1]}"),
            position=place[2],
            model=f"method-{number}",
            partner="partner",
            turns=20,
            utterances=10,
            words=100,
            scores={"judge": dict(zip(names, scores[place].tolist(), strict=True))},
        )
        for place in np.ndindex(*size)
    ]


def contrast(
    seed: int, shift: float, size: tuple[int, int, int], names: Sequence[str], options: ComparisonOptions
) -> MethodContrast:
    """Two runs compared."""
    sides = {f"method-{number}": run(number, seed, shift * number, size, names) for number in (0, 1)}
    found = compare_units(sides, refs=("a", "b"), evaluators=["judge"], sets={"all": None}, options=options)
    return found.conditions[0].contrasts[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    n = parser.parse_args().simulations
    quick = ComparisonOptions(resamples=0)
    print(f"equals, {n:,} comparisons on seven dimensions and their average")
    starred, loose = 0, 0
    for seed in range(n):
        effects = contrast(seed, 0.0, HARD, SEVEN, quick).effects
        starred += any(effect.significant for effect in effects)
        loose += any(effect.adjusted is not None and effect.adjusted < 0.05 for effect in effects)
    print(
        f"  any star at the default (p < {quick.alpha} after Holm): {starred / n:.1%}; at alpha 0.05: {loose / n:.1%}"
    )
    print(f"planted on goal, {n:,} comparisons each, found at p < 0.01")
    for size, title in ((HARD, "hard"), (ALL, "all")):
        for shift in (0.25, 0.5):
            found = [contrast(seed, shift, size, ["goal"], quick).effect("goal").p for seed in range(n)]
            share = np.mean([p is not None and p < 0.01 for p in found])
            print(f"  {shift:g} points at the size of {title}: {share:.1%}")
    for size, title in ((HARD, "hard"), (ALL, "all")):
        began = time.process_time()
        contrast(0, 0.5, size, SEVEN, ComparisonOptions())
        print(f"one comparison at the size of {title}, 1,000 resamples: {time.process_time() - began:.2f} s of CPU")


if __name__ == "__main__":
    main()
