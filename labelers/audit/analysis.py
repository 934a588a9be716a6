"""From pairs of labels to a verdict: how far labels move, in which direction, and whether that is more than noise.

Each probe is put to two tests, with whole episodes as the unit that varies:

    shift     the mean of (favoured - other): does the judge prefer one side?
    movement  the mean of |changed - original| - |asked twice - original|: do labels move more than they
              do where the judge is only asked twice? Not tested for the probe `moved`, where an unbiased judge may
              move too.

Both are sign-flip tests (`statistics.sign_flip_test`): under the hypothesis that the change does not matter, the
changed episode, the original and the repetition are three draws of the same answer, so both differences are symmetric
about 0. p-values are corrected together by Holm's method: the chance that an unbiased judge is called anything else is
at most `alpha`. Where too few episodes were asked about for any test to come below `alpha`, the verdict says so instead
of calling the judge unbiased. Shifts by dimension explain a verdict and do not decide it; they are corrected by
Benjamini and Hochberg's method.
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
    """One test of one probe. `mean` (and its 95 % interval, `low` to `high`) is in levels; `effect` is Cohen's d_z over
    the labels' differences; `p` is for this test alone, `adjusted` is corrected for all tests. `dimension` is "" for
    all dimensions together."""

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
    """How a judge's labels differ when the same questions are asked twice: over how many `labels`, the mean of
    |difference| in levels (`moved`), the share of `equal` labels, and Krippendorff's `alpha`."""

    labels: int
    moved: float | None
    equal: float | None
    alpha: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`verdict` is BIASED where a probe shifts labels in its direction; else UNSTEADY where labels move more than
    the judge's own noise moves them; else UNBIASED, or TOO_FEW where no test could have found anything. `findings`
    decide it, `by_dimension` explains it. `scale` is the levels' (low, high)."""

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
    """A probe's pairs of labels, as columns: the label of the original episode, of the changed one, and of the original
    asked about again (NaN: none); the contrast's sign, the episode and the dimension."""

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
        chosen = self.dimension == dimension
        return LabelPairs(
            self.original[chosen],
            self.changed[chosen],
            self.again[chosen],
            self.sign[chosen],
            self.episode[chosen],
            self.dimension[chosen],
        )

    @property
    def shift(self) -> Floats:
        """Favoured minus other."""
        return self.sign * (self.changed - self.original)

    @property
    def excess(self) -> Floats:
        """How much further labels moved than when the judge was asked twice; NaN where it was asked once."""
        return np.abs(self.changed - self.original) - np.abs(self.again - self.original)


def pairs(
    labels: Mapping[Key, float], contrasts: Iterable[tuple[str, LabelContrast]], probe: str, dimensions: Sequence[str]
) -> LabelPairs:
    """The pairs of one probe; `contrasts` are (original episode's id, contrast). A pair with a missing label is left
    out."""
    rows = []
    for episode, contrast in contrasts:
        changed, sample = (episode, 1) if probe == REPEAT else (f"{episode}~{probe}", 0)
        for dimension in dimensions:
            before = labels.get((episode, contrast.agent, contrast.before, dimension, 0))
            after = labels.get((changed, contrast.agent, contrast.after, dimension, sample))
            if before is not None and after is not None:
                again = labels.get((episode, contrast.agent, contrast.before, dimension, 1), np.nan)
                rows.append((before, after, again, contrast.sign, episode, dimension))
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
    """The verdict on the labels. `contrasts[probe]` are (original episode's id, contrast); one probe is `repeat`."""
    all_pairs = {probe: pairs(labels, of_probe, probe, dimensions) for probe, of_probe in contrasts.items()}
    probed = {probe: all_pairs[probe] for probe in PROBES if probe in all_pairs}
    tests = [_test(probe, "shift", "", them.shift, them.episode, seed) for probe, them in probed.items()]
    if REPEAT in all_pairs:
        tests += [
            _test(probe, "movement", "", them.excess, them.episode, seed)
            for probe, them in probed.items()
            if PROBES[probe].still
        ]
    by_dimension = []
    if len(dimensions) > 1:
        for probe, them in probed.items():
            for dimension in dimensions:
                chosen = them.on(dimension)
                by_dimension.append(_test(probe, "shift", dimension, chosen.shift, chosen.episode, seed))
    findings = _adjusted(tests, statistics.holm)
    word, sentence = _judgement(judge, findings, alpha)
    explanations = _adjusted(by_dimension, statistics.benjamini_hochberg)
    return Verdict(judge, word, sentence, alpha, scale, findings, explanations, _noise(all_pairs.get(REPEAT)))


def _test(probe: str, test: str, dimension: str, values: Floats, episode: np.ndarray, seed: int) -> Finding:
    """Whether the mean of `values` (NaN: none) is more than noise, with whole episodes as the unit that varies."""
    is_known = ~np.isnan(values)
    values, episode = values[is_known], episode[is_known].astype(str)
    if not len(values):
        return Finding(probe, test, dimension, 0, 0, None, None, None, None, 1.0, 1.0)
    code = np.unique(episode, return_inverse=True)[1]
    low, high = statistics.mean_interval(values, code, seed=seed) or (None, None)
    p = statistics.sign_flip_test(values, episode, seed=seed)
    effect = statistics.standardised_shift(values)
    return Finding(
        probe, test, dimension, len(values), int(code.max()) + 1, float(values.mean()), low, high, effect, p, p
    )


def _adjusted(tests: Sequence[Finding], correct: Callable[[list[float]], Floats]) -> tuple[Finding, ...]:
    corrected = correct([test.p for test in tests]).tolist()
    return tuple(replace(test, adjusted=p) for test, p in zip(tests, corrected, strict=True))


def _noise(repeated: LabelPairs | None) -> Noise:
    if repeated is None or not len(repeated):
        return Noise(0, None, None, None)
    difference = np.abs(repeated.changed - repeated.original)
    alpha = statistics.krippendorff_alpha(np.stack([repeated.original, repeated.changed]))
    return Noise(len(repeated), float(difference.mean()), float(np.mean(difference == 0)), alpha)


def _judgement(judge: str, findings: Sequence[Finding], alpha: float) -> tuple[str, str]:
    """The verdict, as a word and as a sentence."""
    significant = [finding for finding in findings if finding.found(alpha)]
    shifts = [finding for finding in significant if finding.test == "shift"]
    moves = [finding for finding in significant if finding.test == "movement" and (finding.mean or 0.0) > 0]
    if shifts:
        favoured = ", ".join(f"{_favoured(shift)} by {abs(shift.mean or 0.0):.2f} levels" for shift in shifts)
        return BIASED, f"{judge} favours {favoured}."
    if moves:
        probes = ", ".join(f"{move.probe} (by {move.mean or 0.0:.2f} levels beyond its noise)" for move in moves)
        return UNSTEADY, f"The labels of {judge} move where nothing that matters changed: {probes}."
    if all(len(findings) * statistics.smallest_p(finding.episodes) >= alpha for finding in findings):
        return TOO_FEW, _too_few(findings, alpha)
    return UNBIASED, f"No probe moves the labels of {judge} by more than its own noise."


def _too_few(findings: Sequence[Finding], alpha: float) -> str:
    """Says that no test could have come below `alpha`, however far labels moved, and how many episodes it takes."""
    most = max((finding.episodes for finding in findings), default=0)
    enough = next((n for n in range(2, 100) if len(findings) * statistics.smallest_p(n) < alpha), None)
    more = f"ask about {enough} or more" if enough else "no number of episodes would do: raise --alpha"
    tests = f"None of {len(findings)} tests over {most} episodes can come below alpha {alpha:g}"
    return f"{tests}, whatever the judge does: {more}."


def _favoured(shift: Finding) -> str:
    probe = PROBES[shift.probe]
    return probe.favours if (shift.mean or 0.0) > 0 else probe.opposite
