"""What is asked together: the units of `label --where-unsure`, which are drawn whole.

A row is an utterance, and its reward is made of the answers of one unit alone. So a unit is as small as the schema and
the rule allow: an utterance, where a question is about one (`utterance-quality`); an agent's part of a dialogue, where
a question is about all of it, or a reward hangs on answers about other turns (`direct`, `goal-progress`, `scaled`); or
a dialogue, where a question is about several agents (`--ask packed`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.costs.tokens import answer_tokens, limit_in, most_prompt_tokens, prompt_tokens
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.plan import LabelPlan, RewardSettings, episodes_of
from sotopia_rl_data.labelers.requests import AskedJudge, asked_judges, request_of
from sotopia_rl_data.prompts import prompts_of
from sotopia_rl_data.request import Usage
from sotopia_rl_data.rewards import Recipe
from sotopia_rl_data.rewards.rules import Turns, rule
from sotopia_rl_data.rewards.texts import RenderedTexts
from sotopia_rl_data.store import Version
from sotopia_rl_data.trainers.data import DatasetRow

Floats = NDArray[np.float64]
Unit = Literal["utterance", "agent", "episode"]
UNITS: tuple[Unit, ...] = get_args(Unit)
PLURALS: dict[str, str] = {"utterance": "utterances", "agent": "parts of agents", "episode": "dialogues"}
Key = tuple[str, str | None, int | None]
"""(episode_id, agent, turn) of a unit: None stands for all agents or turns."""


@dataclass(frozen=True, slots=True)
class Units:
    """The utterances that judges can be asked about: `rows` (N) by split in key order, the model that spoke each
    (`policies`, N; None where nobody says), and the units in which they are asked: `code` (N,) is the place of a row's
    unit among `keys` (U), `cost` (U,) about what asking it costs in USD, without a prompt cache. `dearest` is the most
    USD that one call may cost, which a cap reserves before it is sent."""

    of: Unit
    rows: list[DatasetRow]
    policies: list[str | None]
    keys: list[Key]
    code: NDArray[np.int64]
    cost: Floats
    dearest: float

    @property
    def sizes(self) -> Floats:
        """(U,) how many rows each unit has."""
        return np.bincount(self.code, minlength=len(self.keys)).astype(np.float64)

    def draws(self, seed: int) -> Floats:
        """(U,) a number in [0, 1) for each unit, by a hash of the seed and its key: a unit is asked where it is below
        its chance. So a higher chance asks whoever a lower one asked, and others."""
        return np.array([_share(seed, key) for key in self.keys])


def unit_key(of: Unit, episode: str, agent: str, turn: int) -> Key:
    """The key of the unit that has this utterance."""
    return episode, None if of == "episode" else agent, turn if of == "utterance" else None


def units_of(plan: LabelPlan, recipe: Recipe, rewards: RewardSettings, parent: Version, prices: Prices) -> Units:
    """The units of the utterances of `parent` about which all is asked that a reward weighs."""
    files = parent.files("episodes")
    judges, asked = asked_judges(plan.judges), list[tuple[str, str, int, float]]()
    covered = set[tuple[str, str, int, str]]()
    models: dict[tuple[str, str], str | None] = {}
    dearest = 0.0
    of: Unit = "agent" if hangs_on_others(recipe, plan) else "utterance"
    for episode in episodes_of(chain.from_iterable(files.values())):
        models |= {(episode.episode_id, agent.agent): agent.model for agent in episode.agents}
        for question in plan.questions(episode):
            slots = list(question.slots.values())
            covered |= {(episode.episode_id, slot.agent, slot.turn, slot.dimension) for slot in slots}
            of = max(of, _asked_of(question), key=UNITS.index)
            cost, most = _cost(question, judges, plan.samples, prices)
            dearest = max(dearest, most)
            asked += [(episode.episode_id, slot.agent, slot.turn, cost) for slot in slots[:1]]
    texts = RenderedTexts(files, lambda episode: prompts_of(episode, rewards.layout, rewards.template))
    rows = [
        row
        for row in _rows(files, texts)
        if all((row.episode_id, row.agent, row.turn, name) in covered for name in recipe.weighted)
    ]
    keys = [unit_key(of, row.episode_id, row.agent, row.turn or 0) for row in rows]
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    costs = np.zeros(len(place))
    for episode_id, agent, turn, cost in asked:
        number = place.get(unit_key(of, episode_id, agent, turn))
        if number is not None:
            costs[number] += cost
    policies = [models.get((row.episode_id, row.agent)) for row in rows]
    code = np.array([place[key] for key in keys], dtype=np.int64)
    return Units(of, rows, policies, list(place), code, costs, dearest)


def hangs_on_others(recipe: Recipe, plan: LabelPlan) -> bool:
    """Whether the reward of a turn hangs on what a judge says of the agent's other turns: the rule is tried out."""
    chosen = rule(recipe.rule).over({plan.schema.measure})
    turns, outcome = Turns.of(np.array([True, False])), np.ones(2)
    for a in ([0.0, 0.0], [1.0, 0.0], [0.2, 0.7]):
        whole = chosen.value(np.array(a), outcome, turns, 1.0)
        for other in (0, 1):
            without = np.array(a)
            without[other] = np.nan
            if chosen.value(without, outcome, turns, 1.0)[1 - other] != whole[1 - other]:
                return True
    return False


def _asked_of(question: Question) -> Unit:
    """What one question is about. A baseline is about all of an agent's turns."""
    slots = question.slots.values()
    if len({slot.agent for slot in slots}) > 1:
        return "episode"
    return "agent" if len({slot.turn for slot in slots}) > 1 or any(slot.turn < 0 for slot in slots) else "utterance"


def _cost(question: Question, judges: Iterable[AskedJudge], samples: int, prices: Prices) -> tuple[float, float]:
    """About what a question costs in USD, asked of every judge, and what one call of it costs at most. Both hang on the
    price list alone and not on what the ledger has, so that the same command draws the same rows after a crash."""
    total = dearest = 0.0
    for judge in judges:
        price = prices.of(judge.target) if judge.paid else None
        if price is not None:
            request = request_of(question, judge.target)
            size = prompt_tokens(request)
            total += samples * price.at(size).cost(Usage(input=size, output=answer_tokens(request)))
            dearest = max(dearest, price.most(most_prompt_tokens(request), limit_in(judge.target.sampling)))
    return total, dearest


def _rows(splits: Iterable[str], texts: RenderedTexts) -> Iterator[DatasetRow]:
    for split in splits:
        for batch in texts.rows(split):
            for row in batch.to_pylist():
                prompt, completion = tuple(row.pop("prompt")), tuple(row.pop("completion"))
                yield DatasetRow(split=split, **row, prompt=prompt, completion=completion)


def _share(seed: int, key: Key) -> float:
    text = "\0".join(map(str, (seed, *key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
