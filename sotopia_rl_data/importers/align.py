"""Annotated rows beside the episodes they annotate: their labels, on the turns of the log.

sotopia-rl's annotated JSONL numbers the utterances that it kept; the log has them all. Imported together, an utterance
of the rows is found again by its speaker and by what survives of its text (up to the first blank line). Only where the
log has exactly as many such utterances as the rows do is it known which is which; every other utterance of the log is a
failure. The log's episode is kept, scores and all; that of the rows adds nothing to it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sotopia_rl_data.importers.formats.annotated import JUDGE
from sotopia_rl_data.schema import Attribution, Episode, Failure

_ENTRY = struct.Struct("<iH8s")  # turn, place in the speaking order, mark
_LOST = "the annotated rows have no label, or several, that could be this utterance's"


@dataclass(frozen=True, slots=True)
class RememberedEpisode:
    """What is remembered of an imported episode: its agents as (name, id), and fourteen bytes an utterance."""

    agents: tuple[tuple[str, str], ...]
    utterances: bytes

    @classmethod
    def of(cls, episode: Episode) -> RememberedEpisode:
        """What to remember of `episode`."""
        return cls(tuple((a.name, a.agent) for a in episode.agents), b"".join(_entries(episode)))

    def place(self, rows: Episode) -> Alignment:
        """Where the utterances of `rows`, the episode that annotated rows made, lie in this log."""
        here, there = defaultdict[bytes, list[int]](list), defaultdict[bytes, list[int]](list)
        for turn, _, mark in _ENTRY.iter_unpack(self.utterances):
            here[mark].append(turn)
        for entry in _entries(rows):
            turn, _, mark = _ENTRY.unpack(entry)
            there[mark].append(turn)
        certain = {mark for mark, places in there.items() if len(places) == len(here[mark])}
        turns = {place: turn for mark in certain for place, turn in zip(there[mark], here[mark], strict=True)}
        lost = tuple(
            Failure(_LOST, rows.episode_id, self.agents[place][1], turn, judge=JUDGE)
            for turn, place, mark in _ENTRY.iter_unpack(self.utterances)
            if mark not in certain
        )
        return Alignment(dict(self.agents), turns, lost)


@dataclass(frozen=True, slots=True)
class Alignment:
    """The log's ids by name, its turns by place in the rows, and the failures of the utterances that were not found."""

    agents: dict[str, str]
    turns: dict[int, int]
    lost: tuple[Failure, ...]

    def moved(self, label: Attribution | Failure) -> Attribution | Failure | None:
        """`label` on the log's turn; None where that is not known (the utterance is among `lost`)."""
        agent = self.agents.get(label.agent or "")
        if agent is None or label.turn not in self.turns:
            return None
        return replace(label, agent=agent, turn=self.turns[label.turn])


def _entries(episode: Episode) -> Iterator[bytes]:
    """An entry for each utterance. Its mark is over the speaker's name, the action type and the text that survives."""
    places = {a.agent: i for i, a in enumerate(episode.agents)}
    for turn in episode.turns:
        place = places[turn.agent]
        kept = turn.text.partition("\n\n")[0].strip().rstrip('"')
        mark = hashlib.sha256(repr((episode.agents[place].name, turn.action_type, kept)).encode()).digest()[:8]
        yield _ENTRY.pack(turn.turn, place, mark)
