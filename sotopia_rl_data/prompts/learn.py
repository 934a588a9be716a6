"""Learn the wrapper that a simulator really served: `prompts learn SERVED_LOG`.

Every request that shows the observations of an imported episode, one after the other, gives the text around them. Out
of these texts come one or a few wrappers with slots (`wrapper.py`); several are told apart by the fewest features of
an episode, agent and turn that do so. The log is read three times and never held: to learn, to find what the simulator
did to braces inside observations (`echoes.py`), and to count what the template gives back.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.prompts.check import verdicts
from sotopia_rl_data.prompts.echoes import with_echoes
from sotopia_rl_data.prompts.render import features
from sotopia_rl_data.prompts.served import Index, read_served
from sotopia_rl_data.prompts.template import FEATURES, Feature, Template, Variant, compose
from sotopia_rl_data.prompts.wrapper import Draft, Sample, Skeleton, drafts_of, skeleton_of
from sotopia_rl_data.schema import Episode

_FEW = 0.01
"""A wrapper that fewer than this part of the requests have (or a single one) is taken for an accident."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class LearnReport:
    """A learned template, and what it gives back of the log that it was learned from.

    `exact` prompts come back byte for byte, `reordered` ones but for the order of the action list; `different` are
    those of imported episodes that do not come back (`lines`: the first 20 of them); `no_log` name an agent of an
    episode that was not imported; `other` show no agent's observations (an evaluator's requests …). `assumed` are
    echoes that no observation of the log could show (see `echoes.py`).
    """

    template: Template
    requests: int
    exact: int
    reordered: int
    different: int
    no_log: int
    other: int
    lines: tuple[int, ...]
    assumed: tuple[str, ...]

    @property
    def matched(self) -> int:
        """Requests of imported episodes."""
        return self.exact + self.reordered + self.different

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: the counts, and the template's name, hash and variants' conditions."""
        counts = {name: getattr(self, name) for name in ("requests", "matched", "exact", "reordered", "different")}
        variants = [{key: list(values) for key, values in v.when.items()} for v in self.template.variants]
        return counts | {
            "no_log": self.no_log,
            "other": self.other,
            "different_lines": list(self.lines),
            "assumed_echoes": list(self.assumed),
            "template": self.template.name,
            "sha256": self.template.sha256,
            "variants": variants,
        }


@dataclass(slots=True)
class _Gathered:
    """What one reading of the log gives: the samples of each skeleton, and how observations were joined."""

    samples: dict[tuple[Skeleton, str], Counter[Sample]]
    joins: Counter[tuple[str, bool]]
    dialects: set[str]


def learn(served_log: str | Path, episodes: Iterable[Episode], name: str = "served") -> LearnReport:
    """Learn a template from a log of served requests and the episodes that they belong to.

    Raises InputError where the log cannot be read, where no request shows an imported episode's observations, or where
    no template gives back at least half of those that do.
    """
    known = [e for e in episodes if e.observations]
    index = Index(known)
    gathered = _gather(served_log, index)
    if not gathered.samples:  # the log may count its episodes in its own way
        index = Index(known, trust_ids=False)
        gathered = _gather(served_log, index)
    if not gathered.samples:
        raise InputError(
            f"No request of {str(served_log)!r} shows what an agent observed in one of these {len(known)} episodes.",
            "import the episodes that were played in this log, from files with raw messages: import PATH --name NAME",
        )
    drafts = _drafts(gathered)
    if not gathered.joins:
        raise InputError(
            f"{str(served_log)!r} has first turns only, so how observations are joined cannot be learned.",
            "learn from a log that has later turns too",
        )
    joiner, strip = min(gathered.joins, key=lambda join: (-gathered.joins[join], join))
    template = compose(
        name=name, joiner=joiner, separator=drafts[0].separator, strip=strip, echoes={}, variants=variants_of(drafts)
    )
    template, assumed = with_echoes(served_log, index, template, library=gathered.dialects != {"plain"})
    return _report(served_log, index, template, assumed)


def _gather(served_log: str | Path, index: Index) -> _Gathered:
    gathered = _Gathered(defaultdict(Counter), Counter(), set())
    for served in read_served(served_log):
        placed = index.place(served) if served is not None else None
        if served is None or placed is None:
            continue
        episode = placed.known.episode
        asked = features(episode, placed.known.agent, placed.turn)
        skeleton, separator, sample = skeleton_of(served, placed, asked)
        gathered.samples[skeleton, separator][sample] += 1
        gathered.dialects.add(episode.dialect)
        if placed.joiner is not None:
            gathered.joins[placed.joiner, placed.strip] += 1
    return gathered


def _drafts(gathered: _Gathered) -> list[Draft]:
    """The wrappers that more than an accident have, the commonest first."""
    merged: dict[object, Draft] = {}
    for (skeleton, separator), samples in gathered.samples.items():
        for draft in drafts_of(skeleton, separator, samples):
            if draft.identity in merged:
                merged[draft.identity].add(draft)
            else:
                merged[draft.identity] = draft
    drafts = sorted(merged.values(), key=lambda draft: (-draft.count, draft.messages))
    least = max(2, _FEW * sum(draft.count for draft in drafts))
    return [draft for draft in drafts if draft.count >= least] or drafts[:1]


def variants_of(drafts: Sequence[Draft]) -> tuple[Variant, ...]:
    """The drafts as variants, told apart by the fewest features under which the most requests get their own."""
    if len(drafts) == 1:
        return (drafts[0].variant({}),)
    chosen, wrapper = max(
        (_told_apart(drafts, names) for size in (0, 1, 2) for names in itertools.combinations(FEATURES, size)),
        key=lambda one: (sum(count for _, count in one[1].values()), -len(one[0])),
    )
    if len(chosen) == 1:
        return tuple(
            draft.variant({chosen[0]: values})
            for i, draft in enumerate(drafts)
            if (values := tuple(key[0] for key, (best, _) in sorted(wrapper.items(), key=str) if best == i))
        )
    return tuple(
        drafts[best].variant({name: (value,) for name, value in zip(chosen, key, strict=True)})
        for key, (best, _) in sorted(wrapper.items(), key=str)
    )


def _told_apart(
    drafts: Sequence[Draft], names: tuple[str, ...]
) -> tuple[tuple[str, ...], Mapping[tuple[Feature, ...], tuple[int, int]]]:
    """For each value of these features: the draft that most of its requests have, and how many do."""
    counts: dict[tuple[Feature, ...], Counter[int]] = defaultdict(Counter)
    for i, draft in enumerate(drafts):
        for met, times in draft.met.items():
            counts[tuple(dict(met)[name] for name in names)][i] += times
    return names, {key: min(count.items(), key=lambda item: (-item[1], item[0])) for key, count in counts.items()}


def _report(served_log: str | Path, index: Index, template: Template, assumed: Sequence[str]) -> LearnReport:
    counts: Counter[str] = Counter()
    lines: list[int] = []
    for served, verdict in verdicts(served_log, index, template):
        counts[verdict] += 1
        if verdict == "different" and served is not None and len(lines) < _SHOWN:
            lines.append(served.line)
    report = LearnReport(
        template=template,
        requests=counts.total(),
        exact=counts["exact"],
        reordered=counts["reordered"],
        different=counts["different"],
        no_log=counts["no log"],
        other=counts["other"],
        lines=tuple(lines),
        assumed=tuple(assumed),
    )
    if report.different * 2 > report.matched:
        raise InputError(
            f"Nothing consistent stands around the observations in {str(served_log)!r}: "
            f"{report.different} of {report.matched} prompts would not come back.",
            "learn from a log of one simulator, or split it by simulator version",
        )
    return report
