"""The questions of schemas that look at an episode through several views: up to a turn, or without one.

A view is some of the episode's turns, about which each of some agents gets one number a dimension. An answer is nested
the same way in every such schema: agent key -> dimension -> integer. One call asks about one view; `per-dimension`
about one agent and dimension of it, `packed` about all of them. Where it asks for one number, the measure stands in the
dimension's place (see `offline.py`). What is not in the view is never shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sotopia_rl_data.dimensions import dimension
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers, phrasing
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.schema import Episode, Measure, Message, Turn

if TYPE_CHECKING:
    from sotopia_rl_data.labelers.schemas.rubric import Rubric

BASELINE = -1
"""The `turn` of a view that no utterance stands behind."""


@dataclass(frozen=True, slots=True)
class View:
    """What is shown (`turns`, in order) and for whom and which turn it yields a number each."""

    agents: tuple[str, ...]
    turn: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Turnwise:
    """A schema that asks view by view. `task` and `question` name its wording.

    `views(turns, agents)` gives the views of an episode: `turns` are its utterances in order, `agents` those that are
    asked about. The numbers are the levels 0..scale, or with `in_range` whole numbers of the dimension's own range.
    With `levels` the wording of the importance levels is filled in. A `rubric` brings dimensions of its own.
    """

    id: str
    rule: str
    measure: Measure
    task: str
    question: str
    views: Callable[[Sequence[Turn], tuple[str, ...]], Iterator[View]]
    levels: bool = False
    in_range: bool = False
    needs_score: bool = False
    version: int = 2
    needs_judge: bool = True
    rubric: Rubric | None = None

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that can be asked about, where they are not SOTOPIA-EVAL's."""
        return () if self.rubric is None else tuple(one.name for one in self.rubric.dimensions)

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """The range of a raw attribution: 0 to `scale`, or the dimension's own."""
        allowed = self._allowed(scale, dimension)
        return float(allowed[0]), float(allowed[-1])

    def wording_sha256(self, scale: int = 3) -> str:
        """The hash of every wording file that goes into a question. Raises UsageError where the scale has none."""
        levels = phrasing.levels_wording(scale)  # raises where no such scale is worded, also where it is not used
        if self.rubric is not None:
            return sha256_of([phrasing.wordings_sha256([*self.rubric.wordings, *phrasing.VIEWED]), self.rubric.sha256])
        return phrasing.wordings_sha256(
            [self.task, self.question, *([levels] if self.levels else []), *phrasing.VIEWED]
        )

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """See `Schema.questions`."""
        wanted = self._wanted(episode, dimensions, evaluator)
        turns = sorted(episode.turns, key=lambda turn: turn.turn)
        in_task = self._in_task(scale)
        for view in self.views(turns, tuple(wanted)):
            seen = replace(episode, turns=view.turns)
            shared = phrasing.shared_messages(self.task, seen, handover=phrasing.VIEWED[-1], **in_task)
            pairs = [(agent, name) for agent in view.agents for name in wanted[agent]]
            packed = packing == "packed"
            for group in [pairs] if packed else [[pair] for pair in pairs]:
                yield self._question(episode, view, group, packed, scale, shared)

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The number of every slot. Raises BadAnswer where the text is not exactly what was asked for."""
        leaves = answers.check(question.answer_schema, answers.parse(text))
        return {slot: float(leaves[path]) for path, slot in question.slots.items()}

    def _wanted(self, episode: Episode, dimensions: Sequence[str], evaluator: str | None) -> dict[str, list[str]]:
        """Acting agent -> the dimensions to ask about: those with a score, or all where none is needed."""
        if self.needs_score:
            return phrasing.by_agent(phrasing.results(episode, dimensions, evaluator))
        acting = {turn.agent for turn in episode.turns}
        return {one.agent: list(dimensions) for one in episode.agents if one.agent in acting}

    def _question(
        self,
        episode: Episode,
        view: View,
        group: Sequence[tuple[str, str]],
        packed: bool,
        scale: int,
        shared: Sequence[Message],
    ) -> Question:
        keys = phrasing.agent_keys(episode)

        def called(name: str) -> str:
            return name if packed else self.measure

        grouped: dict[str, list[str]] = {}
        for agent, name in group:
            grouped.setdefault(agent, []).append(name)
        tail = phrasing.fill(
            self.question,
            turn=phrasing.turn_key(view.turn),
            agent=" and ".join(phrasing.named(episode, agent) for agent in grouped),
            dimensions="\n".join(f"- {keys[agent]}: {self._named(name, scale)}" for agent, name in group),
            form=_form({keys[agent]: [called(name) for name in names] for agent, names in grouped.items()}),
            scale=scale,
        )
        return Question(
            schema=self.id,
            episode=episode,
            messages=[*shared, {"role": "user", "content": tail}],
            answer_schema=answers.of_keys(
                {
                    keys[agent]: answers.of_keys(
                        {called(name): answers.one_of(self._allowed(scale, name)) for name in names}
                    )
                    for agent, names in grouped.items()
                }
            ),
            slots={(keys[agent], called(name)): Slot(agent, view.turn, name) for agent, name in group},
            scale=scale,
            cache_until=len(shared),
            measure=self.measure,
        )

    def _in_task(self, scale: int) -> dict[str, object]:
        if self.rubric is not None:
            return {**self.rubric.in_task(scale)}
        return {"scale": scale} | ({"levels": phrasing.wording(phrasing.levels_wording(scale))} if self.levels else {})

    def _allowed(self, scale: int, name: str) -> range:
        if self.rubric is not None:
            return self.rubric.criterion(name).allowed(scale)
        if not self.in_range:
            return range(scale + 1)
        about = dimension(name)
        return range(int(about.low), int(about.high) + 1)

    def _named(self, name: str, scale: int) -> str:
        allowed = self._allowed(scale, name)
        return f"{name}, {allowed[0]} to {allowed[-1]}" if self.in_range or self.rubric else name


def prefixes(turns: Sequence[Turn], agents: tuple[str, ...]) -> Iterator[View]:
    """For each utterance of these agents, the episode up to it and with it."""
    for place, turn in enumerate(turns):
        if turn.agent in agents:
            yield View((turn.agent,), turn.turn, tuple(turns[: place + 1]))


def _form(grouped: dict[str, list[str]]) -> str:
    parts = (f'"{key}": {{' + ", ".join(f'"{name}": NUMBER' for name in names) + "}" for key, names in grouped.items())
    return "{" + ", ".join(parts) + "}"
