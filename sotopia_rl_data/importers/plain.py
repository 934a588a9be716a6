"""Our own format, for people with their own simulator: one JSON object an episode, the fields of `Episode`.

Documented in docs/formats.md. Nothing is lost silently: a key that the format does not have is an error, since a
misspelled one would otherwise be a field left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

from sotopia_rl_data.dimensions import dimension
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers.grouping import environment_of
from sotopia_rl_data.importers.messages import unique
from sotopia_rl_data.importers.models import UNNAMED, model_name, model_names
from sotopia_rl_data.importers.record import INT32, identifier, items, kind, mapping, text
from sotopia_rl_data.importers.scores import Refused, check_score
from sotopia_rl_data.schema import ACTION_TYPES, Agent, Episode, Observation, Score, Turn

_EPISODE_KEYS = frozenset(f.name for f in fields(Episode))
DIALECTS = ("plain", "legacy", "0.1.5", "head")
_AGENT_KEYS = frozenset(f.name for f in fields(Agent))
_TURN_KEYS = frozenset(f.name for f in fields(Turn))
_SCORE_KEYS = frozenset(f.name for f in fields(Score))
_OBSERVATION_KEYS = frozenset(f.name for f in fields(Observation))


def read_plain(value: Any) -> tuple[Episode, tuple[Refused, ...]]:
    """The episode of a plain record, and the scores that had to be refused. Raises InputError."""
    record = _known(value, _EPISODE_KEYS, "the record")
    agents = _agents(items(record, "agents"))
    who = _Names(agents)
    scores, refused = _scores(items(record, "scores", default=True), who)
    scenario = text(record, "scenario", "")
    given = record.get("environment_id") is not None
    return (
        Episode(
            episode_id=identifier(record, "episode_id"),
            environment_id=identifier(record, "environment_id") if given else _environment(scenario),
            agents=agents,
            turns=_turns(items(record, "turns"), who),
            scores=scores,
            observations=_observations(items(record, "observations", default=True), who),
            source=text(record, "source", "plain"),
            dialect=_dialect(text(record, "dialect", "plain")),
            codename=text(record, "codename", ""),
            scenario=scenario,
            relationship=text(record, "relationship", ""),
            models=model_names(items(record, "models", default=True)),
            tag=text(record, "tag", ""),
            reasoning=text(record, "reasoning", ""),
        ),
        refused,
    )


class _Names:
    """Finds an agent's id by the id itself, or by its name where only one has it."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self._ids = {a.agent for a in agents}
        names = [a.name for a in agents]
        self._by_name = {a.name: a.agent for a in agents if names.count(a.name) == 1}

    def __call__(self, value: Any, where: str) -> str:
        found = str(value) if isinstance(value, int) else value
        if isinstance(found, str) and (found in self._ids or found in self._by_name):
            return found if found in self._ids else self._by_name[found]
        shown = repr(value) if isinstance(value, (str, int)) else kind(value)
        raise InputError(f"{where} names {shown}, which is not one of the agents {', '.join(sorted(self._ids))}.")


def _environment(scenario: str) -> str:
    if not scenario.strip():
        raise InputError("`environment_id` and `scenario` are both missing: it does not say which scenario it is of.")
    return environment_of(scenario)


def _dialect(name: str) -> str:
    if name not in DIALECTS:
        raise InputError(f"`dialect` is {name!r}; there are {', '.join(DIALECTS)}.")
    return name


def _known(value: Any, keys: frozenset[str], what: str) -> Mapping[str, Any]:
    record = mapping(value, what)
    odd = sorted(str(key) for key in set(record) - keys)
    if odd:
        raise InputError(f"{what} has the unknown key {odd[0]!r}; it may have {', '.join(sorted(keys))}.")
    return record


def _agents(values: Sequence[Any]) -> tuple[Agent, ...]:
    if not values:
        raise InputError("`agents` is empty.")
    records = [_known(value, _AGENT_KEYS, f"agent {i}") for i, value in enumerate(values)]
    ids = [identifier(r, "agent" if r.get("agent") is not None else "name") for r in records]
    if len({i for i, r in zip(ids, records, strict=True) if r.get("agent") is not None}) < sum(
        r.get("agent") is not None for r in records
    ):
        raise InputError(f"two agents have the same id: {', '.join(ids)}.")
    return tuple(
        Agent(
            agent=agent,
            name=text(r, "name", agent),
            model=model_name(r.get("model")),
            goal=text(r, "goal", ""),
            background=text(r, "background", ""),
            secret=text(r, "secret", ""),
        )
        for agent, r in zip(unique(ids), records, strict=True)
    )


def _turns(values: Sequence[Any], who: _Names) -> tuple[Turn, ...]:
    turns = [_turn(value, i, who) for i, value in enumerate(values)]
    keys = [(t.turn, t.agent) for t in turns]
    if len(set(keys)) != len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise InputError(f"agent {twice[1]} acts twice at turn {twice[0]}.")
    if any(a.turn > b.turn for a, b in pairwise(turns)):
        raise InputError("`turns` are not in ascending order.")
    return tuple(turns)


def _turn(value: Any, place: int, who: _Names) -> Turn:
    where = f"turns[{place}]"
    r = _known(value, _TURN_KEYS, where)
    action_type, failed = text(r, "action_type", "speak"), r.get("failed")
    if action_type not in ACTION_TYPES:
        raise InputError(f"{where} has the action type {action_type!r}; there are {', '.join(ACTION_TYPES)}.")
    said = text(r, "text", "")
    if said and action_type in ("none", "leave"):
        raise InputError(f"{where} is a {action_type!r} with a text; only the other action types have one.")
    if not (failed is None or isinstance(failed, bool)):
        raise InputError(f"{where} has a `failed` that is {kind(failed)}, not true, false or null.")
    actor = who(r.get("agent"), where)
    to = tuple(dict.fromkeys(who(one, f"`to` of {where}") for one in items(r, "to", default=True)))
    return Turn(_number(r, place, where), actor, action_type, said, to, failed)


def _number(record: Mapping[str, Any], place: int, where: str) -> int:
    turn = record.get("turn", place)
    if isinstance(turn, bool) or not isinstance(turn, int) or not 0 <= turn < INT32:
        raise InputError(f"{where} has a `turn` that is not a whole number from 0.")
    return turn


def _observations(values: Sequence[Any], who: _Names) -> tuple[Observation, ...]:
    found = []
    for i, value in enumerate(values):
        where = f"observations[{i}]"
        r = _known(value, _OBSERVATION_KEYS, where)
        turn = _number({"turn": r.get("turn")}, 0, where)
        found.append(Observation(turn, who(r.get("agent"), where), text(r, "text")))
    keys = [(o.turn, o.agent) for o in found]
    if len(set(keys)) != len(keys):
        raise InputError("an agent has two observations at one turn.")
    return tuple(sorted(found, key=lambda o: o.turn))


def _scores(values: Sequence[Any], who: _Names) -> tuple[tuple[Score, ...], tuple[Refused, ...]]:
    scores: list[Score] = []
    refused: list[Refused] = []
    for i, value in enumerate(values):
        where = f"scores[{i}]"
        r = _known(value, _SCORE_KEYS, where)
        agent = who(r.get("agent"), where)
        named = _dimension(text(r, "dimension"))
        evaluator = model_name(r.get("evaluator")) or UNNAMED
        if r.get("score") is None:
            continue  # the evaluator failed: missing
        try:
            scores.append(Score(agent, named, check_score(named, r["score"]), evaluator))
        except InputError as error:
            refused.append(Refused(f"{error.message.rstrip('.')}, and was left out.", agent, named))
    keys = [(s.agent, s.dimension, s.evaluator) for s in scores]
    if len(set(keys)) != len(keys):
        raise InputError("an evaluator scores an agent twice on one dimension.")
    return tuple(scores), tuple(refused)


def _dimension(name: str) -> str:
    try:
        return dimension(name).name
    except UsageError as error:
        raise InputError(
            f"{error.message.rstrip('.')}; there are {error.hint.removeprefix('name one of: ')}."
        ) from error
