"""From the text around the observations of many requests to the few wrappers, with slots, that they were made from.

In each request the known values (the agent's name, the partner's, the goal), lists of action types and numbers are cut
out; the rest is its skeleton. Then the requests of one skeleton are compared. A number that always equals the turn is
the slot {turn}; a number that stays the same while the turn changes is text; an action list that is always the
request's own is {actions}. So the "1." of a numbered sentence stays text, though it sometimes equals the turn.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sotopia_rl_data.prompts.served import Placement, ServedRequest
from sotopia_rl_data.prompts.template import SLOTS, Feature, Variant, escape
from sotopia_rl_data.schema import ACTION_TYPES, Message, Role

_TYPE = "(?:" + "|".join(map(re.escape, sorted(ACTION_TYPES, key=len, reverse=True))) + ")"
LIST = re.compile(rf"(?<![\w-]){_TYPE}(?P<separator>[\s,;|/'\"•*-]{{1,8}}){_TYPE}(?:(?P=separator){_TYPE})*(?![\w-])")
"""Two or more action types in a row, always with the same characters between them."""

_NUMBER = re.compile(r"\d+")
_TURN_BEFORE = re.compile(r"turn\W{0,4}$", re.IGNORECASE)
_QUOTED = '", "'
_LEAST = 12
"""A goal of fewer characters is not looked for in the wrapper."""


@dataclass(frozen=True, slots=True)
class Hole:
    """A gap in a skeleton: a slot of known value (named `name`), a number, or a list (with the separator `name`)."""

    kind: Literal["slot", "number", "list"]
    name: str = ""


Value = str | tuple[str, ...]
Piece = str | tuple[Hole, Value]
Skeleton = tuple[tuple[Role, tuple[str | Hole, ...]], ...]
Features = tuple[tuple[str, Feature], ...]


@dataclass(frozen=True, slots=True)
class Filling:
    """What varies between the requests of one skeleton: `values` of its numbers and lists, in order, and the `order` of
    the request's own action list."""

    turn: int
    values: tuple[Value, ...]
    order: tuple[str, ...]
    features: Features


@dataclass(slots=True)
class LearnedWrapper:
    """A learned wrapper: (role, text with slots) of its messages, and how many requests had each order of the action
    list (`orders`) and each set of features (`met`)."""

    messages: tuple[tuple[Role, str], ...]
    separator: str
    orders: Counter[tuple[str, ...]] = field(default_factory=Counter)
    met: Counter[Features] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """The number of requests that have this wrapper."""
        return self.met.total()

    @property
    def identity(self) -> object:
        """Equal for equal wrappers: the same messages, and the same action types in any order."""
        return self.messages, frozenset(kind for order in self.orders for kind in order)

    def add(self, other: LearnedWrapper) -> None:
        """Add the counts of another wrapper of the same identity."""
        self.orders.update(other.orders)
        self.met.update(other.met)

    def variant(self, when: Mapping[str, tuple[Feature, ...]]) -> Variant:
        """The variant of a template, in which the slot {schema} replaces the action's JSON schema."""
        schema = next(filter(None, (_json_schema(text) for _, text in self.messages)), "")
        messages: tuple[Message, ...] = tuple(
            {"role": role, "content": text.replace(schema, "{schema}") if schema else text}
            for role, text in self.messages
        )
        orders = sorted((order for order in self.orders if order), key=lambda order: (-self.orders[order], order))
        return Variant(messages, dict(when), tuple(orders) or (ACTION_TYPES,), schema)


def skeleton_of(
    request: ServedRequest, placed: Placement, features: Mapping[str, Feature]
) -> tuple[Skeleton, str, Filling]:
    """A request's skeleton, the separator of its action list, and what varies between requests of that skeleton."""
    cut = [
        (message["role"], list(_cut_up(message["content"], placed, i))) for i, message in enumerate(request.messages)
    ]
    holes = [piece for _, pieces in cut for piece in pieces if not isinstance(piece, str) and piece[0].kind != "slot"]
    lists = [(hole.name, value) for hole, value in holes if isinstance(value, tuple)]
    # the request's own list is the longest; a list of JSON strings is taken only if there is no other
    separator, order = max(lists, key=lambda pair: ('"' not in pair[0], len(pair[1])), default=(" ", ()))
    skeleton = tuple((role, tuple(p if isinstance(p, str) else p[0] for p in pieces)) for role, pieces in cut)
    values = tuple(value for _, value in holes)
    return skeleton, separator, Filling(placed.turn, values, order, tuple(features.items()))


def wrappers_of(skeleton: Skeleton, separator: str, fillings: Mapping[Filling, int]) -> list[LearnedWrapper]:
    """The wrappers of the requests of one skeleton: several only if something varies that no slot explains."""
    rules = list(_rules(skeleton, list(fillings)))
    wrappers: dict[object, LearnedWrapper] = {}
    for filling, times in fillings.items():
        messages = tuple(_settled(skeleton, rules, filling))
        wrapper = wrappers.setdefault((messages, frozenset(filling.order)), LearnedWrapper(messages, separator))
        wrapper.orders[filling.order] += times
        wrapper.met[filling.features] += times
    return list(wrappers.values())


def types_in(text: str) -> tuple[str, ...]:
    """The action types in `text`, in order."""
    return tuple(re.findall(_TYPE, text))


def _cut_up(content: str, placed: Placement, index: int) -> Iterable[Piece]:
    """A message as literal text and holes. The known values are cut out first, the longest of them before shorter ones
    that it may contain."""
    pieces: Iterable[Piece] = [content]
    if index == placed.index:
        pieces = [placed.before, (Hole("slot", "observations"), ""), placed.after]
    episode, agent = placed.observer.episode, placed.observer.agent
    me = episode.agent(agent)
    values = {"agent": me.name, "partner": ", ".join(a.name for a in episode.agents if a.agent != agent)}
    if len(me.goal) >= _LEAST:
        values["goal"] = me.goal
    for name, value in sorted(values.items(), key=lambda one: -len(one[1])):
        if value:
            pieces = _cut(pieces, re.compile(rf"(?<!\w){re.escape(value)}(?!\w)"), _known(name))
    pieces = _cut(pieces, LIST, lambda m: (Hole("list", m["separator"]), types_in(m[0])))
    return _cut(pieces, _NUMBER, lambda m: (Hole("number"), m[0]))


def _known(name: str) -> Callable[[re.Match[str]], tuple[Hole, Value]]:
    return lambda _: (Hole("slot", name), "")


def _cut(
    pieces: Iterable[Piece], pattern: re.Pattern[str], hole: Callable[[re.Match[str]], tuple[Hole, Value]]
) -> Iterator[Piece]:
    for piece in pieces:
        if not isinstance(piece, str):
            yield piece
            continue
        last = 0
        for match in pattern.finditer(piece):
            yield piece[last : match.start()]
            yield hole(match)
            last = match.end()
        yield piece[last:]


def _rules(skeleton: Skeleton, fillings: Sequence[Filling]) -> Iterator[str | None]:
    """For each number and list of the skeleton: its slot, or None where it is text.

    A list is a slot if it is the request's own in every filling: `enum` if it is written as JSON strings, or else
    `actions`.
    """
    holes = [
        (piece, pieces[i - 1])
        for _, pieces in skeleton
        for i, piece in enumerate(pieces)
        if isinstance(piece, Hole) and piece.kind != "slot"
    ]
    for index, (hole, before) in enumerate(holes):
        if hole.kind == "list":
            own = all(filling.values[index] == filling.order for filling in fillings)
            slot = "enum" if hole.name == _QUOTED else "actions"
            yield slot if own else None
        else:
            after_the_word = isinstance(before, str) and _TURN_BEFORE.search(before) is not None
            yield _number_rule(index, fillings, after_the_word)


def _number_rule(index: int, fillings: Sequence[Filling], after_the_word: bool) -> str | None:
    """`turn` or `turn_from_1`, if the number always equals it. If all fillings have the same turn, the number could be
    equal by chance, so the word "turn" must stand before it."""
    if len({filling.turn for filling in fillings}) == 1 and not after_the_word:
        return None
    for slot, first in (("turn", 0), ("turn_from_1", 1)):
        if all(filling.values[index] == str(filling.turn + first) for filling in fillings):
            return slot
    return None


def _settled(skeleton: Skeleton, rules: Sequence[str | None], filling: Filling) -> Iterator[tuple[Role, str]]:
    """The skeleton's messages with slots where a rule names one, and the filling's own value elsewhere."""
    varying = iter(zip(rules, filling.values, strict=True))
    for role, pieces in skeleton:
        text = []
        for piece in pieces:
            if isinstance(piece, str):
                text.append(escape(piece, SLOTS))
            elif piece.kind == "slot":
                text.append(f"{{{piece.name}}}")
            else:
                rule, value = next(varying)
                plain = value if isinstance(value, str) else piece.name.join(value)
                text.append(f"{{{rule}}}" if rule else plain)
        yield role, "".join(text)


def _json_schema(text: str) -> str:
    """The text of the first JSON object in `text` that describes properties, or ""."""
    decoder = json.JSONDecoder(strict=False)
    for match in re.finditer(r"\{\s*\"", text):
        try:
            value, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and ("properties" in value or "$ref" in value):
            return text[match.start() : end]
    return ""
