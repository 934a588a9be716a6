"""Learn the wrapper that a simulator really served: `prompts learn SERVED_LOG`.

A request that shows the observations of an imported episode, one after the other, also shows the text around them.
From these texts come one or a few wrappers with slots (`wrapper.py`). Several wrappers are told apart by as few
features of the episode, agent and turn as possible. The log is streamed three times: to learn the wrappers, to find
what the simulator did to braces inside observations (the echoes), and to count the prompts that the template
reproduces byte for byte.

Leaves out judges' prompts, whose wording is ours, and simulators that change the observations before showing them.
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
"""A wrapper that only one request has, or a smaller share of the requests than this, is taken for an accident."""
_SHOWN = 20
LIBRARY_ECHOES = {"{action_list}": "actions", "{format_instructions}": "schema"}
_LETTERS = re.compile(r"(\{\w+\})")
_HERE = "\x00"
_ECHOED_SLOTS = ("schema", "actions", "agent", "partner", "goal", "turn", "turn_from_1")

Verdict = Literal["exact", "reordered", "different", "no log", "other"]
"""How a request compares with the template's prompt.

A `reordered` prompt is reproduced except for the order of the action list: SOTOPIA keeps the types in a set, whose
order changes from process to process. A request without any imported agent's first observation is `no log` if it names
an agent (the episode was not imported), or else `other`: a request of an evaluator, a repair of bad JSON …"""


@dataclass(frozen=True, slots=True)
class LearnReport:
    """A learned template, and how much of the log it reproduces.

    `exact` prompts are reproduced byte for byte, `reordered` ones except for the order of the action list; `different`
    prompts of imported episodes are not reproduced (`lines` has the first 20 of them). `no_log` requests name an agent
    of an episode that was not imported; `other` requests show no agent's observations (an evaluator's requests …).
    `assumed` are echoes that no observation of the log could show (see `with_echoes`).
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
        """The number of requests of imported episodes."""
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
    """What the first reading of the log gives: the fillings of each skeleton, and how observations were joined."""

    fillings: dict[tuple[Skeleton, str], Counter[Filling]] = field(default_factory=lambda: defaultdict(Counter))
    joins: Counter[tuple[str, bool]] = field(default_factory=Counter)
    dialects: set[str] = field(default_factory=set)


def learn(served_log: str | Path, episodes: Iterable[Episode], name: str = "served") -> LearnReport:
    """Learn a template from a log of served requests and the episodes that they belong to.

    Raises InputError where the log cannot be read, where no request shows an imported episode's observations, or where
    no template reproduces at least half of those that do.
    """
    known = [e for e in episodes if e.observations]
    index = ObservationIndex(known)
    gathered = _gather(served_log, index)
    if not gathered.fillings:  # the log may use other episode ids than the dataset
        index = ObservationIndex(known, trust_ids=False)
        gathered = _gather(served_log, index)
    if not gathered.fillings:
        raise InputError(
            f"No request of {str(served_log)!r} shows what an agent observed in one of these {len(known)} episodes.",
            "import the episodes of this log, from files that keep raw messages, and name that dataset",
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
        request_features = features(episode, placed.observer.agent, placed.turn)
        skeleton, separator, filling = skeleton_of(request, placed, request_features)
        gathered.fillings[skeleton, separator][filling] += 1
        gathered.dialects.add(episode.dialect)
        if placed.joiner is not None:
            gathered.joins[placed.joiner, placed.strip] += 1
    return gathered


def _wrappers(gathered: _Gathered) -> list[LearnedWrapper]:
    """The wrappers that are more than an accident, the commonest first."""
    merged: dict[object, LearnedWrapper] = {}
    for (skeleton, separator), fillings in gathered.fillings.items():
        for wrapper in wrappers_of(skeleton, separator, fillings):
            if wrapper.identity in merged:
                merged[wrapper.identity].add(wrapper)
            else:
                merged[wrapper.identity] = wrapper
    wrappers = sorted(merged.values(), key=lambda wrapper: (-wrapper.count, wrapper.messages))
    least = max(2, _FEW * sum(wrapper.count for wrapper in wrappers))
    return [wrapper for wrapper in wrappers if wrapper.count >= least] or wrappers[:1]


def variants_of(wrappers: Sequence[LearnedWrapper]) -> tuple[Variant, ...]:
    """The wrappers as variants, with conditions on at most two features.

    Those features are taken by which the most requests get their own wrapper; of equally good ones the fewest.
    """
    if len(wrappers) == 1:
        return (wrappers[0].variant({}),)
    candidates = [names for size in (0, 1, 2) for names in itertools.combinations(FEATURES, size)]
    best = {names: _best(wrappers, names) for names in candidates}
    names = max(candidates, key=lambda names: (sum(count for _, count in best[names].values()), -len(names)))
    ordered = [(values, place) for values, (place, _) in sorted(best[names].items(), key=str)]
    if len(names) != 1:
        return tuple(
            wrappers[place].variant({name: (value,) for name, value in zip(names, values, strict=True)})
            for values, place in ordered
        )
    variants = []
    for i, wrapper in enumerate(wrappers):
        of_wrapper = tuple(values[0] for values, place in ordered if place == i)
        if of_wrapper:
            variants.append(wrapper.variant({names[0]: of_wrapper}))
    return tuple(variants)


def _best(wrappers: Sequence[LearnedWrapper], names: tuple[str, ...]) -> Mapping[tuple[Feature, ...], tuple[int, int]]:
    """For each value of these features: the place of the wrapper that most of its requests have, and their number."""
    counts: dict[tuple[Feature, ...], Counter[int]] = defaultdict(Counter)
    for i, wrapper in enumerate(wrappers):
        for features_met, times in wrapper.met.items():
            counts[tuple(dict(features_met)[name] for name in names)][i] += times
    return {key: min(count.items(), key=lambda item: (-item[1], item[0])) for key, count in counts.items()}


def _report(served_log: str | Path, index: ObservationIndex, template: Template, assumed: Sequence[str]) -> LearnReport:
    counts: Counter[str] = Counter()
    lines: list[int] = []
    for request in read_served(served_log):
        verdict = "other" if request is None else _verdict(request, index, template)
        counts[verdict] += 1
        if verdict == "different" and request is not None and len(lines) < _SHOWN:
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
            f"The text around the observations in {str(served_log)!r} is not consistent: "
            f"{report.different} of {report.matched} prompts would not be reproduced.",
            "learn from a log of one simulator, or split it by simulator version",
        )
    return report


def _verdict(request: ServedRequest, index: ObservationIndex, template: Template) -> Verdict:
    """The verdict on one request; if it may have been for several agents and turns, the best verdict."""
    best: Verdict = "other" if request.agent is None else "no log"
    for observer, turn in index.guesses(request):
        verdict = compare(template, observer.episode, observer.agent, turn, request.messages)
        if verdict == "exact":
            return verdict
        best = "reordered" if "reordered" in (verdict, best) else "different"
    return best


def compare(template: Template, episode: Episode, agent: str, turn: int, messages: Sequence[Message]) -> Verdict:
    """`exact`, `reordered` or `different`: the template's prompt against the messages that were served."""
    if _reproduces(template, episode, agent, turn, messages):
        return "exact"
    others = _reorderings(template, messages)
    return "reordered" if any(_reproduces(other, episode, agent, turn, messages) for other in others) else "different"


def _reproduces(template: Template, episode: Episode, agent: str, turn: int, messages: Sequence[Message]) -> bool:
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
    """The template with its echoes, and the texts of those that are assumed.

    A simulator that fills its slots one after the other also fills slots that an agent said aloud: SOTOPIA inserts the
    history before the action list and the action's schema, so if an agent says "{format_instructions}", later prompts
    show the whole schema in its place. Such echoes are learned from the log. If no observation of the log has the two
    slot names of SOTOPIA, their echoes are assumed for episodes of its dialects (`library`).
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
    """For each word in braces in the request's observations: the slot that replaced it, or None where none did."""
    for observer, turn in index.guesses(request):
        texts = [text for text, at in zip(observer.texts, observer.turns, strict=True) if at <= turn]
        joined = template.joiner.join(text.strip() if template.strip else text for text in texts)
        if not _LETTERS.search(joined):
            continue
        if compare(template, observer.episode, observer.agent, turn, request.messages) != "different":
            return dict.fromkeys(_LETTERS.findall(joined))
        for candidate in (template, *_reorderings(template, request.messages)):
            echoes = _aligned(request.messages, observer, turn, joined, candidate)
            if echoes is not None:
                return echoes
    return {}


def _aligned(
    messages: Sequence[Message], observer: Observer, turn: int, joined: str, template: Template
) -> dict[str, str | None] | None:
    """The echoes, if the messages are the template's except for them."""
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
    """Compare the shown text with the observations, piece by piece. Where the observations have a word in braces, the
    shown text has the same word or the text of a slot; anything else gives None."""
    at, echoes = 0, dict[str, str | None]()
    for i, piece in enumerate(_LETTERS.split(joined)):
        is_word_in_braces = i % 2 == 1
        if shown.startswith(piece, at):
            at += len(piece)
            if is_word_in_braces:
                echoes.setdefault(piece, None)
            continue
        slot = next((s for s in _ECHOED_SLOTS if values[s] and shown.startswith(values[s], at)), None)
        if not is_word_in_braces or slot is None or echoes.get(piece, slot) != slot:
            return None
        echoes[piece] = slot
        at += len(values[slot])
    return echoes if at == len(shown) else None
