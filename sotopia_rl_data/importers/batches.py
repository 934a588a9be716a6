"""Items on their way into a stage: those that `--where` keeps, in bounded memory, no episode twice.

A batch of episodes is in memory, and of all others sixteen bytes each, to tell a repeated record (counted and passed
over) from another one of the same id (rejected). Where annotated rows are imported beside the episodes they annotate, a
few hundred bytes each, to find the turns again (see `align.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import duckdb
import pyarrow as pa

from sotopia_rl_data import tables
from sotopia_rl_data.connections import lock, unlocked
from sotopia_rl_data.errors import InputError, QueryError
from sotopia_rl_data.importers.align import Alignment, RememberedEpisode
from sotopia_rl_data.importers.formats.annotated import SOURCE as ANNOTATED
from sotopia_rl_data.importers.formats.format import Item, TrainingRow
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.schema import Attribution, Episode, Failure
from sotopia_rl_data.splits import environment_of, split_of
from sotopia_rl_data.store.stage import Stage

BATCH = 128
LABELS = 64  # so many attributions weigh as much as an episode
KEPT_FAILURES = 100
_ROW = "__row"
REWARDS = pa.schema([f for f in tables.rewards_schema([]) if f.name not in tables.KEYS["rewards"]])


class RowFilter:
    """`--where`: a DuckDB condition over the columns of the rows that are imported, and over nothing else.

    Keeps the rows for which it is true. It is one expression, never a statement; NULL is not true.
    """

    def __init__(self, text: str, schema: pa.Schema) -> None:
        """Raises QueryError where `text` is not a condition over the columns of `schema`."""
        self._columns = schema.names
        self._connection = lock(unlocked(), {}, "this import")
        try:
            self._expression = duckdb.SQLExpression(text)
        except duckdb.Error as error:
            raise self._error(error) from error
        self.keep(schema.empty_table())

    def keep(self, rows: pa.Table) -> pa.Table:
        """The rows of `rows` that fulfil the condition, in their order. Raises QueryError."""
        numbered = rows.append_column(_ROW, pa.array(range(rows.num_rows), pa.int64()))
        try:
            kept = self._connection.from_arrow(numbered).filter(self._expression).select(_ROW).to_arrow_table()
        except duckdb.Error as error:
            raise self._error(error) from error
        return rows.take(kept.column(_ROW).sort())

    def __enter__(self) -> RowFilter:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _error(self, error: duckdb.Error) -> QueryError:
        reason = str(error).strip().splitlines()[0].rstrip(".!")
        return QueryError(f"--where is not a condition: {reason}.", f"the columns are {', '.join(self._columns)}")


@dataclass(slots=True)
class Batches:
    """Takes items one by one and writes them to the stage in batches."""

    stage: Stage
    where: RowFilter | None
    seed: int
    strict: bool
    align: bool = False  # whether annotated rows and other episodes come together
    counts: Counter[str] = field(default_factory=Counter)
    dialects: Counter[str] = field(default_factory=Counter)
    scored: set[tuple[str, str]] = field(default_factory=set)  # (dimension, evaluator) of any episode's scores
    rejected: list[Failure] = field(default_factory=list)
    _episodes: list[Episode] = field(default_factory=list)
    _training_rows: list[TrainingRow] = field(default_factory=list)
    _labels: list[Attribution | Failure] = field(default_factory=list)  # of this batch's episodes
    _unread: list[Failure] = field(default_factory=list)  # of no episode
    _seen: dict[str, bytes] = field(default_factory=dict)
    _logs: dict[str, RememberedEpisode] = field(default_factory=dict)
    _alignment: Alignment | None = None  # of the last episode, where it was rows for a log
    _splits: dict[str | None, str] = field(default_factory=dict)  # of all episodes, where labels may come later
    _keeping: bool = True  # whether what follows the last episode is kept

    def add(self, item: Item, record: Record) -> None:
        """Take an item and the record that it is from. Raises InputError where it is a Failure and `strict`."""
        if isinstance(item, Failure) and self.strict:
            raise _refused(item)
        if isinstance(item, (Attribution, Failure)) and item.episode_id is not None:  # it follows its episode
            label = self._alignment.moved(item) if self._alignment else item
            if self._keeping and label is not None:
                self._labels.append(label)
            return
        if max(len(self._episodes), len(self._training_rows), len(self._unread), len(self._labels) // LABELS) >= BATCH:
            self._flush()
        if isinstance(item, Episode):
            self._add_episode(item, record)
        elif isinstance(item, TrainingRow):
            self._training_rows.append(item)
        elif isinstance(item, Failure):
            self._unread.append(item)

    def finish(self) -> None:
        """Write what is left, and an empty `failures` where nothing failed."""
        self._flush()
        self.stage.write("failures", "train", tables.FAILURES.empty_table())

    def _add_episode(self, episode: Episode, record: Record) -> None:
        digest, known = _content_hash(episode), self._seen.get(episode.episode_id)
        self._keeping, self._alignment = known is None, None
        if known is None:
            if self.align and episode.source != ANNOTATED:
                self._logs[episode.episode_id] = RememberedEpisode.of(episode)
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
            self._labels += lost
        else:
            failure = record.failure(f"another episode with the id {episode.episode_id!r} was read before it.")
            if self.strict:
                raise _refused(failure)
            self._unread.append(failure)

    def _flush(self) -> None:
        splits = self._flush_episodes()
        self._flush_training_rows()
        if self.align:
            self._splits.update(splits)
            splits = self._splits
        labels = [one for one in self._labels if one.episode_id in splits]
        attributions = [one for one in labels if isinstance(one, Attribution)]
        failures = [*self._unread, *(one for one in labels if isinstance(one, Failure))]
        places = [splits.get(one.episode_id, "train") for one in attributions]
        self._write("attributions", tables.attribution_table(attributions), places)
        places = [splits.get(one.episode_id, "train") for one in failures]  # a rejected record is a row of train
        self._write("failures", tables.failure_table(failures), places)
        self.counts["attributions"] += len(attributions)
        self.counts["failures"] += len(failures)
        self.rejected += failures[: KEPT_FAILURES - len(self.rejected)]
        self._episodes, self._training_rows, self._labels, self._unread = [], [], [], []

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
        self._write("episodes", rows, [splits.get(e.episode_id, "") for e in self._episodes])
        return splits

    def _flush_training_rows(self) -> None:
        """Write the training rows that fulfil the condition, without identity: no episode, agent, turn or opinions."""
        if not self._training_rows:
            return
        columns = [
            {
                "environment_id": environment_of(one.scenario),
                "prompt": list(one.prompt),
                "completion": [{"role": "assistant", "content": one.completion}],
                "reward": one.reward,
            }
            for one in self._training_rows
        ]
        rows = self._filtered(pa.Table.from_pylist(columns, schema=REWARDS))
        self.counts["examples"] += rows.num_rows
        environments = rows.column("environment_id").to_pylist()
        self._write("rewards", rows, [split_of(environment, self.seed) for environment in environments])

    def _filtered(self, rows: pa.Table) -> pa.Table:
        if self.where is None:
            return rows
        kept = self.where.keep(rows)
        self.counts["filtered"] += rows.num_rows - kept.num_rows
        return kept

    def _write(self, config: str, rows: pa.Table, splits: Sequence[str]) -> None:
        """Write each row to its split; those whose split is "" are left out."""
        for split in sorted(set(splits) - {""}):
            self.stage.write(config, split, rows.filter(pa.array([one == split for one in splits])))


def _refused(failure: Failure) -> InputError:
    return InputError(
        f"{failure.source or failure.episode_id}: {failure.reason}",
        "repair it, or leave --strict out to import the rest",
    )


def _content_hash(episode: Episode) -> bytes:
    """A hash (16 bytes) over what tells this episode from others: who did and saw what, with which scores.

    Not over what one format carries and another does not (codename, relationship, XML): an export and its log are the
    same episode.
    """
    who = [(a.agent, a.name) for a in episode.agents]
    content = (episode.environment_id, who, episode.turns, episode.scores, episode.observations)
    return hashlib.sha256(repr(content).encode()).digest()[:16]
