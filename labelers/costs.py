"""What a plan's labels have cost until now, by the ledger, and the cap on what they may cost in all.

Both count every attempt at the plan's questions, whichever run made it: the bill of a run that was killed and went on
is that of one that was not, and a cap holds for all runs of a command together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from sotopia_rl_data.asking.batch.fetching import brought
from sotopia_rl_data.asking.batch.intent import BatchLine, Intent
from sotopia_rl_data.costs.bill import Bill, bill
from sotopia_rl_data.costs.budget import Budget, check_cap, is_lost, left_behind, price_of
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.labelers.judge import is_paid
from sotopia_rl_data.labelers.judges.batches import batch_folder
from sotopia_rl_data.labelers.judges.sending import target_of
from sotopia_rl_data.labelers.plan import Plan
from sotopia_rl_data.labelers.reading import Tally, rows_of
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.schema import Episode


def bill_of(plan: Plan, tally: Tally, prices: Prices) -> Bill:
    """What the labels that were read into `tally` have cost."""
    for judge in plan.judges:
        if not is_paid(judge):
            tally.of(judge.id).maybe.clear()
    return bill(tally.spent, {judge.id: target_of(judge) for judge in plan.judges}, prices)


@contextmanager
def capped(
    cap: float | None, plan: Plan, ledger: Ledger, episodes: Callable[[], Iterable[Episode]], prices: Prices
) -> Iterator[Budget | None]:
    """The budget for the asking inside the block, with what earlier runs of the plan have spent, what they may have,
    and what they have under way in batches; None where there is no cap. Raises StoreError where another process keeps
    one on the same ledger."""
    if cap is None:
        yield None
        return
    budget = Budget(cap, prices, ledger.directory)
    try:
        folders = [(judge, batch_folder(judge, ledger.directory)) for judge in plan.judges if is_paid(judge)]
        budget.seen = {folder.name: folder.ids() for _, folder in folders}
        in_batches = [(judge, *one) for judge, folder in folders for one in folder.under_way()]
        ledger.reload()  # after the batches: what is fetched meanwhile is seen twice rather than never
        tally = Tally()
        budget.spent = _spent(plan, ledger, episodes(), prices, tally)
        for judge, intent, one in in_batches:
            if tally.knows(one.key) and not _billed(ledger, intent, one):
                budget.carry(one.key, replace(target_of(judge), sampling=one.sampling), one.input)
        yield budget
    finally:
        budget.close()


def check_budget(cap: float, plan: Plan, prices: Prices) -> None:
    """Raises UsageError where a cap cannot be kept: a price is not known, or how long an answer may get."""
    check_cap(cap)
    for judge in plan.judges:
        if is_paid(judge):
            price_of(prices, target_of(judge))


def _spent(plan: Plan, ledger: Ledger, episodes: Iterable[Episode], prices: Prices, tally: Tally) -> float:
    for _ in rows_of(plan, ledger, episodes, tally):
        pass
    until_now = bill_of(plan, tally, prices)
    holds = (hold for hold in left_behind(ledger.directory) if tally.knows(hold.key))
    lost = sum(hold.usd for hold in holds if is_lost(hold, ledger.attempts(hold.key)))
    return until_now.known + until_now.maybe + lost


def _billed(ledger: Ledger, intent: Intent, one: BatchLine) -> bool:
    """Whether the ledger has it from a fetch that was not finished, so that it is among what is spent."""
    return any(past.status == "answer" or past.maybe_billed for past in brought(ledger, intent, one.key))
