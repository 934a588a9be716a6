"""sotopia-rl's annotated JSONL: two rows an episode, one for each agent whose utterances were judged.

    {"episode_id": …, "scenario": …, "agent": NAME, "goal": …, "is_first_speaker": true, "goal_score": 8,
     "attributed_utterances": {"Utterance 0 by NAME": ["said: …", {"reward": 5.3, "attribution": 2}], …}}

The rows of an episode become one Episode and the attributions of a judge that the format does not name. What the
format lost stays lost, and is never made up:

- An utterance's turn is its place in the file's list. No-ops were dropped before the list was numbered.
- Two utterances that the writer gave the same key (one speaker twice in a row) share one entry: the later text
  survives, and the label, which stood for both, is a failure.

A label is {"reward", "attribution"} with perhaps "dimension", "scale" and "dim_score", or a whole number, or 0. Only
direct attributions (reward = attribution / scale × score) can be read back: other methods wrote numbers whose scale is
not in the file. A bare 0 is what the writer put where the judge gave nothing: no label, not a zero. So is its
sentinel -1.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.actions import parse_action
from sotopia_rl_data.importers.formats.format import Format, Located
from sotopia_rl_data.importers.record import UNNAMED, Record, finite, identifier, kind, mapping, text
from sotopia_rl_data.importers.scores import check_score
from sotopia_rl_data.schema import Agent, Attribution, Episode, Failure, Score, Turn
from sotopia_rl_data.splits import environment_of

SOURCE = "sotopia-rl-annotated"
JUDGE = "sotopia-rl"
SCHEMA = "direct"
_KEY = re.compile(r"Utterance (\d{1,6}) by (.+)", re.DOTALL)
_SCALES = {"default": 3, "5_scale": 5, "5-scale": 5, "10_scale": 10, "10-scale": 10}
_DIMENSIONS = {d.name: d.name for d in SOTOPIA_EVAL} | {"goal_barebone": "goal"}
_PENDING = 10_000  # episodes that wait for their other row
_NOTHING = "the annotation has no label for this utterance"
_SHARED = "two utterances in a row share this label's key: it cannot be told whose it is"


@dataclass(frozen=True, slots=True)
class JudgedUtterance:
    """One entry of a row: its place in the dialogue, who spoke, the text and the label as written. `shared` where its
    key stood for two utterances."""

    place: int
    name: str
    said: str
    judged: Any
    shared: bool


@dataclass(frozen=True, slots=True)
class AnnotatedRow:
    """One row of the file: what the judge of `agent` saw and said. `score` is the agent's goal score."""

    episode_id: str
    scenario: str
    agent: str
    goal: str
    first: bool
    score: float | None
    utterances: tuple[JudgedUtterance, ...]


@dataclass(frozen=True, slots=True)
class _Label:
    """What the judge gave an utterance, and what the writer noted beside it (`score` on `dimension`)."""

    raw: float
    reward: float | None = None
    dimension: str = "goal"
    scale: int | None = None
    score: float | None = None


@dataclass(slots=True)
class _WaitingRows:
    """The reader of one file: rows wait for the other rows of their episode. Few do: a file has them side by side."""

    _waiting: OrderedDict[str, list[tuple[Record, AnnotatedRow]]] = field(default_factory=OrderedDict)

    def add(self, record: Record) -> Located:
        """The items of the row's episode, where that is now complete."""
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
        """The items of what is left at the end of the file: episodes of which only one agent was judged."""
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
    """The episode of `rows` (of one episode_id, one a judged agent), its attributions, and what has no label.

    Raises InputError where the rows contradict each other.
    """
    ordered = sorted(rows, key=lambda row: not row.first)
    first = ordered[0]
    texts = [(row.scenario, [(u.place, u.name, u.said) for u in row.utterances]) for row in ordered]
    if any(one != texts[0] for one in texts):
        raise InputError("its rows do not hold the same scenario and utterances.")
    if len({row.agent for row in rows}) < len(rows):
        raise InputError(f"two of its rows are for the same agent, {first.agent}.")
    read = [_labels(row) for row in ordered]
    judged = {row.agent for row in rows}
    unjudged = [
        Failure("the file has no row for this agent", first.episode_id, u.name, u.place, judge=JUDGE)
        for u in first.utterances
        if u.name not in judged
    ]
    episode = _episode(ordered, [score for scores, _ in read for score in scores])
    return [episode, *(label for _, labels in read for label in labels), *unjudged]


def _complete(rows: Sequence[AnnotatedRow]) -> bool:
    """True where every agent that the rows name has its own row (and there are two: one may have said nothing)."""
    judged = {row.agent for row in rows}
    return len(rows) > 1 and {u.name for row in rows for u in row.utterances} <= judged


def _utterances(entries: Mapping[str, Any]) -> Iterator[JudgedUtterance]:
    """The utterances in order, each at its place. The writer numbered them by place // 2 and wrote equal keys over each
    other, so a number with a single key stands for two places (but for the last one, where this cannot be told)."""
    parsed = [(*_parse_key(key), value) for key, value in entries.items()]
    numbers = [number for number, _, _ in parsed]
    times, seen = Counter(numbers), Counter[int]()
    if numbers != sorted(numbers) or max(times.values(), default=0) > 2:
        raise InputError("`attributed_utterances` are not numbered two by two, in order.")
    for number, name, value in parsed:
        shared = times[number] == 1 and number != numbers[-1]
        place = 2 * number + (1 if shared else seen[number])
        seen[number] += 1
        if not isinstance(value, (list, tuple)) or len(value) != 2 or not isinstance(value[0], str):
            raise InputError(f"the entry of utterance {number} by {name} is not [text, label].")
        yield JudgedUtterance(place, name, value[0], value[1], shared)


def _episode(ordered: Sequence[AnnotatedRow], scores: Sequence[Score]) -> Episode:
    first = ordered[0]
    if not first.scenario.strip():
        raise InputError("`scenario` is missing: it is what the episode is grouped by.")
    names = list(dict.fromkeys([row.agent for row in ordered] + [u.name for u in first.utterances]))
    if len(ordered) == 1 and not first.first:  # the one row there is belongs to the second speaker
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
    action = parse_action(utterance.said, cut=True)
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
    mine = [u for u in row.utterances if u.name == row.agent]
    read: list[Attribution | Failure]
    try:
        judged = [_label(u) for u in mine]
        labels = [one for one in judged if isinstance(one, _Label)]
        dimension = _dimension(labels)
        scale = _scale(labels, row.score)
        scores |= _noted(labels, dimension, scores.get(dimension))
    except InputError as error:
        read = [_failure(row, u, error.message) for u in mine]
    else:
        read = [
            _failure(row, u, one, dimension)
            if isinstance(one, str)
            else _attribution(row, u, one.raw, dimension, scale)
            for u, one in zip(mine, judged, strict=True)
        ]
    return [Score(row.agent, name, score, UNNAMED) for name, score in scores.items()], read


def _label(utterance: JudgedUtterance) -> _Label | str:
    """The label, or why there is none. Raises InputError where it has none of the shapes."""
    judged = utterance.judged
    if utterance.shared:
        return _SHARED
    if judged is None or (isinstance(judged, (int, float)) and judged in (0, -1) and not isinstance(judged, bool)):
        return _NOTHING
    if isinstance(judged, float):
        raise InputError("a label is a bare fraction: a reward and an attribution cannot be told apart.")
    if isinstance(judged, int):
        return _Label(finite(judged, "a label"))
    label = mapping(judged, "a label")
    if label.get("attribution") in (None, -1):
        return _NOTHING
    raw = finite(label["attribution"], "an attribution")
    reward = _optional(label, "reward")
    dimension = text(label, "dimension", "goal")
    scale = None if label.get("scale") is None else text(label, "scale")
    if scale is not None and scale not in _SCALES:
        raise InputError(f"a label is on the unknown scale {scale!r}.")
    score = _optional(label, "dim_score")
    return _Label(raw, reward, dimension, None if scale is None else _SCALES[scale], score)


def _optional(label: Mapping[str, Any], key: str) -> float | None:
    return None if label.get(key) is None else finite(label[key], f"a `{key}`")


def _dimension(labels: Collection[_Label]) -> str:
    """The one dimension that the labels are on. Raises InputError where they are on several, or on an unknown one."""
    named = {_DIMENSIONS.get(one.dimension, "") for one in labels} or {"goal"}
    if len(named) > 1 or "" in named:
        listed = ", ".join(sorted({one.dimension for one in labels}))
        raise InputError(f"its labels are on {listed}, which is not one SOTOPIA-EVAL dimension.")
    return named.pop()


def _scale(labels: Collection[_Label], score: float | None) -> int:
    """The top of the labels' scale: as named, or else the one that the rewards were made with. Where 3, the writer's
    default, fits, it is 3. Raises InputError where none or several of the others fit."""
    named = {one.scale for one in labels if one.scale is not None}
    fitting = [s for s in sorted(named or {3, 5, 10}) if all(_fits(one, s, score) for one in labels)]
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
    """The score that the labels note on their dimension. Raises InputError where they contradict each other."""
    noted = {check_score(dimension, one.score) for one in labels if one.score is not None}
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
