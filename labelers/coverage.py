"""How many utterances can get a reward at all, told before a judge is asked: a rule that multiplies an episode's score
gives none to an agent without a score on every weighed dimension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from sotopia_rl_data.dimensions import in_order
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.plan import LabelPlan, episodes_of
from sotopia_rl_data.rewards.recipe import Recipe
from sotopia_rl_data.rewards.rules import rule
from sotopia_rl_data.store import Version


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of so many `utterances`, `rewardable` have an agent with a score on all dimensions that are weighed. `lacking`
    counts by dimension those without one, `scored` those with one, on any dimension of the evaluator."""

    utterances: int
    rewardable: int
    lacking: Mapping[str, int] = field(default_factory=dict)
    scored: Mapping[str, int] = field(default_factory=dict)

    @property
    def fitting(self) -> str:
        """The weights by which most utterances get a reward, as `--weights` takes them; "" where nothing is scored."""
        most = max(self.scored.values(), default=0)
        return ",".join(f"{name}=1" for name, count in self.scored.items() if count == most)

    @property
    def sentence(self) -> str:
        """What to say before anything is asked."""
        said = f"{self.rewardable:,} of {self.utterances:,} utterances will get a reward, if their labels can be read"
        if not self.lacking:
            return said
        lacking = ", ".join(f"on {name} ({count:,})" for name, count in self.lacking.items())
        better = max(self.scored.values(), default=0) > self.rewardable
        fits = f": --weights {self.fitting} fits more of them" if better else ""
        return f"{said}; the others' agents have no score {lacking}{fits}"

    def check(self) -> None:
        """Raises UsageError where no utterance would get a reward."""
        if self.rewardable or not self.utterances:
            return
        raise UsageError(
            f"No utterance would get a reward: no agent has a score on all of {', '.join(in_order(self.lacking))}.",
            f"weigh what is scored: --weights {self.fitting}"
            if self.fitting
            else "score the episodes first, with `sotopia-rl-data evaluate`",
        )

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON holds them."""
        return {
            "utterances": self.utterances,
            "rewardable": self.rewardable,
            "lacking": dict(self.lacking),
            "scored": dict(self.scored),
        }


def coverage(plan: LabelPlan, recipe: Recipe, version: Version) -> Coverage:
    """What `recipe` can reward of the episodes of `version`, whose scores are the plan's evaluator's."""
    reads_score = rule(recipe.rule).reads_score
    utterances = rewardable = 0
    lacking, scored = Counter[str](), Counter[str]()
    for episode in episodes_of(chain.from_iterable(version.files("episodes").values())):
        acts = Counter(turn.agent for turn in episode.turns)
        own = {(score.agent, score.dimension) for score in episode.scores if score.evaluator == plan.evaluator}
        for agent, count in acts.items():
            utterances += count
            missing = [name for name in recipe.weighted if (agent, name) not in own] if reads_score else []
            rewardable += count if not missing else 0
            lacking.update(dict.fromkeys(missing, count))
            scored.update({name: count for one, name in own if one == agent})
    in_order = dict(sorted(lacking.items(), key=lambda item: (-item[1], item[0])))
    return Coverage(utterances, rewardable, in_order, dict(sorted(scored.items())))
