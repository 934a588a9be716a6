"""Annotated rows beside the episodes they annotate: their labels, on the turns of the log.

sotopia-rl's annotated JSONL numbers the utterances that it kept; the log has them all. Imported together, an utterance
of the rows is found again by its speaker and by what survives of its text (up to the first blank line). Only where the
log has exactly as many such utterances as the rows do is it known which is which; elsewhere a label is a failure. The
log's episode is kept, scores and all; that of the rows adds nothing to it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sotopia_rl_data.schema import Attribution, Episode, Failure, Turn

_ENTRY = struct.Struct("<i8s")
_LOST = "the log has no utterance, or several, that this label could be for"


@dataclass(frozen=True, slots=True)
class Log:
    """What is remembered of an imported episode: its agents' ids by name, and twelve bytes an utterance."""

    agents: tuple[tuple[str, str], ...]
    utterances: bytes

    @classmethod
    def of(cls, episode: Episode) -> Log:
        """What to remember of `episode`."""
        agents = tuple((a.name, a.agent) for a in episode.agents)
        return cls(agents, b"".join(_ENTRY.pack(t.turn, mark) for t, mark in _marked(episode)))

    def place(self, annotated: Episode) -> Alignment:
        """Where the utterances of the rows' episode lie in this log."""
        here, there = defaultdict[bytes, list[int]](list), defaultdict[bytes, list[int]](list)
        for turn, mark in _ENTRY.iter_unpack(self.utterances):
            here[mark].append(turn)
        for t, mark in _marked(annotated):
            there[mark].append(t.turn)
        turns: dict[int, int] = {}
        for mark, places in there.items():
            if len(places) == len(here[mark]):
                turns |= dict(zip(places, here[mark], strict=True))
        return Alignment(dict(self.agents), turns)


@dataclass(frozen=True, slots=True)
class Alignment:
    """The log's ids by name, and its turns by place in the rows."""

    agents: dict[str, str]
    turns: dict[int, int]

    def moved(self, label: Attribution | Failure) -> Attribution | Failure:
        """`label` on the log's turn; a Failure where that is not known."""
        agent = self.agents.get(label.agent or "", label.agent)
        if label.turn in self.turns and agent is not None:
            return replace(label, agent=agent, turn=self.turns[label.turn])
        reason = label.reason if isinstance(label, Failure) else _LOST
        return Failure(reason, label.episode_id, agent, None, label.dimension, label.judge)


def _marked(episode: Episode) -> Iterator[tuple[Turn, bytes]]:
    names = {a.agent: a.name for a in episode.agents}
    for turn in episode.turns:
        kept = turn.text.partition("\n\n")[0].strip().rstrip('"')
        yield turn, hashlib.sha256(repr((names[turn.agent], turn.action_type, kept)).encode()).digest()[:8]
