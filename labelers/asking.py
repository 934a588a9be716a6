"""Every judge of a plan is asked what the ledger does not answer, and a bad answer is sent back once.

What `label` and `evaluate` share: both are a plan, questions about episodes, and a ledger that is read afterwards. How
requests are paced and kept is `sotopia_rl_data/asking`'s, what a second try is `repairing.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from labelers.judges.sending import Ask, close, sender
from labelers.plan import Plan
from labelers.reading import said, values_of
from labelers.repairing import follow_up
from sotopia_rl_data.asking.dispatch import Outcome, Pacing, Settled, ask_all
from sotopia_rl_data.asking.ledger import Ledger
from sotopia_rl_data.asking.request import Reply, Request
from sotopia_rl_data.errors import BadAnswer, Interrupted
from sotopia_rl_data.schema import Episode

T = TypeVar("T")


class Progress(Protocol):
    """Hears how many calls are settled, of how many, and a few words; `console.progress` makes one."""

    def __call__(self, done: int, total: int | None = None, words: str = "") -> None: ...


class Asking:
    """One plan, one ledger, and the episodes that are asked about: `episodes()` goes through them once more."""

    def __init__(self, plan: Plan, ledger: Ledger, episodes: Callable[[], Iterable[Episode]]) -> None:
        self._plan, self._ledger, self._episodes = plan, ledger, episodes
        self._second_tries = 0

    async def ask(
        self,
        calls: int,
        *,
        retry_failed: bool = False,
        concurrency: int | None = None,
        pacing: Pacing | None = None,
        progress: Progress | None = None,
    ) -> list[Outcome]:
        """Ask every judge, one after the other. `calls` is the number of requests of all of them, second tries aside.

        Raises Interrupted, and what `ask_all` raises.
        """
        outcomes: list[Outcome] = []
        for judge in self._plan.judges:
            own: int = getattr(judge, "concurrency", 1)
            shown = None if progress is None else partial(self._show, progress, calls, tuple(outcomes))
            try:
                outcome = await ask_all(
                    self._plan.requests(self._episodes(), judge),
                    sender(judge),
                    self._ledger,
                    accept=self._accepts,
                    on_settled=self._second_try,
                    concurrency=concurrency or own,
                    pacing=pacing or Pacing(),
                    retry_failed=retry_failed,
                    progress=shown,
                    total=calls // len(self._plan.judges),
                )
            finally:
                await close(judge)
            outcomes.append(outcome)
            if outcome.interrupted:
                settled = sum(one.settled for one in outcomes) - self._second_tries
                raise Interrupted(
                    f"Interrupted after {settled:,} of {calls:,} calls.",
                    "run the same command again: what was answered is kept, and it goes on from there",
                )
        return outcomes

    def _accepts(self, request: Request, reply: Reply) -> bool:
        """Whether a reply can be used, be it at the second try."""
        try:
            said(self._plan, self._ledger, _as_ask(request), reply)
        except BadAnswer:
            return False
        return True

    def _second_try(self, request: Request, settled: Settled) -> Request | None:
        """What is asked next where an answer cannot be used."""
        if settled.reply is None or settled.accepted:
            return None
        asked = _as_ask(request)
        try:
            values_of(self._plan, asked.asked, settled.reply)
        except BadAnswer as wrong:
            second = follow_up(asked, settled.reply, wrong.message)
            self._second_tries += second is not None
            return second
        return None

    def _show(self, progress: Progress, total: int, before: Sequence[Outcome], outcome: Outcome) -> None:
        """Tell the progress of all judges together, with the tokens that were spent and what failed."""
        outcomes = [*before, outcome]
        tokens = sum(u.input + u.output for one in outcomes for u in one.usage.values())
        lost = sum(one.failed + one.unreachable for one in outcomes) - self._second_tries
        words = [f"{tokens:,} tokens"] * bool(tokens) + [f"{lost:,} failed"] * (lost > 0)
        progress(sum(one.settled for one in outcomes) - self._second_tries, total, ", ".join(words))


def wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where an event loop runs already (a notebook): then in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def _as_ask(request: Request) -> Ask:
    if not isinstance(request, Ask):
        raise TypeError(f"a {type(request).__name__} carries no question")
    return request
