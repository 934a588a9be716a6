"""The Shapley value of each of an agent's turns in a dialogue: the plays of `label --schema shapley`.

v(S) is the agent's score where its turns in S are as they were said and it does nothing in all others, while a policy
speaks for everybody else, from the beginning: the game of `shapley.py`. It is estimated over random orders (Castro,
Gómez and Tejada 2009):

    play     turns join one by one in an order that is drawn, and in the same backwards: 2n sets, each played once
    judge    the ends
    credit   to each turn what v gained as it joined, the mean of both orders: one opinion of the schema `shapley`

So in each sample Σ_k φ_k = v(all) − v(none). The sets of a sample are played with the same number: those that begin
alike send the same requests, so a sample costs much less than 2n dialogues, and its differences have the same luck.
Silence ends no play, or doing nothing would not be neutral.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, product
from typing import Any

from sotopia_rl_data.credit.branching import Asking, CreditDraw, Gaps, Juncture, Scores, identity
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.rollouts.episode_run import MOST_REPEATS, EpisodeRun, EpisodeSpec, Rules
from sotopia_rl_data.rollouts.policies import Player
from sotopia_rl_data.schema import Failure

_ENDLESS = 1_000_000
_UNJUDGED = "not every play of its two orders has a score"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapleySettings:
    """How Shapley values are estimated: `policy` speaks for everybody but the agent, and there are `samples` (2 or
    more) orders, each also taken backwards. A play has `turns` at most (None: as many as the dialogue had). Raises
    UsageError."""

    policy: Player
    samples: int = 8
    turns: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.samples <= MOST_REPEATS:
            raise UsageError(
                f"{self.samples} random orders give no interval, or are more than {MOST_REPEATS}.",
                f"give --samples from 2 to {MOST_REPEATS}",
            )

    @property
    def schema(self) -> str:
        """The schema that turns are credited by."""
        return "shapley"

    @property
    def players(self) -> list[Player]:
        """The policy."""
        return [self.policy]

    @property
    def rules(self) -> Rules:
        """The rules of every play."""
        return Rules(turns=self.turns or _ENDLESS, max_stale=_ENDLESS)

    def recipe(self) -> dict[str, Any]:
        """What determines the credit, besides the episodes and the judges."""
        return {"policy": identity(self.policy), "turns": self.turns, "samples": self.samples}


@dataclass(frozen=True, slots=True)
class AgentTurns:
    """The n turns of an agent in a dialogue, in order: the players of the game. A set of them is a number whose bit k
    is the k-th turn."""

    turns: tuple[Juncture, ...]

    def sets(self, sample: int) -> tuple[list[int], list[int]]:
        """The sets that the turns make as they join in the order of this sample, and in the same backwards."""
        n, first = len(self.turns), self.turns[0]
        order = random.Random(f"{first.episode_id} {first.agent} {sample}").sample(range(n), n)
        return _joined(order), _joined(order[::-1])

    def play(self, settings: ShapleySettings, sample: int, members: int) -> EpisodeSpec:
        """The dialogue from its beginning, with the turns in the set as they were said."""
        first, bits = self.turns[0], [members >> k & 1 for k in range(len(self.turns))]
        agents = first.scene.agents
        name = f"{first.episode_id}-agent-{agents.index(first.agent)}-sample-{sample}-with-{''.join(map(str, bits))}"
        said = {turn.turn: turn.said for turn, bit in zip(self.turns, bits, strict=True) if bit}
        return EpisodeSpec(
            name,
            first.scene,
            (settings.policy,) * len(agents),
            (1,) * len(agents),
            sample,
            until=settings.turns or first.lasted,
            planned={first.agent: said},
        )

    def plays(self, settings: ShapleySettings, sample: int) -> dict[int, EpisodeSpec]:
        """The plays of a sample, by set."""
        there, back = self.sets(sample)
        return {members: self.play(settings, sample, members) for members in dict.fromkeys(there + back)}

    def gains(self, sample: int, v: Mapping[int, float]) -> list[float]:
        """What each turn added to v, the mean of both orders."""
        gains = [0.0] * len(self.turns)
        for sets in self.sets(sample):
            for before, after in pairwise(sets):
                gains[(after ^ before).bit_length() - 1] += (v[after] - v[before]) / 2
        return gains


def _joined(order: Sequence[int]) -> list[int]:
    sets = [0]
    for turn in order:
        sets.append(sets[-1] | 1 << turn)
    return sets


def by_agent(turns: Sequence[Juncture]) -> list[AgentTurns]:
    """The turns of each agent in each dialogue. Those of a dialogue must be together."""
    ordered = sorted(turns, key=lambda turn: (turn.episode_id, turn.agent, turn.turn))
    return [AgentTurns(tuple(of)) for _, of in groupby(ordered, key=lambda turn: (turn.episode_id, turn.agent))]


class Coalitions:
    """The plays of all sets of all samples, and the credit in their scores."""

    unjudged = _UNJUDGED

    def __init__(self, settings: ShapleySettings, turns: Sequence[Juncture]) -> None:
        self._settings, self._agents = settings, by_agent(turns)
        self.failures: list[tuple[CreditDraw, Failure]] = []
        self.draws: list[CreditDraw] = []

    def plays(self, ask: Asking) -> list[EpisodeSpec]:
        """All plays; nothing is asked before."""
        specs = list[EpisodeSpec]()
        for agent, sample in self._samples():
            plays = agent.plays(self._settings, sample)
            whole = EpisodeRun(plays[(1 << len(agent.turns)) - 1], self._settings.rules)
            call_id = "" if whole.world.done else whole.first().key
            self.draws += [CreditDraw(turn, sample, call_id) for turn in agent.turns]
            specs += plays.values()
        return specs

    def gaps(self, scores: Scores, judges: Sequence[str], dimensions: Sequence[str]) -> Gaps:
        """What each turn added, for each sample, dimension and judge; nothing of a sample in which a play has no
        score."""
        found, draws = dict[tuple[CreditDraw, str, str], float](), iter(self.draws)
        for agent, sample in self._samples():
            plays = agent.plays(self._settings, sample)
            of_turns = [next(draws) for _ in agent.turns]
            for dimension, judge in product(dimensions, judges):
                name = agent.turns[0].agent
                ends = {
                    members: scores.get((play.episode_id, name, dimension, judge)) for members, play in plays.items()
                }
                v = {members: end for members, end in ends.items() if end is not None}
                if len(v) == len(ends):
                    gains = agent.gains(sample, v)
                    found |= {(draw, dimension, judge): gain for draw, gain in zip(of_turns, gains, strict=True)}
        return found

    def _samples(self) -> Iterator[tuple[AgentTurns, int]]:
        return product(self._agents, range(self._settings.samples))
