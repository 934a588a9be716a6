"""The rules: formulas for rewards from A (how much each utterance mattered) and G (how the episode ended).

A is in [0, 1] and is a magnitude; G has the sign. Arrays are float64, one element for each utterance, in key order; NaN
stands for NULL inside the arithmetic and never leaves it. Every sum is taken in turn order, so that a value does
not depend on threads, chunks or library versions. Formulas: Yu et al. 2025 (arXiv 2508.03905), section 3 and its
appendix; where the paper and its code differ, the docstring says which is which.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.dimensions import dimension, is_known
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.schema import Measure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Turns:
    """The place of each utterance among its agent's utterances in the episode.

    `group` (utterances,) numbers the (episode, agent) it belongs to; `starts` (groups,) is where each begins,
    `lengths` (groups,) how many utterances it has. T counts an agent's own utterances, chosen no-ops among them, and
    t = 0 … T−1 is an utterance's place among them: not the environment's turn number.
    """

    group: Ints
    starts: Ints
    lengths: Ints

    @classmethod
    def of(cls, heads: NDArray[np.bool_]) -> Turns:
        """From the flags of the utterances that open an (episode, agent)."""
        starts = np.flatnonzero(heads)
        return cls(np.cumsum(heads) - 1, starts, np.diff(starts, append=len(heads)))

    @property
    def count(self) -> Ints:
        """T of each utterance."""
        return self.lengths[self.group]

    @property
    def index(self) -> Ints:
        """t of each utterance."""
        return np.arange(len(self.group)) - self.starts[self.group]

    def total(self, values: Floats) -> Floats:
        """Each utterance's sum of `values` over its (episode, agent), added up in turn order. NaN where one is NaN."""
        sums = np.zeros(len(self.starts))
        alive = np.arange(len(self.starts))
        for t in range(int(self.lengths.max(initial=0))):
            alive = alive[self.lengths[alive] > t]
            sums[alive] += values[self.starts[alive] + t]
        return sums[self.group]


@dataclass(frozen=True, slots=True)
class Rule:
    """A formula and what it reads: `measure` is the kind of attribution (None: no judge is needed).

    `value(A, G, turns, gamma)` gives r, one element for each utterance; NaN in, NaN out. `also_reads` says what is
    passed as G: the episode's score, the judge's baseline B (its attribution with turn −1, on the scale of A), or
    nothing that matters. A rule that multiplies the score gives between 0 and 1 times G; any other rule stays in its
    own `bounds`. With `times_score` r is `value` times G; over steps, of which files tell only step times G, it is 0
    where G is 0.
    """

    id: str
    measure: Measure | None
    value: Callable[[Floats, Floats, Turns, float], Floats]
    also_reads: Literal["score", "baseline", "nothing"] = "score"
    bounds: tuple[float, float] | None = None
    times_score: bool = False

    @property
    def reads_score(self) -> bool:
        """Whether it needs the episode's score."""
        return self.also_reads == "score" or self.times_score

    def over(self, measures: Collection[str]) -> Rule:
        """The rule for attributions of these measures: a rule over progress takes its steps where they are given."""
        if self.measure == "progress" and "progress" not in measures and "step" in measures:
            return replace(self, measure="step", value=step, also_reads="nothing")
        return self


def direct(a: Floats, g: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = G·A_t, with A_t = raw/3 on the rubric 0–3 (the paper's own choice)."""
    return g * a


def scaled(a: Floats, g: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = G·A_t/ΣA: shares of G, so an agent's utterances sum to G; all 0 where ΣA = 0.

    A share of an unknown sum is unknown: one missing A makes the whole agent and dimension NULL.
    """
    total = turns.total(a)
    share = np.divide(a, total, out=np.where(total == 0, 0.0, np.nan), where=total > 0)
    return g * share


def singular(a: Floats, g: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = G at the one key utterance, 0 elsewhere. A is 1 at the key and 0, or has no row, at the others.

    Two keys give NULL. No key gives 0 everywhere if every utterance was answered, else NULL, since a missing utterance
    may be the key.
    """
    keys = turns.total(np.where(a == 1, 1.0, 0.0))
    answered = turns.total(np.where(np.isnan(a), 0.0, 1.0))
    known = (keys == 1) | ((keys == 0) & (answered == turns.count))
    return np.where(known, g * (a == 1), np.nan)


def uniform(a: Floats, g: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = G (the paper's text, and its code)."""
    return g.copy()


def uniform_share(a: Floats, g: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = G/T (the paper's appendix)."""
    return g / turns.count


def discounted(a: Floats, g: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = γ^(T−1−t)·G over the agent's own utterances; the last one gets G (the reference's code: γ = 0.9)."""
    powers = [1.0]
    for _ in range(int(turns.lengths.max(initial=1)) - 1):
        powers.append(powers[-1] * gamma)  # pow() is not used, since its last digit depends on the machine
    decay: Floats = np.array(powers)[turns.count - 1 - turns.index]
    return decay * g


def quality(a: Floats, g: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = A_t: the judge rates the utterance itself, so the episode's score is not used."""
    return a.copy()


def progress(a: Floats, b: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = A_t − A_(t−1), where A_t is the agent's progress after its utterance t, and A_(−1) = B.

    The differences of an agent add up to A_(T−1) − B. One missing A makes two of them NULL.
    """
    before = np.roll(a, 1)
    before[turns.starts] = b[turns.starts]
    steps: Floats = a - before
    return steps


def step(a: Floats, g: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = 2A_t − 1: how far the judged progress moved, on a scale that goes as far down as up."""
    moved: Floats = 2 * a - 1
    return moved


def counterfactual(a: Floats, b: Floats, turns: Turns, gamma: float) -> Floats:
    """r_t = B − A_t: the judge's score of the whole episode minus its score without the utterance.

    Both are parts of the dimension's range, so 0.1 is a tenth of it; above 0 the utterance helped.
    """
    return b - a


RULES: dict[str, Rule] = {
    rule.id: rule
    for rule in (
        Rule("direct", "importance", direct),
        Rule("scaled", "importance", scaled),
        Rule("singular", "key", singular),
        Rule("uniform", None, uniform),
        Rule("uniform-share", None, uniform_share),
        Rule("discounted", None, discounted),
        Rule("quality", "quality", quality, "nothing", (0.0, 1.0)),
        Rule("quality-score", "quality", direct),
        Rule("quality-share", "quality", scaled),
        Rule("progress", "progress", progress, "baseline", (-1.0, 1.0)),
        Rule("progress-score", "progress", progress, "baseline", (-1.0, 1.0), times_score=True),
        Rule("counterfactual", "episode_score", counterfactual, "baseline", (-1.0, 1.0)),
    )
}


def rule(name: str) -> Rule:
    """The rule with this id. Raises UsageError with the ids."""
    if name not in RULES:
        raise UsageError(f"{name!r} is not a rule.", f"name one of: {', '.join(RULES)}")
    return RULES[name]


def declared_range(
    name: str, by: str = "direct", ranges: Mapping[str, tuple[float, float]] | None = None
) -> tuple[float, float]:
    """The range of the rule `by` on this dimension: its own bounds, or G's range (`ranges` has that of a dimension of
    the source's own) and 0, both ways where bounds are multiplied by G. Raises UsageError where nobody declared one."""
    bounds, times_score = rule(by).bounds, rule(by).times_score
    if bounds is not None and not times_score:
        return bounds
    if ranges and name in ranges:
        low, high = ranges[name]
    elif is_known(name):
        low, high = dimension(name).low, dimension(name).high
    else:
        raise UsageError(
            f"The scores on {name} have no declared range.", f"import them again with --score {name}=LOW..HIGH"
        )
    if times_score:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return min(low, 0.0), max(high, 0.0)
