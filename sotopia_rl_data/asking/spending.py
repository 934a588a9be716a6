"""What a plan has cost until now, by the ledger, and the cap on what it may cost in all.

Both count every attempt at the plan's requests, whichever run made it: the bill of a run that was killed and went on is
that of one that was not, and a cap holds for all runs of a command together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from sotopia_rl_data.asking.batch.fetching import brought
from sotopia_rl_data.asking.batch.intent import BatchFolder
from sotopia_rl_data.asking.plan import Plan, Respondent, is_paid, respondents_of
from sotopia_rl_data.costs.bill import Bill, Tally, bill
from sotopia_rl_data.costs.budget import Budget, is_lost, left_behind, price_of
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.ledger.ledger import Ledger


def check_prices(respondents: Iterable[Respondent], prices: Prices) -> None:
    """Raises UsageError where a cap cannot be kept: a price is not known, or how long an answer may get."""
    for one in respondents:
        if is_paid(one):
            price_of(prices, one.target)


def bill_of(respondents: Iterable[Respondent], tally: Tally, prices: Prices) -> Bill:
    """What the attempts that were counted have cost."""
    targets = {}
    for one in respondents:
        targets[one.id] = one.target
        if not is_paid(one):
            tally.of(one.id).maybe.clear()
    return bill(tally.spent, targets, prices)


@contextmanager
def capped(cap: float, plan: Plan, ledger: Ledger, prices: Prices) -> Iterator[Budget]:
    """The budget for the asking inside the block, with what earlier runs of the plan have spent, what they may have,
    and what they have under way in batches. Raises StoreError where another process keeps one on the same ledger."""
    budget = Budget(cap, prices, ledger.directory)
    try:
        respondents = respondents_of(plan)
        folders = [(one.target, BatchFolder(ledger.directory, one.target)) for one in respondents if is_paid(one)]
        budget.seen = {folder.name: folder.ids() for _, folder in folders}
        in_batches = [(target, *line) for target, folder in folders for line in folder.under_way()]
        ledger.reload()  # after the batches: what is fetched meanwhile is seen twice rather than never
        tally = Tally()
        plan.count(ledger, tally)
        budget.spent = _spent(respondents, ledger, prices, tally)
        for target, intent, line in in_batches:
            fetched = any(past.status == "answer" or past.maybe_billed for past in brought(ledger, intent, line.key))
            if tally.knows(line.key) and not fetched:  # what an unfinished fetch left is among what is spent
                budget.carry(line.key, replace(target, sampling=line.sampling), line.input)
        yield budget
    finally:
        budget.close()


def _spent(respondents: Iterable[Respondent], ledger: Ledger, prices: Prices, tally: Tally) -> float:
    until_now = bill_of(respondents, tally, prices)
    lost = (
        hold.usd
        for hold in left_behind(ledger.directory)
        if tally.knows(hold.key) and is_lost(hold, ledger.attempts(hold.key))
    )
    return until_now.known + until_now.maybe + sum(lost)
