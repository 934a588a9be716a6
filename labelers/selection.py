"""--only LIST: label some of the episodes' utterances, named in a CSV, and ask about no others.

A row names an episode, an agent of it, one of its turns, or one of its dimensions: each further column narrows it, an
empty cell does not. Questions are asked whole: one that is about several turns is asked where any of them is named.
What a named number is a difference to goes with it: a baseline, and of progress the agent's turn before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sotopia_rl_data.dimensions import full_name
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.sheets import Row, read_sheet

COLUMNS = ("episode_id", "agent", "turn", "dimension")
_HINT = f"write a CSV with the columns {COLUMNS[0]}[,{COLUMNS[1]}[,{COLUMNS[2]}[,{COLUMNS[3]}]]]"

Key = tuple[str, str | None, int | None, str | None]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is named: (episode_id, agent, turn, dimension), None standing for all of them."""

    keys: frozenset[Key]

    @property
    def sha256(self) -> str:
        """A hash of what is named, however it was listed."""
        return sha256_of(sorted([list(map(str, key)) for key in self.keys]))

    def wants(self, question: Question) -> bool:
        """Whether the question is about anything that is named."""
        slots = list(question.slots.values())
        if question.measure == "progress":
            slots += [replace(slot, turn=later) for slot in slots if (later := _next(question, slot)) is not None]
        return any(self._names(question.episode.episode_id, slot) for slot in slots)

    def _names(self, episode: str, slot: Slot) -> bool:
        """A baseline goes with any turn of its agent."""
        if slot.turn < 0:
            return any(
                key[0] == episode and key[1] in (None, slot.agent) and key[3] in (None, slot.dimension)
                for key in self.keys
            )
        return any(
            (episode, agent, turn, name) in self.keys
            for agent in (None, slot.agent)
            for turn in (None, slot.turn)
            for name in (None, slot.dimension)
        )


def _next(question: Question, slot: Slot) -> int | None:
    """The turn in which the slot's agent acts next; None after its last."""
    later = (turn.turn for turn in question.episode.turns if turn.agent == slot.agent and turn.turn > slot.turn)
    return min(later, default=None)


def read_selection(path: Path, dimensions: Sequence[str] = ()) -> Selection:
    """The list in a CSV; columns of other names are ignored. `dimensions` are those that there are, where they are not
    SOTOPIA-EVAL's. Raises InputError, UsageError where it names nothing."""
    _, rows = read_sheet(path, COLUMNS, COLUMNS[:1], _HINT)
    keys = frozenset(_keys(path, rows, dimensions))
    if not keys:
        raise UsageError(f"{path} names nothing.", _HINT)
    return Selection(keys)


def _keys(path: Path, rows: Iterable[Row], dimensions: Sequence[str]) -> Iterable[Key]:
    for line, row in rows:
        episode, agent, turn, name = row.values()
        if not episode:
            continue
        try:
            named = full_name(name, dimensions) if name else None
            yield episode, agent or None, int(turn) if turn else None, named
        except (ValueError, UsageError) as wrong:
            odd = wrong.message if isinstance(wrong, UsageError) else f"{turn!r} is not a turn."
            raise InputError(f"{path}:{line}: {odd}", _HINT) from wrong
