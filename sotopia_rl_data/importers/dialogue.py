"""From who said what to an Episode: what all formats of plain dialogues have in common.

They have speakers and texts, and seldom goals, backgrounds or a scenario. A speaker is an agent; agents come in the
order in which they first speak. Dialogues of the same scenario are of one environment; a dialogue without a scenario,
and without the instructions that stand for one, has an environment of its own. Whatever else a source says is kept as
`meta`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.record import INT32, kind
from sotopia_rl_data.schema import ACTION_TYPES, ActionType, Agent, Episode, Turn, environment_of

EPISODE_KEYS = (
    "episode_id",
    "conversation_id",
    "conversation",
    "dialogue_id",
    "dialogue",
    "dialog_id",
    "dialog",
    "session_id",
    "thread_id",
    "chat_id",
)
"""The keys under which sources name the dialogue of a record, in the order in which they are looked for."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """What `speaker` said or did. `turn` is its number where the source has one."""

    speaker: str
    text: str
    action_type: str = "speak"
    turn: int | None = None
    to: tuple[str, ...] = ()
    failed: bool | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Speaker:
    """What a source says of a speaker beside its utterances."""

    name: str = ""
    goal: str = ""
    background: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a source says of a whole dialogue. `instructions` stand for the scenario where it has none."""

    episode_id: str
    source: str
    environment_id: str = ""
    scenario: str = ""
    instructions: str = ""
    tag: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def dialogue(scene: Setting, utterances: Sequence[Utterance], people: Mapping[str, Speaker] | None = None) -> Episode:
    """The Episode of a dialogue; `people` by speaker. Raises InputError where it cannot be one."""
    if not utterances:
        raise InputError("nobody says anything in it.")
    known = people or {}
    speakers = list(dict.fromkeys(one.speaker for one in utterances))
    listed = dict.fromkeys([*speakers, *(name for one in utterances for name in one.to)])
    environment = scene.environment_id
    if not environment:
        described = scene.scenario.strip() or scene.instructions.strip()
        environment = environment_of(described) if described else scene.episode_id
    return Episode(
        episode_id=scene.episode_id,
        environment_id=environment,
        agents=tuple(_agent(speaker, known.get(speaker, Speaker())) for speaker in listed),
        turns=tuple(_turns(utterances)),
        source=scene.source,
        scenario=scene.scenario,
        tag=scene.tag,
        meta=meta_text(scene.meta),
    )


def _agent(speaker: str, person: Speaker) -> Agent:
    return Agent(
        speaker,
        person.name or speaker,
        goal=person.goal,
        background=person.background,
        meta=meta_text(person.meta),
    )


def _turns(utterances: Sequence[Utterance]) -> list[Turn]:
    """The turns in the order of the source's numbers where every utterance has one, and no agent has one twice; or
    else in the order of the utterances."""
    numbers = [(one.turn, one.speaker) for one in utterances if one.turn is not None]
    numbered = len(set(numbers)) == len(utterances)
    in_order = sorted(utterances, key=lambda one: one.turn or 0) if len(numbers) == len(utterances) else utterances
    return [
        Turn(
            one.turn if numbered and one.turn is not None else place,
            one.speaker,
            _action(one),
            one.text,
            one.to,
            one.failed,
            meta_text(one.meta),
        )
        for place, one in enumerate(in_order)
    ]


def _action(utterance: Utterance) -> ActionType:
    for known in ACTION_TYPES:
        if known == utterance.action_type:
            if utterance.text and known in ("none", "leave"):
                raise InputError(f"an utterance is a {known!r} with a text; only the other action types have one.")
            return known
    raise InputError(
        f"an utterance has the action type {utterance.action_type!r}; there are {', '.join(ACTION_TYPES)}."
    )


def whole_number(value: Any, what: str) -> int | None:
    """`value` as a turn's number; None where there is none. Raises InputError."""
    if value is None:
        return None
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < INT32:
        shown = repr(value[:40]) if isinstance(value, str) else kind(value)
        raise InputError(f"{what} is {shown}, not a whole number from 0.")
    return number


def meta_text(meta: Mapping[str, Any]) -> str | None:
    """`meta` as the text of a JSON object, without what is null; None where nothing is left."""
    kept = {str(key): value for key, value in meta.items() if value is not None}
    if not kept:
        return None
    try:
        return json.dumps(kept, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except ValueError:  # an infinity
        return json.dumps(_finite(kept), ensure_ascii=False, sort_keys=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def named(record: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of `keys` that the record has a value for."""
    for key in keys:
        if record.get(key) is not None:
            return key
    return None


def content_id(prefix: str, *content: Any) -> str:
    """An id for a dialogue that has none: the same content has the same id."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, default=str)
    return f"{prefix}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"
