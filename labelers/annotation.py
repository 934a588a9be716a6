"""The file that people annotate: the questions of a schema in random order, without any judge's answers.

There is one row for each utterance and dimension. The rows of a question stay together, and the first of them holds
what the annotator reads.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sotopia_rl_data.dimensions import with_scored
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.judges.human import slot_key
from sotopia_rl_data.labelers.plan import (
    DEFAULT_PRESET,
    DEFAULT_SCALE,
    DEFAULT_SCHEMA,
    Elicitation,
    LabelPlan,
    dimensions_of,
    episodes_of,
    with_episodes,
)
from sotopia_rl_data.labelers.schemas import own_dimensions, phrasing
from sotopia_rl_data.labelers.schemas import schema as find_schema
from sotopia_rl_data.labelers.selection import read_selection
from sotopia_rl_data.outputs import aside, guarded
from sotopia_rl_data.rewards import preset
from sotopia_rl_data.store import Store

COLUMNS = ("item", "episode_id", "agent", "turn", "dimension", "raw", "allowed", "about", "episode_score", "shown")


def write_template(
    store: Store,
    source: str | Path | None,
    out: Path,
    asked: Elicitation,
    *,
    seed: int = 0,
    questions: int | None = None,
) -> int:
    """Write the CSV to fill in and return how many rows it has. `asked` says what is asked, as in `label`; its judges,
    samples and sampling do not count here. `questions` is how many questions to draw by `seed` (None: all).

    Raises UsageError, NotFound, InputError, StoreError. A file that exists is never overwritten.
    """
    if out.exists():
        raise UsageError(
            f"The file {out} exists already and may hold annotations, so it is not overwritten.",
            "name another file with -o",
        )
    schema = find_schema(asked.schema or DEFAULT_SCHEMA)
    if not schema.needs_judge:
        raise UsageError(
            f"The schema {schema.id!r} asks no judge, so it has no questions to annotate.",
            "name a schema that asks judges: --schema direct",
        )
    own = own_dimensions(schema)
    named = asked.dimensions or own or preset(DEFAULT_PRESET).weighted
    dimensions = dimensions_of(named, own or with_scored(name.strip() for name in named))  # `with_episodes` looks
    scale = DEFAULT_SCALE if asked.scale is None else asked.scale
    schema.wording_sha256(scale)  # raises UsageError where no prompt explains this scale
    only = None if asked.only is None else read_selection(asked.only, own or with_scored(dimensions))
    plan = LabelPlan(schema, dimensions, asked.evaluator or "", scale=scale, only=only)
    version, plan = with_episodes(plan, store, source)
    files = [path for paths in version.files("episodes").values() for path in paths]

    def every() -> Iterator[Question]:
        return (question for episode in episodes_of(files) for question in plan.questions(episode))

    drawn = _drawn(every, seed, questions)
    rows = [row for item, question in enumerate(drawn, start=1) for row in _rows(plan, item, question)]
    if not rows:
        named = "" if only is None else " that the list of --only names"
        raise InputError(
            f"The schema {schema.id!r} asks nothing about the episodes of {version.ref}{named}.",
            f"see which turns and scores its episodes have: sotopia-rl-data show {version.ref}",
        )
    with aside(out) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return len(rows)


def _drawn(every: Callable[[], Iterable[Question]], seed: int, count: int | None) -> list[Question]:
    """`count` of the questions (None: all) in random order. They are made twice, since there may be too many to
    hold."""
    order = list(range(sum(1 for _ in every())))
    random.Random(seed).shuffle(order)
    place_of = {number: place for place, number in enumerate(order[:count])}
    drawn = {place_of[number]: question for number, question in enumerate(every()) if number in place_of}
    return [drawn[place] for place in sorted(drawn)]


def _rows(plan: LabelPlan, item: int, question: Question) -> Iterator[list[object]]:
    for place, slot in enumerate(question.slots.values()):
        shown = question.messages[1]["content"] if place == 0 else "(as above)"
        score = question.episode.score(slot.agent, slot.dimension, plan.evaluator) if _shows_score(plan) else None
        score_text = "" if score is None else f"{score:g}"
        key = (guarded(cell) if isinstance(cell, str) else cell for cell in slot_key(question, slot))
        yield [item, *key, "", _allowed(plan, slot), _about(question, slot), score_text, shown]


def _allowed(plan: LabelPlan, slot: Slot) -> str:
    """The range of the number; for a rubric's dimension, also what the dimension and its levels mean."""
    low, high = plan.schema.bounds(plan.scale, slot.dimension)
    if plan.rubric is None:
        return f"{low:g} to {high:g}"
    return plan.rubric.criterion(slot.dimension).text(plan.scale).removeprefix(f"- {slot.dimension}, ")


def _shows_score(plan: LabelPlan) -> bool:
    """Whether judges are shown the episode's score, as in all schemas that attribute it with hindsight."""
    return plan.schema.measure in ("importance", "key") and plan.schema.id != "direct-online"


def _about(question: Question, slot: Slot) -> str:
    agent = phrasing.named(question.episode, slot.agent)
    if slot.turn < 0:
        return f"{agent}: the episode as shown"
    turn = next(t for t in question.episode.turns if (t.agent, t.turn) == (slot.agent, slot.turn))
    return f"{agent}, {phrasing.turn_key(slot.turn)} ({turn.action_type}): {turn.text}"
