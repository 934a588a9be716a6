"""The truth of a dataset of known games, laid out for comparing: a row an utterance, in key order, and groups of rows.

A group is an agent in an episode: its turns are what credit is shared out among.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sotopia_rl_data.credit.making import pivotal_turn
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.store import Version

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GroupTruth:
    """The turns of one agent in one episode: `turns` (their numbers), their true `credit` in points, how many `words`
    each has, which are `polite`; V at the `start`, and the final `score`."""

    turns: Ints
    credit: Floats
    words: Floats
    polite: Flags
    start: float
    score: float

    def place(self, turn: int) -> int:
        """Where the turn stands among the agent's."""
        return int(np.searchsorted(self.turns, turn))


@dataclass(frozen=True, slots=True)
class Truth:
    """All n utterances. `episode` and `group` number what each belongs to (`episodes` and `groups` many); `keys` are
    (episode_id, agent, turn). `credit` is Q − V with what the agent knew, `credit_true` with all that is true,
    `shapley` the Shapley values."""

    keys: list[tuple[str, str, int]]
    episode: Ints
    group: Ints
    credit: Floats
    credit_true: Floats
    pivotal: Flags
    words: Floats
    wording: list[str]
    move: list[str]
    starts: Floats
    scores: Floats
    shapley: Floats
    splits: dict[str, slice] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def polite(self) -> Flags:
        """Which utterances have polite filler."""
        return np.array(["polite" in wording for wording in self.wording])

    def by(self, credit: Floats) -> Truth:
        """The same utterances with this as their credit, one number for each of them, and the pivotal turns by it."""
        pivotal = np.zeros(len(self), bool)
        for number in range(int(self.group.max()) + 1 if len(self) else 0):
            rows = np.flatnonzero(self.group == number)
            row = pivotal_turn(rows.tolist(), credit[rows].tolist())
            if row is not None:
                pivotal[row] = True
        return replace(self, credit=credit, pivotal=pivotal)

    def groups(self) -> dict[tuple[str, str], GroupTruth]:
        """Each group by (episode_id, agent)."""
        polite, found = self.polite, {}
        for number in range(int(self.group.max()) + 1 if len(self) else 0):
            rows = np.flatnonzero(self.group == number)
            turns = np.array([self.keys[row][2] for row in rows])
            found[self.keys[rows[0]][:2]] = GroupTruth(
                turns,
                self.credit[rows],
                self.words[rows],
                polite[rows],
                float(self.starts[number]),
                float(self.scores[number]),
            )
        return found


def truth_of(version: Version) -> Truth:
    """The truth of a version of known games. Raises UsageError where it has none."""
    if "truth" not in version.manifest.configs:
        raise UsageError(
            f"{version.ref} has no truth to measure against.",
            "make known games: sotopia-rl-data credit games --make 100",
        )
    rows: list[dict[str, Any]] = []
    said: dict[tuple[str, int], str] = {}
    scores: dict[tuple[str, str], float] = {}
    splits: dict[str, slice] = {}
    for split, files in version.files("truth").items():
        before = len(rows)
        rows += _rows(files)
        splits[split] = slice(before, len(rows))
    for files in version.files("episodes").values():
        for episode in _rows(files, ["episode_id", "turns", "scores"]):
            said |= {(episode["episode_id"], turn["turn"]): turn["text"] for turn in episode["turns"]}
            scores |= {(episode["episode_id"], score["agent"]): score["score"] for score in episode["scores"]}
    return _laid_out(rows, said, scores, splits)


def _rows(files: list[Path], columns: list[str] | None = None) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return [row for path in files for row in pq.read_table(path, columns=columns).to_pylist()]


def _laid_out(
    rows: list[dict[str, Any]],
    said: dict[tuple[str, int], str],
    scores: dict[tuple[str, str], float],
    splits: dict[str, slice],
) -> Truth:
    keys = [(row["episode_id"], row["agent"], row["turn"]) for row in rows]
    groups = list(dict.fromkeys(key[:2] for key in keys))
    numbers = {group: number for number, group in enumerate(groups)}
    episodes = {name: number for number, name in enumerate(dict.fromkeys(key[0] for key in keys))}
    first = {key[:2]: row["v"] for key, row in zip(reversed(keys), reversed(rows), strict=True)}
    return Truth(
        keys=keys,
        episode=np.array([episodes[key[0]] for key in keys], np.int64),
        group=np.array([numbers[key[:2]] for key in keys], np.int64),
        credit=np.array([row["advantage"] for row in rows]),
        credit_true=np.array([row["advantage_true"] for row in rows]),
        pivotal=np.array([row["pivotal"] for row in rows], bool),
        words=np.array([max(1, len(said[key[0], key[2]].split())) for key in keys], float),
        wording=[row["wording"] for row in rows],
        move=[row["move"] for row in rows],
        starts=np.array([first[group] for group in groups]),
        scores=np.array([scores[group] for group in groups]),
        shapley=np.array([row["shapley"] for row in rows]),
        splits=splits,
    )
