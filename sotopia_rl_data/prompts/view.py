"""What one agent knows and sees: a context, then one line for each action that it noticed.

The lines are the agent's observations where the episode has them: they are its view already, and may differ from what
was said. In the library's dialects the observation of turn 0 has the whole context; in the plain dialect the context
is built from the episode's fields. For an agent without observations the lines are built from the turns: every public
action, and the private actions that it did itself or that are addressed to it.

Nothing that only another agent may see gets in, unless it was said aloud: no partner's goal or secret, no span for
another viewer, no private message to others, and no background of a partner who is a stranger or known only by name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from sotopia_rl_data.prompts.template import fill, own_file
from sotopia_rl_data.schema import Agent, Episode, Observation, Turn
from sotopia_rl_data.spans import FIELD_TAGS, HINTS, visible

VIEW = "view.v1.yaml"
_DISTANT = ("0", "1", "stranger", "strangers", "know_by_name")
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_SECRET_CLAUSE = re.compile(r"(?:^|\s)\S+['’]s? secrets?:.*", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Seen:
    """A line that an agent has seen by the time it acts at `turn`. `own`: it tells only what the agent did itself."""

    turn: int
    text: str
    own: bool = False


def recorded(episode: Episode, agent: str) -> list[Observation]:
    """The observations of `agent` as logged, in the order of turns."""
    return sorted((o for o in episode.observations if o.agent == agent), key=lambda o: o.turn)


def seen(episode: Episode, agent: str) -> list[Seen]:
    """The lines that `agent` sees in the episode, by turn, the context first. Raises KeyError for an unknown agent."""
    me = episode.agent(agent)
    logged = recorded(episode, agent)
    if not logged:
        return [Seen(0, context(episode, me)), *_built(episode, agent)]
    plain = episode.dialect == "plain"
    actors: dict[int, set[str]] = {}
    if not plain:
        for turn in episode.turns:
            actors.setdefault(turn.turn, set()).add(turn.agent)
    lines = [Seen(o.turn, visible(o.text, episode, agent).strip(), actors.get(o.turn - 1) == {agent}) for o in logged]
    if plain or logged[0].turn != 0:
        lines.insert(0, Seen(0, context(episode, me)))
    return [line for line in lines if line.text]


def display_names(episode: Episode) -> dict[str, str]:
    """The name of each agent by id, in one line; with the id behind it where two agents share the name."""
    names = {a.agent: " ".join(a.name.splitlines()) for a in episode.agents}
    shared = Counter(names.values())
    return {agent: name if shared[name] == 1 else f"{name} ({agent})" for agent, name in names.items()}


def context(episode: Episode, me: Agent) -> str:
    """The scene, the people and this agent's own background, secret and goal, from the episode's fields."""
    names = display_names(episode)
    wording = _wording()["context"]
    own = {
        field: visible(getattr(me, field), episode, me.agent, tags=FIELD_TAGS).strip()
        for field in ("background", "secret", "goal")
    }
    scenario = visible(episode.scenario, episode, me.agent, tags=FIELD_TAGS).strip()
    lines = [fill(wording["scenario"], {"scenario": scenario})] if scenario else []
    lines.append(fill(wording["names"], {"names": ", ".join(names.values())}))
    for agent in episode.agents:
        is_own = agent.agent == me.agent
        background = own["background"] if is_own else _known_of(episode, agent, me.agent)
        if background:
            values = {"name": names[agent.agent], "background": background}
            lines.append(fill(wording["own" if is_own else "other"], values))
    if own["secret"] and own["secret"] not in own["background"]:
        lines.append(fill(wording["secret"], {"secret": own["secret"]}))
    if own["goal"]:
        lines.append(fill(wording["goal"], {"goal": own["goal"]}))
    return "\n".join(lines)


def nothing() -> str:
    """The line for an agent that has noticed nothing since it last acted."""
    text: str = _wording()["nothing"]
    return text


def _known_of(episode: Episode, other: Agent, viewer: str) -> str:
    """What `viewer` knows of another agent's background: nothing of a stranger's, and never the secret."""
    if episode.relationship.strip().lower().replace(" ", "_") in _DISTANT:
        return ""
    background = visible(other.background, episode, viewer, tags=("p",), hidden=HINTS)
    background = _SECRET_CLAUSE.sub("", background).strip()
    if not background:
        return ""
    return "" if any(_holds(background, secret) for secret in _secrets(episode, other)) else background


def _secrets(episode: Episode, other: Agent) -> Iterator[str]:
    """What nobody else may learn of `other`: its secret and its goal, with their tags and as `other` reads them."""
    for text in (other.secret, other.goal):
        yield text
        yield visible(text, episode, other.agent, tags=FIELD_TAGS)


def _holds(text: str, part: str) -> bool:
    """Whether `text` contains `part` as whole words, whatever the case and spacing. A blank `part` is in no text."""
    words = r"\s+".join(re.escape(word) for word in part.split())
    return words != "" and re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None


def _built(episode: Episode, agent: str) -> Iterator[Seen]:
    """One line for each action that `agent` could notice, from the turns."""
    names = display_names(episode)
    for turn in sorted(episode.turns, key=lambda t: t.turn):
        own = turn.agent == agent
        if own or not turn.to or agent in turn.to:
            yield Seen(turn.turn + 1, _event(episode, turn, agent, names), own)


def _in_one_line(words: str) -> str:
    """Words as JSON; it may hold three characters that begin a line for some readers, so these are escaped too."""
    return _LINE_ENDS.sub(lambda end: f"\\u{ord(end[0]):04x}", json.dumps(words, ensure_ascii=False))


def _event(episode: Episode, turn: Turn, viewer: str, names: Mapping[str, str]) -> str:
    """An action as a line. Its words are written as JSON, so that nothing in them can pass for another line."""
    words = turn.text if turn.agent == viewer else visible(turn.text, episode, viewer)
    event = fill(
        _wording()["events"][turn.action_type],
        {
            "turn": str(turn.turn),
            "name": names.get(turn.agent, turn.agent),
            "text": _in_one_line(words),
        },
    )
    if not turn.to:
        return event
    among = [names.get(one, one) for one in dict.fromkeys((turn.agent, *turn.to))]
    return fill(_wording()["private"], {"event": event, "names": ", ".join(among)})


@lru_cache
def _wording() -> Any:
    return yaml.safe_load(own_file(VIEW))
