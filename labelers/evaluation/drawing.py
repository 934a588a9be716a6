"""Which dialogues people are asked to score: so many a method, the same scenes for every method, in no order.

An item's id is a hash of the dataset's name and the episode's id: it tells people nothing, and it leads back to the
episode without a key that could be lost.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sotopia_rl_data.comparing.methods import Key, Unit, key_of, one_conversation, read_methods
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.labelers.plan import episodes_of
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Version

DIALOGUES = 28
"""How many dialogues of each method people score (as in the evaluation of Sotopia-RL, arXiv 2508.03905)."""

_ID = 12


@dataclass(frozen=True, slots=True)
class Item:
    """A dialogue to score; `rated` are the ids of the agents that are asked about."""

    item: str
    episode: Episode
    rated: tuple[str, ...]


def item_id(dataset: str, episode_id: str) -> str:
    """The name under which people know an episode."""
    return hashlib.sha256(f"annotate\0{dataset}\0{episode_id}".encode()).hexdigest()[:_ID]


def drawn(
    versions: Sequence[Version],
    *,
    dialogues: int = DIALOGUES,
    seed: int = 0,
    agents: Sequence[str] = (),
    partners: Sequence[str] = (),
    compared_only: bool = False,
) -> list[Item]:
    """The items in random order. `agents` and `partners` are `compare`'s; with `compared_only` people score the
    methods' own agents and not their partners.

    Raises UsageError where it is not clear which agents are compared, InputError where there is nothing to score.
    """
    _, methods = read_methods(versions, agents, partners)
    rated: dict[tuple[int, str], set[str]] = {}
    for units in _chosen(methods, dialogues, seed):
        for unit in units:
            rated.setdefault((unit.run, unit.episode_id), set()).add(unit.agent)
    if not rated:
        raise InputError("There is no dialogue to score.", "see what there is: sotopia-rl-data show REF")
    items = [
        Item(
            item_id(version.name, episode.episode_id),
            episode,
            tuple(
                one.agent for one in episode.agents if not compared_only or one.agent in rated[run, episode.episode_id]
            ),
        )
        for run, version in enumerate(versions)
        for episode in _episodes(version)
        if (run, episode.episode_id) in rated
    ]
    items.sort(key=lambda one: one.item)
    random.Random(seed).shuffle(items)
    return items


def _chosen(methods: Mapping[str, Sequence[Unit]], dialogues: int, seed: int) -> Iterator[list[Unit]]:
    """The units of `dialogues` scenes of each method: those that every method played come first."""
    together = any(one_conversation(units) for units in methods.values())
    by_key: list[dict[Key, Unit]] = []
    for units in methods.values():
        first: dict[Key, Unit] = {}
        for unit in units:
            first.setdefault(key_of(unit, together), unit)
        by_key.append(first)
    for mine in by_key:
        order = sorted(mine, key=lambda key: (-sum(key in other for other in by_key), _drawing(seed, key)))
        chosen = {(mine[key].run, mine[key].episode_id) for key in order[:dialogues]}
        yield [unit for units in methods.values() for unit in units if (unit.run, unit.episode_id) in chosen]


def _drawing(seed: int, key: Key) -> bytes:
    return hashlib.sha256(f"{seed}\0{key!r}".encode()).digest()


def _episodes(version: Version) -> Iterator[Episode]:
    for files in version.files("episodes").values():
        yield from episodes_of(files)
