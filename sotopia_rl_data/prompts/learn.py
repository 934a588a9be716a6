"""Learn the wrapper that a simulator really served: `prompts learn SERVED_LOG`.

Every request that shows the observations of an imported episode, one after the other, gives the text around them. Out
of these texts come one or a few wrappers with slots (`wrapper.py`); several are told apart by the fewest features of
an episode, agent and turn that do so. The log is read three times and never held: to learn, to find what the simulator
did to braces inside observations (the echoes), and to count what the template gives back byte for byte.

Leaves out judges' prompts, whose wording is ours, and simulators that show an observation otherwise than as logged.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.prompts.render import features, render, slot_values
from sotopia_rl_data.prompts.served import ObservationIndex, Observer, ServedRequest, read_served
from sotopia_rl_data.prompts.template import FEATURES, Feature, Template, Variant, compose, fill
from sotopia_rl_data.prompts.wrapper import LIST, Filling, LearnedWrapper, Skeleton, skeleton_of, types_in, wrappers_of
from sotopia_rl_data.schema import Episode, Message

_FEW = 0.01
"""A wrapper that fewer than this part of the requests have (or a single one) is taken for an accident."""
_SHOWN = 20
LIBRARY_ECHOES = {"{action_list}": "actions", "{format_instructions}": "schema"}
_LETTERS = re.compile(r"(\{\w+\})")
_HERE = "\x00"
_ECHOED_SLOTS = ("schema", "actions", "agent", "partner", "goal", "turn", "turn_from_1")

Verdict = Literal["exact", "reordered", "different", "no log", "other"]
"""What becomes of a request. One that shows no imported agent's first observation is `no log` where it names an agent:
its episode was not imported. Else it is `other`: an evaluator's, a repair of bad JSON …

A `reordered` one comes back but for the order of the action list: SOTOPIA keeps the types in a set, whose order changes
from process to process."""


@dataclass(frozen=True, slots=True)
class LearnReport:
    """A learned template, and what it gives back of the log that it was learned from.

    `exact` prompts come back byte for byte, `reordered` ones but for the order of the action list; `different` are
    those of imported episodes that do not come back (`lines`: the first 20 of them); `no_log` name an agent of an
    episode that was not imported; `other` show no agent's observations (an evaluator's requests …). `assumed` are
    echoes that no observation of the log could show (see `with_echoes`).
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
    """What one reading of the log gives: the fillings of each skeleton, and how observations were joined."""

    fillings: dict[tuple[Skeleton, str], Counter[Filling]] = field(default_factory=lambda: defaultdict(Counter))
    joins: Counter[tuple[str, bool]] = field(default_factory=Counter)
    dialects: set[str] = field(default_factory=set)


def learn(served_log: str | Path, episodes: Iterable[Episode], name: str = "served") -> LearnReport:
    """Learn a template from a log of served requests and the episodes that they belong to.

    Raises InputError where the log cannot be read, where no request shows an imported episode's observations, or where
    no template gives back at least half of those that do.
    """
    known = [e for e in episodes if e.observations]
    index = ObservationIndex(known)
    gathered = _gather(served_log, index)
    if not gathered.fillings:  # the log may count its episodes in its own way
        index = ObservationIndex(known, trust_ids=False)
        gathered = _gather(served_log, index)
    if not gathered.fillings:
        raise InputError(
            f"No request of {str(served_log)!r} shows what an agent observed in one of these {len(known)} episodes.",
            "import the episodes that were played in this log, from files with raw messages: import PATH --name NAME",
        )
    wrappers = _wrappers(gathered)
    if not gathered.joins:
        raise InputError(
            f"{str(served_log)!r} has first turns only, so how observations are joined cannot be learned.",
            "learn from a log that has later turns too",
        )
    joiner, strip = min(gathered.joins, key=lambda join: (-gathered.joins[join], join))
    separator = wrappers[0].separator
    template = compose(
        name=name, joiner=joiner, separator=separator, strip=strip, echoes={}, variants=variants_of(wrappers)
    )
    template, assumed = with_echoes(served_log, index, template, library=gathered.dialects != {"plain"})
    return _report(served_log, index, template, assumed)


def _gather(served_log: str | Path, index: ObservationIndex) -> _Gathered:
    gathered = _Gathered()
    for request in filter(None, read_served(served_log)):
        placed = index.place(request)
        if placed is None:
            continue
        episode = placed.observer.episode
        met = features(episode, placed.observer.agent, placed.turn)
        skeleton, separator, filling = skeleton_of(request, placed, met)
        gathered.fillings[skeleton, separator][filling] += 1
        gathered.dialects.add(episode.dialect)
        if placed.joiner is not None:
            gathered.joins[placed.joiner, placed.strip] += 1
    return gathered


def _wrappers(gathered: _Gathered) -> list[LearnedWrapper]:
    """The wrappers that more than an accident have, the commonest first."""
    merged: dict[object, LearnedWrapper] = {}
    for (skeleton, separator), fillings in gathered.fillings.items():
        for one in wrappers_of(skeleton, separator, fillings):
            if one.identity in merged:
                merged[one.identity].add(one)
            else:
                merged[one.identity] = one
    wrappers = sorted(merged.values(), key=lambda one: (-one.count, one.messages))
    least = max(2, _FEW * sum(one.count for one in wrappers))
    return [one for one in wrappers if one.count >= least] or wrappers[:1]


def variants_of(wrappers: Sequence[LearnedWrapper]) -> tuple[Variant, ...]:
    """The wrappers as variants, told apart by the fewest features under which the most requests get their own."""
    if len(wrappers) == 1:
        return (wrappers[0].variant({}),)
    names, best = max(
        ((names, _best(wrappers, names)) for size in (0, 1, 2) for names in itertools.combinations(FEATURES, size)),
        key=lambda one: (sum(count for _, count in one[1].values()), -len(one[0])),
    )
    ordered = [(key, place) for key, (place, _) in sorted(best.items(), key=str)]
    if len(names) != 1:
        return tuple(
            wrappers[place].variant({name: (value,) for name, value in zip(names, key, strict=True)})
            for key, place in ordered
        )
    values = [tuple(key[0] for key, place in ordered if place == i) for i in range(len(wrappers))]
    return tuple(one.variant({names[0]: of}) for one, of in zip(wrappers, values, strict=True) if of)


def _best(wrappers: Sequence[LearnedWrapper], names: tuple[str, ...]) -> Mapping[tuple[Feature, ...], tuple[int, int]]:
    """For each value of these features: the wrapper (by place) that most of its requests have, and how many do."""
    counts: dict[tuple[Feature, ...], Counter[int]] = defaultdict(Counter)
    for i, one in enumerate(wrappers):
        for met, times in one.met.items():
            counts[tuple(dict(met)[name] for name in names)][i] += times
    return {key: min(count.items(), key=lambda item: (-item[1], item[0])) for key, count in counts.items()}


def _report(served_log: str | Path, index: ObservationIndex, template: Template, assumed: Sequence[str]) -> LearnReport:
    counts: Counter[str] = Counter()
    lines: list[int] = []
    for request in read_served(served_log):
        became = "other" if request is None else _verdict(request, index, template)
        counts[became] += 1
        if became == "different" and request is not None and len(lines) < _SHOWN:
            lines.append(request.line)
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


def _verdict(request: ServedRequest, index: ObservationIndex, template: Template) -> Verdict:
    """What becomes of one request; of several agents and turns that it may have been for, the best counts."""
    best: Verdict = "other" if request.agent is None else "no log"
    for observer, turn in index.guesses(request):
        now = compare(template, observer.episode, observer.agent, turn, request.messages)
        if now == "exact":
            return now
        best = "reordered" if "reordered" in (now, best) else "different"
    return best


def compare(template: Template, episode: Episode, agent: str, turn: int, messages: Sequence[Message]) -> Verdict:
    """`exact`, `reordered` or `different`: the template's prompt against the messages that were served."""
    if _gives_back(template, episode, agent, turn, messages):
        return "exact"
    others = _reorderings(template, messages)
    return "reordered" if any(_gives_back(other, episode, agent, turn, messages) for other in others) else "different"


def _gives_back(template: Template, episode: Episode, agent: str, turn: int, messages: Sequence[Message]) -> bool:
    try:
        return render(episode, agent, turn, template.layout, template) == list(messages)
    except InputError:  # no variant for this episode
        return False


def _reorderings(template: Template, messages: Sequence[Message]) -> Iterator[Template]:
    """The template with its action lists in each order that the messages show."""
    shown = dict.fromkeys(types_in(m[0]) for message in messages for m in LIST.finditer(message["content"]))
    for order in shown:
        variants = tuple(
            replace(v, actions=(order,)) if set(order) == set(v.actions[0]) else v for v in template.variants
        )
        if variants != template.variants:
            yield replace(template, variants=variants)


def with_echoes(
    served_log: str | Path, index: ObservationIndex, template: Template, *, library: bool
) -> tuple[Template, tuple[str, ...]]:
    """The template with its echoes, and the letters of those that are assumed.

    A simulator that fills its slots one after the other also fills those that somebody said: SOTOPIA puts the history
    in before the action list and the action's schema, so an agent that says "{format_instructions}" makes later
    prompts show the whole schema in its place. What a log shows of this is learned. Where no observation of the log
    holds those letters, the two names that SOTOPIA uses are assumed for episodes of its dialects (`library`).
    """
    shown: dict[str, str | None] = {}
    for request in filter(None, read_served(served_log)):
        shown |= _echoes_in(request, index, template)
    assumed = tuple(letters for letters in LIBRARY_ECHOES if library and letters not in shown)
    echoes = {letters: slot for letters, slot in shown.items() if slot}
    echoes |= {letters: LIBRARY_ECHOES[letters] for letters in assumed}
    learned = compose(
        name=template.name,
        joiner=template.joiner,
        separator=template.separator,
        strip=template.strip,
        echoes=dict(sorted(echoes.items())),
        variants=template.variants,
    )
    return learned, assumed


def _echoes_in(request: ServedRequest, index: ObservationIndex, template: Template) -> Mapping[str, str | None]:
    """For letters in braces that the request's observations hold: the slot that replaced them, or None: nothing did."""
    for observer, turn in index.guesses(request):
        texts = [text for text, at in zip(observer.texts, observer.turns, strict=True) if at <= turn]
        joined = template.joiner.join(text.strip() if template.strip else text for text in texts)
        if not _LETTERS.search(joined):
            continue
        if compare(template, observer.episode, observer.agent, turn, request.messages) != "different":
            return dict.fromkeys(_LETTERS.findall(joined))
        for one in (template, *_reorderings(template, request.messages)):
            echoes = _aligned(request.messages, observer, turn, joined, one)
            if echoes is not None:
                return echoes
    return {}


def _aligned(
    messages: Sequence[Message], observer: Observer, turn: int, joined: str, template: Template
) -> dict[str, str | None] | None:
    """What became of the letters, where the messages are the template's but for that."""
    episode, agent = observer.episode, observer.agent
    try:
        variant = template.variant(features(episode, agent, turn))
    except InputError:  # no variant for this episode
        return None
    if len(messages) != len(variant.messages):
        return None
    values = slot_values(episode, agent, turn, _HERE, replace(template, echoes={}), variant)
    echoes: dict[str, str | None] | None = None
    for wrapper, message in zip(variant.messages, messages, strict=True):
        before, here, after = fill(wrapper["content"], values).partition(_HERE)
        content = message["content"]
        if not here:
            if content != before:
                return None
        elif content.startswith(before) and content.endswith(after):
            echoes = _walk(content[len(before) : len(content) - len(after)], joined, values)
    return echoes


def _walk(shown: str, joined: str, values: Mapping[str, str]) -> dict[str, str | None] | None:
    """Go along what was shown and what was observed; at letters in braces either they stand there or a slot's text."""
    at, became = 0, dict[str, str | None]()
    for i, piece in enumerate(_LETTERS.split(joined)):
        is_letters = i % 2 == 1
        if shown.startswith(piece, at):
            at += len(piece)
            if is_letters:
                became.setdefault(piece, None)
            continue
        slot = next((s for s in _ECHOED_SLOTS if values[s] and shown.startswith(values[s], at)), None)
        if not is_letters or slot is None or became.get(piece, slot) != slot:
            return None
        became[piece] = slot
        at += len(values[slot])
    return became if at == len(shown) else None
