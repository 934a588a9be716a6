"""The next action in each of some episodes that have begun: an `asking.plan.Plan` with one turn an episode.

An episode is played on as `rollout` would play it: the same prompt, the same sample numbers, an unreadable answer drawn
again at most twice. Unlike there, an episode whose policy gives no answer is not given up: the same turn can be asked
for again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sotopia_rl_data.asking.plan import Group
from sotopia_rl_data.asking.together import Gathered, Spending
from sotopia_rl_data.costs.bill import Tally
from sotopia_rl_data.errors import Unavailable
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.request import Request
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec, Rules, TurnRequest
from sotopia_rl_data.rollouts.policies import Player
from sotopia_rl_data.rollouts.rollout import TurnRequests, count_attempts, turn_request
from sotopia_rl_data.schema import Turn
from sotopia_rl_data.secrets import without_server


class NextTurns(TurnRequests):
    """The plan. After it was asked, `turns` has a Turn, or the error in its place, for each of `specs`."""

    unit = "calls"

    def __init__(self, specs: Sequence[EpisodeSpec], rules: Rules) -> None:
        self._runs = [EpisodeRun(spec, rules) for spec in specs]
        self._requests = [run.first() for run in self._runs]
        self._asked = list(self._requests)
        self._lost: dict[int, str] = {}  # place -> why there is no answer
        self.total = len(specs)

    @property
    def players(self) -> tuple[Player, ...]:
        """The policies whose turn it is, each once."""
        return tuple({request.player.id: request.player for request in self._requests}.values())

    @property
    def turns(self) -> list[Turn | Unavailable]:
        """What was done in each episode."""
        return [self._turn(place) for place in range(self.total)]

    def groups(self) -> list[Group]:
        """One group of all policies."""
        return [Group(self.players, self._first_requests, self.send)]

    def follow_up(self, request: Request, settled: Settled) -> Request | None:
        """The request that draws an unreadable answer again; None where the turn was played."""
        asked = turn_request(request)
        if settled.reply is None:
            self._lost[self._place(asked)] = without_server(settled.error, asked.target.base_url)
            return None
        following = asked.run.take(asked, settled)
        if following is None or following.prompt.turn != asked.prompt.turn:
            return None
        self._asked.append(following)
        return following

    def count(self, ledger: Ledger, tally: Tally) -> None:
        """Count every attempt at what was asked so far."""
        for request in self._asked:
            count_attempts(request, ledger, tally)

    def _first_requests(self) -> Iterator[Request]:
        return iter(self._requests)

    def _place(self, request: TurnRequest) -> int:
        return next(place for place, run in enumerate(self._runs) if run is request.run)

    def _turn(self, place: int) -> Turn | Unavailable:
        run = self._runs[place]
        if run.world.turn == len(run.spec.begun):
            reason = self._lost.get(place, "it was not asked")
            return Unavailable(f"{self._requests[place].player.id} gave no answer: {reason.rstrip('.')}.", "try again")
        return run.episode().turns[-1]


class GatheredTurns:
    """The next actions in episodes of these rules, for callers from any thread, who are answered together."""

    def __init__(self, spending: Spending, rules: Rules) -> None:
        self._spending, self._rules = spending, rules
        self._gathered = Gathered(self._ask, spending.lock)

    def ask(self, specs: Sequence[EpisodeSpec]) -> list[Turn]:
        """What is done next in each of the episodes. Raises AskingError where a policy gives no answer."""
        turns = []
        for turn in self._gathered.ask(specs):
            if isinstance(turn, Unavailable):
                raise turn
            turns.append(turn)
        return turns

    def _ask(self, specs: Sequence[EpisodeSpec]) -> list[Turn | Unavailable]:
        plan = NextTurns(specs, self._rules)
        self._spending.ask(plan)
        return plan.turns
