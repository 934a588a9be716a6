"""Rubrics: utterances rated on dimensions of somebody's own, described in a YAML file; no episode score plays a part.

`conversation-behaviour` is the rubric that ships: how one talks, whatever comes of it. One's own is named as
`rubric:FILE.yaml`; `rubric_file.py` reads it. What identifies a rubric is its content, never the file's path: it stands
in the recipe as a hash and in the provenance in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal

from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.labelers.schemas import phrasing, quality, turnwise
from sotopia_rl_data.labelers.schemas.turnwise import Turnwise, View
from sotopia_rl_data.schema import Turn

Shows = Literal["history", "reply", "episode"]
PREFIX = "rubric:"
_TASK, _QUESTION = "rubric.v1", "rubric.question.v1"
_BEHAVIOUR = "conversation-behaviour.v1.yaml"


@dataclass(frozen=True, slots=True)
class Criterion:
    """One dimension of a rubric: what it means, and its whole numbers.

    `ends` are the lowest and the highest, None for 0 and `--scale`. `levels` says what some or all of the numbers mean.
    """

    name: str
    description: str
    ends: tuple[int, int] | None = None
    levels: tuple[tuple[int, str], ...] = ()

    def allowed(self, scale: int) -> range:
        """The numbers that may be given."""
        low, high = self.ends or (0, scale)
        return range(low, high + 1)

    def text(self, scale: int) -> str:
        """The dimension as a judge reads it, its levels a line each."""
        allowed = self.allowed(scale)
        head = f"- {self.name}, {allowed[0]} to {allowed[-1]}: {self.description}"
        return "\n".join([head, *(f"  {level}: {meaning}" for level, meaning in self.levels)])


@dataclass(frozen=True, slots=True)
class Rubric:
    """Dimensions of one's own. `about` is said before them; `shows` is how much of the episode a judge sees: its
    `history` up to the utterance, also the `reply` that it drew, or the whole `episode`."""

    name: str
    dimensions: tuple[Criterion, ...]
    about: str = ""
    shows: Shows = "history"

    def criterion(self, name: str) -> Criterion:
        """The dimension with this name."""
        return next(one for one in self.dimensions if one.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Its content, as JSON holds it."""
        return asdict(self)

    def in_task(self, scale: int) -> dict[str, str]:
        """What fills the placeholders of the task's wording."""
        return {
            "shown": phrasing.wording(self.wordings[-1]),
            "about": f"\n{self.about}\n" if self.about else "",
            "dimensions": "\n".join(one.text(scale) for one in self.dimensions),
        }

    @property
    def wordings(self) -> tuple[str, ...]:
        """The names of the wording files that a question is made from, besides those of every view."""
        return _TASK, _QUESTION, f"rubric.{self.shows}.v1"

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the content: comments, layout and the file's place count for nothing."""
        return sha256_of(self.as_dict())


def schema_of(rubric: Rubric, id_: str | None = None) -> Turnwise:
    """The schema that asks by this rubric; its `id` is by default `rubric:NAME`."""
    return Turnwise(
        id=id_ or PREFIX + rubric.name,
        rule="quality",
        measure="quality",
        task=_TASK,
        question=_QUESTION,
        views=_VIEWS[rubric.shows],
        rubric=rubric,
        version=1,
    )


def conversation_behaviour() -> Turnwise:
    """The rubric that ships, as the schema `conversation-behaviour`."""
    from sotopia_rl_data.labelers.schemas import rubric_file

    text = (files("sotopia_rl_data.labelers") / "prompts" / _BEHAVIOUR).read_text(encoding="utf-8")
    return schema_of(rubric_file.parse(text, _BEHAVIOUR), "conversation-behaviour")


def whole(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """For each utterance of these agents, the whole episode."""
    for turn in turns:
        if turn.agent in agents:
            yield View((turn.agent,), turn.turn, tuple(turns))


_VIEWS: Mapping[Shows, Callable[[Sequence[Turn], tuple[str, ...]], Iterator[View]]] = {
    "history": turnwise.prefixes,
    "reply": quality.with_reply,
    "episode": whole,
}
