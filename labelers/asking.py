"""Every judge of a plan is asked what the ledger does not answer, and a bad answer is sent back once.

What `label` and `evaluate` share: both are a plan, questions about episodes, and a ledger that is read afterwards. How
requests are paced and kept is `sotopia_rl_data/asking`'s, what a second try is `repairing.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

from sotopia_rl_data.asking.batch.run import Batching, ask_batch
from sotopia_rl_data.asking.dispatch import Outcome, Pacing, Settled, ask_all
from sotopia_rl_data.asking.event_loop import wait as wait
from sotopia_rl_data.costs.bill import added
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.prices import Price, Prices
from sotopia_rl_data.errors import BadAnswer, BudgetSpent, Interrupted, UnderWay
from sotopia_rl_data.labelers.judge import Judge, is_paid
from sotopia_rl_data.labelers.judges.batches import batch_client, keys_under_way
from sotopia_rl_data.labelers.judges.sending import Ask, close, sender, target_of
from sotopia_rl_data.labelers.plan import Plan
from sotopia_rl_data.labelers.reading import said, values_of
from sotopia_rl_data.labelers.repairing import follow_up
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Reply, Request
from sotopia_rl_data.schema import Episode

T = TypeVar("T")


class Progress(Protocol):
    """Hears how many calls are settled, of how many, and a few words; `console.progress` makes one."""

    def __call__(self, done: int, total: int | None = None, words: str = "") -> None: ...


class Asking:
    """One plan, one ledger, and the episodes that are asked about: `episodes()` goes through them once more."""

    def __init__(self, plan: Plan, ledger: Ledger, episodes: Callable[[], Iterable[Episode]]) -> None:
        self._plan, self._ledger, self._episodes = plan, ledger, episodes
        self._outcomes: dict[str, Outcome] = {}
        self._prices: dict[str, Price | None] = {}
        self._share = 1.0  # of the price that is paid

    async def ask(
        self,
        calls: int,
        *,
        retry_failed: bool = False,
        concurrency: int | None = None,
        pacing: Pacing | None = None,
        batching: Batching | None = None,
        progress: Progress | None = None,
        budget: Budget | None = None,
        prices: Prices | None = None,
    ) -> list[Outcome]:
        """Ask every judge, one after the other; with `batching` in batches, all of them at once. `calls` is the number
        of requests of all of them, second tries aside; `prices` lets the progress say what they cost.

        Raises Interrupted, UnderWay where batches are not waited for, BudgetSpent where nothing more fits under the
        `budget`, and what `ask_all` and `ask_batch` raise.
        """
        judges = self._plan.judges
        common: dict[str, Any] = {
            "accept": self.accepts,
            "on_settled": self.second_try,
            "retry_failed": retry_failed,
            "total": calls // max(len(judges), 1),
        }
        self._prices = {j.id: prices.of(target_of(j)) if prices and is_paid(j) else None for j in judges}
        self._share = prices.batch if prices and batching else 1.0
        shown = [None if progress is None else partial(self._show, progress, calls, judge.id) for judge in judges]
        if batching is not None:
            common |= {"budget": budget, "batching": batching}
            asking = [self._in_batches(j, common | {"progress": s}) for j, s in zip(judges, shown, strict=True)]
            return self._all_home(await all_of(asking), calls, budget)
        outcomes: list[Outcome] = []
        for judge, show in zip(judges, shown, strict=True):
            limits = {"concurrency": concurrency or getattr(judge, "concurrency", 1), "pacing": pacing or Pacing()}
            cap = budget if is_paid(judge) else None
            outcomes.append(await self._live(judge, common | limits | {"progress": show, "budget": cap}))
            self._all_home(outcomes, calls, budget)
        return outcomes

    async def _live(self, judge: Judge, options: dict[str, Any]) -> Outcome:
        elsewhere = keys_under_way(judge, self._ledger)
        requests = self._plan.requests(self._episodes(), judge)
        try:
            return await ask_all(requests, sender(judge), self._ledger, **options, elsewhere=elsewhere)
        finally:
            await close(judge)

    async def _in_batches(self, judge: Judge, options: dict[str, Any]) -> Outcome:
        client = batch_client(judge)
        try:
            return await ask_batch(
                lambda: self._plan.requests(self._episodes(), judge), client, self._ledger, **options
            )
        finally:
            await client.close()

    def _all_home(self, outcomes: list[Outcome], calls: int, budget: Budget | None) -> list[Outcome]:
        """The outcomes, where nothing is left to wait for. Raises Interrupted, UnderWay or BudgetSpent."""
        left = calls - sum(one.settled - one.followed for one in outcomes)
        exhausted = any(one.exhausted for one in outcomes)
        waiting, batches = sum(one.in_batches for one in outcomes), sum(one.batches for one in outcomes)
        under_way = f"{waiting:,} requests are under way in {batches:,} {'batch' if batches == 1 else 'batches'}"
        if any(one.interrupted for one in outcomes):
            hint = "run the same command again: what was answered is kept, and it goes on from there"
            also = f"; {under_way}, which go on without us" if waiting else ""
            raise Interrupted(f"Interrupted after {calls - left:,} of {calls:,} calls{also}.", hint)
        if waiting:
            hint = "run the same command again: it fetches what has ended, and makes the dataset when all has"
            tight = "; what is left does not fit under the budget before some of them cost less" * exhausted
            raise UnderWay(f"{under_way}{tight}.", hint, requests=waiting, batches=batches)
        if budget is not None and exhausted:
            raise _spent(budget, left, calls)
        return outcomes

    def accepts(self, request: Request, reply: Reply) -> bool:
        """Whether a reply can be used, be it at the second try."""
        try:
            said(self._plan, self._ledger, _as_ask(request), reply)
        except BadAnswer:
            return False
        return True

    def second_try(self, request: Request, settled: Settled) -> Request | None:
        """What is asked next where an answer cannot be used."""
        if settled.reply is None or settled.accepted:
            return None
        asked = _as_ask(request)
        try:
            values_of(self._plan, asked.asked, settled.reply)
        except BadAnswer as wrong:
            return follow_up(asked, settled.reply, wrong.message)
        return None

    def _show(self, progress: Progress, total: int, judge: str, outcome: Outcome) -> None:
        """Tell the progress of all judges together, with the tokens that were spent and what failed."""
        self._outcomes[judge] = outcome
        outcomes = list(self._outcomes.values())
        tokens = sum(u.input + u.output for one in outcomes for u in one.usage.values())
        followed = sum(one.followed for one in outcomes)
        lost = sum(one.failed + one.unreachable for one in outcomes) - followed
        cost = sum(
            price.cost(added(*one.usage.values())) * self._share
            for judge, one in self._outcomes.items()
            if (price := self._prices.get(judge)) is not None
        )
        words = [f"{tokens:,} tokens"] * bool(tokens) + [f"{cost:.2f} USD"] * bool(cost)
        words += [f"{lost:,} failed"] * (lost > 0)
        names = [f"{judge}: " if len(outcomes) > 1 else "" for judge in self._outcomes]
        words += [name + one.words for name, one in zip(names, outcomes, strict=True) if one.words]
        progress(sum(one.settled for one in outcomes) - followed, total, ", ".join(words))


async def all_of(asking: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Everything that comes of it, when all has ended. Raises the first error, after what the others could do."""
    ended = await asyncio.gather(*asking, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    return [one for one in ended if not isinstance(one, BaseException)]


def _spent(budget: Budget, left: int, calls: int) -> BudgetSpent:
    hint = (
        "raise --budget, which is for all runs together, or bound the answers with --max-tokens, and run the same "
        "command again: what was answered is kept"
    )
    taken = f"{budget.spent:.4f} USD are spent"
    if budget.in_batches:
        taken += f", {budget.in_batches:.4f} may go to what is under way in batches"
        hint = f"fetch that first, with --batch; or {hint}"
    return BudgetSpent(
        f"Nothing more fits under the budget of {budget.cap:g} USD: {taken}, and {left:,} of {calls:,} calls are left "
        "undone.",
        hint,
    )


def _as_ask(request: Request) -> Ask:
    if not isinstance(request, Ask):
        raise TypeError(f"a {type(request).__name__} carries no question")
    return request
