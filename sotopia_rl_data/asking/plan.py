"""What a run asks: the few things that `label`, `evaluate`, `audit` and `rollout` say, so that `run.ask` does the rest.

A plan is chains of requests. A chain begins with a request of the plan's own; what follows an answer (a second try, the
next turn of a dialogue) is the plan's business too, and is a function of what was answered, so that a later run finds
the whole chain in the ledger again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sotopia_rl_data.asking.dispatch import Send
from sotopia_rl_data.costs.bill import Tally
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
