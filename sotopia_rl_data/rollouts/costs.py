"""What a plan's episodes have cost until now, by the ledger, and the cap on what they may cost in all.

Every episode is played again from the ledger, as far as it knows: each attempt at each of its turns is counted once,
whichever run made it. The bill of a run that was killed and went on is that of one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sotopia_rl_data.costs.bill import Bill, Spent, bill
from sotopia_rl_data.costs.budget import Budget, check_cap, is_lost, left_behind, price_of
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, TurnRequest
from sotopia_rl_data.rollouts.planning import Plan


class Costs:
    """Attempts counted by who was asked, each request once."""

    def __init__(self, plan: Plan, ledger: Ledger, prices: Prices) -> None:
        self._ledger, self._prices = ledger, prices
        self._targets = {one.id: one.target for one in plan.players()}
        self._spent = {name: Spent() for name in self._targets}
        self._counted: set[str] = set()

    def count(self, move: TurnRequest, game: EpisodeRun, settled: Settled | None = None) -> Sequence[Attempt]:
        """All attempts at a request, newest first. If one alone settled it, it is not read again."""
        only = settled.attempt if settled is not None and self._ledger.tries(move.key) == 1 else None
        attempts = [only] if only is not None else self._ledger.attempts(move.key)
        if move.key not in self._counted:
            self._counted.add(move.key)
            for one in attempts:
                usable = one.status == "answer" and game.accepts(move, one.reply)
                self._spent[move.player.id].add(move, one, "used" if usable else "failed")
        return attempts

    def knows(self, key: str) -> bool:
        return key in self._counted

    def bill(self) -> Bill:
        """What all that was counted has cost."""
        return bill(self._spent, self._targets, self._prices)


@contextmanager
def capped(cap: float | None, plan: Plan, ledger: Ledger, prices: Prices) -> Iterator[Budget | None]:
    """The budget for the asking inside the block, with what earlier runs of the plan have spent, and what they may
    have; None where there is no cap."""
    if cap is None:
        yield None
        return
    budget = Budget(cap, prices, ledger.directory, _spent(plan, ledger, prices))
    try:
        yield budget
    finally:
        budget.close()


def check_budget(cap: float, plan: Plan, prices: Prices) -> None:
    """Raises UsageError where a cap cannot be kept: a price is not known, or how long an answer may get."""
    check_cap(cap)
    for one in plan.players():
        price_of(prices, one.target)


def _spent(plan: Plan, ledger: Ledger, prices: Prices) -> float:
    costs = Costs(plan, ledger, prices)
    for match in plan.matches():
        replay(EpisodeRun(match, plan.rules), costs.count)
    until_now = costs.bill()
    holds = (hold for hold in left_behind(ledger.directory) if costs.knows(hold.key))
    lost = sum(hold.usd for hold in holds if is_lost(hold, ledger.attempts(hold.key)))
    return until_now.known + until_now.maybe + lost


def replay(game: EpisodeRun, attempts: Callable[[TurnRequest, EpisodeRun], Sequence[Attempt]]) -> TurnRequest | None:
    """Play what `attempts` knows of a game; the first request that it does not know, None where the game is over."""
    move: TurnRequest | None = game.first()
    while move is not None:
        answers = [one for one in attempts(move, game) if one.status == "answer"]
        if not answers:
            return move
        usable = next((one for one in answers if game.accepts(move, one.reply)), None)
        move = game.take(move, Settled(usable or answers[0], usable is not None, False))
    return None


def unfinished(plan: Plan, ledger: Ledger) -> int:
    """How many of the plan's episodes the ledger does not know to their end."""

    def attempts(move: TurnRequest, _: EpisodeRun) -> Sequence[Attempt]:
        return ledger.attempts(move.key)

    return sum(replay(EpisodeRun(match, plan.rules), attempts) is not None for match in plan.matches())
