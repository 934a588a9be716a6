"""Items on their way into a stage: those that `--where` keeps, in bounded memory, no episode twice.

Only one batch of episodes is in memory. Of every episode before it sixteen bytes are kept, to tell a repeated record
(counted and passed over) from a different one with the same id (rejected), and from another opinion of it: annotated
rows that have other labels.

sotopia-rl's annotated JSONL numbers only the utterances that it kept, but the log has all of them. When both are
imported together, a few hundred bytes of each log are kept too, and an annotated utterance is found in the log by its
speaker and by what is left of its text (up to the first blank line). The match is certain only where the log has
exactly as many such utterances as the rows have; every other utterance of the log becomes a failure. The episode and
its scores are the log's; the annotated rows add only labels.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import duckdb
import pyarrow as pa

from sotopia_rl_data import tables
from sotopia_rl_data.errors import InputError, QueryError
from sotopia_rl_data.importers.formats.annotated import JUDGE, SharedLabel
from sotopia_rl_data.importers.formats.annotated import SOURCE as ANNOTATED
from sotopia_rl_data.importers.formats.format import Item, TrainingRow
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.query import TIME_LIMIT, check_select, close, heard, lock, no_condition, time_limit, unlocked
from sotopia_rl_data.schema import Attribution, Episode, Failure, environment_of, split_of
from sotopia_rl_data.store.stage import Stage

BATCH = 128
LONG_ROWS = 64 << 20  # characters of training rows that are a batch, however few
LABELS = 64  # this many attributions take about as much memory as one episode
KEPT_FAILURES = 100
USUAL_SENTINEL = -1.0  # what sotopia-rl writes for "no label", where it is not a reward
KEPT_ENVIRONMENTS = 1000
_ROW = "__row"
REWARDS = pa.schema([f for f in tables.rewards_schema([]) if f.name not in tables.KEYS["rewards"]])


class RowFilter:
    """`--where`: a DuckDB condition over the columns of the imported rows, and over nothing else.

    Keeps the rows for which the condition is true (NULL is not). It is one expression, never a statement.
    """

    def __init__(self, text: str, schema: pa.Schema) -> None:
        """Raises QueryError where `text` is not a condition over the columns of `schema`."""
        self._text, self._columns = text, schema.names
        self._connection = lock(unlocked(), {}, "this import")
        try:
            text.encode()  # DuckDB raises a TypeError where it is not UTF-8
            self._expression = duckdb.SQLExpression(text)
            check_select(self._connection, f"SELECT (\n{text}\n)", "")  # it may hold a query of its own
            self.keep(schema.empty_table())
        except BaseException as error:
            self.close()
            if isinstance(error, (duckdb.Error, QueryError, UnicodeEncodeError)):
                raise no_condition(text, error, self._columns) from error
            raise

    def keep(self, rows: pa.Table) -> pa.Table:
        """Those of `rows` for which the condition is true, in order. Raises QueryError."""
        numbered = rows.append_column(_ROW, pa.array(range(rows.num_rows), pa.int64()))
        try:
            with time_limit(self._connection, TIME_LIMIT) as end:
                kept = heard(self._connection, lambda: self._chosen(numbered).to_arrow_table(), end)
        except duckdb.Error as error:
            raise no_condition(self._text, error, self._columns) from error
        return rows.take(kept.column(_ROW).sort())

    def _chosen(self, numbered: pa.Table) -> duckdb.DuckDBPyRelation:
        return self._connection.from_arrow(numbered).filter(self._expression).select(_ROW)

    def __enter__(self) -> RowFilter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its connection up."""
        close(self._connection)


class MetaFound(Exception):
    """An episode has a `meta`, for which the columns have no room: the import begins anew with columns that have."""


@dataclass(slots=True)
class Batches:
    """Takes items one at a time and writes them to the stage in batches. Raises MetaFound."""

    stage: Stage
    where: RowFilter | None
    options: ImportOptions
    columns: pa.Schema  # of `episodes`
    align: bool = False  # whether there are annotated rows, whose labels may belong to an episode of an earlier batch
    counts: Counter[str] = field(default_factory=Counter)
    dialects: Counter[str] = field(default_factory=Counter)
    scored: set[tuple[str, str]] = field(default_factory=set)  # (dimension, evaluator) of any episode's scores
    rejected: list[Failure] = field(default_factory=list)
    split_sizes: Counter[str] = field(default_factory=Counter)  # episodes or training rows by split
    environments: set[str] = field(default_factory=set)  # of the first thousand; more fill every split
    _episodes: list[Episode] = field(default_factory=list)
    _training_rows: list[TrainingRow] = field(default_factory=list)
    _characters: int = 0  # in the training rows of this batch
    _labels: list[Attribution | Failure] = field(default_factory=list)  # labels of the episodes in this batch
    _unread: list[Failure] = field(default_factory=list)  # records that belong to no episode
    _hashes: dict[str, bytes] = field(default_factory=dict)  # the content hash of every episode so far, by its id
    _logs: dict[str, RememberedEpisode] = field(default_factory=dict)
    _aligned: set[str] = field(default_factory=set)  # the episodes whose lost utterances are failures already
    _alignment: Alignment | None = None  # where the last episode is in its log, if annotated rows and a log have it
    _splits: dict[str | None, str] = field(default_factory=dict)  # splits by episode id, for labels in a later batch
    _keeping: bool = True  # whether the labels that follow the last episode are written; False for a repeated episode

    def add(self, item: Item, record: Record) -> None:
        """Take an item and the record it comes from. Raises InputError for a Failure if `strict`."""
        if isinstance(item, Failure) and self.options.strict:
            raise _refused(item)
        if isinstance(item, (Attribution, Failure)) and item.episode_id is not None:  # a label of that episode
            label = self._alignment.moved(item) if self._alignment else item
            if self._keeping and label is not None:
                self._labels.append(label)
            return
        most = max(len(self._episodes), len(self._training_rows), len(self._unread), len(self._labels) // LABELS)
        if most >= BATCH or self._characters >= LONG_ROWS:
            self._flush()
        if isinstance(item, Episode):
            self._add_episode(item, record)
        elif isinstance(item, TrainingRow):
            self._training_rows.append(self._without_sentinel(item))
            self._characters += len(item.completion) + sum(len(message["content"]) for message in item.prompt)
        elif isinstance(item, Failure):
            self._unread.append(item)

    def finish(self) -> None:
        """Write what is left, and an empty `failures` where nothing failed."""
        self._flush()
        self.stage.write("failures", "train", tables.FAILURES.empty_table())

    def _add_episode(self, episode: Episode, record: Record) -> None:
        if "meta" not in self.columns.names and tables.has_meta(episode):
            raise MetaFound
        digest, known = _content_hash(episode), self._hashes.get(episode.episode_id)
        self._keeping, self._alignment = known is None, None
        if known is None:
            if self.align and episode.source != ANNOTATED:
                self._logs[episode.episode_id] = RememberedEpisode.of(episode)
            self._hashes[episode.episode_id] = digest
            self._episodes.append(episode)
            self.scored.update((score.dimension, score.evaluator) for score in episode.scores)
        elif record.repeated or (known == digest and episode.source != ANNOTATED):
            self.counts["duplicates"] += 1
        elif episode.source == ANNOTATED and episode.episode_id in self._logs:
            self._alignment, self._keeping = self._logs[episode.episode_id].place(episode), True
            lost = [replace(failure, source=record.source) for failure in self._alignment.lost]
            lost = [] if episode.episode_id in self._aligned else lost
            self._aligned.add(episode.episode_id)
            if self.options.strict and lost:
                raise _refused(lost[0])
            self._labels += lost
        elif known == digest:
            self._keeping = True  # another opinion of the same episode
        else:
            failure = record.failure(f"another episode with the id {episode.episode_id!r} was read before it.")
            if self.options.strict:
                raise _refused(failure)
            self._unread.append(failure)

    def _without_sentinel(self, row: TrainingRow) -> TrainingRow:
        """The row, whose reward is None where it is the sentinel; both are counted."""
        self.counts["usual sentinels"] += row.reward == USUAL_SENTINEL
        if row.reward is None or row.reward != self.options.sentinel:
            return row
        self.counts["sentinels"] += 1
        return replace(row, reward=None)

    def _flush(self) -> None:
        splits = self._flush_episodes()
        self._flush_training_rows()
        if self.align:
            self._splits.update(splits)
            splits = self._splits
        labels = [label for label in self._labels if label.episode_id in splits]
        attributions = [label for label in labels if isinstance(label, Attribution)]
        failures = [*self._unread, *(label for label in labels if isinstance(label, Failure))]
        row_splits = [splits[label.episode_id] for label in attributions]
        self._write("attributions", tables.attribution_table(attributions), row_splits)
        row_splits = [splits.get(failure.episode_id, "train") for failure in failures]  # rejected records go to train
        self._write("failures", tables.failure_table(failures), row_splits)
        self.counts["attributions"] += len(attributions)
        self.counts["failures"] += len(failures)
        shared = sum(1 for failure in failures if isinstance(failure, SharedLabel))
        if shared:
            self.counts["shared labels"] += shared
        self.rejected += failures[: KEPT_FAILURES - len(self.rejected)]
        self._episodes, self._training_rows, self._labels, self._unread = [], [], [], []
        self._characters = 0

    def _flush_episodes(self) -> dict[str | None, str]:
        """Write the episodes that `where` keeps, and return their splits by episode id."""
        if not self._episodes:
            return {}
        rows = tables.episode_table(self._episodes, self.columns)
        kept = set(self._filtered(rows).column("episode_id").to_pylist())
        episodes = [e for e in self._episodes if e.episode_id in kept]
        self.counts["episodes"] += len(episodes)
        self.counts["utterances"] += sum(len(e.turns) for e in episodes)
        self.dialects.update(e.dialect for e in episodes)
        by_episode, seed = self.options.split_by == "episode", self.options.seed
        splits: dict[str | None, str] = {
            e.episode_id: split_of(e.episode_id if by_episode else e.environment_id, seed) for e in episodes
        }
        self.split_sizes.update(splits.values())
        self._note_environments(e.environment_id for e in episodes)
        self._write("episodes", rows, [splits.get(e.episode_id, "") for e in self._episodes])
        return splits

    def _flush_training_rows(self) -> None:
        """Write the training rows that `where` keeps. They have no episode, agent, turn or opinions."""
        if not self._training_rows:
            return
        columns = [
            {
                "environment_id": row.environment_id or environment_of(row.scenario),
                "prompt": list(row.prompt),
                "completion": [{"role": "assistant", "content": row.completion}],
                "reward": row.reward,
            }
            for row in self._training_rows
        ]
        rows = self._filtered(pa.Table.from_pylist(columns, schema=REWARDS))
        self.counts["examples"] += rows.num_rows
        environments = rows.column("environment_id").to_pylist()
        splits = [split_of(environment, self.options.seed) for environment in environments]
        self.split_sizes.update(splits)
        self._note_environments(environments)
        self._write("rewards", rows, splits)

    def _note_environments(self, environments: Iterable[str]) -> None:
        if len(self.environments) < KEPT_ENVIRONMENTS:
            self.environments.update(environments)

    @property
    def episodes(self) -> list[str]:
        """The ids of the first thousand episodes."""
        return list(islice(self._hashes, KEPT_ENVIRONMENTS))

    def _filtered(self, rows: pa.Table) -> pa.Table:
        if self.where is None:
            return rows
        kept = self.where.keep(rows)
        self.counts["filtered"] += rows.num_rows - kept.num_rows
        return kept

    def _write(self, config: str, rows: pa.Table, splits: Sequence[str]) -> None:
        """Write each row to its split; a row whose split is "" is left out."""
        for split in sorted(set(splits) - {""}):
            self.stage.write(config, split, rows.filter(pa.array([row_split == split for row_split in splits])))


def _refused(failure: Failure) -> InputError:
    return InputError(
        f"{failure.source or failure.episode_id}: {failure.reason}",
        "repair that record, or leave --strict out to import the others",
    )


def _content_hash(episode: Episode) -> bytes:
    """A hash (16 bytes) of what tells this episode from others: who did and saw what, with which scores.

    It leaves out what one format has and another has not (codename, relationship, XML, the meta that the library's
    profiles give), so that an export and its log are the same episode.
    """
    agents = [(a.agent, a.name, a.meta if episode.dialect == "plain" else None) for a in episode.agents]
    content = (episode.environment_id, agents, episode.turns, episode.scores, episode.observations, episode.meta)
    return hashlib.sha256(repr(content).encode()).digest()[:16]


_ENTRY = struct.Struct("<iH8s")  # turn, place in the speaking order, mark
_LOST = "the annotated rows have no label, or several, that could be this utterance's"


@dataclass(frozen=True, slots=True)
class RememberedEpisode:
    """What is kept of an imported episode: its agents as (name, id), and fourteen bytes for each utterance."""

    agents: tuple[tuple[str, str], ...]
    utterances: bytes

    @classmethod
    def of(cls, episode: Episode) -> RememberedEpisode:
        """What to remember of `episode`."""
        return cls(tuple((a.name, a.agent) for a in episode.agents), b"".join(_entries(episode)))

    def place(self, rows: Episode) -> Alignment:
        """Where the utterances of `rows`, an episode made of annotated rows, are in this log."""
        in_log, in_rows = defaultdict[bytes, list[int]](list), defaultdict[bytes, list[int]](list)
        for turn, _, mark in _ENTRY.iter_unpack(self.utterances):
            in_log[mark].append(turn)
        for turn, _, mark in map(_ENTRY.unpack, _entries(rows)):
            in_rows[mark].append(turn)
        certain = {mark for mark, row_turns in in_rows.items() if len(row_turns) == len(in_log[mark])}
        turns: dict[int, int] = {}
        for mark in certain:
            turns.update(zip(in_rows[mark], in_log[mark], strict=True))
        lost = tuple(
            Failure(_LOST, rows.episode_id, self.agents[place][1], turn, judge=JUDGE)
            for turn, place, mark in _ENTRY.iter_unpack(self.utterances)
            if mark not in certain
        )
        return Alignment(dict(self.agents), turns, lost)


@dataclass(frozen=True, slots=True)
class Alignment:
    """The log's agent ids by name, its turns by those of the rows, and a failure for each unmatched utterance."""

    agents: dict[str, str]
    turns: dict[int, int]
    lost: tuple[Failure, ...]

    def moved(self, label: Attribution | Failure) -> Attribution | Failure | None:
        """`label`, moved to its turn in the log; None where the turn is not known (the utterance is among `lost`)."""
        agent = self.agents.get(label.agent or "")
        if agent is None or label.turn not in self.turns:
            return None
        return replace(label, agent=agent, turn=self.turns[label.turn])


def _entries(episode: Episode) -> Iterator[bytes]:
    """An entry for each utterance. Its mark hashes the speaker's name, the action type and the text that is left."""
    places = {a.agent: i for i, a in enumerate(episode.agents)}
    for turn in episode.turns:
        place = places[turn.agent]
        kept = turn.text.partition("\n\n")[0].strip().rstrip('"')
        mark = hashlib.sha256(repr((episode.agents[place].name, turn.action_type, kept)).encode()).digest()[:8]
        yield _ENTRY.pack(turn.turn, place, mark)
