"""Pseudonyms in place of speakers' names and ids, the same for the same speaker in everything that a store imports.

A pseudonym is made with a key that is kept in the store and never published, so that nobody else can tell from it whose
it is. Names and ids are replaced where they are fields, and in all texts where they stand as words: a whole name in any
case, a part of a name as it is written. Roles of chat formats (user, assistant …) are nobody's names and stay. What the
speakers say about themselves besides their names is not found.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.importers.formats.format import Located, TrainingRow
from sotopia_rl_data.schema import Agent, Attribution, Episode, Failure, Turn
from sotopia_rl_data.store.disk import storing

ROLES = frozenset({"user", "assistant", "system", "developer", "tool", "function", "human", "gpt", "bot", "model"})
_KEY_FILE = ".pseudonyms-key"
_UNSAID = "it cannot be read; the reason, which may name people, is shown without --pseudonymise"
_PART = re.compile(r"\w{2,}")


def key_of(root: Path) -> bytes:
    """The key of the store in this folder, made where there is none. Raises StoreError where it cannot be kept."""
    path = root / _KEY_FILE
    with storing(root):
        if not path.exists():
            root.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(secrets.token_bytes(32))
        return path.read_bytes()


def with_pseudonyms(located: Located, key: bytes) -> Located:
    """The items with pseudonyms in place of names. A failure loses its excerpt of the record, which has the names,
    and that of a record that cannot be read its reason too.

    Raises UsageError for training rows: who speaks in them is not known."""
    names = _Names({}, key)
    for item, record in located:
        if isinstance(item, TrainingRow):
            raise UsageError(
                "Training rows do not say whose names are in them, so the names cannot be replaced.",
                "leave --pseudonymise out, or import the dialogues themselves",
            )
        if isinstance(item, Episode):
            names = _Names.of(item, key)
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

    def __init__(self, pseudonyms: Mapping[str, str], key: bytes) -> None:
        self._pseudonyms, self._key = pseudonyms, key
        self._any_case = {name.lower(): pseudonym for name, pseudonym in pseudonyms.items()}
        parts = [(part, p) for name, p in pseudonyms.items() for part in _PART.findall(name) if part != name]
        self._parts = {part: p for part, p in parts if part[:1].isupper()}
        self._whole = _words(pseudonyms, re.IGNORECASE)
        self._part = _words(self._parts)

    @classmethod
    def of(cls, episode: Episode, key: bytes) -> _Names:
        """The names in an episode."""
        pseudonyms: dict[str, str] = {}
        for agent in episode.agents:
            if agent.agent in ROLES and agent.name in (agent.agent, *ROLES):
                continue
            pseudonym = "person-" + hmac.new(key, agent.agent.encode(), hashlib.sha256).hexdigest()[:12]
            pseudonyms[agent.agent] = pseudonym
            if agent.name not in ROLES:
                pseudonyms[agent.name] = pseudonym
        return cls(pseudonyms, key)

    def one(self, name: str) -> str:
        """What stands for an id or a name."""
        return self._pseudonyms.get(name, name)

    def text(self, text: str) -> str:
        """`text` with the names in it replaced."""
        if self._whole is None:
            return text
        text = self._whole.sub(lambda match: self._any_case[match[0].lower()], text)
        return text if self._part is None else self._part.sub(lambda match: self._parts[match[0]], text)

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


def _words(names: Iterable[str], flags: int = 0) -> re.Pattern[str] | None:
    """A pattern for any of the names where it stands as a word, the longest first; None where there is none."""
    escaped = [re.escape(name) for name in sorted(names, key=len, reverse=True) if name.strip()]
    return re.compile(rf"(?<!\w)(?:{'|'.join(escaped)})(?!\w)", flags) if escaped else None


def _through(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with each text in it changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _through(one, change) for key, one in value.items()}
    return [_through(one, change) for one in value] if isinstance(value, list) else value
