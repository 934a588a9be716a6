"""The results of a comparison, from one figure to the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sotopia_rl_data.agreement.measure import Figure

Resample = Literal["pair", "scenario"]


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """How differences are tested: `resamples` draws of the unit `resample` give an interval at `level`, and a
    difference is significant where p is below `alpha`. With "scenario" only the means of scenarios count as
    independent."""

    resamples: int = 1000
    resample: Resample = "pair"
    level: float = 0.95
    alpha: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Means:
    """One method in one condition: its units (an agent of an episode each), the mean score and its standard error on
    each dimension (None: nobody scored it), and how many units lack a score there."""

    method: str
    units: int
    means: Mapping[str, float | None]
    errors: Mapping[str, float | None]
    missing: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Effect:
    """Method b against method a on one dimension, over the pairs in which both have a score.

    `difference` is the mean of b - a in points; `low` and `high` its bootstrap interval; `t` and `p` the paired t-test
    (two-sided), `adjusted` p after Holm over the contrast's dimensions, `significant` whether that is below alpha.
    `effect` is Cohen's d_z. `wins` counts pairs where b scores higher; `win_rate` takes a tie for half a win. `unit` of
    both tests is the pair, or the scenario's mean.
    """

    dimension: str
    pairs: int
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    t: float | None
    p: float | None
    adjusted: float | None
    significant: bool
    effect: float | None
    wins: int
    ties: int
    losses: int
    win_rate: float | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One environment of a contrast: the means of both sides by dimension, over its pairs."""

    environment: str
    codename: str
    pairs: int
    a: Mapping[str, float | None]
    b: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class MethodContrast:
    """Method `b` against the first, `a`. `alone` counts the units of a and of b that have no counterpart; `together`
    says that both agents of an episode count and were averaged, so that positions are not told apart."""

    a: str
    b: str
    pairs: int
    alone: tuple[int, int]
    together: bool
    effects: tuple[Effect, ...]
    scenarios: tuple[Scenario, ...]

    def effect(self, dimension: str) -> Effect:
        """The effect on this dimension. Raises KeyError."""
        return {effect.dimension: effect for effect in self.effects}[dimension]


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """The means and contrasts for one set of scenarios, partner and evaluator."""

    scenarios: str
    partner: str
    evaluator: str
    means: tuple[Means, ...]
    contrasts: tuple[MethodContrast, ...]


@dataclass(frozen=True, slots=True)
class Talk:
    """How much a method's agent talks with one partner. `turns`, `utterances` and `words` are means over episodes: of
    the whole episode's turns, and of the agent's own utterances and words. `words_an_utterance` is the agent's own.
    `distinct` has distinct-1, -2 and -3 of all its speech (see `diversity.py`)."""

    scenarios: str
    partner: str
    method: str
    episodes: int
    turns: float
    utterances: float
    words: float
    words_an_utterance: float | None
    distinct: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class EvaluatorAgreement:
    """Two evaluators on one dimension (or "overall"): the agents of episodes that both scored, and the figures with
    their intervals from resampled episodes. `difference` is the mean of a - b, in parts of the dimension's range."""

    a: str
    b: str
    dimension: str
    units: int
    episodes: int
    pearson: Figure
    spearman: Figure
    alpha: Figure
    difference: Figure


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that `compare` computes. `dimensions` are those that any evaluator scored, the average last."""

    refs: tuple[str, ...]
    methods: tuple[str, ...]
    dimensions: tuple[str, ...]
    conditions: tuple[ConditionResult, ...]
    talk: tuple[Talk, ...]
    agreement: tuple[EvaluatorAgreement, ...]
    level: float
    alpha: float
    resamples: int
    resample: str
    seed: int
    remarks: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
