"""A plan's episodes played again from the ledger, as far as it knows: for what they cost, and what is left of them.

Each attempt at each of their turns is counted once, whichever run made it: the bill of a run that was killed and went
on is that of one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sotopia_rl_data.costs.bill import Tally
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, TurnRequest
from sotopia_rl_data.rollouts.plan import RolloutPlan


def count_attempts(
    asked: TurnRequest, ledger: Ledger, tally: Tally, settled: Settled | None = None
) -> Sequence[Attempt]:
    """All attempts at a request, newest first, counted. If one alone settled it, it is not read again."""
    only = settled.attempt if settled is not None and ledger.tries(asked.key) == 1 else None
    attempts = [only] if only is not None else ledger.attempts(asked.key)
    if tally.first(asked.key):
        for one in attempts:
            usable = one.status == "answer" and asked.game.accepts(asked, one.reply)
            tally.count(asked.player.id, asked, one, "used" if usable else "failed")
    return attempts


def replay(run: EpisodeRun, attempts: Callable[[TurnRequest], Sequence[Attempt]]) -> TurnRequest | None:
    """Play what `attempts` knows of an episode; the first request that it does not know, None where the episode is
    over."""
    asked: TurnRequest | None = run.first()
    while asked is not None:
        answers = [one for one in attempts(asked) if one.status == "answer"]
        if not answers:
            return asked
        usable = next((one for one in answers if run.accepts(asked, one.reply)), None)
        asked = run.take(asked, Settled(usable or answers[0], usable is not None, False))
    return None


def unfinished(plan: RolloutPlan, ledger: Ledger) -> int:
    """How many of the plan's episodes the ledger does not know to their end."""
    runs = (EpisodeRun(spec, plan.rules) for spec in plan.matches())
    return sum(replay(run, lambda asked: ledger.attempts(asked.key)) is not None for run in runs)
