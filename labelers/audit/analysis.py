"""From pairs of labels to a verdict: how far labels move, in which direction, and whether that is more than noise.

Each probe is put to two tests, with whole episodes as the unit that varies:

    shift     the mean of (favoured - other): does the judge prefer one side?
    movement  the mean of |changed - original| - |asked twice - original|: do labels move more than they do by
              themselves? Not held against a judge where an honest one may move (`moved`).

Both are sign-flip tests (`statistics.sign_flip_test`): under the hypothesis that the change does not matter, the
changed episode, the original and the repetition are three draws of the same answer, so both differences are symmetric
about 0. p-values are corrected together by Holm's method: the chance that an unbiased judge is called anything else is
at most `alpha`. Where so few episodes were asked about that no test could have come below `alpha`, the verdict says so
instead of acquitting. Shifts by dimension are for looking closer; they are corrected by Benjamini and Hochberg, and
decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sotopia_rl_data import statistics
from sotopia_rl_data.labelers.audit.probes import PROBES, REPEAT, LabelContrast
from sotopia_rl_data.statistics import Floats

ALPHA = 0.01
UNBIASED, BIASED, UNSTEADY, TOO_FEW = "no bias found", "biased", "unsteady", "too few episodes"

Key = tuple[str, str, int, str, int]
"""(episode, agent, turn, dimension, sample) of a label."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One test of one probe. `mean` (and its 95 % interval) is in levels; `effect` is Cohen's d_z over the labels'
    differences; `p` is of the test alone, `adjusted` with all of them in mind. `dimension` is "" where all count."""

    probe: str
    test: str
    dimension: str
    labels: int
    episodes: int
    mean: float | None
    low: float | None
    high: float | None
    effect: float | None
    p: float
    adjusted: float

    def found(self, alpha: float) -> bool:
        """Whether this is more than noise."""
        return self.adjusted < alpha


@dataclass(frozen=True, slots=True)
class Noise:
    """The same question asked twice: the mean of |difference| in levels, the share of equal labels, Krippendorff's
    alpha of the two, and over how many labels."""

    labels: int
    moved: float | None
    equal: float | None
    alpha: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`verdict` is BIASED where a probe shifts labels in its direction, else UNSTEADY where labels move more than by
    themselves, else UNBIASED; or TOO_FEW, where nothing could have been found. `findings` decide it;
    `by_dimension` explains. `scale` is the levels' (low, high)."""

    judge: str
    verdict: str
    sentence: str
    alpha: float
    scale: tuple[float, float] | None
    findings: tuple[Finding, ...]
    by_dimension: tuple[Finding, ...]
    noise: Noise

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the manifest."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LabelPairs:
    """A probe's pairs of labels, one element each: the label of the original, of the changed episode, and of the
    original asked again (NaN where there is none); the sign, the episode and the dimension."""

    original: Floats
    changed: Floats
    again: Floats
    sign: Floats
    episode: np.ndarray
    dimension: np.ndarray

    def __len__(self) -> int:
        return len(self.original)

    def on(self, dimension: str) -> LabelPairs:
        """The pairs on one dimension."""
        mine = self.dimension == dimension
        return LabelPairs(
            self.original[mine],
            self.changed[mine],
            self.again[mine],
            self.sign[mine],
            self.episode[mine],
            self.dimension[mine],
        )

    @property
    def shift(self) -> Floats:
        """Favoured minus other."""
        return self.sign * (self.changed - self.original)

    @property
    def excess(self) -> Floats:
        """How much further than noise; NaN where it was not asked twice."""
        return np.abs(self.changed - self.original) - np.abs(self.again - self.original)


def pairs(
    labels: Mapping[Key, float], contrasts: Iterable[tuple[str, LabelContrast]], probe: str, dimensions: Sequence[str]
) -> LabelPairs:
    """The pairs of one probe: `contrasts` are (original episode's id, contrast). A pair with a missing label is
    left out."""
    rows = []
    for episode, one in contrasts:
        changed, sample = (episode, 1) if probe == REPEAT else (f"{episode}~{probe}", 0)
        for dimension in dimensions:
            before = labels.get((episode, one.agent, one.before, dimension, 0))
            after = labels.get((changed, one.agent, one.after, dimension, sample))
            if before is not None and after is not None:
                again = labels.get((episode, one.agent, one.before, dimension, 1), np.nan)
                rows.append((before, after, again, one.sign, episode, dimension))
    columns = list(zip(*rows, strict=True)) or [()] * 6
    numbers = [np.array(column, np.float64) for column in columns[:4]]
    return LabelPairs(*numbers, *(np.array(column, dtype=object) for column in columns[4:]))


def verdict(
    judge: str,
    labels: Mapping[Key, float],
    contrasts: Mapping[str, Sequence[tuple[str, LabelContrast]]],
    dimensions: Sequence[str],
    *,
    scale: tuple[float, float] | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
) -> Verdict:
    """Weigh the labels. `contrasts[probe]` are (original episode's id, contrast); `repeat` is one of the probes."""
    found = {probe: pairs(labels, some, probe, dimensions) for probe, some in contrasts.items()}
    asked = {probe: found[probe] for probe in PROBES if probe in found}
    tests = [_test(probe, "shift", "", some.shift, some.episode, seed) for probe, some in asked.items()]
    if REPEAT in found:
        tests += [
            _test(probe, "movement", "", some.excess, some.episode, seed)
            for probe, some in asked.items()
            if PROBES[probe].still
        ]
    closer = []
    for probe, some in asked.items() if len(dimensions) > 1 else ():
        for dimension in dimensions:
            mine = some.on(dimension)
            closer.append(_test(probe, "shift", dimension, mine.shift, mine.episode, seed))
    findings = _adjusted(tests, statistics.holm)
    word, sentence = _judgement(judge, findings, alpha)
    explained = _adjusted(closer, statistics.benjamini_hochberg)
    return Verdict(judge, word, sentence, alpha, scale, findings, explained, _noise(found.get(REPEAT)))


def _test(probe: str, test: str, dimension: str, values: Floats, episode: np.ndarray, seed: int) -> Finding:
    """Whether the mean of `values` (NaN where there is none) is more than noise, whole episodes being the unit."""
    there = ~np.isnan(values)
    values, episode = values[there], episode[there].astype(str)
    if not len(values):
        return Finding(probe, test, dimension, 0, 0, None, None, None, None, 1.0, 1.0)
    code = np.unique(episode, return_inverse=True)[1]
    sums = np.stack([np.bincount(code, values), np.bincount(code)], axis=1)
    drawn = statistics.resampled(sums, seed=seed)
    low, high = statistics.percentile_interval(drawn[:, 0] / drawn[:, 1], len(sums)) or (None, None)
    p = statistics.sign_flip_test(values, episode, seed=seed)
    effect = statistics.standardised_shift(values)
    return Finding(probe, test, dimension, len(values), len(sums), float(values.mean()), low, high, effect, p, p)


def _adjusted(tests: Sequence[Finding], correct: Callable[[list[float]], Floats]) -> tuple[Finding, ...]:
    corrected = correct([one.p for one in tests]).tolist()
    return tuple(replace(one, adjusted=p) for one, p in zip(tests, corrected, strict=True))


def _noise(some: LabelPairs | None) -> Noise:
    if some is None or not len(some):
        return Noise(0, None, None, None)
    apart = np.abs(some.changed - some.original)
    alpha = statistics.krippendorff_alpha(np.stack([some.original, some.changed]))
    return Noise(len(some), float(apart.mean()), float(np.mean(apart == 0)), alpha)


def _judgement(judge: str, findings: Sequence[Finding], alpha: float) -> tuple[str, str]:
    """The verdict, as a word and as a sentence."""
    shifts = [one for one in findings if one.test == "shift" and one.found(alpha)]
    moves = [one for one in findings if one.test == "movement" and one.found(alpha) and (one.mean or 0.0) > 0]
    if shifts:
        told = ", ".join(f"{_favoured(one)} by {abs(one.mean or 0.0):.2f} levels" for one in shifts)
        return BIASED, f"{judge} favours {told}."
    if moves:
        told = ", ".join(f"{one.probe} (by {one.mean or 0.0:.2f} levels beyond its noise)" for one in moves)
        return UNSTEADY, f"The labels of {judge} move where nothing that matters changed: {told}."
    if all(len(findings) * statistics.smallest_p(one.episodes) >= alpha for one in findings):
        return TOO_FEW, _too_few(findings, alpha)
    return UNBIASED, f"No probe moves the labels of {judge} by more than its own noise."


def _too_few(findings: Sequence[Finding], alpha: float) -> str:
    """That no test, however far labels moved, could have come below `alpha`, and how many episodes it would take."""
    most = max((one.episodes for one in findings), default=0)
    enough = next((n for n in range(2, 100) if len(findings) * statistics.smallest_p(n) < alpha), None)
    more = f"ask about {enough} or more" if enough else "no number of episodes would do: raise --alpha"
    tests = f"None of {len(findings)} tests over {most} episodes can come below alpha {alpha:g}"
    return f"{tests}, whatever the judge does: {more}."


def _favoured(one: Finding) -> str:
    probe = PROBES[one.probe]
    return probe.favours if (one.mean or 0.0) > 0 else probe.opposite
