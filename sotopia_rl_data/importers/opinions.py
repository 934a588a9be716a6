"""What must be known of all annotated files before one of them is read.

A file tells only by all its rows together by which method it was made. Several files may have one episode, each with
scores and labels that the others lack. So they are read twice. First it is gathered how each file is read, which number
its opinion has among those of the same schema, what all files together say of an episode's scores, and which rows only
repeat what was there before. Some hundred bytes of each row are kept.

Labels are one opinion where they are by one method and on one scale, and nowhere say two things of one utterance: files
of several dimensions are one opinion, and so are the parts of a file.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sotopia_rl_data.dimensions import in_order
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers.files import ImportPlan, Source
from sotopia_rl_data.importers.formats import annotated
from sotopia_rl_data.importers.formats.annotated import (
    AnnotatedRow,
    JudgedRow,
    Rows,
    WaitingRows,
    dialogue_of,
    judge_row,
    own_utterances,
    read_row,
)
from sotopia_rl_data.importers.formats.methods import (
    READINGS,
    Decision,
    FileOpinions,
    Kind,
    Marks,
    Method,
    Reading,
    Scored,
    decide,
    kind_of,
    marks,
)
from sotopia_rl_data.importers.opened import Metered
from sotopia_rl_data.importers.record import Record
from sotopia_rl_data.schema import Episode

Hash = bytes
"""Twelve bytes of a SHA-256: of a row's (episode_id, agent, dimension), of its labels, of a dialogue."""


@dataclass(frozen=True, slots=True)
class FileMethod:
    """How an annotated file is read: its method (None: it cannot be told), the schema and samples of its attributions
    (none where the method asks no judge), the rule that makes its own rewards of them, and its dimensions."""

    file: str
    method: str | None
    schema: str | None = None
    samples: tuple[int, ...] = ()
    rule: str | None = None
    dimensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is kept of one row: its place, whose labels on which dimension it has, which they are, and what they say of
    their kind."""

    source: str
    key: Hash
    digest: Hash
    marks: Marks

    def kind(self, reading: Reading | None) -> Kind | None:
        """Its kind; None where its labels contradict each other."""
        try:
            return None if reading is None else kind_of(self.marks, reading)
        except InputError:
            return None


Groups = list[tuple[_Judged, ...]]
"""By episode, its rows."""


@dataclass(slots=True)
class _Places:
    """Where the rows of a file are whose labels are new, were read before, or say something else than those before."""

    new: set[str] = field(default_factory=set)
    repeated: set[str] = field(default_factory=set)
    contradicting: set[str] = field(default_factory=set)

    def add(self, rows: Sequence[_Judged], known: dict[Hash, Hash]) -> None:
        """Add the rows of an episode whose labels are of one kind; `known` is what that kind has before them, to which
        what is new is added."""
        new = [row for row in rows if row.key not in known]
        self.new.update(row.source for row in new)
        self.repeated.update(row.source for row in rows if known.get(row.key) == row.digest)
        self.contradicting.update(row.source for row in rows if known.get(row.key, row.digest) != row.digest)
        known.update((row.key, row.digest) for row in new)

    def add_rest(self, sources: Collection[str]) -> None:
        """Add the rows of an episode that have no labels of any kind: they repeat or contradict what was read before
        where its other rows do."""
        if self.new.isdisjoint(sources):
            alike = next((one for one in (self.repeated, self.contradicting) if not one.isdisjoint(sources)), None)
            if alike is not None:
                alike.update(set(sources) - self.repeated - self.contradicting)


@dataclass(slots=True)
class _Opinion:
    """The labels of one kind of a method, from any number of files."""

    kind: Kind
    known: dict[Hash, Hash] = field(default_factory=dict)

    def agrees(self, labels: Mapping[Hash, Hash]) -> bool:
        """Whether it says nothing else of what these labels are of."""
        return all(self.known.get(key, digest) == digest for key, digest in labels.items())


@dataclass(slots=True)
class AnnotatedFiles:
    """What was gathered: by file, and for each episode."""

    files: dict[Path, FileOpinions] = field(default_factory=dict)
    methods: list[FileMethod] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    scores: dict[str, Scored] = field(default_factory=dict)
    _dialogues: dict[str, Hash] = field(default_factory=dict)
    _marks: dict[Marks, Marks] = field(default_factory=dict)  # so that equal ones are kept once
    _given: dict[str, list[_Opinion]] = field(default_factory=dict)  # by the method's name

    def add(self, source: Source, told: Method | None, shared: bool) -> None:
        """Read a file for the first time."""
        explained, groups, named, episodes = Counter[Reading](), Groups(), set[str](), list[list[str]]()
        for rows in _joined(source):
            judged = [(record, row, one) for record, row in rows if (one := _judged(row, explained)) is not None]
            self._note(rows, [(row, one) for _, row, one in judged])
            named.update(one.dimension for *_, one in judged)
            groups.append(tuple(self._kept(record, row, one) for record, row, one in judged))
            episodes.append([record.source for record, _ in rows])
        decision = decide(explained, source.label, told)
        self.warnings += [decision.warning] if decision.warning else []
        samples, places = {}, _Places()
        for kind, of_kind in _by_kind(groups, decision).items():
            samples[kind] = self._place(decision, kind, of_kind, places)
        for sources in episodes:
            places.add_rest(sources)
        apart = frozenset(places.repeated), frozenset(places.contradicting)
        self.files[source.path] = FileOpinions(decision, samples, self.scores, *apart, shared)
        if decision.reading is None:
            self.methods.append(FileMethod(source.label, None))
        else:
            method = decision.reading.method
            of_schema = tuple(sorted(set(samples.values()))) if method.schema else ()
            read = (method.name, method.schema, of_schema, method.rule, in_order(named))
            self.methods.append(FileMethod(source.label, *read))

    def with_assumed(self, episode: Episode) -> Episode:
        """An episode that another format has, with the scores that only annotated rows have: the ones that the writer
        assumes on dimensions of its own."""
        scores = self.scores.get(episode.episode_id, ()) if episode.source != annotated.SOURCE else ()
        assumed = [
            annotated.score_of(agent.agent, name, score)
            for whose, name, score in scores
            for agent in episode.agents
            if name in annotated.OWN_RANGES and agent.name == whose
        ]
        return replace(episode, scores=(*episode.scores, *assumed)) if assumed else episode

    def _place(self, decision: Decision, kind: Kind, groups: Groups, places: _Places) -> int:
        """The number of the opinion to which rows of one kind belong. Adds to `places` which of them it has already,
        and which say something else than it."""
        given = self._given.setdefault(decision.reading.method.name if decision.reading else "", [])
        firsts: dict[Hash, Hash] = {}
        for rows in groups:
            for row in rows:
                firsts.setdefault(row.key, row.digest)
        fitting = (n for n, one in enumerate(given) if one.kind == kind and one.agrees(firsts))
        number = next(fitting, len(given))
        if number == len(given):
            given.append(_Opinion(kind))
        known = given[number].known
        for rows in groups:
            places.add(rows, known)
        return number

    def _kept(self, record: Record, row: AnnotatedRow, judged: JudgedRow) -> _Judged:
        """What is kept of a row."""
        key = _hash((row.episode_id, row.agent, judged.dimension))
        digest = _hash([(u.place, repr(u.label)) for u in own_utterances(row)])
        said = marks(judged.labels)
        return _Judged(record.source, key, digest, self._marks.setdefault(said, said))

    def _note(self, rows: Rows, judged: Sequence[tuple[AnnotatedRow, JudgedRow]]) -> None:
        """Gather the scores that the rows of an episode give; only those of its first dialogue count."""
        ordered = sorted((row for _, row in rows), key=lambda row: not row.first)
        episode, dialogue = ordered[0].episode_id, _hash(dialogue_of(ordered[0]))
        if self._dialogues.setdefault(episode, dialogue) != dialogue:
            return
        scores = {(agent, name): score for agent, name, score in self.scores.get(episode, ())}
        for row in ordered:
            found = {} if row.score is None else {"goal": row.score}
            found |= next((one.scores for other, one in judged if other is row), {})
            for name, score in found.items():
                scores.setdefault((sys.intern(row.agent), name), score)
        self.scores[episode] = tuple((agent, name, score) for (agent, name), score in scores.items())


def opinions_of(import_plan: ImportPlan, told: Method | None = None, shared: bool = False) -> AnnotatedFiles:
    """What the annotated files of a plan have; `told` is their method, where the user names it, and `shared` says
    whether labels that stand for two utterances are kept. Raises UsageError where there is none of them."""
    opinions = AnnotatedFiles()
    sources = [source for source in import_plan.sources if source.format is annotated.FORMAT]
    if (told is not None or shared) and not sources:
        option = "--shared-labels" if told is None else "--method"
        raise UsageError(f"{option} says how annotated rows are read, and there are none.", f"leave {option} out")
    for source in sources:
        opinions.add(source, told, shared)
    return opinions


def _joined(source: Source) -> Iterator[Rows]:
    """The rows of a file, episode by episode, without those that cannot be read."""
    waiting = WaitingRows()
    try:
        for record, wrong in source.entries(Metered(source.path)):
            if wrong is not None:
                continue
            inner = record.unwrapped()
            try:
                rows = waiting.add(inner, read_row(inner.value))
            except InputError:
                continue
            if rows:
                yield rows
    except (InputError, OSError):  # it is said when the file is read
        pass
    yield from waiting.rest()


def _judged(row: AnnotatedRow, explained: Counter[Reading]) -> JudgedRow | None:
    """What a row says of its agent, None where it has no labels; counts the readings that explain it."""
    try:
        judged = judge_row(row)
    except InputError:
        return None
    for reading in READINGS:
        if not all(map(reading.missing, judged.labels)) and reading.explains(judged.labels, row.score):
            explained[reading] += 1
    return judged if any(label is not None for label in judged.labels) else None


def _by_kind(groups: Groups, decision: Decision) -> dict[Kind, Groups]:
    """The rows of a file by the kind of their labels, episode by episode."""
    found: dict[Kind, Groups] = {}
    for rows in groups if decision.reading is not None else ():
        of_kind: dict[Kind, list[_Judged]] = {}
        for row in rows:
            kind = row.kind(decision.reading)
            if kind is not None:
                of_kind.setdefault(kind, []).append(row)
        for kind, some in of_kind.items():
            found.setdefault(kind, []).append(tuple(some))
    return found


def _hash(value: Any) -> bytes:
    return hashlib.sha256(repr(value).encode()).digest()[:12]
