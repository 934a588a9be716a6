"""One utterance a row: a table of who said what in which conversation, as CSV, TSV, JSON Lines, Parquet or Arrow.

    conversation,turn,speaker,text,csat
    late-train-1,0,Ada,When is the next one?,4

Rows of a conversation may lie anywhere in the file. They are put in the order of their turns' numbers, else of their
times, else of the file. Times are numbers, ISO 8601, or begin with the year and are all written alike; what any other
time means ("1/10/2024") is not guessed. Whatever other columns there are is kept as `meta`, the times too: of the
episodes, if a column has one value in every conversation of the file, or else of the turns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.dialogue import (
    EPISODE_KEYS,
    Setting,
    Speaker,
    Utterance,
    dialogue,
    named,
    whole_number,
)
from sotopia_rl_data.importers.formats.format import Format, Located, loosely
from sotopia_rl_data.importers.record import Record, identifier, items, mapping, nested, text
from sotopia_rl_data.importers.spool import Spool
from sotopia_rl_data.schema import Episode

CONVERSATIONS = (*EPISODE_KEYS, "episode")
SPEAKERS = ("agent", "speaker", "speaker_id", "role", "from", "sender", "author", "user")
TEXTS = ("text", "utterance", "content", "message", "body")
TURNS = ("turn", "turn_id", "turn_idx", "turn_index", "turn_number")
TIMES = ("timestamp", "time", "created_at", "date")
_ACTION, _TO, _FAILED, _NAME = "action_type", "to", "failed", "name"
_HALF_DAY = re.compile(r"\b12(?:[:.]\d+)*\s*[ap]\.?\s?m\b", re.IGNORECASE)
_TIME = 1_000  # characters: a longer text does not tell a time
_OF_SCENE, _OF_PERSON = ("scenario", "environment_id", "tag"), ("goal", "background")


@dataclass(frozen=True, slots=True)
class UtteranceRow:
    """A row that was read: its place in the file, what was said when, and its other columns."""

    source: str
    conversation: str
    utterance: Utterance
    time: float | str | None
    about: Mapping[str, str]

    def packed(self) -> list[Any]:
        """The row as JSON values; `unpacked` is the inverse."""
        said = self.utterance
        meta = dict(said.meta)
        return [self.source, said.speaker, said.text, said.action_type, said.turn, said.to, said.failed, meta,
                self.time, dict(self.about)]  # fmt: skip

    @classmethod
    def unpacked(cls, conversation: str, row: Sequence[Any]) -> UtteranceRow:
        source, speaker, words, action, turn, to, failed, meta, time, about = row
        return cls(source, conversation, Utterance(speaker, words, action, turn, tuple(to), failed, meta), time, about)


def read_utterance(record: Record) -> UtteranceRow:
    """A row of the table. Raises InputError."""
    row = {loosely(str(key)): value for key, value in mapping(record.value, "the record").items()}
    found = {what: named(row, keys) for what, keys in _PARTS.items()}
    conversation, speaker, words = found["conversation"], found["speaker"], found["text"]
    for what, key in (("conversation", conversation), ("speaker", speaker), ("text", words)):
        if key is None:
            missing = next((one for one in _PARTS[what] if one in row), what)
            raise InputError(f"`{missing}` is empty or missing.")
    turn, time = found["turn"], found["time"]
    to = nested(row[_TO], "`to`") if isinstance(row.get(_TO), str) else row.get(_TO)
    about = {key: text(row, key, "") for key in (*_OF_SCENE, *_OF_PERSON, _NAME) if row.get(key) is not None}
    used = {conversation, speaker, words, turn, *about, _ACTION, _TO, _FAILED, "split"}
    return UtteranceRow(
        record.source,
        identifier(row, str(conversation)),
        Utterance(
            identifier(row, str(speaker)),
            text(row, str(words)),
            text(row, _ACTION, "speak"),
            whole_number(row[turn], f"`{turn}`") if turn else None,
            tuple(identifier({_TO: one}, _TO) for one in items({_TO: to}, _TO, default=True)),
            _flag(row.get(_FAILED)),
            {key: value for key, value in row.items() if key not in used and value is not None},
        ),
        row[time] if time and isinstance(row[time], (int, float, str)) else None,
        about,
    )


_PARTS = {"conversation": CONVERSATIONS, "speaker": SPEAKERS, "text": TEXTS, "turn": TURNS, "time": TIMES}


def _flag(value: Any) -> bool | None:
    words = {"true": True, "false": False}
    return words.get(value.lower()) if isinstance(value, str) else value if isinstance(value, bool) else None


@dataclass(slots=True)
class _Table:
    """The reader of one file: the rows wait until it has ended."""

    _spool: Spool = field(default_factory=Spool)

    def add(self, record: Record) -> Located:
        try:
            row = read_utterance(record)
        except InputError as error:
            yield record.failure(error.message), record
        else:
            self._spool.add(row.conversation, row.packed())

    def rest(self) -> Located:
        try:
            varying = _varying(self._conversations())
            for conversation, rows in self._conversations():
                yield from episode_or_failures(rows, partial(_episode, conversation, varying))
        finally:
            self._spool.close()

    def _conversations(self) -> Iterator[tuple[str, list[UtteranceRow]]]:
        for conversation, rows in self._spool.groups():
            yield conversation, [UtteranceRow.unpacked(conversation, row) for row in rows]


def episode_or_failures(rows: Sequence[UtteranceRow], read: Callable[[Sequence[UtteranceRow]], Episode]) -> Located:
    """The episode that `read` makes of the rows of a conversation; where it cannot, a failure for each row."""
    try:
        yield read(rows), Record(None, rows[0].source)
    except InputError as error:
        for row in rows:
            record = Record(row.packed(), row.source)
            yield record.failure(error.message), record


FORMAT = Format(
    "utterances",
    keys=(frozenset(CONVERSATIONS), frozenset(SPEAKERS), frozenset(TEXTS)),
    reader=lambda _: _Table(),
    spelled="loosely",
)


def _varying(conversations: Iterator[tuple[str, list[UtteranceRow]]]) -> set[str]:
    """The columns that have several values in one conversation. Where no conversation has two rows, all of them."""
    varying, columns, several = set[str](), set[str](), False
    for _, rows in conversations:
        several = several or len(rows) > 1
        first = rows[0].utterance.meta
        columns |= first.keys()
        for row in rows[1:]:
            meta = row.utterance.meta
            columns |= meta.keys()
            varying |= {key for key in (first.keys() | meta.keys()) - varying if first.get(key) != meta.get(key)}
    return varying if several else columns


def in_order(rows: Sequence[UtteranceRow]) -> Sequence[UtteranceRow]:
    """The rows in the order of their times, if all of them have one that can be compared; else as they are."""
    order = order_of([row.time for row in rows])
    return rows if order is None else [rows[i] for i in order]


def order_of(times: Sequence[float | str | None]) -> list[int] | None:
    """The places of these times from the first to the last; None where they cannot all be compared."""
    for read in (_number, _moment, _year_first):
        comparable = [key for key in map(read, times) if key is not None]
        if len(comparable) == len(times) and len(set(map(_shape, comparable))) == 1:
            return sorted(range(len(times)), key=comparable.__getitem__)
    return None


def _number(time: float | str | None) -> Any:
    """Seconds, milliseconds or places: a number, also as text."""
    try:
        number = math.nan if time is None or isinstance(time, bool) else float(time)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _moment(time: float | str | None) -> Any:
    """A moment by ISO 8601."""
    try:
        return datetime.fromisoformat(time.strip()) if isinstance(time, str) else None
    except ValueError:
        return None


def _year_first(time: float | str | None) -> Any:
    """A text whose order is that of time: it begins with the year, and its hour is not the 12 that comes before 1."""
    if not isinstance(time, str) or len(time) > _TIME:
        return None
    return time if re.match(r"\d{4}\D", time) and not _HALF_DAY.search(time) else None


def _shape(key: Any) -> object:
    """What two keys must have in common to be compared: a time zone or none; where their digits stand."""
    if isinstance(key, datetime):
        return key.tzinfo is None
    return re.sub(r"\d", "0", key) if isinstance(key, str) else None


def _episode(conversation: str, varying: set[str], rows: Sequence[UtteranceRow]) -> Episode:
    rows = in_order(rows)
    about = {key: _first(rows, key) for key in _OF_SCENE}
    spoken: dict[str, list[UtteranceRow]] = {}
    for row in rows:
        spoken.setdefault(row.utterance.speaker, []).append(row)
    people = {
        speaker: Speaker(_first(own, _NAME), _first(own, "goal"), _first(own, "background"))
        for speaker, own in spoken.items()
    }
    shared = {key: value for row in rows for key, value in row.utterance.meta.items() if key not in varying}
    said = [
        Utterance(
            u.speaker, u.text, u.action_type, u.turn, u.to, u.failed,
            {key: value for key, value in u.meta.items() if key in varying},
        )
        for u in (row.utterance for row in rows)
    ]  # fmt: skip
    scene = Setting(
        conversation, "utterances", about["environment_id"], about["scenario"], tag=about["tag"], meta=shared
    )
    return dialogue(scene, said, people)


def _first(rows: Sequence[UtteranceRow], key: str) -> str:
    """The first value of a column that is not blank; "" where there is none."""
    return next((row.about[key] for row in rows if row.about.get(key)), "")
