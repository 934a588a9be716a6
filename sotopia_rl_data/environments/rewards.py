"""The rewards of an agent's utterances in an episode that was played: one number or None for each.

Judges are asked about each utterance as the last of what was said until then, as a judge that is served
(`serve/judging.py`); a reward model, here or on a server, scores it as the answer to the prompt that the agent had.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.prompts import Layout, prompts_of
from sotopia_rl_data.schema import Episode

TurnRewards = Callable[[Episode, str], dict[int, float | None]]
"""The rewards of an agent's utterances by turn. Raises AskingError where a judge or a server cannot be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardChoice:
    """Who rewards: a `judge` (asked `schema` on these `dimensions`, by default those of the weights, and kept in the
    ledger of `store`, with a `budget` in USD), or a `reward_model`: a folder, a Hub id or a server's URL, which reads
    prompts in this `layout`."""

    judge: str = ""
    reward_model: str = ""
    schema: str = "utterance-quality"
    dimensions: tuple[str, ...] = ()
    weights: Mapping[str, float] | None = None
    store: Path | None = None
    budget: float | None = None
    layout: Layout = "chat"


def turn_rewards(choice: RewardChoice) -> TurnRewards:
    """What rewards as `choice` says. Raises UsageError where it names nobody, or both; KeyMissing, Unavailable, and
    what `RewardModel.load` raises."""
    if bool(choice.judge) == bool(choice.reward_model):
        raise UsageError("Rewards come from a judge or from a reward model.", "name one of the two, as judge = lexical")
    return _by_judge(choice) if choice.judge else _by_model(choice)


def _by_judge(choice: RewardChoice) -> TurnRewards:
    from sotopia_rl_data.asking.plan import AskOptions
    from sotopia_rl_data.asking.together import Gathered, Spending
    from sotopia_rl_data.labelers.plan import Elicitation, RewardSettings
    from sotopia_rl_data.serve.judging import JudgeRewards
    from sotopia_rl_data.store import Store

    spending = Spending.at(Store.of(choice.store), AskOptions(budget=choice.budget))
    source = JudgeRewards(
        Elicitation(judges=[choice.judge], schema=choice.schema, dimensions=choice.dimensions or None),
        RewardSettings(weights=choice.weights),
        spending,
    )
    together = Gathered(source.of_last_turns, spending.lock)

    def rewards(episode: Episode, agent: str) -> dict[int, float | None]:
        places = [place for place, turn in enumerate(episode.turns) if turn.agent == agent]
        if not places:
            return {}
        so_far = [replace(episode, turns=episode.turns[: place + 1]) for place in places]
        found = source.aggregate(together.ask(so_far)).tolist()
        return {episode.turns[place].turn: _or_none(reward) for place, reward in zip(places, found, strict=True)}

    weakref.finalize(rewards, source.close)
    return rewards


def _by_model(choice: RewardChoice) -> TurnRewards:
    from sotopia_rl_data.trainers.reward_server import RewardServer, is_server

    if is_server(choice.reward_model):
        score = RewardServer(choice.reward_model).score_batch
    else:
        from sotopia_rl_data.trainers import RewardModel

        score = RewardModel.load(choice.reward_model).score_batch

    def rewards(episode: Episode, agent: str) -> dict[int, float | None]:
        own = [row for row in prompts_of(episode, choice.layout) if row[0] == agent]
        found = score([(prompt, completion) for _, _, prompt, completion in own]).tolist() if own else []
        return {turn: _or_none(reward) for (_, turn, _, _), reward in zip(own, found, strict=True)}

    return rewards


def _or_none(reward: float) -> float | None:
    return None if math.isnan(reward) else reward
