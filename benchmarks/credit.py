"""Credit by re-playing, against the truth of known games: does the interval hold, and what does accuracy cost?

    python benchmarks/credit.py            # about six minutes on two cores; draws docs/credit-cost.png

Coverage: one turn in each of 4,000 games (seeds fixed beforehand), Q − V with all that is true; and the Shapley values
of one agent's turns in each of 500. The curve: turns of
200 games by re-playing with K draws of M plays each, and by asking a judge n times, of whose answers about a turn 30 %
are another turn's credit, independently in each answer (a real judge repeats its mistakes, which no number of answers
averages out). A call is an utterance drawn or an end judged; the judge answers once about all turns of an agent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sotopia_rl_data.credit.measuring import tau_b
from sotopia_rl_data.credit.playing import Played, draw_game, play, played
from sotopia_rl_data.credit.replaying import CreditEstimate, replayed, replayed_shapley
from sotopia_rl_data.credit.shapley import coalition_values, shapley_values
from sotopia_rl_data.credit.simulating import simulator
from sotopia_rl_data.credit.solved import solved

SEED = 2026
TURNS, GAMES, SHARED = 4_000, 200, 500
SIZES = ((4, 4), (8, 8), (16, 16))
ORDERS = (4, 8, 16, 64)
CURVE = ((2, 1), (4, 1), (4, 4), (8, 4), (16, 4), (16, 16))
ASKED = (1, 3, 10, 30, 100, 300, 1000, 4000)
PICTURE = Path(__file__).parents[1] / "docs" / "credit-cost.png"
Point = tuple[float, float]  # calls a turn, tau-b


def one_turn(number: int, draws: int, plays: int) -> tuple[float, CreditEstimate]:
    """The truth about one turn of one game, and its estimate."""
    rng = np.random.default_rng([SEED, number])
    game, length = draw_game(rng)
    said, came = play(game, length, rng)
    turn = int(rng.integers(len(said)))
    truth = solved(game).credit(said, came[-1].state, length)[turn].advantage_true
    return truth, replayed(simulator(game), said[turn], turn, length, draws, plays, rng)


def coverage(count: int) -> None:
    print_head("K = M")
    for draws, plays in SIZES:
        print_coverage(draws, [one_turn(number, draws, plays) for number in range(count)])


def one_agent(number: int, samples: int) -> list[tuple[float, CreditEstimate]]:
    """The true Shapley values of one agent's turns in one game, and their estimates."""
    rng = np.random.default_rng([SEED, number])
    game, length = draw_game(rng)
    said, _ = play(game, length, rng)
    agent = number % 2 if len(said) > 1 else 0
    truth = shapley_values(coalition_values(solved(game), said, agent, length))
    return list(zip(truth, replayed_shapley(simulator(game), said, agent, length, samples, rng), strict=True))


def shapley_coverage(count: int) -> None:
    print_head("S")
    for samples in ORDERS:
        print_coverage(samples, [pair for number in range(count) for pair in one_agent(number, samples)])


def print_head(size: str) -> None:
    print(f"| {size} | 95 % intervals that hold the truth | mean width, points | narrowest | root mean squared error |")
    print("|--:|--:|--:|--:|--:|")


def print_coverage(size: int, pairs: list[tuple[float, CreditEstimate]]) -> None:
    held = np.mean([one.low <= truth <= one.high for truth, one in pairs])
    widths = np.array([one.high - one.low for _, one in pairs])
    error = np.sqrt(np.mean([(one.credit - truth) ** 2 for truth, one in pairs]))
    print(f"| {size} | {held:.1%} | {widths.mean():.2f} | {widths.min():.2f} | {error:.2f} |", flush=True)


def curve(count: int) -> dict[str, list[Point]]:
    """Prints the table; returns the points of each way to credit."""
    games = [played(number, SEED) for number in range(count)]
    truth, group, agents = [], [], 0
    for one in games:
        credit = [c.advantage_true for c in solved(one.game).credit(one.said, one.end, one.length)]
        for agent in range(2):
            truth += credit[agent::2]
            group += [agents] * len(credit[agent::2])
            agents += 1
    true, of = np.array(truth), np.array(group)
    print("| credit by | calls a turn | tau-b | right signs |")
    print("|---|--:|--:|--:|")
    drawn: dict[str, list[Point]] = {"re-playing": []}
    for draws, plays in CURVE:
        rows = [row for one in games for row in replayed_turns(one, draws, plays)]
        calls, credit = (np.array(column) for column in zip(*rows, strict=True))
        point = print_line(f"re-playing, K = {draws}, M = {plays}", calls.mean(), credit, true, of)
        drawn["re-playing"].append(point)
    rng = np.random.default_rng(SEED)
    for levels, signed in ((4, False), (4, True)):
        kind = "quality, 4 levels around the middle" if signed else "importance, 4 levels"
        total, so_far = np.zeros(len(true)), 0
        for asked in ASKED:
            total += sum(judged(true, of, levels, signed, rng) for _ in range(asked - so_far))
            so_far, calls = asked, asked * agents / len(true)
            point = print_line(f"a judge of {kind}, asked {asked:,} times", calls, total / asked, true, of)
            drawn.setdefault(f"a judge of {kind}", []).append(point)
    return drawn


def draw(drawn: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Accuracy against cost, a line for each way to credit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, points in drawn.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_xlabel("calls for each turn")
    axes.set_ylabel("tau-b with the true Q − V")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", fontsize=9)
    axes.set_title("Equal calls: re-playing, and a judge with 30 % wrong answers", fontsize=11, loc="left")
    figure.savefig(path, dpi=110)


def replayed_turns(one: Played, draws: int, plays: int) -> Iterator[tuple[float, float]]:
    """Calls and credit of each turn, in the order of the truth: the first agent's, then the second's."""
    rng = np.random.default_rng([SEED, draws, plays])
    for agent in range(2):
        for turn in range(agent, len(one.said), 2):
            estimate = replayed(simulator(one.game), one.said[turn], turn, one.length, draws, plays, rng)
            ends = 2 * draws * plays
            yield draws + ends * (one.length - turn - 1) + ends, estimate.credit


def judged(true: np.ndarray, group: np.ndarray, levels: int, signed: bool, rng: np.random.Generator) -> np.ndarray:
    """One answer about every agent: levels of the credit, where 30 % of the turns get another turn's."""
    answer = np.empty(len(true))
    for number in range(group.max() + 1):
        rows = np.flatnonzero(group == number)
        believed = np.where(rng.random(len(rows)) < 0.3, true[rng.choice(rows, len(rows))], true[rows])
        largest = np.abs(believed).max() or 1.0
        share = 0.5 + believed / (2 * largest) if signed else np.abs(believed) / largest
        answer[rows] = np.round(share * (levels - 1)) / (levels - 1) - (0.5 if signed else 0.0)
    return answer


def print_line(name: str, calls: float, credit: np.ndarray, true: np.ndarray, group: np.ndarray) -> Point:
    taus = np.nan_to_num(tau_b(credit, true, group))
    telling = np.abs(true) > 1e-9
    signs = np.mean(np.sign(credit[telling]) == np.sign(true[telling]))
    print(f"| {name} | {calls:,.1f} | {taus.mean():.2f} | {signs:.0%} |", flush=True)
    return float(calls), float(taus.mean())


def main() -> None:
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    began = time.monotonic()
    coverage(int(TURNS * share))
    print()
    shapley_coverage(int(SHARED * share))
    print()
    draw(curve(int(GAMES * share)), PICTURE)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
