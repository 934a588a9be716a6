"""sotopia-eval: a judge reads a whole episode and scores each agent on each dimension, with reasons.

The dimensions and ranges are SOTOPIA-EVAL's (Zhou et al. 2024, arXiv 2310.11667, section 3); the wording is our own.
An answer is nested: agent key -> dimension -> {"reasoning", "score"}. `packed` asks about every agent and dimension in
one call for each episode, `per-dimension` about one agent and dimension at a time. This is asked, read and kept like an
attribution schema, but its numbers are about the episode (turn -1), so it is not among the schemas of `label`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sotopia_rl_data import evaluations
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas import answers, phrasing
from sotopia_rl_data.labelers.schemas.phrasing import NEWEST, Packing, Wording
from sotopia_rl_data.labelers.schemas.turnwise import BASELINE
from sotopia_rl_data.schema import Episode, Measure, Message

ID = evaluations.SCHEMA
_TASK, _QUESTION, _HANDOVER = "evaluation.v1", "evaluation.question.v1", "handover.evaluation.v1"
_REASONING, _SCORE = "reasoning", "score"
_REPEATED = ", and with DIMENSION repeated for each dimension that is listed above for the agent"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is asked and what is accepted. `of` says that a slot is about a whole episode."""

    id: str = ID
    version: int = 1
    measure: Measure = "evaluation"
    rule: str = ""
    needs_judge: bool = True
    needs_score: bool = False
    of: str = "episode"
    wording: Wording = NEWEST

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """The dimension's own range, whatever the scale."""
        allowed = phrasing.whole_numbers(dimension)
        return float(allowed[0]), float(allowed[-1])

    def wording_sha256(self, scale: int = 3) -> str:
        """The hash of every wording file that goes into a question."""
        return phrasing.wordings_sha256([_TASK, _QUESTION, *phrasing.shared(self.wording), _HANDOVER])

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """The questions that evaluate the episode; none where it has no turns."""
        if not episode.turns:
            return
        text = phrasing.episode_text(episode, self.wording)
        shared = phrasing.shared_messages(_TASK, text, handover=_HANDOVER, version=self.wording)
        pairs = [(agent.agent, name) for agent in episode.agents for name in dimensions]
        for group in phrasing.groups(pairs, packing):
            yield _question(episode, group, shared, self.wording)

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The score of every slot. Raises BadAnswer where the text is not exactly what was asked for."""
        return answers.numbers(question, text)

    def reasons(self, question: Question, text: str) -> dict[Slot, str]:
        """The reasons that are not empty. `text` is one that `read` accepts."""
        leaves = answers.check(question.answer_schema, answers.parse(text))
        reasons = {slot: str(leaves[*path[:-1], _REASONING]).strip() for path, slot in question.slots.items()}
        return {slot: reason for slot, reason in reasons.items() if reason}


def _question(
    episode: Episode, group: Sequence[tuple[str, str]], shared: Sequence[Message], wording: Wording
) -> Question:
    keys = phrasing.agent_keys(episode)
    grouped = phrasing.by_agent(group)
    single = len(group) == 1
    tail = phrasing.fill(
        _QUESTION,
        dimensions="\n".join(
            f"- {phrasing.called(episode, agent, wording)}: {_ranges(names)}" for agent, names in grouped.items()
        ),
        repeated="" if single else _REPEATED,
        form=_form({keys[agent]: names[0] if single else "DIMENSION" for agent, names in grouped.items()}),
    )
    return Question(
        schema=ID,
        episode=episode,
        messages=[*shared, {"role": "user", "content": tail}],
        answer_schema=_answer_schema({keys[agent]: names for agent, names in grouped.items()}),
        slots={(keys[agent], name, _SCORE): Slot(agent, BASELINE, name) for agent, name in group},
        cache_until=len(shared),
        measure="evaluation",
    )


def _ranges(names: Sequence[str]) -> str:
    allowed = {name: phrasing.whole_numbers(name) for name in names}
    return ", ".join(f"{name} ({numbers[0]} to {numbers[-1]})" for name, numbers in allowed.items())


def _form(named: dict[str, str]) -> str:
    inner = f'{{"{_REASONING}": "TEXT", "{_SCORE}": SCORE}}'
    return "{" + ", ".join(f'"{key}": {{"{name}": {inner}}}' for key, name in named.items()) + "}"


def _answer_schema(named: dict[str, list[str]]) -> dict[str, Any]:
    """The form as JSON schema. Each dimension's part is the same for all agents: it is defined once and referred to."""
    names = dict.fromkeys(chain.from_iterable(named.values()))
    defs = {
        name: answers.of_keys({_REASONING: answers.free_text(), _SCORE: answers.one_of(phrasing.whole_numbers(name))})
        for name in names
    }
    nested = {key: answers.of_keys({name: answers.ref(name) for name in asked}) for key, asked in named.items()}
    return answers.of_keys(nested) | {"$defs": defs}


SOTOPIA_EVAL = Evaluation()
