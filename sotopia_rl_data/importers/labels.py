"""What the labels of sotopia-rl's annotated JSONL mean: attributions of a judge, or nothing.

A label is {"reward", "attribution"} with perhaps "dimension", "scale" and "dim_score", or a whole number, or 0. Only
direct attributions (reward = attribution / scale × score) can be read back: other methods wrote numbers whose scale is
not in the file. A bare 0 is what the writer put where the judge gave nothing: no label, not a zero. So is its
sentinel -1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.importers.models import UNNAMED
from sotopia_rl_data.importers.record import finite, mapping, text
from sotopia_rl_data.importers.scores import check_score
from sotopia_rl_data.schema import Attribution, Failure, Score

JUDGE = "sotopia-rl"
SCHEMA = "direct"
_KEY = re.compile(r"Utterance (\d{1,6}) by (.+)", re.DOTALL)
_SCALES = {"default": 3, "5_scale": 5, "5-scale": 5, "10_scale": 10, "10-scale": 10}
_DIMENSIONS = {d.name: d.name for d in SOTOPIA_EVAL} | {"goal_barebone": "goal"}
_NOTHING = "the annotation has no label for this utterance"
_SHARED = "two utterances in a row share this label's key: it cannot be told whose it is"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One entry of a row: its place in the dialogue, who spoke, the text and the label as written. `shared` where its
    key stood for two utterances."""

    place: int
    name: str
    said: str
    judged: Any
    shared: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the file: what the judge of `agent` saw and said. `score` is the agent's goal score."""

    episode_id: str
    scenario: str
    agent: str
    goal: str
    first: bool
    score: float | None
    utterances: tuple[Utterance, ...]

    @property
    def names(self) -> set[str]:
        """Everyone whom the row names."""
        return {self.agent} | {u.name for u in self.utterances}


@dataclass(frozen=True, slots=True)
class _Label:
    """What the judge gave an utterance, and what the writer noted beside it (`score` on `dimension`)."""

    raw: float
    reward: float | None = None
    dimension: str = "goal"
    scale: int | None = None
    score: float | None = None


def parse_key(key: str) -> tuple[int, str]:
    """(number, name) of "Utterance 3 by Finnegan O'Malley". Raises InputError."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise InputError(f"{key[:80]!r} is not of the form 'Utterance <number> by <name>'.")
    return int(found[1]), found[2]


def read_labels(row: Row) -> tuple[list[Score], list[Attribution | Failure]]:
    """The scores of the row's agent, and an attribution or a failure for each of its utterances. Never raises."""
    scores = {} if row.score is None else {"goal": row.score}
    mine = [u for u in row.utterances if u.name == row.agent]
    try:
        found = {u.place: _label(u) for u in mine}
        labels = [one for one in found.values() if isinstance(one, _Label)]
        dimension = _dimension(labels)
        scale = _scale(labels, row.score)
        scores |= _noted(labels, dimension, scores.get(dimension))
    except InputError as error:
        return _scores(row, scores), [_failure(row, u, error.message) for u in mine]
    read = [(u, found[u.place]) for u in mine]
    return _scores(row, scores), [
        _failure(row, u, one, dimension) if isinstance(one, str) else _attribution(row, u, one.raw, dimension, scale)
        for u, one in read
    ]


def _label(utterance: Utterance) -> _Label | str:
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
    return _Label(
        raw=finite(label["attribution"], "an attribution"),
        reward=_optional(label, "reward"),
        dimension=text(label, "dimension", "goal"),
        scale=_named_scale(label),
        score=_optional(label, "dim_score"),
    )


def _optional(label: Mapping[str, Any], key: str) -> float | None:
    return None if label.get(key) is None else finite(label[key], f"a `{key}`")


def _named_scale(label: Mapping[str, Any]) -> int | None:
    if label.get("scale") is None:
        return None
    name = text(label, "scale")
    if name not in _SCALES:
        raise InputError(f"a label is on the unknown scale {name!r}.")
    return _SCALES[name]


def _dimension(labels: Collection[_Label]) -> str:
    """The one dimension that the labels are on."""
    named = {_DIMENSIONS.get(one.dimension, "") for one in labels} or {"goal"}
    if len(named) > 1 or "" in named:
        said = ", ".join(sorted({one.dimension for one in labels}))
        raise InputError(f"its labels are on {said}, which is not one SOTOPIA-EVAL dimension.")
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
    noted |= set() if known is None else {known}
    if len(noted) > 1:
        raise InputError(f"it notes several {dimension} scores: {', '.join(f'{s:g}' for s in sorted(noted))}.")
    return {dimension: noted.pop()} if noted else {}


def _scores(row: Row, scores: Mapping[str, float]) -> list[Score]:
    return [Score(row.agent, dimension, score, UNNAMED) for dimension, score in scores.items()]


def _attribution(row: Row, utterance: Utterance, raw: float, dimension: str, scale: int) -> Attribution:
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


def _failure(row: Row, utterance: Utterance, reason: str, dimension: str | None = None) -> Failure:
    return Failure(reason, row.episode_id, row.agent, utterance.place, dimension, JUDGE)
