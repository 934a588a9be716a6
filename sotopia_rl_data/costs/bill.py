"""What a set of calls cost: from attempts to tokens and money by judge, without asking anything or keeping state.

A bill is a function of the ledger's attempts, so that a run that was killed and continued has the same bill as one that
was not. Every token is in one of three categories: answers that were used at the first try (`used`), answers that could
not be used (`failed`), and repairs that could (`repaired`). Calls that may have been charged without an answer are
listed apart, at the most that they can cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sotopia_rl_data.costs.price import LONG_FROM, Price
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.costs.tokens import limit_of, most_prompt_tokens
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.request import Request, Target, Usage

Category = Literal["used", "failed", "repaired"]
CATEGORIES: tuple[Category, ...] = ("used", "failed", "repaired")


@dataclass(slots=True)
class Spent:
    """The attempts at one judge's requests, counted. `tokens` is by category, whether a batch was used, and the input
    tokens of a call where these may have a long-context price (else 0). `maybe`
    counts the attempts without token counts that may be billed, by their most input tokens, the answer's limit (None:
    no limit was set), and whether a batch was used."""

    calls: int = 0
    answers: Counter[Category] = field(default_factory=Counter)
    tokens: dict[tuple[Category, bool, int], Usage] = field(default_factory=dict)
    maybe: Counter[tuple[int, int | None, bool]] = field(default_factory=Counter)

    def add(self, request: Request, attempt: Attempt, category: Category) -> None:
        """Count one attempt at `request`."""
        self.calls += 1
        if attempt.status == "answer":
            self.answers[category] += 1
        if attempt.usage is not None:
            size = attempt.usage.input if attempt.usage.input > LONG_FROM else 0
            place = (category, bool(attempt.batch), size)
            self.tokens[place] = added(self.tokens.get(place, Usage()), attempt.usage)
        elif attempt.maybe_billed or (attempt.status == "answer" and not attempt.is_filtered):
            self.maybe[most_prompt_tokens(request), limit_of(request), bool(attempt.batch)] += 1

    @property
    def usage(self) -> Usage:
        """All tokens together."""
        return added(*self.tokens.values())


@dataclass(slots=True)
class Tally:
    """The attempts at a plan's requests, each counted once, those of earlier runs and those that failed included.
    `spent` is by judge or policy; `models` counts the model names that the provider returned to each, `forms` the
    weaker forms in which answers were asked for (`asking/forms.py`)."""

    spent: dict[str, Spent] = field(default_factory=dict)
    models: dict[str, Counter[str]] = field(default_factory=dict)
    forms: dict[str, Counter[str]] = field(default_factory=dict)
    keys: set[int] = field(default_factory=set)

    def first(self, key: str) -> bool:
        """Note a key; whether it is new. Equal requests have one key, and are paid for once."""
        known = self.knows(key)
        self.keys.add(short(key))
        return not known

    def knows(self, key: str) -> bool:
        """Whether a key was noted before."""
        return short(key) in self.keys

    def count(self, respondent: str, request: Request, attempt: Attempt, category: Category) -> None:
        """Count one attempt."""
        self.spent.setdefault(respondent, Spent()).add(request, attempt, category)
        if attempt.status == "answer" and not attempt.is_filtered:
            self.models.setdefault(respondent, Counter())[attempt.returned_model] += 1
            if attempt.form:
                self.forms.setdefault(respondent, Counter())[attempt.form] += 1

    def of(self, respondent: str) -> Spent:
        """What was spent on asking a judge or policy."""
        return self.spent.get(respondent, Spent())


@dataclass(frozen=True, slots=True)
class Line:
    """One judge's part of the bill, in USD; None where the model has no known price. `as_of` is the date of the
    prices, and the name of their list where it is not the user's own. `input` is the cost of the tokens that were
    neither read from the provider's cache nor written there. `failed` and `repaired` are parts of `total`.
    `maybe` is not: it is the most that the `maybe_calls` may have cost, which reported no tokens (timeouts, lost
    connections)."""

    judge: str
    model: str
    as_of: str
    calls: int
    failed_calls: int
    repaired_calls: int
    maybe_calls: int
    usage: Usage
    input: float | None
    cached: float | None
    written: float | None
    output: float | None
    total: float | None
    failed: float | None
    repaired: float | None
    maybe: float | None


@dataclass(frozen=True, slots=True)
class Bill:
    """What was paid for some labels, all runs together. `as_of` dates the prices of all lines. `total` is None where a
    judge that used tokens has no known price; `known` is the sum of the lines that have one."""

    as_of: str
    lines: tuple[Line, ...]

    @property
    def total(self) -> float | None:
        return None if any(line.total is None for line in self.lines) else self.known

    @property
    def known(self) -> float:
        return sum(line.total or 0.0 for line in self.lines)

    @property
    def maybe(self) -> float:
        return sum(line.maybe or 0.0 for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """The bill as JSON holds it."""
        return {
            "as_of": self.as_of,
            "total": self.total,
            "maybe": self.maybe,
            "lines": [asdict(line) for line in self.lines],
        }


def bill(spent: Mapping[str, Spent], targets: Mapping[str, Target], prices: Prices) -> Bill:
    """The bill of what each judge spent; `targets` gives each judge's target."""
    lines = [_line(judge, spent.get(judge, Spent()), target, prices) for judge, target in targets.items()]
    as_of = ", ".join(dict.fromkeys(line.as_of for line in lines)) or prices.as_of
    return Bill(as_of, tuple(lines))


def added(*usages: Usage) -> Usage:
    """The sum of the tokens."""
    return Usage(
        sum(usage.input for usage in usages),
        sum(usage.cached for usage in usages),
        sum(usage.written for usage in usages),
        sum(usage.output for usage in usages),
    )


def _line(judge: str, spent: Spent, target: Target, prices: Prices) -> Line:
    live, in_batch = prices.of(target), prices.of(target, in_batch=True)
    paid = None if live is None or in_batch is None else (live, in_batch)
    categories = {category: _cost(spent, paid, category) for category in CATEGORIES}
    return Line(
        judge=judge,
        model=target.model,
        as_of=prices.source(target),
        calls=spent.calls,
        failed_calls=spent.answers["failed"],
        repaired_calls=spent.answers["repaired"],
        maybe_calls=spent.maybe.total(),
        usage=spent.usage,
        input=_part(spent, paid, "input"),
        cached=_part(spent, paid, "cached"),
        written=_part(spent, paid, "written"),
        output=_part(spent, paid, "output"),
        total=None if None in categories.values() else sum(cost or 0.0 for cost in categories.values()),
        failed=categories["failed"],
        repaired=categories["repaired"],
        maybe=None if paid is None else _most(spent, paid),
    )


_Paid = tuple[Price, Price]  # live, and in a batch


def _cost(spent: Spent, paid: _Paid | None, category: Category) -> float | None:
    """USD of one category; 0.0 where it used no tokens, None where it did and there is no price."""
    usages = {place: usage for place, usage in spent.tokens.items() if place[0] == category}
    if paid is None:
        return None if usages else 0.0
    return sum(paid[of_batch].at(size).cost(usage) for (_, of_batch, size), usage in usages.items())


def _part(spent: Spent, paid: _Paid | None, name: str) -> float | None:
    """USD of one kind of token."""
    if paid is None:
        return None if spent.tokens else 0.0
    total = 0.0
    for (_, of_batch, size), usage in spent.tokens.items():
        count = usage.input - usage.cached - usage.written if name == "input" else getattr(usage, name)
        total += count * getattr(paid[of_batch].at(size), name) / 1e6
    return total


def _most(spent: Spent, paid: _Paid) -> float:
    return sum(
        count * paid[of_batch].most(most_input, limit) for (most_input, limit, of_batch), count in spent.maybe.items()
    )
