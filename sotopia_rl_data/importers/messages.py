"""The raw messages of an episode log: who took part, what each one was shown, and what each one did.

`messages` is a list of turns, a turn a list of [sender, receiver, text]: k from Environment to the agents, then k from
the agents to Environment. The position of a turn in that list is the utterance's turn for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.actions import LoggedAction, parse_action
from sotopia_rl_data.importers.record import kind, unique
from sotopia_rl_data.schema import Observation, Turn

ENVIRONMENT = "Environment"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Who took part (`names` and `ids`, in speaking order), what they saw and did, and their actions as logged."""

    names: tuple[str, ...]
    ids: tuple[str, ...]
    turns: tuple[Turn, ...]
    observations: tuple[Observation, ...]
    rendered: tuple[str, ...]

    def opening(self, agent: str) -> str:
        """The first observation of `agent` (an id), "" where there is none."""
        return next((o.text for o in self.observations if o.agent == agent), "")


def read_messages(raw: Any, ids: Sequence[str]) -> Dialogue:
    """The dialogue that `raw` logs; `ids` are the agents' in speaking order ([]: their names are their ids).

    Raises InputError where the messages do not have the library's shape, or an action none of its five forms.
    """
    log = [[_message(m, t) for m in _list(turn, f"turn {t}")] for t, turn in enumerate(_list(raw, "`messages`"))]
    names = _participants(log)
    if ids and len(ids) != len(names):
        raise InputError(f"it names {len(ids)} agents, but {len(names)} take part in its messages.")
    agents = unique(ids or names)
    order = RoundRobin(len(names))
    places = {name: [i for i, one in enumerate(names) if one == name] for name in names}
    turns: list[Turn] = []
    observations: list[Observation] = []
    rendered: list[str] = []
    for t, messages in enumerate(log):
        shown, said = _sort(messages, places, t)
        observations += [Observation(t, agents[i], text) for i, text in shown]
        rendered += [text for _, text in said]
        actions = [(i, _action(text, t)) for i, text in said]
        acted = order.actors(t, actions)
        turns += [_turn(t, i, action, names, agents) for i, action in actions if i in acted]
    return Dialogue(tuple(names), tuple(agents), tuple(turns), tuple(observations), tuple(rendered))


class RoundRobin:
    """Whose actions a turn holds: those who did something; in an all-no-op turn the one whose turn it was.

    The log writes "did nothing" both for a chosen no-op and for everyone who had to wait. As long as the agents acted
    strictly in order, an all-no-op turn belongs to the one who was due (turn % k, counted from the first turn that has
    actions: a scripted log opens with observations alone). Once somebody acted out of order nobody is known to be due.
    """

    def __init__(self, agents: int) -> None:
        self._agents = agents
        self._first: int | None = None
        self._in_order = True

    def actors(self, turn: int, actions: Sequence[tuple[int, LoggedAction]]) -> list[int]:
        """The agents (by place in the speaking order) whose actions at `turn` are utterances. Call in turn order."""
        if not actions:
            return []
        if self._first is None:
            self._first = turn
        due = (turn - self._first) % self._agents
        acted = [agent for agent, action in actions if action.visible]
        if acted:
            self._in_order = self._in_order and acted == [due]
            return acted
        return [due] if self._in_order and due in (agent for agent, _ in actions) else []


def _list(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{what} is {kind(value)}, not a list of messages.")
    return value


def _message(value: Any, turn: int) -> tuple[str, str, str]:
    if isinstance(value, (list, tuple)) and len(value) == 3:
        sender, receiver, text = value
        if isinstance(sender, str) and isinstance(receiver, str) and isinstance(text, str):
            return sender, receiver, text
    raise InputError(f"turn {turn} has a message that is not [sender, receiver, text].")


def _participants(log: Sequence[Sequence[tuple[str, str, str]]]) -> list[str]:
    """The agents' names in speaking order: the receivers of the first observations, or else the first senders."""
    for turn in log:
        shown = [receiver for sender, receiver, _ in turn if sender == ENVIRONMENT and receiver != ENVIRONMENT]
        acting = [sender for sender, _, _ in turn if sender != ENVIRONMENT]
        if shown or acting:
            return shown or acting
    raise InputError("its messages are empty.")


def _sort(
    messages: Sequence[tuple[str, str, str]], places: Mapping[str, Sequence[int]], turn: int
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """What was shown and what was said at `turn`, as (place in the speaking order, text). Of two agents of the same
    name (`places` has both), the one who speaks first is named first."""
    shown: dict[int, str] = {}
    said: dict[int, str] = {}
    for sender, receiver, text in messages:
        mine, who = (shown, receiver) if sender == ENVIRONMENT else (said, sender)
        if who == ENVIRONMENT:  # the environment's notes to itself: no agent sees them
            continue
        if who not in places:
            raise InputError(f"turn {turn} names {who!r}, who is not among the agents {', '.join(places)}.")
        free = next((place for place in places[who] if place not in mine), None)
        if free is None:
            raise InputError(f"turn {turn} has two {'observations' if mine is shown else 'actions'} of {who!r}.")
        mine[free] = text
    return list(shown.items()), list(said.items())


def _action(text: str, turn: int) -> LoggedAction:
    try:
        return parse_action(text)
    except InputError as error:
        raise InputError(f"turn {turn}: {error.message}") from error


def _turn(turn: int, place: int, action: LoggedAction, names: Sequence[str], agents: Sequence[str]) -> Turn:
    unknown = [name for name in action.to if name not in names]
    if unknown:
        raise InputError(f"turn {turn} is private to {', '.join(unknown)}, who is not among the agents.")
    to = tuple(agents[i] for i, name in enumerate(names) if name in action.to)
    return Turn(turn, agents[place], action.action_type, action.text, to)
