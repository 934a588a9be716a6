"""Pseudonyms in place of speakers' names and ids, the same for the same speaker in everything that a store imports.

A pseudonym is made with a key that is kept in the store and never published, so that nobody else can tell from it whose
it is. Names and ids are replaced where they are fields, and in all texts where they stand as words. Roles of chat
formats (user, assistant …) are nobody's names and stay. What the speakers say about themselves besides their names is
not found.

A name of several words, or with a digit or a sign in it, is found in any case. One word may be an ordinary one, too
(Will, May, Hope): in small letters it is a name only where signs set it off ("thanks, will!"), and of a word that the
dialogue also has in small letters, a capital at the beginning of a sentence counts only where a sign follows. What was
left for that reason is counted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.formats.format import Located, TrainingRow
from sotopia_rl_data.schema import Agent, Attribution, Episode, Failure, Turn
from sotopia_rl_data.store.disk import storing

ROLES = frozenset({"user", "assistant", "system", "developer", "tool", "function", "human", "gpt", "bot", "model"})
_KEY_FILE = ".pseudonyms-key"
_UNSAID = "it cannot be read; the reason, which may name people, is shown without --pseudonymise"
_PART = re.compile(r"\w{2,}")
_SET_OFF_BEFORE = re.compile(r"(?:^|[,;:!?.…(\n@])\s*$")
_SET_OFF_AFTER = re.compile(r"\s*(?:[,;:!?.…)\n]|$)|['’]s\b")
_SENTENCE_BEGINS = re.compile(r"(?:^|[.!?:…\n])[\s\"“‘'’)(]*$")
_WORD = re.compile(r"\w")
_BEGINNING = re.compile(r"(?<!\w)(?:\w+|\W)")  # of a word, or a sign; wherever a name may begin
_NEAR = 8  # characters on each side by which a word is looked at


def key_of(root: Path, keep: bool = True) -> bytes:
    """The key of the store in this folder, made where there is none; unless told to `keep` it, it is another one each
    time. Raises StoreError where it cannot be kept."""
    path = root / _KEY_FILE
    with storing(root):
        if not path.exists():
            if not keep:
                return secrets.token_bytes(32)
            root.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(secrets.token_bytes(32))
        return path.read_bytes()


@dataclass(slots=True)
class NamesFound:
    """What was found: speakers who have a pseudonym, names that were replaced in texts, and words that may be names and
    were left."""

    speakers: set[str] = field(default_factory=set)
    replaced: int = 0
    left: int = 0

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {"speakers": len(self.speakers), "replaced": self.replaced, "left": self.left}


def with_pseudonyms(located: Located, key: bytes, found: NamesFound, *, annotated: bool = False) -> Located:
    """The items with pseudonyms in place of names, which are counted in `found`. A failure loses its excerpt of the
    record, which has the names, and that of a record that cannot be read its reason too. `annotated`: there are rows
    that know speakers by name alone, and may belong to an episode before them whose agents have ids; they then get the
    pseudonyms of these.

    Raises UsageError for training rows: who speaks in them is not known."""
    names = _Names({}, found)
    ids: dict[str, dict[str, str]] = {}  # by episode, an agent's id by its name
    for item, record in located:
        if isinstance(item, TrainingRow):
            raise UsageError(
                "Training rows do not say whose names are in them, so the names cannot be replaced.",
                "leave --pseudonymise out, or import the dialogues themselves",
            )
        if isinstance(item, Episode):
            again = item.episode_id in ids  # another opinion of an episode whose names are counted
            names = _Names.of(item, key, NamesFound() if again else found, ids.get(item.episode_id, {}))
            if annotated:
                ids.setdefault(item.episode_id, {agent.name: agent.agent for agent in item.agents})
            yield names.episode(item), record
        elif isinstance(item, Attribution):
            yield replace(item, agent=names.one(item.agent)), record
        else:
            yield _failure(item, names), record


def _failure(failure: Failure, names: _Names) -> Failure:
    if failure.episode_id is None:
        return replace(failure, record=None, reason=_UNSAID)
    agent = failure.agent and names.one(failure.agent)
    return replace(failure, agent=agent, reason=names.text(failure.reason), record=None)


class _Names:
    """The names of one episode's speakers, and what replaces each."""

    def __init__(self, pseudonyms: Mapping[str, str], found: NamesFound, texts: Iterable[str] = ()) -> None:
        self._pseudonyms, self._found = pseudonyms, found
        words = {_fold(name): pseudonym for name, pseudonym in pseudonyms.items() if name.isalpha()}
        for name, pseudonym in pseudonyms.items():
            parts = _PART.findall(name) if _fold(name) not in words else []
            words |= {_fold(part): pseudonym for part in parts if part[0].isupper() and _fold(part) not in words}
        self._whole = _Words({_fold(name): one for name, one in pseudonyms.items() if _fold(name) not in words})
        self._word = _Words(words)
        self._ordinary = set(self._ordinary_in(texts))
        found.speakers.update(pseudonyms.values())

    @classmethod
    def of(cls, episode: Episode, key: bytes, found: NamesFound, ids: Mapping[str, str]) -> _Names:
        """The names in an episode; `ids` has those of agents that the episode itself knows by name alone."""
        pseudonyms: dict[str, str] = {}
        for agent in episode.agents:
            if agent.agent.lower() in ROLES and agent.name.lower() in (agent.agent.lower(), *ROLES):
                continue
            whose = ids.get(agent.name, agent.agent).encode()
            pseudonym = "person-" + hmac.new(key, whose, hashlib.sha256).hexdigest()[:12]
            pseudonyms[agent.agent] = pseudonym
            if agent.name.lower() not in ROLES:
                pseudonyms[agent.name] = pseudonym
        return cls(pseudonyms, found, (turn.text for turn in episode.turns))

    def one(self, name: str) -> str:
        """What stands for an id or a name."""
        return self._pseudonyms.get(name, name)

    def text(self, text: str) -> str:
        """`text` with the names in it replaced."""
        return self._word.replaced(self._whole.replaced(text, self._instead_of_any), self._instead)

    def _ordinary_in(self, texts: Iterable[str]) -> Iterator[str]:
        """The words among the names that stand in small letters in these texts, and are not set off by signs."""
        for word in (word for text in texts for word in self._word.found(text)):
            if word.spelt.islower() and not _is_set_off(word):
                yield word.name

    def _instead_of_any(self, word: _Word) -> str:
        self._found.replaced += 1
        return word.pseudonym

    def _instead(self, word: _Word) -> str:
        """What stands for a word that is also a name."""
        if not self._is_name(word):
            self._found.left += 1
            return word.spelt
        return self._instead_of_any(word)

    def _is_name(self, word: _Word) -> bool:
        if word.spelt.islower():
            return _is_set_off(word)
        if word.name not in self._ordinary:
            return True
        before, after = _around(word)
        shouted = len(word.spelt) > 1 and word.spelt.isupper()
        begins = _SENTENCE_BEGINS.search(before) is not None
        return not (shouted or begins) or _SET_OFF_AFTER.match(after) is not None

    def meta(self, meta: str | None) -> str | None:
        return None if meta is None else json.dumps(_through(json.loads(meta), self.text), ensure_ascii=False)

    def episode(self, episode: Episode) -> Episode:
        """The episode under pseudonyms."""
        return replace(
            episode,
            agents=tuple(self._agent(agent) for agent in episode.agents),
            turns=tuple(self._turn(turn) for turn in episode.turns),
            scores=tuple(replace(score, agent=self.one(score.agent)) for score in episode.scores),
            observations=tuple(
                replace(seen, agent=self.one(seen.agent), text=self.text(seen.text)) for seen in episode.observations
            ),
            scenario=self.text(episode.scenario),
            reasoning=self.text(episode.reasoning),
            meta=self.meta(episode.meta),
        )

    def _agent(self, agent: Agent) -> Agent:
        return replace(
            agent,
            agent=self.one(agent.agent),
            name=self.one(agent.name),
            goal=self.text(agent.goal),
            background=self.text(agent.background),
            secret=self.text(agent.secret),
            meta=self.meta(agent.meta),
        )

    def _turn(self, turn: Turn) -> Turn:
        return replace(
            turn,
            agent=self.one(turn.agent),
            text=self.text(turn.text),
            to=tuple(map(self.one, turn.to)),
            meta=self.meta(turn.meta),
        )


class _Word(NamedTuple):
    """A name as it stands in a text, from `start` to `end`."""

    text: str
    start: int
    end: int
    name: str
    pseudonym: str

    @property
    def spelt(self) -> str:
        return self.text[self.start : self.end]


def _around(word: _Word) -> tuple[str, str]:
    """The characters before and after a word."""
    return word.text[max(0, word.start - _NEAR) : word.start], word.text[word.end : word.end + _NEAR]


def _is_set_off(word: _Word) -> bool:
    """Whether signs, or the beginning or the end of the text, are on both sides of a word."""
    before, after = _around(word)
    return _SET_OFF_BEFORE.search(before) is not None and _SET_OFF_AFTER.match(after) is not None


class _Words:
    """Names, each with what replaces it. They are found in any case where they stand as words, the longest first, by
    their first word and their length: those of a crowd take the time of a few."""

    def __init__(self, pseudonyms: Mapping[str, str]) -> None:
        self._pseudonyms = pseudonyms
        self._names: dict[str, list[tuple[int, str, str]]] = {}  # by loose spelling: a rank, the spelling, the name
        self._lengths: dict[str, set[int]] = {}  # of the spellings that begin with a word
        names = sorted(filter(str.strip, pseudonyms), key=len, reverse=True)
        spellings = ((spelling, name) for name in names for spelling in _spellings(name))
        for rank, (spelling, name) in enumerate(spellings):
            self._names.setdefault(_loosely(spelling), []).append((rank, spelling, name))
            begun = next(_BEGINNING.finditer(spelling))[0]
            self._lengths.setdefault(_loosely(begun), set()).add(len(spelling))

    def found(self, text: str) -> Iterator[_Word]:
        """The names in a text, from left to right."""
        end = 0
        for begun in _BEGINNING.finditer(text) if self._lengths else ():
            lengths = self._lengths.get(_loosely(begun[0]))
            if lengths and begun.start() >= end and (word := self._at(text, begun.start(), lengths)):
                end = word.end
                yield word

    def replaced(self, text: str, instead: Callable[[_Word], str]) -> str:
        """The text with something else instead of each name."""
        parts, end = [], 0
        for word in self.found(text):
            parts += [text[end : word.start], instead(word)]
            end = word.end
        return "".join([*parts, text[end:]])

    def _at(self, text: str, start: int, lengths: Iterable[int]) -> _Word | None:
        """The longest name that begins there."""
        best: tuple[int, int, str] | None = None
        for end in (start + length for length in lengths):
            if _WORD.match(text, end):
                continue
            spelt = text[start:end]
            for rank, spelling, name in self._names.get(_loosely(spelt), ()):
                if (best is None or rank < best[0]) and _is_spelt(spelt, spelling):
                    best = rank, end, name
        return best and _Word(text, start, best[1], best[2], self._pseudonyms[best[2]])


@lru_cache(1024)
def _is_spelt(spelt: str, spelling: str) -> bool:
    """Whether the one is the other in any case."""
    return spelt == spelling or re.fullmatch(re.escape(spelling), spelt, re.IGNORECASE) is not None


def _loosely(text: str) -> str:
    """The same text for all spellings of a name that differ in case alone (and for a few others: ß is SS)."""
    return text.replace("İ", "I").upper().casefold()


def _fold(name: str) -> str:
    """`name` in small letters, one for each of its characters: İ, which would become two, stays."""
    return "".join(small if len(small := one.lower()) == 1 else one for one in name)


def _spellings(name: str) -> list[str]:
    """The name, and itself in small or capital letters where it is then of another length, which no pattern finds."""
    return [name, *(other for other in (name.lower(), name.upper()) if len(other) != len(name))]


def _through(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with each text in it changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _through(one, change) for key, one in value.items()}
    return [_through(one, change) for one in value] if isinstance(value, list) else value
