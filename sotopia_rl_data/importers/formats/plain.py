"""Our own format, for people with their own simulator: one JSON object for each episode, with the fields of `Episode`.

Documented in docs/formats.md. Nothing is lost silently: a key that the format does not have is an error, or else a
misspelled field would simply be left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

from sotopia_rl_data.dimensions import dimension
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers.dialogue import meta_text
from sotopia_rl_data.importers.formats.format import Format, Ranges, one_by_one, with_refusals
from sotopia_rl_data.importers.record import (
    INT32,
    UNNAMED,
    finite,
    identifier,
    items,
    kind,
    mapping,
    model_name,
    model_names,
    nested,
    text,
    unique,
)
from sotopia_rl_data.importers.scores import LoggedScores, RefusedScore
from sotopia_rl_data.schema import ACTION_TYPES, SPLITS, Agent, Episode, Observation, Score, Turn, environment_of

DIALECTS = ("plain", "legacy", "0.1.5", "head")
_NOUNS = (Episode, Agent, Turn, Score, Observation)
_KEYS: dict[type, frozenset[str]] = {noun: frozenset(f.name for f in fields(noun)) for noun in _NOUNS}


def read_plain(value: Any, ranges: Ranges) -> tuple[Episode, tuple[RefusedScore, ...]]:
    """The episode of a plain record, and its refused scores; `ranges` are those of dimensions of one's own. Raises
    InputError."""
    record = _known(_as_queried(value), Episode, "the record")
    agents = _agents(items(record, "agents"))
    ids = _AgentIds(agents)
    scores = _scores(items(record, "scores", default=True), ids, ranges)
    scenario = text(record, "scenario", "")
    episode = Episode(
        episode_id=identifier(record, "episode_id"),
        environment_id=_environment_id(record, scenario),
        agents=agents,
        turns=_turns(items(record, "turns"), ids),
        scores=tuple(scores.scores),
        observations=_observations(items(record, "observations", default=True), ids),
        source=text(record, "source", "plain"),
        dialect=_dialect(record),
        codename=text(record, "codename", ""),
        scenario=scenario,
        relationship=text(record, "relationship", ""),
        models=model_names(items(record, "models", default=True)),
        tag=text(record, "tag", ""),
        reasoning=text(record, "reasoning", ""),
        meta=_meta(record, "the record"),
    )
    return episode, tuple(scores.refused)


def _as_queried(value: Any) -> Any:
    """A record as it was before `query` wrote it: lists in a CSV are JSON, and `split` is not a field of an episode."""
    if not isinstance(value, Mapping):
        return value
    lists = ("agents", "turns", "scores", "observations", "models")
    row = {key: nested(one, f"`{key}`") if key in lists else one for key, one in value.items()}
    if "environment" in row and "environment_id" not in row:  # what scenario files used to call it
        row = {"environment_id" if key == "environment" else key: one for key, one in row.items()}
    if row.get("split") in SPLITS:
        del row["split"]
    return row


def _meta(record: Mapping[str, Any], what: str) -> str | None:
    """The text of the object under `meta`, which may be text already."""
    value = nested(record.get("meta"), f"`meta` of {what}")
    return None if value is None else meta_text(mapping(value, f"`meta` of {what}"))


FORMAT = Format(
    "plain",
    keys=(frozenset({"turns"}), frozenset({"agents"})),
    reader=lambda beside: one_by_one(lambda record, _: with_refusals(*read_plain(record.value, beside.ranges), record))(
        beside
    ),
)


class _AgentIds:
    """The agents' ids, looked up by id, or by a name that only one agent has."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        names = Counter(a.name for a in agents)
        self._ids = {a.name: a.agent for a in agents if names[a.name] == 1} | {a.agent: a.agent for a in agents}

    def find(self, value: Any, where: str) -> str:
        """The id that `value` stands for. Raises InputError, which names the place of `value`: `where`."""
        key = str(value) if isinstance(value, int) else value
        if isinstance(key, str) and key in self._ids:
            return self._ids[key]
        shown = repr(value) if isinstance(value, (str, int)) else kind(value)
        known = ", ".join(sorted(set(self._ids.values())))
        raise InputError(f"{where} names {shown}, which is not one of the agents {known}.")


def _environment_id(record: Mapping[str, Any], scenario: str) -> str:
    if record.get("environment_id") is not None:
        return identifier(record, "environment_id")
    if not scenario.strip():
        raise InputError("`environment_id` and `scenario` are both missing: it does not say which scenario it is of.")
    return environment_of(scenario)


def _dialect(record: Mapping[str, Any]) -> str:
    name = text(record, "dialect", "plain")
    if name not in DIALECTS:
        raise InputError(f"`dialect` is {name!r}; there are {', '.join(DIALECTS)}.")
    return name


def _known(value: Any, noun: type, what: str) -> Mapping[str, Any]:
    """`value`, an object whose keys are all fields of `noun`. Raises InputError."""
    record, keys = mapping(value, what), _KEYS[noun]
    unknown = sorted(str(key) for key in set(record) - keys)
    if unknown:
        raise InputError(f"{what} has the unknown key {unknown[0]!r}; it may have {', '.join(sorted(keys))}.")
    return record


def _agents(values: Sequence[Any]) -> tuple[Agent, ...]:
    if not values:
        raise InputError("`agents` is empty.")
    records = [_known(value, Agent, f"agent {i}") for i, value in enumerate(values)]
    ids = [identifier(r, "agent" if r.get("agent") is not None else "name") for r in records]
    explicit = [agent for agent, r in zip(ids, records, strict=True) if r.get("agent") is not None]
    if len(set(explicit)) < len(explicit):
        raise InputError(f"two agents have the same id: {', '.join(ids)}.")
    return tuple(
        Agent(
            agent=agent,
            name=text(r, "name", agent),
            model=model_name(r.get("model")),
            goal=text(r, "goal", ""),
            background=text(r, "background", ""),
            secret=text(r, "secret", ""),
            meta=_meta(r, f"agent {agent}"),
        )
        for agent, r in zip(unique(ids), records, strict=True)
    )


def _turns(values: Sequence[Any], ids: _AgentIds) -> tuple[Turn, ...]:
    turns = [_turn(value, i, ids) for i, value in enumerate(values)]
    seen = set[tuple[int, str]]()
    for one in turns:
        if (one.turn, one.agent) in seen:
            raise InputError(f"agent {one.agent} acts twice at turn {one.turn}.")
        seen.add((one.turn, one.agent))
    if any(a.turn > b.turn for a, b in pairwise(turns)):
        raise InputError("`turns` are not in ascending order.")
    return tuple(turns)


def _turn(value: Any, place: int, ids: _AgentIds) -> Turn:
    where = f"turns[{place}]"
    r = _known(value, Turn, where)
    action_type, failed = text(r, "action_type", "speak"), r.get("failed")
    if action_type not in ACTION_TYPES:
        raise InputError(f"{where} has the action type {action_type!r}; there are {', '.join(ACTION_TYPES)}.")
    words = text(r, "text", "")
    if words and action_type in ("none", "leave"):
        raise InputError(f"{where} is a {action_type!r} with a text; only the other action types have one.")
    if not (failed is None or isinstance(failed, bool)):
        raise InputError(f"{where} has a `failed` that is {kind(failed)}, not true, false or null.")
    actor = ids.find(r.get("agent"), where)
    to = tuple(dict.fromkeys(ids.find(name, f"`to` of {where}") for name in items(r, "to", default=True)))
    return Turn(_number(r, place, where), actor, action_type, words, to, failed, _meta(r, where))


def _number(record: Mapping[str, Any], place: int, where: str) -> int:
    turn = record.get("turn", place)
    if isinstance(turn, bool) or not isinstance(turn, int) or not 0 <= turn < INT32:
        raise InputError(f"{where} has a `turn` that is not a whole number from 0.")
    return turn


def _observations(values: Sequence[Any], ids: _AgentIds) -> tuple[Observation, ...]:
    observations = []
    for i, value in enumerate(values):
        where = f"observations[{i}]"
        r = _known(value, Observation, where)
        turn = _number({"turn": r.get("turn")}, 0, where)
        observations.append(Observation(turn, ids.find(r.get("agent"), where), text(r, "text")))
    keys = [(o.turn, o.agent) for o in observations]
    if len(set(keys)) != len(keys):
        raise InputError("an agent has two observations at one turn.")
    return tuple(sorted(observations, key=lambda o: o.turn))


def _scores(values: Sequence[Any], ids: _AgentIds, ranges: Ranges) -> LoggedScores:
    scores = LoggedScores()
    for i, value in enumerate(values):
        where = f"scores[{i}]"
        r = _known(value, Score, where)
        agent = ids.find(r.get("agent"), where)
        named = text(r, "dimension")
        ends: tuple[float, float] | None
        if r.get("low") is not None and r.get("high") is not None:
            ends = finite(r["low"], f"the `low` of {where}"), finite(r["high"], f"the `high` of {where}")
        else:
            ends = ranges.get(named)
        if ends is None:
            try:
                named = dimension(named).name
            except UsageError as error:
                names = error.hint.removeprefix("name one of: ")
                declare = f"--score {named}=LOW..HIGH declares one of your own"
                raise InputError(f"{error.message.rstrip('.')}; there are {names}; {declare}.") from error
        if r.get("score") is not None:  # a score is null where the evaluator failed
            scores.add(agent, named, r["score"], model_name(r.get("evaluator")) or UNNAMED, ends)
    keys = [(s.agent, s.dimension, s.evaluator) for s in scores.scores]
    if len(set(keys)) != len(keys):
        raise InputError("an evaluator scores an agent twice on one dimension.")
    return scores
