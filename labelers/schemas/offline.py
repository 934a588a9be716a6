"""Schemas that look at the whole episode, with hindsight (direct, scaled and singular), and schemas that ask no judge.

    direct         r_t = G·A_t / scale      A_t: the utterance's importance, one of the levels 0..scale
    scaled         r_t = G·A_t / Σ_t A_t    the same importance, shared out over the agent's utterances (0 where ΣA = 0)
    singular       r_t = G or 0             all of it for the one key utterance, nothing for every other
    uniform        r_t = G                  no judge is asked
    uniform-share  r_t = G/T                no judge is asked
    discounted     r_t = γ^(T−1−t)·G        no judge is asked; the last utterance gets G

G is the agent's episode score on a dimension, T the number of its utterances, and t counts them from 0; γ is set where
rewards are built. Source: Sotopia-RL (arXiv 2508.03905), section 3 (importance 0 to 3) and its baselines; for uniform
the paper's text and code say G, its appendix G/T. The formulas are computed by rules
(`sotopia_rl_data/rewards/rules.py`); this file has what is asked, and what is read from the answers.

Answers are nested the same way in every schema that asks: agent key -> dimension -> what the schema's `form` says. One
call asks about one score (`per-dimension`) or about all scores of an episode (`packed`). A call about one score has the
measure in place of the dimension: so all questions about an agent have the same answer schema and share a cached prefix
(providers put the schema before the messages).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sotopia_rl_data.errors import BadAnswer
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers, phrasing
from sotopia_rl_data.labelers.schemas.phrasing import NEWEST, Packing, Wording
from sotopia_rl_data.schema import Episode, Measure, Message, Score

_REPEATED = ", and with DIMENSION repeated for each dimension that is listed above for the agent"


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of an answer about one agent: its key, the names of its scores, and its turns, ascending."""

    key: str
    names: list[str]
    turns: list[int]

    @property
    def turn_keys(self) -> list[str]:
        return [phrasing.turn_key(turn) for turn in self.turns]


@dataclass(frozen=True, slots=True)
class Offline(ABC):
    """A schema that shows the whole episode and asks something about each of an agent's utterances.

    `task` and `question` name its wordings; with `levels`, the wording of the importance levels 0..scale is filled in.
    `form` and `form_schema` are the answer about one score, as the prompt shows it and as JSON schema.
    """

    id: str
    rule: str
    measure: Measure
    version: int = 2
    needs_judge: bool = True
    wording: Wording = NEWEST
    task: ClassVar[str]
    question: ClassVar[str]
    levels: ClassVar[bool] = False

    @abstractmethod
    def form(self, turns: Sequence[str]) -> str:
        """The answer about these turns (given by their keys), as the prompt shows it."""

    @abstractmethod
    def form_schema(self, turns: Sequence[str]) -> dict[str, Any]:
        """The JSON schema of that answer. With `levels` it may refer to the definition `level`."""

    @abstractmethod
    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """See `Schema.read`."""

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """The range of a raw attribution: 0 to `scale`; without levels, 0 to 1."""
        return 0.0, float(scale) if self.levels else 1.0

    def wording_sha256(self, scale: int = 3) -> str:
        """The hash of all wording files that go into a question. Raises UsageError where the scale has none."""
        levels = [phrasing.levels_wording(scale)] if self.levels else []
        shared = phrasing.shared(self.wording)
        return phrasing.wordings_sha256([self.task, self.question, *levels, *shared, phrasing.HANDOVER])

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """See `Schema.questions`. Raises UsageError where the scale has no wording."""
        levels = {"levels": phrasing.wording(phrasing.levels_wording(scale))} if self.levels else {}
        text = phrasing.episode_text(episode, self.wording)
        shared = phrasing.shared_messages(self.task, text, levels, version=self.wording)
        for scores in phrasing.groups(phrasing.known_scores(episode, dimensions, evaluator), packing):
            yield self._question(episode, shared, scores, packing, scale)

    def _question(
        self, episode: Episode, shared: Sequence[Message], scores: Sequence[Score], packing: Packing, scale: int
    ) -> Question:
        keys = phrasing.agent_keys(episode)
        called = {score.dimension: score.dimension if packing == "packed" else self.measure for score in scores}
        grouped = phrasing.by_agent((score.agent, called[score.dimension]) for score in scores)
        turns = {agent: sorted(turn.turn for turn in episode.turns if turn.agent == agent) for agent in grouped}
        parts = [_Part(keys[agent], names, turns[agent]) for agent, names in grouped.items()]
        single = all(len(part.names) == 1 for part in parts)
        tail = phrasing.fill(
            self.question,
            results=phrasing.scores_text(episode, scores, self.wording),
            turns="\n".join(f"- {part.key}: {', '.join(part.turn_keys)}" for part in parts),
            form=self._whole_form(parts, single),
            repeated="" if single else _REPEATED,
            scale=scale,
        )
        return Question(
            schema=self.id,
            episode=episode,
            messages=[*shared, {"role": "user", "content": tail}],
            answer_schema=self._answer_schema(parts, scale),
            slots={
                (keys[score.agent], called[score.dimension], phrasing.turn_key(turn)): Slot(
                    score.agent, turn, score.dimension
                )
                for score in scores
                for turn in turns[score.agent]
            },
            scale=scale,
            cache_until=len(shared),
            measure=self.measure,
        )

    def _whole_form(self, parts: Sequence[_Part], single: bool) -> str:
        """The answer as the prompt shows it. Where an agent has several dimensions, DIMENSION stands for each of
        them."""
        shown = []
        for part in parts:
            name = part.names[0] if single else "DIMENSION"
            shown.append(f'"{part.key}": {{"{name}": {self.form(part.turn_keys)}}}')
        return "{" + ", ".join(shown) + "}"

    def _answer_schema(self, parts: Sequence[_Part], scale: int) -> dict[str, Any]:
        """The answer as JSON schema. An agent's dimensions have the same form, which is defined once and referred
        to."""
        shared = {part.key: self.form_schema(part.turn_keys) for part in parts}
        nested = {part.key: answers.of_keys(dict.fromkeys(part.names, answers.ref(part.key))) for part in parts}
        level = {"level": answers.one_of(range(scale + 1))} if self.levels else {}
        return answers.of_keys(nested) | {"$defs": level | shared}


@dataclass(frozen=True, slots=True)
class Importance(Offline):
    """Asks for a level of importance for every utterance. Schemas of this class share their questions and answers."""

    id: str = "direct"
    rule: str = "direct"
    measure: Measure = "importance"
    task: ClassVar[str] = "importance.v1"
    question: ClassVar[str] = "importance.question.v1"
    levels: ClassVar[bool] = True

    def form(self, turns: Sequence[str]) -> str:
        """An object with a level for each turn."""
        return "{" + ", ".join(f'"{turn}": LEVEL' for turn in turns) + "}"

    def form_schema(self, turns: Sequence[str]) -> dict[str, Any]:
        """The same object; the level is defined once."""
        return answers.of_keys(dict.fromkeys(turns, answers.ref("level")))

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The level of every slot. Raises BadAnswer where the text is not exactly what was asked for."""
        return answers.numbers(question, text)


@dataclass(frozen=True, slots=True)
class KeyUtterance(Offline):
    """Asks which turn did most to make a score what it is. The raw attribution is 1 for that turn and 0 for others."""

    id: str = "singular"
    rule: str = "singular"
    measure: Measure = "key"
    task: ClassVar[str] = "key.v1"
    question: ClassVar[str] = "key.question.v1"

    def form(self, turns: Sequence[str]) -> str:
        """One turn."""
        return "TURN"

    def form_schema(self, turns: Sequence[str]) -> dict[str, Any]:
        """The key of one of these turns."""
        return answers.one_of(turns)

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """1.0 for the turn that the answer names, 0.0 for the agent's others. Raises BadAnswer."""
        leaves = answers.check(question.answer_schema, answers.parse(text))
        return {slot: float(leaves[path[:-1]] == path[-1]) for path, slot in question.slots.items()}


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A schema that is arithmetic alone: its rule needs the episode's score and the turns, and no judge. It asks
    nothing, so it has no attributions, no wording and no calls."""

    id: str
    rule: str
    version: int = 1
    measure: Measure = "importance"
    needs_judge: bool = False

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """There are no raw attributions; 0 to 1 by convention."""
        return 0.0, 1.0

    def wording_sha256(self, scale: int = 3) -> str:
        """The hash of an empty list: there is no wording."""
        return sha256_of([])

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """No question."""
        return iter(())

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """Raises BadAnswer: nothing was asked."""
        raise BadAnswer(f"{self.id} asks nothing, so there is nothing to read")


DIRECT = Importance()
# `scaled` asks the same questions as `direct`: after a run of one, the other finds all answers in the ledger.
SCALED = Importance(id="scaled", rule="scaled")
SINGULAR = KeyUtterance()
UNIFORM = Unjudged(id="uniform", rule="uniform")
UNIFORM_SHARE = Unjudged(id="uniform-share", rule="uniform-share")
DISCOUNTED = Unjudged(id="discounted", rule="discounted")
