"""What a rollout would cost, before anybody is asked: some of its episodes are played by the scripted policies.

They talk for ten turns or a little more, and nobody knows how long a model will: an estimate, and what it would be if
every episode went to its turn limit. What the ledger has already is played from there and is not in it; second draws
and the drafts of a turn that was cut off are not told apart.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.costs.tokens import prompt_tokens
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Request, Usage
from sotopia_rl_data.rollouts.costs import replay
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec, TurnRequest
from sotopia_rl_data.rollouts.planning import Plan
from sotopia_rl_data.rollouts.players import Player
from sotopia_rl_data.rollouts.policies import scripted

_PLAYED = 20  # episodes
_OUTPUT = 50  # tokens of an action, about


@dataclass(frozen=True, slots=True)
class Share:
    """What one policy would be asked: `calls`, `input` and `output` tokens; `usd` is None where it has no price."""

    calls: int
    input: int
    output: int
    usd: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Episodes of the plan and how many of its calls the ledger knows; and what is left: calls if each episode goes to
    its turn limit, and each policy's share of what is likely."""

    episodes: int
    known_calls: int
    most_calls: int
    shares: Mapping[str, Share]

    @property
    def usd(self) -> float | None:
        """All of it, where every price is known."""
        known = [share.usd for share in self.shares.values()]
        return None if any(one is None for one in known) else sum(one for one in known if one is not None)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"usd": self.usd}


def estimate(plan: Plan, prices: Prices, ledger: Ledger | None = None) -> Estimate:
    """Play on a few of the plan's episodes with the scripted policies, from where `ledger` has them, and count. Asks
    nobody."""
    left, known = _Left(plan, ledger), 0
    unfinished: list[EpisodeSpec] = []
    most = 0
    for match in plan.matches():
        game, answered, over = left.game(match)
        known += answered
        if not over:
            unfinished.append(match)
            most += sum(match.drafts[turn % len(match.drafts)] for turn in range(game.world.turn, plan.rules.turns))
    calls: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    some = unfinished[:: max(1, len(unfinished) // _PLAYED)]
    for match in some:
        asyncio.run(_play_on(left.game(match)[0], calls, tokens))
    scale = len(unfinished) / len(some) if some else 0.0
    shares = {
        one.id: _share(one, prices, round(calls[one.id] * scale), round(tokens[one.id] * scale))
        for one in (plan.a, plan.b)
    }
    return Estimate(len(plan), known, most, shares)


class _Left:
    """Games as far as the ledger has them."""

    def __init__(self, plan: Plan, ledger: Ledger | None) -> None:
        self._plan, self._ledger = plan, ledger

    def game(self, match: EpisodeSpec) -> tuple[EpisodeRun, int, bool]:
        """The game, how many of its calls are answered, and whether it is over."""
        game, ledger, answered = EpisodeRun(match, self._plan.rules), self._ledger, 0
        if ledger is None:
            return game, 0, False

        def attempts(move: TurnRequest, _: EpisodeRun) -> Sequence[Attempt]:
            nonlocal answered
            found = ledger.attempts(move.key)
            answered += any(one.status == "answer" for one in found)
            return found

        over = replay(game, attempts) is None
        return game, answered, over


async def _play_on(game: EpisodeRun, calls: Counter[str], tokens: Counter[str]) -> None:
    match, rules, world = game.match, game.rules, game.world
    policies = (scripted("warm"), scripted("firm"))
    while not world.done:
        agent = world.acting[0]
        place = match.scene.agents.index(agent)
        asked = world.turn_prompt(agent, match.episode_id, rules.layout, rules.template)
        player, drafts = match.players[place], match.drafts[place]
        calls[player.id] += drafts
        tokens[player.id] += drafts * prompt_tokens(Request(player.target, asked.messages))
        world.step({agent: world.read(agent, await policies[place % 2](asked))})


def _share(player: Player, prices: Prices, calls: int, tokens: int) -> Share:
    price, output = prices.of(player.target), calls * _OUTPUT
    return Share(calls, tokens, output, None if price is None else price.cost(Usage(tokens, output=output)))
