"""Planted judges: judges of known games whose faults are known, to see whether the bench finds them.

    oracle      the truth, inside the scale of what is asked
    noisy-P     the truth, but with probability P another turn's credit in place of a turn's own
    length      the longer an utterance, the more credit
    last        all credit for the agent's last turn
    politeness  credit for polite words
    random      any number

Each believes something of every turn, in points of the score, and answers any schema that asks about turns as well as
its scale allows: importance as the size of the credit, progress as its running sum, quality and steps around the
middle, an episode without a turn as the score less the turn's credit. The oracle so is each schema's ceiling.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial

import numpy as np

from sotopia_rl_data.credit.truth import Floats, GroupTruth
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.request import Target

PLANTED = ("oracle", "noisy-0.3", "noisy-0.6", "length", "last", "politeness", "random")
Groups = Mapping[tuple[str, str], GroupTruth]


class Planted:
    """The judge `kind` of these games (the truth by episode and agent). The same `seed` gives the same answers."""

    concurrency = 1
    paid = False

    def __init__(self, kind: str, groups: Groups, seed: int = 0) -> None:
        """Raises UsageError where there is no such judge."""
        self.id, self._groups, self._seed = kind, groups, seed
        self._wrong = _share_wrong(kind)
        self.target = Target("planted", kind, "", {"seed": seed})
        self.remark = f"the judge `{kind}` was planted: it knows the truth, or is wrong in a known way"

    async def answer(self, question: Question) -> str:
        """An answer that obeys the question's schema."""
        return self.text(question)

    def text(self, question: Question) -> str:
        """The same, without waiting."""
        agents = {slot.agent for slot in question.slots.values()}
        believed = {agent: self.credit(question.episode.episode_id, agent) for agent in agents}
        groups = {agent: self._groups[question.episode.episode_id, agent] for agent in agents}
        leaf = partial(_leaf, question, believed, groups)
        return json.dumps(answers.compose(question.answer_schema, leaf))

    def credit(self, episode_id: str, agent: str) -> Floats:
        """What it believes of each of the agent's turns, in points."""
        group = self._groups[episode_id, agent]
        digest = hashlib.sha256(f"{self._seed}\0{self.id}\0{episode_id}\0{agent}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        n = len(group.turns)
        if self.id == "random":
            return rng.uniform(0.0, 1.0, n)
        if self.id == "length":
            return np.asarray(group.words / group.words.max())
        if self.id == "politeness":
            return np.asarray(group.polite, float)
        if self.id == "last":
            return np.asarray(np.arange(n) == n - 1, float)
        wrong = rng.random(n) < self._wrong
        return np.asarray(np.where(wrong, group.credit[rng.integers(n, size=n)], group.credit))


def _share_wrong(kind: str) -> float:
    if kind.startswith("noisy-"):
        try:
            share = float(kind.removeprefix("noisy-"))
        except ValueError:
            share = -1.0
        if 0 <= share <= 1:
            return share
    elif kind in PLANTED:
        return 0.0
    raise UsageError(f"{kind!r} is not a planted judge.", f"name one of: {', '.join(PLANTED)}")


def _leaf(
    question: Question,
    believed: Mapping[str, Floats],
    groups: Mapping[str, GroupTruth],
    schema: answers.Json,
    path: answers.Path,
) -> int | str:
    if "enum" not in schema:
        return "planted"
    allowed = schema["enum"]
    if schema["type"] == "string":  # which of these turns is the key one
        slots = {key: question.slots[(*path, key)] for key in allowed}
        agent = next(iter(slots.values())).agent
        sizes = {key: abs(believed[agent][groups[agent].place(slot.turn)]) for key, slot in slots.items()}
        return str(max(allowed, key=lambda key: sizes[key]))
    slot = question.slots[path]
    share = _share(question.measure, slot, believed[slot.agent], groups[slot.agent])
    return int(allowed[round(min(1.0, max(0.0, share)) * (len(allowed) - 1))])


def _share(measure: str, slot: Slot, credit: Floats, group: GroupTruth) -> float:
    """Where on the scale (0 to 1) the answer lies."""
    largest = float(np.abs(credit).max()) or 1.0
    if measure == "progress":
        return (group.start + float(credit[: group.place(slot.turn) + 1].sum() if slot.turn >= 0 else 0.0)) / 10.0
    if measure == "episode_score":
        return (group.score - (float(credit[group.place(slot.turn)]) if slot.turn >= 0 else 0.0)) / 10.0
    value = float(credit[group.place(slot.turn)])
    if measure == "importance":
        return abs(value) / largest
    return 0.5 + value / (2.0 * largest)
