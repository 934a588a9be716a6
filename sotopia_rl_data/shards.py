"""A shard: one of N parts of a run's episodes, for one of N machines. It needs no engine and no coordinator.

Episodes are put into the order of a hash of their ids, and this order is cut where the work of every part is the same
but for one episode. So each machine finds its own part from the episodes alone, and all parts together are the whole.
Leaves out what a part is used for.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sotopia_rl_data.errors import UsageError

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` (from 1) of `count`. Raises UsageError where there is no such part."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(
                f"There is no shard {self}.", "name one of N shards by its number, from 1/N to N/N, as in --shard 3/8"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `I/N` names. Raises UsageError."""
        found = _SHARD.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"{text!r} does not name a shard.", "give its number and how many there are, as in --shard 3/8"
            )
        return cls(int(found[1]), int(found[2]))

    def part(self, number: int, count: int) -> Shard:
        """Part `number` (from 1) of `count` of this shard."""
        return Shard((self.number - 1) * count + number, self.count * count)

    def has(self, name: str) -> bool:
        """Whether an episode is in this shard, where no other episode is known: about as many are in each."""
        return _place(name) * self.count >> 64 == self.number - 1

    def of(self, episodes: Iterable[tuple[str, int]]) -> Callable[[str], bool]:
        """Whether an episode is in this shard, by its id. `episodes` are the ids of all, each once, with how much work
        an episode is, in any unit. Takes some 80 bytes of memory an episode."""
        number_of = divided(episodes, self.count)
        return lambda name: number_of(name) == self.number


WHOLE = Shard(1, 1)


def divided(episodes: Iterable[tuple[str, int]], count: int) -> Callable[[str], int]:
    """The number of the shard, of so many, that an episode is in, by its id. `episodes` are as in `Shard.of`."""
    if count == 1:
        return lambda _: 1
    import numpy as np

    rows = np.fromiter(((_place(name), work) for name, work in episodes), np.dtype("u8,u8"))
    rows = rows[np.argsort(rows["f0"], kind="stable")]
    work = rows["f1"].astype(np.float64) + 1.0  # an episode without any work belongs somewhere too
    middle = np.cumsum(work) - work / 2
    part = np.minimum(np.floor(middle * (count / max(float(work.sum()), 1.0))), count - 1)
    places, starts = np.unique(part, return_index=True)  # a shard may be empty
    numbers, firsts = [int(place) + 1 for place in places], rows["f0"][starts].tolist()
    return lambda name: numbers[bisect_right(firsts, _place(name)) - 1]


def _place(name: str) -> int:
    """Where an episode is in the order: 64 bits of a hash of its id."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8])
