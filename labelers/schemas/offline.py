"""The questions of schemas that show the whole episode and want something about each of an agent's utterances.

An answer is nested the same way in every such schema: agent key -> dimension -> what `Form` says. One call asks for
one score (`per-dimension`) or for all of an episode's (`packed`). Where it asks for one, the measure stands in the
dimension's place: the questions about an agent then have one answer schema, and share a cached prefix (providers put
the schema before the messages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers, phrasing
from sotopia_rl_data.labelers.schemas.phrasing import AgentScore, Packing
from sotopia_rl_data.schema import Episode, Measure, Message


@dataclass(frozen=True, slots=True)
class Form:
    """How the utterances behind one score are answered for, given the turn keys of the agent.

    `shown` is what stands in the prompt, `schema` its JSON schema (which may refer to the shared `defs`).
    """

    shown: Callable[[Sequence[str]], str]
    schema: Callable[[Sequence[str]], dict[str, Any]]
    defs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Words:
    """The wording: the files of the constant task and of the question, and what fills their placeholders."""

    task: str
    question: str
    in_task: Mapping[str, object] = field(default_factory=dict)
    in_question: Mapping[str, object] = field(default_factory=dict)


def questions(
    schema: str,
    measure: Measure,
    episode: Episode,
    dimensions: Sequence[str],
    evaluator: str | None,
    packing: Packing,
    scale: int,
    words: Words,
    form: Form,
) -> Iterator[Question]:
    """One question for each known score, or one for all of them; none where no score is known."""
    found = phrasing.results(episode, dimensions, evaluator)
    if not found:
        return
    shared = phrasing.shared_messages(words.task, episode, **words.in_task)
    packed = packing == "packed"
    for group in [found] if packed else [[one] for one in found]:
        yield _question(schema, measure, episode, shared, group, packed, scale, words, form)


def _question(
    schema: str,
    measure: Measure,
    episode: Episode,
    shared: Sequence[Message],
    group: Sequence[AgentScore],
    packed: bool,
    scale: int,
    words: Words,
    form: Form,
) -> Question:
    keys, grouped = phrasing.agent_keys(episode), phrasing.by_agent(group)
    turns = {agent: phrasing.turns_of(episode, agent) for agent in grouped}
    if not packed:
        grouped = {agent: [measure] for agent in grouped}
    shown, repeated = _shown(keys, grouped, turns, form)
    tail = phrasing.fill(
        words.question,
        results=phrasing.results_text(episode, group),
        turns=phrasing.turns_text(episode, grouped),
        form=shown,
        repeated=repeated,
        **words.in_question,
    )
    return Question(
        schema=schema,
        episode=episode,
        messages=[*shared, {"role": "user", "content": tail}],
        answer_schema=_answer_schema(keys, grouped, turns, form),
        slots={
            (keys[one.agent], one.dimension if packed else measure, phrasing.turn_key(turn)): Slot(
                one.agent, turn, one.dimension
            )
            for one in group
            for turn in turns[one.agent]
        },
        scale=scale,
        cache_until=len(shared),
        measure=measure,
    )


_REPEATED = ", and with DIMENSION repeated for each dimension that is listed above for the agent"


def _shown(
    keys: Mapping[str, str], grouped: Mapping[str, list[str]], turns: Mapping[str, list[int]], form: Form
) -> tuple[str, str]:
    """The answer's form as the prompt shows it; where an agent has several dimensions, they are written only once."""
    single = all(len(names) == 1 for names in grouped.values())
    parts = [
        f'"{keys[agent]}": {{"{names[0] if single else "DIMENSION"}": {form.shown(_turn_keys(turns[agent]))}}}'
        for agent, names in grouped.items()
    ]
    return "{" + ", ".join(parts) + "}", "" if single else _REPEATED


def _answer_schema(
    keys: Mapping[str, str], grouped: Mapping[str, list[str]], turns: Mapping[str, list[int]], form: Form
) -> dict[str, Any]:
    """The form as JSON schema. What an agent's dimensions share is defined once and referred to."""
    defs = {keys[agent]: form.schema(_turn_keys(turns[agent])) for agent in grouped}
    nested = {
        keys[agent]: answers.of_keys({name: answers.ref(keys[agent]) for name in names})
        for agent, names in grouped.items()
    }
    return answers.of_keys(nested) | {"$defs": {**form.defs, **defs}}


def _turn_keys(turns: Sequence[int]) -> list[str]:
    return [phrasing.turn_key(turn) for turn in turns]
