"""Asking a judge where a model is unsure: do the intervals hold, and what do the model and the choice of rows save?

    python benchmarks/credit_unsure.py            # about a minute on one core

Coverage: 4,000 data sets of 60 environments with 20 rows each, a tenth of which is asked; rows of an environment have
something in common. Gain: how many times as many rows would have to be asked for the same width without a model, among
20,000 rows of which 400 are asked; a gain of 1 / (1 − ρ²) is what a correlation of ρ can give. Active draws ask by the
true standard deviation of the model's error, which differs from row to row; a real model knows it only roughly.
"""

from __future__ import annotations

import sys

import numpy as np

from sotopia_rl_data.credit.unsure import AskedRows, chances

CORRELATIONS = (0.0, 0.6, 0.8, 0.9)


def rows(rng: np.random.Generator, count: int, environments: int, correlation: float, common: float, uneven: float):
    """What the model says, what the judge would say, the model's uncertainty, and the environments."""
    environment = np.repeat(np.arange(environments), count // environments)
    shared = rng.normal(0, np.sqrt(common), environments)[environment]
    spread = np.exp(uneven * rng.normal(size=count))
    spread /= np.sqrt((spread**2).mean())
    model = rng.normal(size=count)
    own = correlation * model + np.sqrt(1 - correlation**2) * spread * rng.normal(size=count)
    return model, np.sqrt(1 - common) * own + shared, spread, environment


def estimated(rng: np.random.Generator, drawn: tuple, expected: float, active: bool, with_model: bool = True):
    model, truth, spread, environment = drawn
    chance = chances(spread if active else np.ones(len(model)), expected)
    answers = np.where(rng.random(len(model)) < chance, truth, np.nan)
    return AskedRows(model if with_model else np.zeros(len(model)), answers, chance).mean(environment)


def main() -> None:
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    rng = np.random.default_rng(2026)
    print("| correlation | coverage, uniform | coverage, active | gain, uniform | 1 / (1 − ρ²) | gain, active |")
    print("|--:|--:|--:|--:|--:|--:|")
    for correlation in CORRELATIONS:
        held = {False: 0, True: 0}
        count = int(4_000 * share)
        for _ in range(count):
            drawn = rows(rng, 1_200, 60, correlation, 0.1, 0.5)
            for active in held:
                one = estimated(rng, drawn, 120, active)
                held[active] += one.low <= 0.0 <= one.high  # the mean of all environments there could be
        squares = {"none": [], "uniform": [], "active": []}
        for _ in range(int(200 * share)):
            drawn = rows(rng, 20_000, 2_000, correlation, 0.0, 0.5)
            squares["none"].append(estimated(rng, drawn, 400, False, with_model=False).error ** 2)
            squares["uniform"].append(estimated(rng, drawn, 400, False).error ** 2)
            squares["active"].append(estimated(rng, drawn, 400, True).error ** 2)
        none, uniform, active_ = (np.mean(one) for one in squares.values())
        possible = 1 / (1 - correlation**2)
        cover = [f"{held[active] / count:.1%}" for active in (False, True)]
        gains = f"{none / uniform:.2f} | {possible:.2f} | {none / active_:.2f}"
        print(f"| {correlation} | {cover[0]} | {cover[1]} | {gains} |", flush=True)


if __name__ == "__main__":
    main()
