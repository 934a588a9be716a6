"""What a format is: its name, the keys by which its records are recognised, and a reader that makes items of records.

A new format is one file in this folder, which defines a `FORMAT`, and one entry in the table of `formats/__init__.py`.
Most formats read record by record (`one_by_one`); a format whose records belong together has its own Reader, as
`annotated.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.formats.methods import FileOpinions
from sotopia_rl_data.importers.profiles import ProfileLookup
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.importers.scores import RefusedScore
from sotopia_rl_data.schema import Attribution, Episode, Failure, Message


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A prompt and its completion that belong to no episode. `reward` is None where there is no label. Rows of the same
    `scenario` go to the same split, or of the same `environment_id` where the row has one."""

    prompt: tuple[Message, ...]
    completion: str
    reward: float | None
    scenario: str
    environment_id: str | None = None


Item = Episode | TrainingRow | Attribution | Failure
Located = Iterator[tuple[Item, Record]]
"""Items, each with the record it comes from."""


class Reader(Protocol):
    """Takes the records of one file, in order."""

    def add(self, record: Record) -> Located:
        """The items that `record` completes; a record that cannot be read is a Failure. Never raises InputError."""
        ...

    def rest(self) -> Located:
        """The items of the records that are still waiting at the end of the file."""
        ...


Ranges = Mapping[str, tuple[float, float]]
"""The lowest and highest score on each dimension of one's own."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What is known beside a file: its folder, the profiles that its records may name (None: there are none), the
    ranges of declared dimensions, and how annotated rows are read."""

    folder: Path
    profiles: ProfileLookup | None = None
    ranges: Ranges = field(default_factory=dict)
    opinions: FileOpinions = field(default_factory=FileOpinions)


@dataclass(frozen=True, slots=True)
class Format:
    """One format. A record is of the format if it has at least one key of each group of `keys`, in any case and
    spelling where `spelled` is "loosely" (`Speaker ID` is `speaker_id`), and under none of the keys `without_objects` a
    list of objects, which is a chat's. `reader` makes the reader of one file.
    """

    name: str
    keys: tuple[frozenset[str], ...]
    reader: Callable[[Beside], Reader]
    spelled: Literal["exactly", "loosely"] = "exactly"
    without_objects: tuple[str, ...] = ()

    def tells(self, record: Mapping[Any, Any]) -> bool:
        """Whether a record is of this format."""
        lists = (record.get(key) for key in self.without_objects)
        return not self.lacks(record) and not any(
            isinstance(one, (list, tuple)) and one and isinstance(one[0], Mapping) for one in lists
        )

    def lacks(self, keys: Collection[object]) -> list[frozenset[str]]:
        """The groups of which a record with these keys has none."""
        have = {loosely(str(key)) for key in keys} if self.spelled == "loosely" else set(keys)
        return [group for group in self.keys if not have & group]


@lru_cache(maxsize=4096)
def loosely(key: str) -> str:
    """A column's name in small letters, with underscores for spaces and hyphens."""
    return key.strip().lower().replace(" ", "_").replace("-", "_")


def one_by_one(read: Callable[[Record, ProfileLookup | None], list[Item]]) -> Callable[[Beside], Reader]:
    """Readers of a format whose records stand alone. `read` raises InputError for a record that cannot be read."""
    return lambda beside: _OneByOne(read, beside.profiles)


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
    """An episode, followed by a failure for each refused score."""
    failures = [
        Failure(score.reason, episode.episode_id, score.agent, dimension=score.dimension, source=record.source)
        for score in refused
    ]
    return [episode, *failures]
