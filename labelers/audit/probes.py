"""How an episode is changed where it must not matter, and which labels must then be equal.

    order   the agents are listed in the opposite order; the transcript stays
    name    names become Person A, Person B … wherever they occur
    padded  one utterance of each agent grows by a passage that says nothing
    moved   of each agent, the words of its first and its last spoken turn change places

A contrast pairs a label of the episode as it was with one of the changed episode, and says which of the two a bias
would favour: who is listed first, who has a name, what is long, what comes late. A mean difference in that direction is
the bias, in levels. Asking twice (`repeat`) changes nothing and shows the judge's own noise.

An honest judge may move a little on `moved`: a dialogue whose turns change places is another dialogue. Since each
agent's two utterances swap, what the words themselves are worth cancels, and only a taste for late or early turns is
left.
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
    """`agent`'s utterance was at `before` and is at `after` in the changed episode. `sign` is 1 where the bias that is
    looked for favours the changed episode, -1 where it favours the original."""

    agent: str
    before: int
    after: int
    sign: int


@dataclass(frozen=True, slots=True)
class Probed:
    """A changed episode, under an id of its own, and what must be equal in it."""

    probe: str
    original: str
    episode: Episode
    contrasts: tuple[LabelContrast, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """`favours` says in words what a positive shift means, `opposite` what a negative one does. `still` is False where
    an honest judge may move too, so that only a shift in one direction is held against it."""

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
    """The agents listed the other way round."""
    agents = episode.agents[::-1]
    place = {one.agent: i for i, one in enumerate(episode.agents)}
    last = len(agents) - 1
    found = [
        LabelContrast(turn.agent, turn.turn, turn.turn, 1 if last - place[turn.agent] < place[turn.agent] else -1)
        for turn in episode.turns
        if 2 * place[turn.agent] != last
    ]
    return replace(episode, agents=agents), tuple(found)


def name(episode: Episode, seed: int) -> tuple[Episode, tuple[LabelContrast, ...]]:
    """Every name replaced, in the profiles and in what is said."""
    hide = _hiding(episode)

    def hidden(agent: Agent, place: int) -> Agent:
        texts = {key: hide(getattr(agent, key)) for key in ("goal", "background", "secret")}
        return replace(agent, name=person(place), **texts)

    changed = replace(
        episode,
        agents=tuple(hidden(agent, place) for place, agent in enumerate(episode.agents)),
        turns=tuple(replace(turn, text=hide(turn.text)) for turn in episode.turns),
        scenario=hide(episode.scenario),
        relationship=hide(episode.relationship),
    )
    return changed, tuple(LabelContrast(turn.agent, turn.turn, turn.turn, -1) for turn in episode.turns)


def padded(episode: Episode, seed: int) -> tuple[Episode, tuple[LabelContrast, ...]]:
    """One spoken utterance of each agent, drawn by the seed, made longer."""
    chosen = {}
    for agent in episode.agents:
        mine = [turn for turn in _spoken(episode, agent) if turn.text.strip()]
        if mine:
            chosen[agent.agent] = mine[_draw(seed, "padded", episode.episode_id, agent.agent) % len(mine)]
    longer = {turn: replace(turn, text=f"{turn.text.rstrip()} {filler()}") for turn in chosen.values()}
    changed = replace(episode, turns=tuple(longer.get(turn, turn) for turn in episode.turns))
    return changed, tuple(LabelContrast(turn.agent, turn.turn, turn.turn, 1) for turn in chosen.values())


def moved(episode: Episode, seed: int) -> tuple[Episode, tuple[LabelContrast, ...]]:
    """The words of each agent's first and last spoken turn, changed over."""
    swapped: dict[Turn, str] = {}
    found: list[LabelContrast] = []
    for agent in episode.agents:
        mine = [turn for turn in _spoken(episode, agent) if not turn.to]
        if len(mine) > 1 and mine[0].text != mine[-1].text:
            first, last = mine[0], mine[-1]
            swapped |= {first: last.text, last: first.text}
            found += [
                LabelContrast(agent.agent, first.turn, last.turn, 1),
                LabelContrast(agent.agent, last.turn, first.turn, -1),
            ]
    turns = tuple(replace(turn, text=swapped.get(turn, turn.text)) for turn in episode.turns)
    return replace(episode, turns=turns), tuple(found)


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
    """Every label again, of the same episode asked a second time."""
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


def _hiding(episode: Episode) -> Callable[[str], str]:
    """What replaces names in a text: whole names first, then their parts. A part that several agents share becomes
    "Person"; one that the episode also writes in lower case is a word ("will", "rose") and stays."""
    said = " ".join(
        [episode.scenario, *(t.text for t in episode.turns), *(a.background + a.goal for a in episode.agents)]
    )
    put: dict[str, str] = {}
    for place, agent in enumerate(episode.agents):
        for part in _parts(agent.name):
            if not re.search(rf"(?<!\w){re.escape(part.lower())}(?!\w)", said):
                put[part] = "Person" if part in put else person(place)
    put |= {agent.name: person(place) for place, agent in enumerate(episode.agents) if agent.name.strip()}
    names = sorted(put, key=len, reverse=True)
    if not names:
        return lambda text: text
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(one)}(?!\w)" for one in names))
    return lambda text: pattern.sub(lambda found: put[found.group()], text)


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
