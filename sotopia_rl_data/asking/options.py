"""How a run asks, whatever it asks about. None of it is part of a request's key: the answers are the same."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.costs.budget import check_cap
from sotopia_rl_data.display import Advance
from sotopia_rl_data.errors import UsageError


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
