"""Plan after plan on one ledger, for many who wait: what waits is asked together, and one budget holds for all of it.

For what plays or rewards as it is called, as a server does, where `ask` alone would ask for one caller after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from sotopia_rl_data.asking.ask import ask, bill_of, check
from sotopia_rl_data.asking.plan import AskOptions, Plan, Respondent, respondents_of
from sotopia_rl_data.costs.bill import Tally
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.errors import Unavailable
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store


@dataclass(slots=True)
class Spending:
    """Asks plans, one at a time: whoever asks holds `lock`. The `budget` of the options caps what they cost together;
    `spent` is that, in USD."""

    ledger: Ledger
    options: AskOptions
    prices: Prices
    spent: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def at(cls, store: Store, options: AskOptions) -> Spending:
        """On the ledger of the options, or else of the store. Raises InputError, StoreError."""
        return cls(Ledger(options.ledger_in(store)), options, options.price_list())

    def check(self, respondents: Iterable[Respondent]) -> None:
        """Raise what `asking.check` raises where these cannot be asked."""
        check(respondents, self.options, self.prices)

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    def ask(self, plan: Plan) -> None:
        """Ask what the ledger does not answer, within what is left of the budget. Raises what `asking.ask` raises."""
        self.ledger.catch_up()
        before = self._paid(plan)
        options = replace(self.options, spent=self.spent - before)  # what was paid for it before, `ask` counts
        try:
            ask(plan, self.ledger, options, self.prices)
        finally:
            self.spent += self._paid(plan) - before

    def _paid(self, plan: Plan) -> float:
        """USD that all attempts at what the plan asks have cost, or may have cost."""
        tally = Tally()
        plan.count(self.ledger, tally)
        bill = bill_of(respondents_of(plan), tally, self.prices)
        return bill.known + bill.maybe


class Sliceable(Protocol):
    """A list or an array."""

    def __getitem__(self, part: slice, /) -> Any: ...


Asked = TypeVar("Asked")
Found = TypeVar("Found", bound=Sliceable)


class Gathered(Generic[Asked, Found]):
    """Calls from many threads, answered together: `answer` is called, by one thread at a time that holds `lock`, with
    all that waited for it, and returns an item for each."""

    def __init__(self, answer: Callable[[Sequence[Asked]], Found], lock: threading.Lock) -> None:
        self._answer, self._lock = answer, lock
        self._guard = threading.Lock()
        self._waiting: list[tuple[Sequence[Asked], Future[Found]]] = []

    def ask(self, asked: Sequence[Asked]) -> Found:
        """An item for each of those asked for. Raises what `answer` raises for them."""
        future: Future[Found] = Future()
        with self._guard:
            self._waiting.append((asked, future))
        with self._lock:
            with self._guard:
                waiting, self._waiting = self._waiting, []
            self._settle(waiting)
        return future.result()

    def _settle(self, waiting: Sequence[tuple[Sequence[Asked], Future[Found]]]) -> None:
        """Answer all; where that fails, each alone, so that only who is to blame fails. Where a server is down, it is
        not asked again."""
        if not waiting:
            return
        try:
            found = self._answer([one for asked, _ in waiting for one in asked])
        except Exception as error:  # noqa: BLE001  whatever it is, who waits has to be told
            if len(waiting) == 1 or isinstance(error, Unavailable):
                for _, future in waiting:
                    future.set_exception(error)
            else:
                for one in waiting:
                    self._settle([one])
            return
        start = 0
        for asked, future in waiting:
            future.set_result(found[start : start + len(asked)])
            start += len(asked)
