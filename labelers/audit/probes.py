"""How an episode is changed in a way that must not matter, and which labels must then be equal.

    order   the agents are listed in the opposite order; the transcript stays
    name    names become Person A, Person B … wherever they occur
    padded  one utterance of each agent gets longer by a passage that says nothing
    moved   the words of each agent's first and last spoken turn are swapped

A contrast pairs a label of the original episode with one of the changed episode, and says which of the two a bias would
favour: the agent listed first, the agent with a name, the longer utterance, the later one. A mean difference in that
direction is the bias, in levels. Asking twice (`repeat`) changes nothing and shows the judge's own noise.

An unbiased judge may move a little on `moved`, since a dialogue whose turns are swapped is another dialogue. But the
worth of the words themselves cancels out, as each agent's two utterances swap, and what is left is a preference for
late or for early turns.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from sotopia_rl_data.schema import Agent, Episode, Turn

REPEAT = "repeat"
_TITLES = {"dr", "mr", "mrs", "ms", "prof", "sir", "dame", "jr", "sr", "miss", "von", "van", "de", "la"}


@dataclass(frozen=True, slots=True)
class LabelContrast:
    """`agent`'s utterance is at turn `before` in the original episode and at turn `after` in the changed one. `sign` is
    1 where the bias in question favours the changed episode, -1 where it favours the original."""

    agent: str
    before: int
    after: int
    sign: int


@dataclass(frozen=True, slots=True)
class Probed:
    """A changed episode, under an id of its own, and the contrasts whose labels must be equal."""

    probe: str
    original: str
    episode: Episode
    contrasts: tuple[LabelContrast, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A change to episodes. `favours` says in words what a positive shift means, `opposite` what a negative one means.
    `still` is False where an unbiased judge may move too, so that only a shift in one direction counts as bias."""

    id: str
    favours: str
    opposite: str
    change: Callable[[Episode, int], tuple[Episode, tuple[LabelContrast, ...]]]
    still: bool = True
    version: int = 1

    def __call__(self, episode: Episode, seed: int) -> Probed | None:
        """The changed episode; None where there is nothing to change."""
        changed, contrasts = self.change(episode, seed)
        if not contrasts:
            return None
        id_ = f"{episode.episode_id}~{self.id}"
        return Probed(self.id, episode.episode_id, replace(changed, episode_id=id_), contrasts)


def order(episode: Episode, seed: int) -> tuple[Episode, tuple[LabelContrast, ...]]:
    """The agents listed in the opposite order."""
    agents = episode.agents[::-1]
    place = {agent.agent: i for i, agent in enumerate(episode.agents)}
    new_place = {agent.agent: i for i, agent in enumerate(agents)}
    contrasts = [
        LabelContrast(turn.agent, turn.turn, turn.turn, 1 if new_place[turn.agent] < place[turn.agent] else -1)
        for turn in episode.turns
        if new_place[turn.agent] != place[turn.agent]
    ]
    return replace(episode, agents=agents), tuple(contrasts)


def name(episode: Episode, seed: int) -> tuple[Episode, tuple[LabelContrast, ...]]:
    """Every name replaced, in the profiles and in the utterances."""
    hide = _name_hider(episode)
    agents = [
        replace(
            agent,
            name=person(place),
            goal=hide(agent.goal),
            background=hide(agent.background),
            secret=hide(agent.secret),
        )
        for place, agent in enumerate(episode.agents)
    ]
    changed = replace(
        episode,
        agents=tuple(agents),
        turns=tuple(replace(turn, text=hide(turn.text)) for turn in episode.turns),
        scenario=hide(episode.scenario),
        relationship=hide(episode.relationship),
    )
    return changed, tuple(LabelContrast(turn.agent, turn.turn, turn.turn, -1) for turn in episode.turns)


def padded(episode: Episode, seed: int) -> tuple[Episode, tuple[LabelContrast, ...]]:
    """One spoken utterance of each agent, drawn by the seed, made longer."""
    longer: dict[Turn, Turn] = {}
    for agent in episode.agents:
        spoken = [turn for turn in _spoken(episode, agent) if turn.text.strip()]
        if spoken:
            turn = spoken[_draw(seed, "padded", episode.episode_id, agent.agent) % len(spoken)]
            longer[turn] = replace(turn, text=f"{turn.text.rstrip()} {filler()}")
    changed = replace(episode, turns=tuple(longer.get(turn, turn) for turn in episode.turns))
    return changed, tuple(LabelContrast(turn.agent, turn.turn, turn.turn, 1) for turn in longer)


def moved(episode: Episode, seed: int) -> tuple[Episode, tuple[LabelContrast, ...]]:
    """The words of each agent's first and last spoken turn, swapped."""
    new_text: dict[Turn, str] = {}
    contrasts: list[LabelContrast] = []
    for agent in episode.agents:
        public = [turn for turn in _spoken(episode, agent) if not turn.to]
        if len(public) > 1 and public[0].text != public[-1].text:
            first, last = public[0], public[-1]
            new_text |= {first: last.text, last: first.text}
            contrasts += [
                LabelContrast(agent.agent, first.turn, last.turn, 1),
                LabelContrast(agent.agent, last.turn, first.turn, -1),
            ]
    turns = tuple(replace(turn, text=new_text.get(turn, turn.text)) for turn in episode.turns)
    return replace(episode, turns=turns), tuple(contrasts)


PROBES: dict[str, Probe] = {
    probe.id: probe
    for probe in (
        Probe("order", "the agent that is listed first", "the agent that is listed last", order),
        Probe("name", "agents under their own names", "agents without their names", name),
        Probe("padded", "the longer utterance", "the shorter utterance", padded),
        Probe("moved", "what is said late", "what is said early", moved, still=False),
    )
}


def repeated(episode: Episode) -> tuple[LabelContrast, ...]:
    """The contrasts of the same episode asked about a second time: every label must be equal."""
    return tuple(LabelContrast(turn.agent, turn.turn, turn.turn, 1) for turn in episode.turns)


@cache
def filler() -> str:
    """The passage that says nothing: about seventy words."""
    return (files("sotopia_rl_data.labelers") / "audit" / "filler.v1.txt").read_text(encoding="utf-8").strip()


def person(place: int) -> str:
    """Person A, Person B …"""
    return f"Person {chr(ord('A') + place)}" if place < 26 else f"Person {place + 1}"


def _spoken(episode: Episode, agent: Agent) -> list[Turn]:
    return sorted(
        (t for t in episode.turns if t.agent == agent.agent and t.action_type == "speak"), key=lambda t: t.turn
    )


def _name_hider(episode: Episode) -> Callable[[str], str]:
    """A function that replaces the names in a text: whole names first, then their parts. A part that several agents
    share becomes "Person"; a part that the episode also writes in lower case is a word ("will", "rose") and stays."""
    words = " ".join(
        [episode.scenario, *(t.text for t in episode.turns), *(a.background + a.goal for a in episode.agents)]
    )
    replacement: dict[str, str] = {}
    for place, agent in enumerate(episode.agents):
        for part in _parts(agent.name):
            if not re.search(rf"(?<!\w){re.escape(part.lower())}(?!\w)", words):
                replacement[part] = "Person" if part in replacement else person(place)
    replacement |= {agent.name: person(place) for place, agent in enumerate(episode.agents) if agent.name.strip()}
    names = sorted(replacement, key=len, reverse=True)
    if not names:
        return lambda text: text
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names))
    return lambda text: pattern.sub(lambda match: replacement[match.group()], text)


def _parts(full: str) -> Sequence[str]:
    """First and family names, without titles and initials."""
    words = [word.strip(",") for word in full.split()]
    return [
        word
        for word in dict.fromkeys(words)
        if len(word) > 2 and word[:1].isupper() and word.rstrip(".").lower() not in _TITLES
    ]


def _draw(seed: int, *parts: object) -> int:
    text = "\0".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
