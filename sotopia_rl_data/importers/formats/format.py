"""What a format is: its name, the keys that tell its records, and a reader from records to items.

A new format is one file here, which makes a `FORMAT`, and one line in the table of `formats/__init__.py`. Most read
record by record (`one_by_one`); one whose records belong together brings a Reader of its own, as `annotated.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.profiles import ProfileLookup
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.importers.scores import RefusedScore
from sotopia_rl_data.schema import Attribution, Episode, Failure, Message


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A prompt and its completion, of no episode. `reward` is None where it has no label; rows of the same `scenario`
    stay on one side of every split."""

    prompt: tuple[Message, ...]
    completion: str
    reward: float | None
    scenario: str


Item = Episode | TrainingRow | Attribution | Failure
Located = Iterator[tuple[Item, Record]]
"""Items, each with the record that it is from."""


class Reader(Protocol):
    """Takes the records of one file, in order."""

    def add(self, record: Record) -> Located:
        """The items that `record` completes: what cannot be read is a Failure. Never raises InputError."""
        ...

    def rest(self) -> Located:
        """The items of what is left at the end of the file."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """One format. A record is of it where it has, of each group of `keys`, at least one.

    `reader` makes the reader of one file; it is handed the profiles that the file's records may name, if there are any.
    """

    name: str
    keys: tuple[frozenset[str], ...]
    reader: Callable[[ProfileLookup | None], Reader]

    def tells(self, keys: set[object]) -> bool:
        """Whether a record with these keys is of this format."""
        return all(keys & group for group in self.keys)


def one_by_one(read: Callable[[Record, ProfileLookup | None], list[Item]]) -> Callable[[ProfileLookup | None], Reader]:
    """Readers of a format of which each record stands alone. `read` raises InputError where it cannot be read."""
    return lambda profiles: _OneByOne(read, profiles)


@dataclass(frozen=True, slots=True)
class _OneByOne:
    read: Callable[[Record, ProfileLookup | None], list[Item]]
    profiles: ProfileLookup | None

    def add(self, record: Record) -> Located:
        try:
            items = self.read(record, self.profiles)
        except InputError as error:
            items = [record.failure(error.message)]
        return ((item, record) for item in items)

    def rest(self) -> Located:
        return iter(())


def with_refusals(episode: Episode, refused: tuple[RefusedScore, ...], record: Record) -> list[Item]:
    """An episode, and after it a failure for each of its scores that was refused."""
    failures = [
        Failure(one.reason, episode.episode_id, one.agent, dimension=one.dimension, source=record.source)
        for one in refused
    ]
    return [episode, *failures]
