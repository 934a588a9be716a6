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
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sotopia_rl_data.dimensions import in_order
from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.importers.files import ImportPlan, Source
from sotopia_rl_data.importers.formats import annotated
from sotopia_rl_data.importers.formats.annotated import Rows, WaitingRows, dialogue_of, judge_row, read_row
from sotopia_rl_data.importers.formats.methods import (
    READINGS,
    Decision,
    FileOpinions,
    Kind,
    Labels,
    Method,
    Reading,
    decide,
    kind_of,
)
from sotopia_rl_data.importers.opened import Metered
from sotopia_rl_data.schema import Episode

Key = tuple[str, str, str]
"""(episode_id, agent, dimension)."""


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
    """What is kept of one row: whose labels it has, a hash of them, and what they tell of their kind."""

    key: Key
    digest: bytes
    telling: Labels  # one of each kind among its labels

    def kind(self, reading: Reading | None) -> Kind | None:
        """Its kind; None where its labels contradict each other."""
        try:
            return None if reading is None else kind_of(self.telling, reading)
        except InputError:
            return None


Groups = list[tuple[str, list[_Judged]]]
"""Rows of one episode, with the place of the first."""


@dataclass(slots=True)
class _Opinion:
    """The labels of one kind of a method, from any number of files."""

    kind: Kind
    known: dict[Key, bytes] = field(default_factory=dict)

    def agrees(self, labels: Mapping[Key, bytes]) -> bool:
        """Whether it says nothing else of what these labels are of."""
        return all(self.known.get(key, digest) == digest for key, digest in labels.items())


@dataclass(slots=True)
class AnnotatedFiles:
    """What was gathered: by file (its label in the plan), and for each episode. `repeated` has the places of rows that
    another file, or the same, has before them."""

    files: dict[str, FileOpinions] = field(default_factory=dict)
    methods: list[FileMethod] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    repeated: set[str] = field(default_factory=set)
    scores: dict[str, dict[tuple[str, str], float]] = field(default_factory=dict)
    _dialogues: dict[str, bytes] = field(default_factory=dict)
    _given: dict[str, list[_Opinion]] = field(default_factory=dict)  # by the method's name

    def add(self, source: Source, told: Method | None, shared: bool) -> None:
        """Read a file for the first time."""
        explained, groups = Counter[Reading](), list[tuple[str, list[_Judged]]]()
        for rows in _joined(source):
            self._note(rows)
            groups.append((rows[0][0].source, [one for _, row in rows for one in _judged(row, explained)]))
        decision = decide(explained, source.label, told)
        self.warnings += [decision.warning] if decision.warning else []
        samples, contradicting = {}, set[str]()
        for kind, of_kind in _by_kind(groups, decision).items():
            samples[kind], rejected = self._place(decision, kind, of_kind)
            contradicting |= rejected
        self.files[source.label] = FileOpinions(decision, samples, self.scores, frozenset(contradicting), shared)
        if decision.reading is None:
            self.methods.append(FileMethod(source.label, None))
        else:
            method = decision.reading.method
            of_schema = tuple(sorted(set(samples.values()))) if method.schema else ()
            dimensions = in_order(row.key[2] for _, rows in groups for row in rows)
            self.methods.append(
                FileMethod(source.label, method.name, method.schema, of_schema, method.rule, dimensions)
            )

    def with_assumed(self, episode: Episode) -> Episode:
        """An episode that another format has, with the scores that only annotated rows have: the ones that the writer
        assumes on dimensions of its own."""
        scores = self.scores.get(episode.episode_id) if episode.source != annotated.SOURCE else None
        assumed = [
            annotated.score_of(agent.agent, name, scores[agent.name, name])
            for name in annotated.OWN_RANGES
            for agent in episode.agents
            if scores and (agent.name, name) in scores
        ]
        return replace(episode, scores=(*episode.scores, *assumed)) if assumed else episode

    def _place(self, decision: Decision, kind: Kind, groups: Groups) -> tuple[int, set[str]]:
        """The number of the opinion to which rows of one kind belong, and the places of those that cannot."""
        given = self._given.setdefault(decision.reading.method.name if decision.reading else "", [])
        firsts: dict[Key, bytes] = {}
        for _, rows in groups:
            for row in rows:
                firsts.setdefault(row.key, row.digest)
        fitting = (n for n, one in enumerate(given) if one.kind == kind and one.agrees(firsts))
        number = next(fitting, len(given))
        if number == len(given):
            given.append(_Opinion(kind))
        known, rejected = given[number].known, set[str]()
        for place, rows in groups:
            if all(known.get(row.key) == row.digest for row in rows):
                self.repeated.add(place)
            elif any(row.key in known for row in rows):
                rejected.add(place)
            else:
                known.update((row.key, row.digest) for row in rows)
        return number, rejected

    def _note(self, rows: Rows) -> None:
        """Gather the scores that the rows of an episode give; only those of its first dialogue count."""
        ordered = sorted((row for _, row in rows), key=lambda row: not row.first)
        episode = ordered[0].episode_id
        dialogue = _hash([dialogue_of(row) for row in ordered[:1]])
        if self._dialogues.setdefault(episode, dialogue) != dialogue:
            return
        scores = self.scores.setdefault(episode, {})
        for row in ordered:
            try:
                found = ({} if row.score is None else {"goal": row.score}) | dict(judge_row(row).scores)
            except InputError:
                found = {} if row.score is None else {"goal": row.score}
            for name, score in found.items():
                scores.setdefault((row.agent, name), score)


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


def _judged(row: annotated.AnnotatedRow, explained: Counter[Reading]) -> Iterator[_Judged]:
    """What is kept of a row, if it has labels; counts the readings that explain it."""
    try:
        judged = judge_row(row)
    except InputError:
        return
    labels = [label for label in judged.labels if label is not None]
    for reading in READINGS:
        if not all(map(reading.missing, judged.labels)) and reading.explains(judged.labels, row.score):
            explained[reading] += 1
    if labels:
        telling = {(bool(label.dimension), label.scale): label for label in labels}
        digest = _hash([(u.place, repr(u.label)) for u in annotated.own_utterances(row)])
        yield _Judged((row.episode_id, row.agent, judged.dimension), digest, tuple(telling.values()))


def _by_kind(groups: Groups, decision: Decision) -> dict[Kind, Groups]:
    """The rows of a file by the kind of their labels, episode by episode."""
    found: dict[Kind, Groups] = {}
    for place, rows in groups if decision.reading is not None else ():
        of_kind: dict[Kind, list[_Judged]] = {}
        for row in rows:
            kind = row.kind(decision.reading)
            if kind is not None:
                of_kind.setdefault(kind, []).append(row)
        for kind, some in of_kind.items():
            found.setdefault(kind, []).append((place, some))
    return found


def _hash(value: Any) -> bytes:
    return hashlib.sha256(repr(value).encode()).digest()[:12]
