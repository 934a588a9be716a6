"""What judges will be asked: the schema's questions about every episode, for each judge and sample.

A plan is pure: the same episodes and the same plan give the same requests in the same order, however often they are
made. They are made once to count, once to ask, and once to read the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from sotopia_rl_data.errors import BadAnswer, UsageError
from sotopia_rl_data.labelers.judge import Judge, Question, Slot
from sotopia_rl_data.labelers.requests import JudgeRequest, request_of, target_of
from sotopia_rl_data.labelers.schemas import Schema
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.labelers.schemas.rubric import Rubric
from sotopia_rl_data.labelers.selection import Selection
from sotopia_rl_data.schema import Episode

Files = Mapping[str, Sequence[Path]]

_UNREAD = ("observations", "reasoning")  # what no schema asks about; observations are most of an episode's bytes


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """Everything that determines what is asked and how it is read."""

    schema: Schema
    dimensions: tuple[str, ...]
    evaluator: str
    judges: tuple[Judge, ...] = ()
    scale: int = 3
    packing: Packing = "per-dimension"
    samples: int = 1
    only: Selection | None = None

    def questions(self, episode: Episode) -> list[Question]:
        """The questions about an episode, whoever is asked."""
        all_ = self.schema.questions(episode, self.dimensions, self.evaluator, self.packing, self.scale)
        return [question for question in all_ if self.only is None or self.only.wants(question)]

    def requests(self, episodes: Iterable[Episode], judge: Judge) -> Iterator[JudgeRequest]:
        """Every request to `judge`, episode after episode: those that share a prefix follow each other."""
        target = target_of(judge)
        for episode in episodes:
            for question in self._worth_caching(self.questions(episode)):
                for sample in range(self.samples):
                    yield request_of(question, target, sample)

    def units(self, episode: Episode) -> list[tuple[str, int]]:
        """(agent, turn) of what ends in labels or in failures: utterances; or, where a schema judges an `episode` as a
        whole, each agent at turn -1."""
        if getattr(self.schema, "of", "utterance") == "episode":
            return [(one.agent, -1) for one in episode.agents]
        return [(turn.agent, turn.turn) for turn in episode.turns]

    def _worth_caching(self, questions: Sequence[Question]) -> list[Question]:
        """The same questions; one whose prefix no other shares has nothing but the task cached, which other episodes
        share: writing to a cache costs extra at Anthropic."""
        together = Counter(map(_prefix, questions))
        return [
            question
            if self.samples > 1 or together[_prefix(question)] > 1
            else replace(question, cache_until=min(question.cache_until, 1))
            for question in questions
        ]

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The number of every slot. Raises BadAnswer, also where a schema gives too few or what is out of range."""
        values = self.schema.read(question, text)
        for slot in question.slots.values():
            low, high = self.schema.bounds(self.scale, slot.dimension)
            value = values.get(slot)
            if value is None or not low <= value <= high:
                raise BadAnswer(f"{slot.dimension} of turn {slot.turn} is {value}, outside {low:g} to {high:g}")
        return values

    def reasons(self, question: Question, text: str) -> dict[Slot, str]:
        """Why, in the judge's words, for the slots whose schema asks for that. `text` is one that `read` takes."""
        told = getattr(self.schema, "reasons", None)
        return {} if told is None else dict(told(question, text))

    @property
    def needs_score(self) -> bool:
        """Whether a label means nothing where the episode's score is missing."""
        return getattr(self.schema, "needs_score", True)

    @property
    def rubric(self) -> Rubric | None:
        """The rubric that is asked by, where there is one."""
        found = getattr(self.schema, "rubric", None)
        return found if isinstance(found, Rubric) else None

    def recipe(self) -> dict[str, Any]:
        """What of the plan determines the rows: for the manifest's recipe. URLs are not in it."""
        made: dict[str, Any] = {
            "schema": self.schema.id,
            "schema_version": self.schema.version,
            "dimensions": list(self.dimensions),
            "evaluator": self.evaluator,
        }
        if self.judges:
            made |= {"ask": self.packing, "samples": self.samples, "judges": [_who(judge) for judge in self.judges]}
        if self.rubric is not None:
            made["rubric_sha256"] = self.rubric.sha256
        if self.only is not None:
            made["only_sha256"] = self.only.sha256
        return made


def _prefix(question: Question) -> tuple[str, ...]:
    shared = question.messages[: question.cache_until]
    return repr(question.answer_schema), *(message["content"] for message in shared)


def _who(judge: Judge) -> dict[str, Any]:
    target = target_of(judge)
    return {"judge": judge.id, "provider": target.provider, "sampling": dict(target.sampling)}


def check_can_ask(packing: str, samples: int) -> None:
    """Raises UsageError for a way to ask that does not exist, and for fewer than one sample."""
    if packing not in get_args(Packing):
        raise UsageError(f"{packing!r} is not a way to ask.", f"use {' or '.join(get_args(Packing))}")
    if samples < 1:
        raise UsageError(f"There cannot be {samples} samples.", "ask for one or more")


def episodes_of(files: Iterable[Path]) -> Iterator[Episode]:
    """The episodes of some Parquet files, in the files' order, without what no schema asks about."""
    import pyarrow.parquet as pq

    from sotopia_rl_data.tables import EPISODES, row_episode

    columns = [name for name in EPISODES.names if name not in _UNREAD]
    for path in files:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(128, columns=columns):
                for row in batch.to_pylist():
                    yield row_episode(row | {"observations": [], "reasoning": ""})
