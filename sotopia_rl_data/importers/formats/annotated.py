"""sotopia-rl's annotated JSONL: two rows for each episode, one for each agent whose utterances were judged.

    {"episode_id": …, "scenario": …, "agent": NAME, "goal": …, "is_first_speaker": true, "goal_score": 8,
     "attributed_utterances": {"Utterance 0 by NAME": ["said: …", {"reward": 5.3, "attribution": 2}], …}}

The rows of an episode become one Episode, and attributions whose judge the format does not name. What the format has
lost is not made up:

- An utterance's turn is its place in the file's list. No-ops were dropped before the list was numbered.
- Two utterances to which the writer gave the same key (one speaker twice in a row) share one entry. It has the later
  text. Its label stood for both utterances, so it becomes a failure, unless the import is told to keep it.

A label is {"reward", "attribution"}, perhaps with "dimension", "scale" and "dim_score", or a bare number. By which
method the rewards were made is known for the whole file (`methods.py`), and labels become what that method asked its
judge. Where the judge gave no label the writer put a bare 0 or -1: both mean "missing", not zero (a method whose labels
are bare numbers writes 0.0 for a real zero, and -1.0 may be a reward of it).

Another file may have the same episode, with labels on another dimension, on another scale or by another method: another
opinion. What must be known of all files before one is read is gathered by `importers/opinions.py`.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.formats.format import Format, Located
from sotopia_rl_data.importers.formats.methods import SCALE_UNKNOWN, STEP, FileOpinions, Label, Method, Series
from sotopia_rl_data.importers.messages import parse_action
from sotopia_rl_data.importers.record import UNNAMED, Record, finite, identifier, kind, mapping, text
from sotopia_rl_data.importers.scores import check_score
from sotopia_rl_data.schema import Agent, Attribution, Episode, Failure, Score, Turn, environment_of

SOURCE = "sotopia-rl-annotated"
JUDGE = "sotopia-rl"
_KEY = re.compile(r"Utterance (\d{1,6}) by (.+)", re.DOTALL)
_SCALES = {"default": 3, "5_scale": 5, "5-scale": 5, "10_scale": 10, "10-scale": 10}
OWN_RANGES = {"conversation_behavior": (0.0, 10.0)}
"""Dimensions beyond SOTOPIA-EVAL that the writer knows. Nobody scores them: it takes 10 for the score."""
_DIMENSIONS = {name: name for name in (*(d.name for d in SOTOPIA_EVAL), *OWN_RANGES)} | {"goal_barebone": "goal"}
_CONTRADICTING = "the file has other labels of the same agent and dimension before it."
_PENDING = 10_000  # the most episodes that wait for their second row; the oldest is then taken as it is
_NOTHING = "the annotation has no label for this utterance"
_UNTOLD = "the score is 0 or missing, so the reward does not tell the progress"
_SHARED = "two utterances in a row share this label's key: it cannot be told whose it is"


@dataclass(frozen=True, slots=True)
class JudgedUtterance:
    """One entry of a row: its place in the dialogue, the speaker's name, the action as rendered, and the label as
    written. `shared`: the entry's key stood for two utterances."""

    place: int
    name: str
    rendered: str
    label: Any
    shared: bool


@dataclass(frozen=True, slots=True)
class SharedLabel(Failure):
    """The failure of a label that stood for two utterances; such failures are counted."""


@dataclass(frozen=True, slots=True)
class AnnotatedRow:
    """One row of the file: the episode, and the labels of `agent`. `score` is the agent's goal score, and `first` says
    whether the agent spoke first."""

    episode_id: str
    scenario: str
    agent: str
    goal: str
    first: bool
    score: float | None
    utterances: tuple[JudgedUtterance, ...]


Rows = list[tuple[Record, AnnotatedRow]]


@dataclass(slots=True)
class WaitingRows:
    """The rows of one file by episode. A row waits for the other rows of its episode, which usually come next."""

    _waiting: OrderedDict[str, Rows] = field(default_factory=OrderedDict)

    def add(self, record: Record, row: AnnotatedRow) -> Rows:
        """The rows of the row's episode, if this row completes it."""
        waiting = self._waiting.setdefault(row.episode_id, [])
        waiting.append((record, row))
        if _complete([row for _, row in waiting]):
            return self._waiting.pop(row.episode_id)
        return self._waiting.popitem(last=False)[1] if len(self._waiting) > _PENDING else []

    def rest(self) -> Iterator[Rows]:
        """The rows of the episodes that are left at the end of the file: only one agent of them was judged."""
        while self._waiting:
            yield self._waiting.popitem(last=False)[1]


@dataclass(slots=True)
class _Reader:
    """The reader of one file."""

    opinions: FileOpinions
    _waiting: WaitingRows = field(default_factory=WaitingRows)

    def add(self, record: Record) -> Located:
        """The items of the row's episode, if this row completes it."""
        try:
            row = read_row(record.value)
        except InputError as error:
            yield record.failure(error.message), record
            return
        yield from self._join(self._waiting.add(record, row))

    def rest(self) -> Located:
        """The items of the episodes that are left at the end of the file."""
        for waiting in self._waiting.rest():
            yield from self._join(waiting)

    def _join(self, waiting: Rows) -> Located:
        contradicting, repeated = self.opinions.contradicting, self.opinions.repeated
        yield from ((one.failure(_CONTRADICTING), one) for one, _ in waiting if one.source in contradicting)
        left = [record for record, _ in waiting if record.source not in contradicting]
        if not left:
            return
        first = replace(left[0], repeated=all(record.source in repeated for record in left))
        known = {row.agent for record, row in waiting if record.source in contradicting | repeated}
        try:
            for item in join([row for _, row in waiting], self.opinions):
                if isinstance(item, Episode) or item.agent not in known:
                    yield replace(item, source=first.source) if isinstance(item, Failure) else item, first
        except InputError as error:
            yield from ((record.failure(error.message), record) for record in left)


FORMAT = Format(
    "annotated",
    keys=(frozenset({"attributed_utterances"}),),
    reader=lambda beside: _Reader(beside.opinions),
)


def read_row(value: Any) -> AnnotatedRow:
    """A row of the file. Raises InputError."""
    record = mapping(value, "the record")
    if not (record.get("is_first_speaker") is None or isinstance(record["is_first_speaker"], bool)):
        raise InputError(f"`is_first_speaker` is {kind(record['is_first_speaker'])}, not true or false.")
    score = record.get("goal_score")
    return AnnotatedRow(
        episode_id=identifier(record, "episode_id"),
        scenario=text(record, "scenario", ""),
        agent=identifier(record, "agent"),
        goal=text(record, "goal", ""),
        first=bool(record.get("is_first_speaker")),
        score=None if score is None else check_score("goal", score),
        utterances=tuple(_utterances(mapping(record.get("attributed_utterances"), "`attributed_utterances`"))),
    )


def join(rows: Sequence[AnnotatedRow], opinions: FileOpinions) -> list[Episode | Attribution | Failure]:
    """The episode of `rows`, its attributions, and a failure for each utterance without a label.

    The rows have one episode_id; each is of one judged agent. `opinions` says how the file is read, and which scores
    all files give the episode. Raises InputError where the rows contradict each other.
    """
    ordered = sorted(rows, key=lambda row: not row.first)
    first = ordered[0]
    if any(dialogue_of(row) != dialogue_of(first) for row in ordered):
        raise InputError("its rows do not hold the same scenario and utterances.")
    if len({row.agent for row in rows}) < len(rows):
        raise InputError(f"two of its rows are for the same agent, {first.agent}.")
    judged = {row.agent for row in rows}
    scores: list[Score] = []
    labels: list[Attribution | Failure] = []
    for row in ordered:
        row_scores, row_labels = _labels(row, opinions)
        scores += [score_of(row.agent, name, score) for name, score in row_scores.items()]
        labels += row_labels
    scores = [score_of(*one) for one in opinions.scores.get(first.episode_id, ())] or scores
    labels += [
        Failure("the file has no row for this agent", first.episode_id, u.name, u.place, judge=JUDGE)
        for u in first.utterances
        if u.name not in judged
    ]
    return [_episode(ordered, scores), *labels]


def _complete(rows: Sequence[AnnotatedRow]) -> bool:
    """True where there are two rows or more, and every speaker has one (an agent that said nothing is not seen)."""
    judged = {row.agent for row in rows}
    return len(rows) > 1 and {u.name for row in rows for u in row.utterances} <= judged


def _utterances(entries: Mapping[str, Any]) -> Iterator[JudgedUtterance]:
    """The utterances in order, each with its place.

    The writer numbered them by place // 2, and the second of two equal keys replaced the first. So a number with only
    one key stands for two places, but for the last number, where this cannot be told.
    """
    parsed = [(*_parse_key(key), value) for key, value in entries.items()]
    numbers = [number for number, _, _ in parsed]
    times, seen = Counter(numbers), Counter[int]()
    if numbers != sorted(numbers) or max(times.values(), default=0) > 2:
        raise InputError("`attributed_utterances` are not numbered two by two, in order.")
    for number, name, value in parsed:
        shared = times[number] == 1 and number != numbers[-1]
        place = 2 * number + 1 if shared else 2 * number + seen[number]
        seen[number] += 1
        if not isinstance(value, (list, tuple)) or len(value) != 2 or not isinstance(value[0], str):
            raise InputError(f"the entry of utterance {number} by {name} is not [text, label].")
        yield JudgedUtterance(place, name, value[0], value[1], shared)


def _episode(ordered: Sequence[AnnotatedRow], scores: Sequence[Score]) -> Episode:
    first = ordered[0]
    if not first.scenario.strip():
        raise InputError("`scenario` is missing: it is what the episode is grouped by.")
    names = list(dict.fromkeys([row.agent for row in ordered] + [u.name for u in first.utterances]))
    if len(ordered) == 1 and not first.first:  # the only row is the second speaker's, whose name then comes second
        names.append(names.pop(0))
    goals = {row.agent: row.goal for row in ordered}
    return Episode(
        episode_id=first.episode_id,
        environment_id=environment_of(first.scenario),
        agents=tuple(Agent(name, name, goal=goals.get(name, "")) for name in names),
        turns=tuple(_turn(u, names) for u in first.utterances),
        scores=tuple(scores),
        source=SOURCE,
        dialect="legacy",
        scenario=first.scenario,
    )


def _turn(utterance: JudgedUtterance, names: Sequence[str]) -> Turn:
    action = parse_action(utterance.rendered, cut=True)
    unknown = [name for name in action.to if name not in names]
    if unknown:
        raise InputError(f"an utterance is private to {', '.join(unknown)}, who is not among the agents.")
    return Turn(utterance.place, utterance.name, action.action_type, action.text, action.to)


def _parse_key(key: str) -> tuple[int, str]:
    """(number, name) of "Utterance 3 by Finnegan O'Malley". Raises InputError."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise InputError(f"{key[:80]!r} is not of the form 'Utterance <number> by <name>'.")
    return int(match[1]), match[2]


def dialogue_of(row: AnnotatedRow) -> Any:
    """What the rows of one episode have in common."""
    return row.scenario, [(u.place, u.name, u.rendered) for u in row.utterances]


def score_of(agent: str, dimension: str, score: float) -> Score:
    """A score that rows give, by an evaluator whom they do not name."""
    return Score(agent, dimension, score, UNNAMED, *OWN_RANGES.get(dimension, ()))


def _labels(row: AnnotatedRow, opinions: FileOpinions) -> tuple[dict[str, float], list[Attribution | Failure]]:
    """The scores of the row's agent, and what its labels become: an attribution or a failure for each utterance, or
    nothing where the method asks no judge. Raises InputError where its scores are not those of another file."""
    own = own_utterances(row)
    scores = {} if row.score is None else {"goal": row.score}
    try:
        judged = judge_row(row)
        scores |= judged.scores
        series = opinions.series(judged.labels)
        if not series.reading.explains(judged.labels, row.score):
            raise InputError(_unexplained(judged.labels, series.reading.method))
    except InputError as error:
        return scores, [_failure(row, u, error.message) for u in own]
    known = {name: other for agent, name, other in opinions.scores.get(row.episode_id, ()) if agent == row.agent}
    for name, score in scores.items():
        other = known.get(name, score)
        if other != score:
            raise InputError(f"the {name} score of {row.agent} is {score:g}, but {other:g} in another file.")
    if series.reading.method.measure is None:
        return scores, []
    results: list[Attribution | Failure] = []
    for utterance, label in zip(own, judged.labels, strict=True):
        reason, raw = "", None
        shared = utterance.shared and not opinions.shared
        if shared or label is None or series.reading.missing(label):
            reason = _SHARED if shared else _NOTHING
        else:
            raw = series.reading.raw(label, scores.get(judged.dimension))
            reason = _UNTOLD if raw is None else ""
        if raw is not None and label is not None:
            results.append(_attribution(row, utterance, raw, judged.dimension, series, label))
        elif reason:
            results.append(_failure(row, utterance, reason, judged.dimension, shared))
    return scores, results


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """The labels of the utterances of a row's agent, in order, their dimension, and the scores that they note."""

    labels: tuple[Label | None, ...]
    dimension: str
    scores: Mapping[str, float]


def own_utterances(row: AnnotatedRow) -> list[JudgedUtterance]:
    """The utterances of the row's agent."""
    return [u for u in row.utterances if u.name == row.agent]


def judge_row(row: AnnotatedRow) -> JudgedRow:
    """What a row says of its agent. Raises InputError where a label has none of the shapes, or they contradict each
    other."""
    labels = tuple(_label(u.label) for u in own_utterances(row))
    known = [label for label in labels if label is not None]
    dimension = _dimension(known)
    return JudgedRow(labels, dimension, _noted(known, dimension, row.score if dimension == "goal" else None))


def _label(written: Any) -> Label | None:
    """The label, None where there is none. Raises InputError where it has none of the shapes."""
    if written is None or (type(written) is int and written in (0, -1)):
        return None
    if isinstance(written, (int, float)) and not isinstance(written, bool):
        number = finite(written, "a label")
        whole = isinstance(written, int)
        return Label("whole" if whole else "fraction", number if whole else None, number)
    if isinstance(written, bool):
        finite(written, "a label")
    label = mapping(written, "a label")
    reward, attribution = _optional(label, "reward"), label.get("attribution")
    if attribution == -1 or (attribution is None and reward is None):
        return None
    dimension, scale = text(label, "dimension", ""), None
    if label.get("scale") is not None:
        name = text(label, "scale")
        if name not in _SCALES:
            raise InputError(f"a label is on the unknown scale {name!r}.")
        scale = _SCALES[name]
    raw = None if attribution is None else finite(attribution, "an attribution")
    score = _optional(label, "dim_score")
    return Label("reward" if raw is None else "pair", raw, reward, dimension, scale, score)


def _optional(label: Mapping[str, Any], key: str) -> float | None:
    return None if label.get(key) is None else finite(label[key], f"a `{key}`")


def _unexplained(labels: Sequence[Label | None], method: Method) -> str:
    """Why a row is not of its file's method."""
    if "pair" in method.shapes and any(label is not None and label.shape == "fraction" for label in labels):
        return "a label is a bare fraction: a reward and an attribution cannot be told apart."
    if method.name == "direct":
        return SCALE_UNKNOWN
    return f"its rewards are not those of {method.name}, as its file is read: {method.formula}."


def _dimension(labels: Collection[Label]) -> str:
    """The dimension of the labels. Raises InputError where they have several, or an unknown one."""
    named = {_DIMENSIONS.get(label.dimension or "goal", "") for label in labels} or {"goal"}
    if len(named) > 1 or "" in named:
        listed = ", ".join(sorted({label.dimension or "goal" for label in labels}))
        raise InputError(f"its labels are on {listed}, which is not one SOTOPIA-EVAL dimension.")
    return named.pop()


def _noted(labels: Collection[Label], dimension: str, known: float | None) -> dict[str, float]:
    """{dimension: the score that the labels note}. Raises InputError where they contradict each other."""
    ends = OWN_RANGES.get(dimension)
    noted = {check_score(dimension, label.score, ends) for label in labels if label.score is not None}
    if known is not None:
        noted.add(known)
    if len(noted) > 1:
        raise InputError(f"it notes several {dimension} scores: {', '.join(f'{s:g}' for s in sorted(noted))}.")
    return {dimension: noted.pop()} if noted else {}


def _attribution(
    row: AnnotatedRow, utterance: JudgedUtterance, raw: float, dimension: str, series: Series, label: Label
) -> Attribution:
    method = series.reading.method
    top = STEP if method.measure == "step" else float(label.scale or series.reading.scale)
    return Attribution(
        episode_id=row.episode_id,
        agent=row.agent,
        turn=utterance.place,
        dimension=dimension,
        schema=method.schema or "",
        measure=method.measure or "importance",
        judge=JUDGE,
        sample=series.sample,
        raw=raw,
        scale_min=-top if method.measure == "step" else 0.0,
        scale_max=top,
        call_id="",
    )


def _failure(
    row: AnnotatedRow, utterance: JudgedUtterance, reason: str, dimension: str | None = None, shared: bool = False
) -> Failure:
    failure = SharedLabel if shared else Failure
    return failure(reason, row.episode_id, row.agent, utterance.place, dimension, JUDGE)
