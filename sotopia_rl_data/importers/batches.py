"""Items on their way into a stage: bounded memory, no episode twice.

A batch of episodes is in memory, and of all others sixteen bytes each, to tell a repeated record (counted and passed
over) from another one of the same id (rejected). Where annotated rows are imported beside the episodes they annotate, a
few hundred bytes each, to find the turns again (see `aligning.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from sotopia_rl_data import tables
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.aligning import Alignment, Log
from sotopia_rl_data.importers.annotated import SOURCE as ANNOTATED
from sotopia_rl_data.importers.condition import Condition
from sotopia_rl_data.importers.examples import Example
from sotopia_rl_data.importers.grouping import environment_of
from sotopia_rl_data.importers.reading import Item
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.splits import split_of
from sotopia_rl_data.store.stage import Stage

BATCH = 128
LABELS = 64  # so many attributions weigh as much as an episode
KEPT_FAILURES = 100
REWARDS = pa.schema([f for f in tables.rewards_schema([]) if f.name not in tables.KEYS["rewards"]])


@dataclass(slots=True)
class Batches:
    """Takes items one by one and writes them to the stage in batches."""

    stage: Stage
    condition: Condition | None
    seed: int
    strict: bool
    align: bool = False  # whether annotated rows and other episodes come together
    counts: Counter[str] = field(default_factory=Counter)
    dialects: Counter[str] = field(default_factory=Counter)
    scored: set[tuple[str, str]] = field(default_factory=set)  # (dimension, evaluator) of any episode's scores
    rejected: list[Failure] = field(default_factory=list)
    _episodes: list[Episode] = field(default_factory=list)
    _examples: list[Example] = field(default_factory=list)
    _behind: list[Attribution | Failure] = field(default_factory=list)  # of this batch's episodes
    _loose: list[Failure] = field(default_factory=list)  # of no episode
    _seen: dict[str, bytes] = field(default_factory=dict)
    _logs: dict[str, Log] = field(default_factory=dict)
    _alignment: Alignment | None = None  # of the last episode, where it was rows for a log
    _splits: dict[str | None, str] = field(default_factory=dict)  # of all episodes, where labels may come later
    _keeping: bool = True  # whether what follows the last episode is kept

    def add(self, item: Item, record: Record) -> None:
        """Take an item and the record that it is from. Raises InputError where it is a Failure and `strict`."""
        if isinstance(item, Failure) and self.strict:
            raise _refused(item)
        if isinstance(item, (Attribution, Failure)) and item.episode_id is not None:  # behind its episode
            label = self._alignment.moved(item) if self._alignment else item
            if self._keeping and label is not None:
                self._behind.append(label)
            return
        if max(len(self._episodes), len(self._examples), len(self._loose), len(self._behind) // LABELS) >= BATCH:
            self._flush()
        if isinstance(item, Episode):
            self._add_episode(item, record)
        elif isinstance(item, Example):
            self._examples.append(item)
        elif isinstance(item, Failure):
            self._loose.append(item)

    def finish(self) -> None:
        """Write what is left. Every config of the version is there then, if empty."""
        self._flush()
        self.stage.write("failures", "train", tables.FAILURES.empty_table())

    def _add_episode(self, episode: Episode, record: Record) -> None:
        digest, known = _content(episode), self._seen.get(episode.episode_id)
        self._keeping, self._alignment = known is None, None
        if known is None:
            if self.align and episode.source != ANNOTATED:
                self._logs[episode.episode_id] = Log.of(episode)
            self._seen[episode.episode_id] = digest
            self._episodes.append(episode)
            self.scored.update((score.dimension, score.evaluator) for score in episode.scores)
        elif known == digest:
            self.counts["duplicates"] += 1
        elif episode.source == ANNOTATED and episode.episode_id in self._logs:
            self._alignment, self._keeping = self._logs.pop(episode.episode_id).place(episode), True
            self._seen[episode.episode_id] = digest
            lost = [replace(failure, source=record.source) for failure in self._alignment.lost]
            if self.strict and lost:
                raise _refused(lost[0])
            self._behind += lost
        else:
            failure = record.failure(f"another episode with the id {episode.episode_id!r} was read before it.")
            if self.strict:
                raise _refused(failure)
            self._loose.append(failure)

    def _flush(self) -> None:
        splits = self._flush_episodes() | self._flush_examples()
        if self.align:
            self._splits.update(splits)
            splits = self._splits
        behind = [item for item in self._behind if item.episode_id in splits]
        attributions = [item for item in behind if isinstance(item, Attribution)]
        failures = [*self._loose, *(item for item in behind if isinstance(item, Failure))]
        self._write("attributions", attributions, splits, tables.attribution_table)
        self._write("failures", failures, splits, tables.failure_table)
        self.counts["attributions"] += len(attributions)
        self.counts["failures"] += len(failures)
        self.rejected += failures[: KEPT_FAILURES - len(self.rejected)]
        self._episodes, self._examples, self._behind, self._loose = [], [], [], []

    def _flush_episodes(self) -> dict[str | None, str]:
        """Write the episodes that fulfil the condition; the split of each by its id."""
        if not self._episodes:
            return {}
        rows = tables.episode_table(self._episodes)
        kept = set(self._filtered(rows).column("episode_id").to_pylist())
        episodes = [e for e in self._episodes if e.episode_id in kept]
        self.counts["episodes"] += len(episodes)
        self.counts["utterances"] += sum(len(e.turns) for e in episodes)
        self.dialects.update(e.dialect for e in episodes)
        splits: dict[str | None, str] = {e.episode_id: split_of(e.environment_id, self.seed) for e in episodes}
        of_rows = [splits.get(e.episode_id, "") for e in self._episodes]
        for split, part in _parts(rows, of_rows):
            self.stage.write("episodes", split, part)
        return splits

    def _flush_examples(self) -> dict[str | None, str]:
        if self._examples:
            rows = self._filtered(pa.Table.from_pylist([_example_row(e) for e in self._examples], schema=REWARDS))
            self.counts["examples"] += rows.num_rows
            of_rows = [split_of(environment, self.seed) for environment in rows.column("environment_id").to_pylist()]
            for split, part in _parts(rows, of_rows):
                self.stage.write("rewards", split, part)
        return {}

    def _filtered(self, rows: pa.Table) -> pa.Table:
        if self.condition is None:
            return rows
        kept = self.condition.keep(rows)
        self.counts["filtered"] += rows.num_rows - kept.num_rows
        return kept

    def _write(
        self,
        config: str,
        items: Sequence[Any],
        splits: Mapping[str | None, str],
        table: Callable[[Iterable[Any]], pa.Table],
    ) -> None:
        """Rows follow the split of their episode; a rejected record has none, and is a row of train."""
        if items:
            for split, part in _parts(table(items), [splits.get(item.episode_id, "train") for item in items]):
                self.stage.write(config, split, part)


def _refused(failure: Failure) -> InputError:
    return InputError(
        f"{failure.source or failure.episode_id}: {failure.reason}",
        "repair it, or leave --strict out to import the rest",
    )


def _parts(rows: pa.Table, splits: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """`rows` by split; rows whose split is "" are left out."""
    for split in sorted(set(splits) - {""}):
        yield split, rows.filter(pa.array([one == split for one in splits]))


def _content(episode: Episode) -> bytes:
    """Sixteen bytes of what makes it this episode and no other: who did and saw what, with which scores. Not what one
    format carries and another does not (codename, relationship, XML), so that an export and its log are the same."""
    who = [(a.agent, a.name) for a in episode.agents]
    content = (episode.environment_id, who, episode.turns, episode.scores, episode.observations)
    return hashlib.sha256(repr(content).encode()).digest()[:16]


def _example_row(example: Example) -> dict[str, Any]:
    """A `rewards` row without identity: it has no columns for episode, agent and turn, and there are no opinions."""
    return {
        "environment_id": environment_of(example.scenario),
        "prompt": list(example.prompt),
        "completion": [{"role": "assistant", "content": example.completion}],
        "reward": example.reward,
    }
