"""What a run asks, and how: what `label`, `evaluate`, `audit` and `rollout` say, so that `run.ask` does the rest.

A plan is chains of requests. A chain begins with a request of the plan's own; what follows an answer (a second try, the
next turn of a dialogue) is the plan's business too, and is a function of what was answered, so that a later run finds
the whole chain in the ledger again. How it is asked (`AskOptions`) is no part of a request's key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sotopia_rl_data.asking.dispatch import Send
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.costs.bill import Tally
from sotopia_rl_data.costs.budget import check_cap
from sotopia_rl_data.display import Advance
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.request import Reply, Request, Target


class Respondent(Protocol):
    """Who is asked: a judge or a policy. `id` names it in the data, `target` is what determines its answers, and
    `concurrency` how many requests it takes at once. One that replays a ledger says `paid = False`."""

    @property
    def id(self) -> str: ...
    @property
    def target(self) -> Target: ...
    @property
    def concurrency(self) -> int: ...
    async def close(self) -> None:
        """Let go of connections; it may be asked again afterwards."""


def is_paid(respondent: object) -> bool:
    """Whether asking costs anything."""
    return bool(getattr(respondent, "paid", True))


@dataclass(frozen=True, slots=True)
class Group:
    """Chains that are asked at the same time. `requests()` gives the first request of each, in the same order each
    time; `send` sends any of them, and what follows, to the one of `respondents` that it is for."""

    respondents: tuple[Respondent, ...]
    requests: Callable[[], Iterable[Request]]
    send: Send

    @property
    def concurrency(self) -> int:
        """What all of them take at once."""
        return min(one.concurrency for one in self.respondents)


class Plan(Protocol):
    """What a run asks. `unit` is what a chain is called ("calls", "episodes"), `total` how many there are."""

    @property
    def unit(self) -> str: ...
    @property
    def total(self) -> int: ...

    def groups(self) -> Sequence[Group]:
        """Live, one group after the other is asked; in batches, all at once."""

    def accepts(self, request: Request, reply: Reply, ledger: Ledger) -> bool:
        """Whether a reply can be used; `ledger` has the answers to what follows it."""

    def follow_up(self, request: Request, settled: Settled) -> Request | None:
        """What is asked next in the chain; None where it ends."""

    def count(self, ledger: Ledger, tally: Tally) -> None:
        """Count every attempt at the plan's requests that the ledger has, those of earlier runs included."""


def respondents_of(plan: Plan) -> list[Respondent]:
    """Everybody who is asked, each once."""
    return list({one.id: one for group in plan.groups() for one in group.respondents}.values())


@dataclass(frozen=True, slots=True)
class Batching:
    """How batches are waited for.

    `poll_s`: seconds between looks. `wait`: stay until all has ended; else leave once everything is submitted.
    `tries`: how often one request may fail or expire. `doubt_s`: how long after the submission of a batch whose id was
    not heard the provider's list is believed when it does not name it. `silence_s`: how long a provider may be down.
    Raises UsageError.
    """

    poll_s: float = 60.0
    wait: bool = True
    tries: int = 3
    doubt_s: float = 120.0
    silence_s: float = 1_800.0

    def __post_init__(self) -> None:
        if not (self.poll_s > 0 and self.tries > 0):
            raise UsageError(
                "Batches are polled every so many seconds, and tried at least once.", "give numbers above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions:
    """How `label`, `evaluate`, `audit` and `rollout` ask. Raises UsageError for what cannot be meant.

    `retry_failed`: what was answered unusably before is asked once more. `concurrency` bounds the calls in flight
    (default: what each judge or policy takes). `batching`: ask through the providers' batch APIs, at half the price and
    within a day. `budget` is a hard cap in USD on what this plan may cost, all runs together; `prices` a file that is
    laid over the price list. `ledger` is where raw answers are kept (default: the store's). `progress` hears how far
    the run is.
    """

    retry_failed: bool = False
    concurrency: int | None = None
    pacing: Pacing = field(default_factory=Pacing)
    batching: Batching | None = None
    budget: float | None = None
    prices: Path | None = None
    ledger: Path | None = None
    progress: Advance | None = None

    def __post_init__(self) -> None:
        if self.concurrency is not None and not 1 <= self.concurrency < math.inf:
            raise UsageError(
                f"{self.concurrency} requests at a time cannot be asked.", "give a concurrency of 1 or more"
            )
        if self.budget is not None:
            check_cap(self.budget)

    def ledger_in(self, store: Path) -> Path:
        """Where the answers are kept: the folder that was named, or the store's own."""
        return self.ledger or store / ".ledger"
