"""What a run asks, and how: `label`, `evaluate`, `audit` and `rollout` each describe it as a plan for `run.ask`.

A plan is made of chains of requests. The plan gives the first request of each chain and, after an answer, the next one
(a repair, the next turn of a dialogue). The next request depends on nothing but the answers before it, so that a later
run finds the whole chain in the ledger again. How requests are asked (`AskOptions`) is not part of their keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from sotopia_rl_data.asking.dispatch import Send
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.costs.bill import Tally
from sotopia_rl_data.costs.budget import check_cap
from sotopia_rl_data.costs.price import Price
from sotopia_rl_data.costs.prices import Prices, load
from sotopia_rl_data.display import Advance
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Outcome, Settled
from sotopia_rl_data.ledger.segments import local_folder
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.store import Store


class Respondent(Protocol):
    """What is asked: a judge or a policy. `id` names it in the data, `target` is what determines its answers, and
    `concurrency` how many requests it takes at once. A respondent that costs nothing has an attribute `paid =
    False`."""

    @property
    def id(self) -> str: ...
    @property
    def target(self) -> Target: ...
    @property
    def concurrency(self) -> int: ...
    async def close(self) -> None:
        """Close its connections; it may be asked again afterwards."""


def is_paid(respondent: object) -> bool:
    """Whether asking costs anything."""
    return bool(getattr(respondent, "paid", True))


def paid_targets(respondents: Iterable[Respondent]) -> list[Target]:
    """The targets of those that cost something."""
    return [respondent.target for respondent in respondents if is_paid(respondent)]


@dataclass(frozen=True, slots=True)
class Group:
    """Chains that are asked at the same time. `requests()` gives the first request of each, in the same order each
    time; `send` sends a request of a chain to the one of `respondents` that it is for."""

    respondents: tuple[Respondent, ...]
    requests: Callable[[], Iterable[Request]]
    send: Send

    @property
    def concurrency(self) -> int:
        """How many requests every respondent takes at once."""
        return min(respondent.concurrency for respondent in self.respondents)


class Plan(Protocol):
    """What a run asks. `total` is the number of chains, `unit` what they are called ("calls", "episodes")."""

    @property
    def unit(self) -> str: ...
    @property
    def total(self) -> int: ...

    def groups(self) -> Sequence[Group]:
        """Live, the groups are asked one after the other; in batches, all at once."""

    def accepts(self, request: Request, reply: Reply, ledger: Ledger) -> bool:
        """Whether a reply can be used. `ledger` has the answers to later requests of the chain."""

    def fault(self, request: Request, reply: Reply) -> str:
        """What is wrong with a reply that cannot be used, in a few words that follow "because"."""

    def follow_up(self, request: Request, settled: Settled) -> Request | None:
        """The next request of the chain; None where the chain ends."""

    def count(self, ledger: Ledger, tally: Tally) -> None:
        """Add every attempt at the plan's requests in the ledger to `tally`, those of earlier runs included."""


@runtime_checkable
class DivisiblePlan(Plan, Protocol):
    """A plan that can be asked in parts, on other machines."""

    def parts(self, count: int) -> Iterable[Callable[[Ledger], Plan]]:
        """What makes each of `count` plans that together ask what this one asks, beside a ledger. It can be pickled,
        and holds all that it needs."""


def respondents_of(plan: Plan) -> list[Respondent]:
    """Every judge or policy that the plan asks, once."""
    every = (respondent for group in plan.groups() for respondent in group.respondents)
    return list({respondent.id: respondent for respondent in every}.values())


class Workers(Protocol):
    """Other processes or machines that ask a plan's questions before this one does."""

    def ask(self, plan: Plan, ledger: Ledger, options: AskOptions, prices: Prices) -> Sequence[Outcome]:
        """Have the questions asked that `ledger` does not answer, and keep the answers there; returns what was asked,
        for each group. Where a budget was spent, questions are left: the caller asks what fits."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How to wait for batches.

    `poll_s`: seconds between two looks at the batches. `wait`: stay until all have ended; else stop once everything is
    submitted. `tries`: how often one request may fail or expire. `doubt_s`: seconds after which a submission whose
    response was lost counts as never begun, if the provider does not list its batch. `silence_s`: how long a provider
    may be down. Raises UsageError.
    """

    poll_s: float = 60.0
    wait: bool = True
    tries: int = 3
    doubt_s: float = 120.0
    silence_s: float = 1_800.0

    def __post_init__(self) -> None:
        if not (self.poll_s > 0 and self.tries > 0):
            raise UsageError(
                f"`poll_s` and `tries` of a Batching must be above 0, not {self.poll_s:g} and {self.tries}.",
                "give numbers above 0",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions:
    """How `label`, `evaluate`, `audit` and `rollout` ask. Raises UsageError for values that make no sense.

    `retry_failed`: requests whose answers could not be used are asked once more. `concurrency` bounds the calls in
    flight (default: what each judge or policy takes). `batching`: ask through the providers' batch APIs, at half
    the price and within a day. `budget` is a hard cap in USD on what this plan may cost, all runs together, and
    other plans have `spent` so much of it. `workers` ask first, on other machines. `prices` is a file whose entries
    override the price list, and `model_prices` those of a judges file, by host and model, which override both.
    `ledger` is the folder of raw answers (default: the store's). `progress` is called with how far the run is.
    """

    retry_failed: bool = False
    concurrency: int | None = None
    pacing: Pacing = field(default_factory=Pacing)
    batching: Batching | None = None
    budget: float | None = None
    prices: Path | None = None
    model_prices: Mapping[str, Mapping[str, Price]] = field(default_factory=dict)
    ledger: Path | None = None
    progress: Advance | None = None
    spent: float = 0.0
    workers: Workers | None = None

    def __post_init__(self) -> None:
        if self.concurrency is not None and not 1 <= self.concurrency < math.inf:
            raise UsageError(
                f"The concurrency must be 1 or more, not {self.concurrency}.", "give a concurrency of 1 or more"
            )
        if self.budget is not None:
            check_cap(self.budget)

    def price_list(self) -> Prices:
        """The prices: the user's own, and the kept list's. Raises InputError."""
        return load(self.prices, self.model_prices)

    def ledger_in(self, store: Store) -> Path:
        """The folder of raw answers: the one that was named, or the store's own."""
        return local_folder(self.ledger or store.ledger)
