"""The raw messages of an episode log: who took part, what each agent was shown, and what each agent did.

`messages` is a list of turns. A turn is a list of [sender, receiver, text]: k messages from Environment to the agents,
then k from the agents to Environment. A turn's position in the list is the `turn` of its utterances, in every dataset.

An action is rendered in one of five forms, the same in every version of the sotopia library (git after January 2026
puts a space in front and may name the only agents who see it):

    did nothing | left the conversation | said: "…" | [non-verbal communication] … | [action] …
    [private to ['Ann Lee']]  said: "…"

A form is told by how the text begins and is never searched for further on: speech may quote any of the forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.record import kind, nested, unique
from sotopia_rl_data.schema import MOST_AGENTS, ActionType, Observation, Turn

ENVIRONMENT = "Environment"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Who took part (`names` and `ids`, in speaking order), what they saw and did, and every action's logged text."""

    names: tuple[str, ...]
    ids: tuple[str, ...]
    turns: tuple[Turn, ...]
    observations: tuple[Observation, ...]
    rendered: tuple[str, ...]

    def openings(self) -> dict[str, str]:
        """The first observation of each agent that has one, by id."""
        return {seen.agent: seen.text for seen in reversed(self.observations)}


def read_messages(raw: Any, ids: Sequence[str]) -> Dialogue:
    """The dialogue that `raw` logs. `ids` are the agents' ids in speaking order; if empty, their names are their ids.

    Raises InputError where the messages do not have the library's shape, or an action has none of its five forms.
    """
    log = [[_message(m, t) for m in _list(turn, f"turn {t}")] for t, turn in enumerate(_list(raw, "`messages`"))]
    names = _participants(log)
    if len(names) > MOST_AGENTS:  # refused before each of them is looked for in what each was shown
        raise InputError(f"it has {len(names):,} agents, more than {MOST_AGENTS:,}.")
    if ids and len(ids) != len(names):
        raise InputError(f"it names {len(ids)} agents, but {len(names)} take part in its messages.")
    agents = unique(ids or names)
    order = RoundRobin(len(names))
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    turns: list[Turn] = []
    observations: list[Observation] = []
    rendered: list[str] = []
    for t, messages in enumerate(log):
        shown, said = _sort(messages, places, t)
        observations += [Observation(t, agents[i], text) for i, text in shown]
        rendered += [text for _, text in said]
        actions = [(i, _action(text, t)) for i, text in said]
        acted = set(order.actors(t, actions))
        turns += [_turn(t, i, action, names, agents) for i, action in actions if i in acted]
    return Dialogue(tuple(names), tuple(agents), tuple(turns), tuple(observations), tuple(rendered))


class RoundRobin:
    """Which agents' actions are utterances of a turn: those that did something, or, if none did, the agent whose turn
    it was.

    The log writes "did nothing" both for a chosen no-op and for an agent that had to wait. As long as the agents acted
    strictly in order, a turn of nothing but no-ops belongs to the agent that was due (turn % k, counted from the first
    turn that has actions: a scripted log opens with observations alone). Once an agent has acted out of order, it is
    not known who is due, and such a turn has no utterance.
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
        was_logged = any(agent == due for agent, _ in actions)
        return [due] if self._in_order and was_logged else []


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
    """The observations and the actions of `turn`, each as (place in the speaking order, text).

    `places` has both places of two agents with the same name: the first message is taken for the first of them.
    """
    observations: dict[int, str] = {}
    actions: dict[int, str] = {}
    for sender, receiver, text in messages:
        texts, name = (observations, receiver) if sender == ENVIRONMENT else (actions, sender)
        if name == ENVIRONMENT:  # a message of the environment to itself, which no agent sees
            continue
        if name not in places:
            raise InputError(f"turn {turn} names {name!r}, who is not among the agents {', '.join(places)}.")
        free = next((place for place in places[name] if place not in texts), None)
        if free is None:
            kind_of_text = "observations" if texts is observations else "actions"
            raise InputError(f"turn {turn} has two {kind_of_text} of {name!r}.")
        texts[free] = text
    return list(observations.items()), list(actions.items())


def _action(text: str, turn: int) -> LoggedAction:
    try:
        return parse_action(text)
    except InputError as error:
        raise InputError(f"turn {turn}: {error.message}") from error


def _turn(turn: int, place: int, action: LoggedAction, names: Sequence[str], agents: Sequence[str]) -> Turn:
    only = set(action.to)
    if unknown := only.difference(names):
        listed = ", ".join(name for name in action.to if name in unknown)
        raise InputError(f"turn {turn} is private to {listed}, who is not among the agents.")
    to = tuple(agents[i] for i, name in enumerate(names) if name in only)
    return Turn(turn, agents[place], action.action_type, action.text, to)


_PRIVATE = "[private to "
_BRACKETS = 64  # so many "]]" are tried as the end of the list of recipients: names that hold one are rare
_SPEECH = 'said: "'
_WORDLESS: dict[str, ActionType] = {"did nothing": "none", "left the conversation": "leave"}
_TAGGED: dict[str, ActionType] = {"[non-verbal communication] ": "non-verbal communication", "[action] ": "action"}
_BEGINNINGS: dict[ActionType, str] = {action_type: text for text, action_type in (_WORDLESS | _TAGGED).items()}


@dataclass(frozen=True, slots=True)
class LoggedAction:
    """A parsed action. `to` holds the names of the only agents that may see it (empty: all of them)."""

    action_type: ActionType
    text: str = ""
    to: tuple[str, ...] = ()

    @property
    def visible(self) -> bool:
        """False for a plain "did nothing", which may be forced. A no-op that names recipients was chosen."""
        return self.action_type != "none" or bool(self.to)


_FORCED = ("did nothing", " did nothing")
_NOTHING = LoggedAction("none")


def parse_action(rendered: str, *, cut: bool = False) -> LoggedAction:
    """The action that `rendered` stands for. `cut` lets speech end without its closing quote, for text that was split
    at blank lines. Raises InputError where the text has none of the five forms."""
    if rendered in _FORCED:  # most actions of a log
        return _NOTHING
    to, act = _recipients(rendered)
    act = act.lstrip(" ")
    if act in _WORDLESS:
        return LoggedAction(_WORDLESS[act], to=to)
    if act.startswith(_SPEECH):
        words = act[len(_SPEECH) :]
        if not (cut or words.endswith('"')):
            raise InputError(f"the speech {_short(rendered)} has no closing quote.")
        return LoggedAction("speak", words.removesuffix('"'), to)
    for tag, action_type in _TAGGED.items():
        if act.startswith(tag) or act == tag.rstrip():
            return LoggedAction(action_type, act[len(tag) :], to)
    raise InputError(f"the action {_short(rendered)} has none of the library's five forms.")


def render_action(action: LoggedAction, *, spaced: bool = False) -> str:
    """The text of `action` in a log, as `parse_action` reads it; `spaced`: as git after January 2026 writes it."""
    if action.action_type == "speak":
        act = f'{_SPEECH}{action.text}"'
    else:
        act = _BEGINNINGS[action.action_type]
        if action.action_type in _TAGGED.values():
            act += action.text
    to = f"{_PRIVATE}{list(action.to)}] " if action.to else ""
    return f"{to} {act}" if spaced else f"{to}{act}"


def _recipients(rendered: str) -> tuple[tuple[str, ...], str]:
    """The names in `[private to ['A', "B"]] ` and the text that follows. Names may hold brackets and quotes."""
    if not rendered.startswith(_PRIVATE + "["):
        return (), rendered
    end = -1
    for _ in range(_BRACKETS):
        end = rendered.find("]]", end + 1)
        if end == -1:
            break
        try:
            names = nested(rendered[len(_PRIVATE) : end + 1], "the list of recipients")
        except InputError:  # not a list: this "]]" belongs to a name, and the list ends at a later one
            continue
        if isinstance(names, list) and names and all(isinstance(n, str) for n in names):
            return tuple(names), rendered[end + 2 :]
        break
    raise InputError(f"the recipients of {_short(rendered)} cannot be read.")


def _short(rendered: str) -> str:
    return repr(rendered if len(rendered) <= 80 else rendered[:79] + "…")
