"""The ways in which sotopia-rl makes rewards of a judge's numbers, and by which of them a file was made.

Its annotation writes one file for each method, dimension and scale, and a file does not say its method. It is decided
for the whole file, by arithmetic: of all methods, the one by which the rewards of the most rows follow from their
attributions and scores. Where several fit alike, the file's name decides, then `direct`, the writer's default; what
still fits two methods is not read. `--method` overrules all of this. Rows that the method does not explain are
failures, whatever else would explain them.

k is the judge's number of an utterance, K the sum over the agent's own, G the score, T and t as in `rewards/rules.py`:

    direct                          k / scale × G, on a scale of 3, 5 or 10; direct_generic says which
    direct_normalized               k / K × G
    key_utterance                   G at the key, 0 elsewhere
    only_response                   k / 3 × G
    utterance_quality               k / 3 × 10
    utterance_quality_normalized    k / K × G
    goal_progress                   p / 10 × G, a bare number; p is how far the judged progress moved
    discounting                     0.9^(T−1−t) × G, a bare number
    all_the_same                    G
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.schema import Measure

GAMMA = 0.9
STEP = 10.0  # judged progress goes from 0 to this
_CLOSE = 1e-6

Shape = Literal["pair", "reward", "fraction", "whole"]
"""Of a label: an attribution with its reward, a reward alone, or a bare number, with a fraction or without."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a row says of one utterance: the judge's number `raw`, the reward made of it, and what the writer noted
    beside them (`score` on `dimension`, which is "" where it is not written)."""

    shape: Shape
    raw: float | None = None
    reward: float | None = None
    dimension: str = ""
    scale: int | None = None
    score: float | None = None


Labels = Sequence[Label | None]
"""Those of an agent's utterances, in order; None where there is none."""

Arithmetic = Callable[[float, int, float, float, int], float]
"""(attribution, scale, score, sum of the agent's attributions, how many of its utterances follow) -> reward."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way, and what a file of it becomes: attributions of a schema and measure (None: the method asks no judge),
    from which `rule` makes the file's own rewards again. `formula` is `reward` in a sentence; `shapes` are those of its
    labels."""

    name: str
    schema: str | None
    measure: Measure | None
    rule: str
    formula: str
    reward: Arithmetic
    scales: tuple[int, ...] = (3,)
    shapes: tuple[Shape, ...] = ("pair",)


def _share(k: float, scale: int, g: float, total: float, later: int) -> float:
    return k / total * g if total else 0.0


_SHARE = "attribution / sum of attributions × score"
_BARE: tuple[Shape, ...] = ("fraction", "whole")
METHODS = {
    one.name: one
    for one in (
        Method(
            "direct",
            "direct",
            "importance",
            "direct",
            "attribution / scale × score",
            lambda k, scale, g, *_: k / scale * g,
            (3, 5, 10),
            ("pair", "whole"),
        ),
        Method(
            "key_utterance",
            "singular",
            "key",
            "singular",
            "the score at one utterance and 0 elsewhere",
            lambda k, scale, g, *_: k * g,
            (1,),
        ),
        Method(
            "only_response",
            "only-response",
            "quality",
            "quality-score",
            "attribution / 3 × score",
            lambda k, scale, g, *_: k / 3 * g,
        ),
        Method("direct_normalized", "scaled", "importance", "scaled", _SHARE, _share, (3, 5, 10)),
        Method(
            "utterance_quality",
            "utterance-quality",
            "quality",
            "quality",
            "attribution / 3 × 10",
            lambda k, *_: k / 3 * 10,
        ),
        Method(
            "utterance_quality_normalized", "utterance-quality-normalized", "quality", "quality-share", _SHARE, _share
        ),
        Method(
            "goal_progress",
            "goal-progress-steps",
            "step",
            "progress-score",
            "a whole step of progress / 10 × score",
            lambda r, scale, g, *_: round(max(-STEP, min(STEP, r / g * STEP))) / STEP * g if g else 0.0,
            shapes=_BARE,
        ),
        Method(
            "discounting",
            None,
            None,
            "discounted",
            "0.9^(T−1−t) × score, where t counts the agent's own utterances",
            lambda r, scale, g, total, later: GAMMA**later * g,
            shapes=_BARE,
        ),
        Method("all_the_same", None, None, "uniform", "the score", lambda r, scale, g, *_: g, shapes=("reward",)),
    )
}
"""By name, in the order in which one is preferred to another that fits as well."""

_SPELLINGS = {name: name for name in METHODS} | {"direct_generic": "direct"}


def method_named(name: str) -> Method:
    """The method with this name. Raises UsageError with the names."""
    if name not in _SPELLINGS:
        raise UsageError(f"{name!r} is not a method of annotated rows.", f"name one of: {', '.join(METHODS)}")
    return METHODS[_SPELLINGS[name]]


def method_in(file: str) -> Method | None:
    """The one method whose name stands in a file's name; None where there is none, or there are several."""
    words = f"_{re.sub('[^a-z0-9]+', '_', file.lower())}_"
    found = [name for name in _SPELLINGS if f"_{name}_" in words]
    longest = [name for name in found if not any(name != other and name in other for other in found)]
    return METHODS[_SPELLINGS[longest[0]]] if len(longest) == 1 else None


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read: by which method, and on which scale where their labels name none."""

    method: Method
    scale: int

    def missing(self, label: Label | None) -> bool:
        """Whether it stands for no label: 0.0 and -1.0 do where the method's labels are not bare numbers."""
        paired = "pair" in self.method.shapes
        return label is None or (
            paired and (label.shape == "reward" or (label.shape == "fraction" and label.reward in (0, -1)))
        )

    def explains(self, labels: Labels, score: float | None) -> bool:
        """Whether the rewards of an agent's utterances follow from their labels and its `score`."""
        total = sum(label.raw for label in labels if label is not None and label.raw is not None)
        if self.method.measure == "key" and total > 1:
            return False
        return all(
            label is None or self.missing(label) or self._follows(label, score, total, len(labels) - 1 - t)
            for t, label in enumerate(labels)
        )

    def _follows(self, label: Label, score: float | None, total: float, later: int) -> bool:
        method, scale = self.method, label.scale or self.scale
        if label.shape not in method.shapes or (label.dimension and method.name != "direct"):
            return False
        bare = "pair" not in method.shapes
        if not bare and not (label.raw is not None and 0 <= label.raw <= scale):
            return False
        g = score if label.score is None else label.score
        if label.reward is None or (label.shape == "whole" and not bare):
            return True
        if g is None and method.rule != "quality":
            return True
        number = label.reward if bare or label.raw is None else label.raw
        expected = method.reward(number, scale, g or 0.0, total, later)
        return abs(expected - label.reward) <= _CLOSE * max(1.0, abs(g or 0.0))

    def raw(self, label: Label, score: float | None) -> float | None:
        """What the judge said; None where the file does not tell it: no score, or one of 0, of which any share is 0."""
        if self.method.measure != "step":
            return label.raw
        return float(round((label.reward or 0.0) / score * STEP)) if score else None


READINGS = tuple(Reading(method, scale) for method in METHODS.values() for scale in method.scales)


_PREFERRED = ("direct", "key_utterance")
"""`direct` is the writer's default; where one utterance has it all, its share is the whole too, by every method."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How a file is read; no reading, and a reason, where two methods fit it alike. `warning` says what was taken for
    granted, or where the file's name says something else than its numbers."""

    reading: Reading | None = READINGS[0]
    reason: str = ""
    warning: str = ""


def decide(explained: Counter[Reading], file: str, told: Method | None = None) -> Decision:
    """By which reading a file is read; `explained` counts the rows that each explains, and `told` is the method that
    the user names."""
    readings = [one for one in READINGS if told in (None, one.method)]
    most = max(explained[one] for one in readings)
    best = [one for one in readings if explained[one] == most] if most else [readings[0]]
    named = told or method_in(file)
    best = [one for one in best if one.method is named] or best
    methods = list(dict.fromkeys(one.method.name for one in best))
    if best[0].method.name == "direct" and best[0].scale != 3 and best[1:2] and best[1].method is best[0].method:
        return Decision(None, SCALE_UNKNOWN)
    if methods[0] not in _PREFERRED and len(methods) > 1:
        reason = f"its numbers fit {' and '.join(methods)} alike: name one with --method"
        return Decision(None, f"{reason}.", f"{file}: {reason}.")
    warning = ""
    if named not in (None, best[0].method) and most:
        warning = f"{file}: its name says {named and named.name}, its numbers are those of {methods[0]}."
    elif methods == ["direct", "only_response"]:
        warning = f"{file}: direct and only_response give the same numbers; it was taken for direct: see --method."
    return Decision(best[0], warning=warning)


SCALE_UNKNOWN = "its labels do not tell their scale: they are not direct attributions on 3, 5 or 10."


@dataclass(frozen=True, slots=True)
class Series:
    """One opinion: the reading of its rows, and its number among the opinions of the same schema (`sample`)."""

    reading: Reading
    sample: int = 0


Marks = frozenset[tuple[bool, int | None]]
"""Of each label: whether it names a dimension, and the scale that it names."""

Kind = tuple[bool, int]
"""What the rows of one series share beside the method: whether their labels name a dimension, and the scale."""

Scored = tuple[tuple[str, str, float], ...]
"""The scores of an episode: (agent, dimension, score)."""


@dataclass(frozen=True, slots=True)
class FileOpinions:
    """What must be known of a file before it is read. `samples` are the numbers of its series, `scores` what all files
    say of an episode. `repeated` are the places of rows whose labels were read before, `contradicting` of rows whose
    labels are not those that the same file has before them; the other rows of their episode are read all the same.
    `shared`: a label that stands for two utterances is kept, as that of the later.
    """

    decision: Decision = Decision()
    samples: Mapping[Kind, int] = field(default_factory=dict)
    scores: Mapping[str, Scored] = field(default_factory=dict)
    repeated: frozenset[str] = frozenset()
    contradicting: frozenset[str] = frozenset()
    shared: bool = False

    def series(self, labels: Labels) -> Series:
        """The opinion that labels belong to. Raises InputError where it cannot be told how they are read."""
        if self.decision.reading is None:
            raise InputError(self.decision.reason)
        kind = kind_of(marks(labels), self.decision.reading)
        return Series(Reading(self.decision.reading.method, kind[1]), self.samples.get(kind, 0))


def marks(labels: Labels) -> Marks:
    """What a row's labels say of their kind."""
    return frozenset((bool(label.dimension), label.scale) for label in labels if label is not None)


def kind_of(marks_of_row: Marks, reading: Reading) -> Kind:
    """The kind of series of a row's labels. Raises InputError where they name several scales."""
    scales = {scale for _, scale in marks_of_row if scale is not None} or {reading.scale}
    if len(scales) > 1:
        raise InputError(SCALE_UNKNOWN)
    return any(named for named, _ in marks_of_row), scales.pop()
