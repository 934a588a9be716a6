"""sotopia-rl's annotated JSONL: two rows for each episode, one for each agent whose utterances were judged.

    {"episode_id": …, "scenario": …, "agent": NAME, "goal": …, "is_first_speaker": true, "goal_score": 8,
     "attributed_utterances": {"Utterance 0 by NAME": ["said: …", {"reward": 5.3, "attribution": 2}], …}}

The rows of an episode become one Episode, and attributions whose judge the format does not name. What the format has
lost is not made up:

- An utterance's turn is its place in the file's list. No-ops were dropped before the list was numbered.
- Two utterances to which the writer gave the same key (one speaker twice in a row) share one entry. It has the later
  text. Its label stood for both utterances, so it becomes a failure.

A label is {"reward", "attribution"}, perhaps with "dimension", "scale" and "dim_score", or a whole number. Only direct
attributions (reward = attribution / scale × score) can be read back: other methods wrote numbers whose scale is not in
the file. Where the judge gave no label the writer put a bare 0 or -1: both mean "missing", not zero.
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
from sotopia_rl_data.importers.messages import parse_action
from sotopia_rl_data.importers.record import UNNAMED, Record, finite, identifier, kind, mapping, text
from sotopia_rl_data.importers.scores import check_score
from sotopia_rl_data.schema import Agent, Attribution, Episode, Failure, Score, Turn, environment_of

SOURCE = "sotopia-rl-annotated"
JUDGE = "sotopia-rl"
SCHEMA = "direct"
_KEY = re.compile(r"Utterance (\d{1,6}) by (.+)", re.DOTALL)
_SCALES = {"default": 3, "5_scale": 5, "5-scale": 5, "10_scale": 10, "10-scale": 10}
_DIMENSIONS = {d.name: d.name for d in SOTOPIA_EVAL} | {"goal_barebone": "goal"}
_PENDING = 10_000  # the most episodes that wait for their second row; the oldest is then taken as it is
_NOTHING = "the annotation has no label for this utterance"
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


@dataclass(frozen=True, slots=True)
class _Label:
    """A judge's label of an utterance, and what the writer noted beside it (`score` on `dimension`)."""

    raw: float
    reward: float | None = None
    dimension: str = "goal"
    scale: int | None = None
    score: float | None = None


@dataclass(slots=True)
class _WaitingRows:
    """The reader of one file. A row waits for the other rows of its episode, which usually come next."""

    _waiting: OrderedDict[str, list[tuple[Record, AnnotatedRow]]] = field(default_factory=OrderedDict)

    def add(self, record: Record) -> Located:
        """The items of the row's episode, if this row completes it."""
        try:
            row = read_row(record.value)
        except InputError as error:
            yield record.failure(error.message), record
            return
        waiting = self._waiting.setdefault(row.episode_id, [])
        waiting.append((record, row))
        if _complete([row for _, row in waiting]):
            yield from self._join(self._waiting.pop(row.episode_id))
        elif len(self._waiting) > _PENDING:
            yield from self._join(self._waiting.popitem(last=False)[1])

    def rest(self) -> Located:
        """The items of the episodes that are left at the end of the file: only one agent of them was judged."""
        while self._waiting:
            yield from self._join(self._waiting.popitem(last=False)[1])

    def _join(self, waiting: list[tuple[Record, AnnotatedRow]]) -> Located:
        first, _ = waiting[0]
        try:
            for item in join([row for _, row in waiting]):
                yield replace(item, source=first.source) if isinstance(item, Failure) else item, first
        except InputError as error:
            yield from ((record.failure(error.message), record) for record, _ in waiting)


FORMAT = Format("annotated", keys=(frozenset({"attributed_utterances"}),), reader=lambda _: _WaitingRows())


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


def join(rows: Sequence[AnnotatedRow]) -> list[Episode | Attribution | Failure]:
    """The episode of `rows`, its attributions, and a failure for each utterance without a label.

    The rows have one episode_id; each is of one judged agent. Raises InputError where they contradict each other.
    """
    ordered = sorted(rows, key=lambda row: not row.first)
    first = ordered[0]
    dialogues = [(row.scenario, [(u.place, u.name, u.rendered) for u in row.utterances]) for row in ordered]
    if any(dialogue != dialogues[0] for dialogue in dialogues):
        raise InputError("its rows do not hold the same scenario and utterances.")
    if len({row.agent for row in rows}) < len(rows):
        raise InputError(f"two of its rows are for the same agent, {first.agent}.")
    judged = {row.agent for row in rows}
    scores: list[Score] = []
    labels: list[Attribution | Failure] = []
    for row in ordered:
        row_scores, row_labels = _labels(row)
        scores += row_scores
        labels += row_labels
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


def _labels(row: AnnotatedRow) -> tuple[list[Score], list[Attribution | Failure]]:
    """The scores of the row's agent, and an attribution or a failure for each of its utterances. Never raises."""
    scores = {} if row.score is None else {"goal": row.score}
    own = [u for u in row.utterances if u.name == row.agent]
    results: list[Attribution | Failure] = []
    try:
        labels_or_reasons = [_label(u) for u in own]
        labels = [label for label in labels_or_reasons if isinstance(label, _Label)]
        dimension = _dimension(labels)
        scale = _scale(labels, row.score)
        scores |= _noted(labels, dimension, scores.get(dimension))
    except InputError as error:
        results += [_failure(row, u, error.message) for u in own]
    else:
        for utterance, label in zip(own, labels_or_reasons, strict=True):
            if isinstance(label, _Label):
                results.append(_attribution(row, utterance, label.raw, dimension, scale))
            else:
                results.append(_failure(row, utterance, label, dimension))
    return [Score(row.agent, name, score, UNNAMED) for name, score in scores.items()], results


def _label(utterance: JudgedUtterance) -> _Label | str:
    """The label, or the reason why there is none. Raises InputError where it has none of the shapes."""
    written = utterance.label
    if utterance.shared:
        return _SHARED
    if written is None or (isinstance(written, (int, float)) and written in (0, -1) and not isinstance(written, bool)):
        return _NOTHING
    if isinstance(written, float):
        raise InputError("a label is a bare fraction: a reward and an attribution cannot be told apart.")
    if isinstance(written, int):
        return _Label(finite(written, "a label"))
    label = mapping(written, "a label")
    if label.get("attribution") in (None, -1):
        return _NOTHING
    raw = finite(label["attribution"], "an attribution")
    reward = _optional(label, "reward")
    dimension = text(label, "dimension", "goal")
    scale = None
    if label.get("scale") is not None:
        name = text(label, "scale")
        if name not in _SCALES:
            raise InputError(f"a label is on the unknown scale {name!r}.")
        scale = _SCALES[name]
    return _Label(raw, reward, dimension, scale, _optional(label, "dim_score"))


def _optional(label: Mapping[str, Any], key: str) -> float | None:
    return None if label.get(key) is None else finite(label[key], f"a `{key}`")


def _dimension(labels: Collection[_Label]) -> str:
    """The dimension of the labels. Raises InputError where they have several, or an unknown one."""
    named = {_DIMENSIONS.get(label.dimension, "") for label in labels} or {"goal"}
    if len(named) > 1 or "" in named:
        listed = ", ".join(sorted({label.dimension for label in labels}))
        raise InputError(f"its labels are on {listed}, which is not one SOTOPIA-EVAL dimension.")
    return named.pop()


def _scale(labels: Collection[_Label], score: float | None) -> int:
    """The top of the labels' scale: as named, or else the scale by which the rewards follow from the attributions.

    The writer's default, 3, is taken where it fits. Raises InputError where no scale fits, or both 5 and 10 do.
    """
    named = {label.scale for label in labels if label.scale is not None}
    fitting = [scale for scale in sorted(named or {3, 5, 10}) if all(_fits(label, scale, score) for label in labels)]
    if len(named) > 1 or not fitting or (fitting[0] != 3 and len(fitting) > 1):
        raise InputError("its labels do not tell their scale: they are not direct attributions on 3, 5 or 10.")
    return fitting[0]


def _fits(label: _Label, scale: int, goal_score: float | None) -> bool:
    score = goal_score if label.score is None else label.score
    if not 0 <= label.raw <= scale:
        return False
    if label.reward is None or score is None:
        return True
    return abs(label.raw / scale * score - label.reward) <= 1e-6 * max(1.0, abs(score))


def _noted(labels: Collection[_Label], dimension: str, known: float | None) -> dict[str, float]:
    """{dimension: the score that the labels note}. Raises InputError where they contradict each other."""
    noted = {check_score(dimension, label.score) for label in labels if label.score is not None}
    if known is not None:
        noted.add(known)
    if len(noted) > 1:
        raise InputError(f"it notes several {dimension} scores: {', '.join(f'{s:g}' for s in sorted(noted))}.")
    return {dimension: noted.pop()} if noted else {}


def _attribution(row: AnnotatedRow, utterance: JudgedUtterance, raw: float, dimension: str, scale: int) -> Attribution:
    return Attribution(
        episode_id=row.episode_id,
        agent=row.agent,
        turn=utterance.place,
        dimension=dimension,
        schema=SCHEMA,
        measure="importance",
        judge=JUDGE,
        sample=0,
        raw=raw,
        scale_min=0.0,
        scale_max=float(scale),
        call_id="",
    )


def _failure(row: AnnotatedRow, utterance: JudgedUtterance, reason: str, dimension: str | None = None) -> Failure:
    return Failure(reason, row.episode_id, row.agent, utterance.place, dimension, JUDGE)
