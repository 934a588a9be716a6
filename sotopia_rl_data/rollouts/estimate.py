"""What a rollout would cost, before anybody is asked: some of its episodes are played by the scripted policies.

They talk for ten turns or a little more, and nobody knows how long a model will: an estimate, and what it would be if
every episode went to its turn limit. Second draws are not in it, and what the ledger has already is not looked up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sotopia_rl_data.asking.prices import Prices
from sotopia_rl_data.asking.request import Request, Usage
from sotopia_rl_data.asking.tokens import prompt_tokens
from sotopia_rl_data.rollouts.games import Match
from sotopia_rl_data.rollouts.planning import Plan
from sotopia_rl_data.rollouts.players import Player
from sotopia_rl_data.rollouts.policies import scripted
from sotopia_rl_data.rollouts.world import World

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
    """Episodes to be played, calls if each goes to its turn limit, and each policy's share of what is likely."""

    episodes: int
    most_calls: int
    shares: Mapping[str, Share]

    @property
    def usd(self) -> float | None:
        """All of it, where every price is known."""
        known = [share.usd for share in self.shares.values()]
        return None if any(one is None for one in known) else sum(one for one in known if one is not None)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"usd": self.usd}


def estimate(plan: Plan, prices: Prices) -> Estimate:
    """Play a few of the plan's episodes with the scripted policies and count. Asks nobody."""
    calls: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    players = {plan.a.id: plan.a, plan.b.id: plan.b}
    matches = list(islice(plan.matches(), 0, None, max(1, len(plan) // _PLAYED)))
    for match in matches:
        asyncio.run(_play(plan, match, calls, tokens))
    scale = len(plan) / len(matches)
    shares = {
        name: _share(player, prices, round(calls[name] * scale), round(tokens[name] * scale))
        for name, player in players.items()
    }
    most = sum(one.drafts[turn % len(one.drafts)] for one in plan.matches() for turn in range(plan.rules.turns))
    return Estimate(len(plan), most, shares)


async def _play(plan: Plan, match: Match, calls: Counter[str], tokens: Counter[str]) -> None:
    rules = plan.rules
    world = World(match.scene, rules.dialect, max_turns=rules.turns)
    policies = (scripted("warm"), scripted("firm"))
    while not world.done:
        agent = world.acting[0]
        place = match.scene.agents.index(agent)
        asked = world.asked(agent, match.episode_id, rules.layout, rules.template)
        player, drafts = match.players[place], match.drafts[place]
        calls[player.id] += drafts
        tokens[player.id] += drafts * prompt_tokens(Request(player.target, asked.messages))
        world.step({agent: world.read(agent, await policies[place % 2](asked))})


def _share(player: Player, prices: Prices, calls: int, tokens: int) -> Share:
    price, output = prices.of(player.target), calls * _OUTPUT
    return Share(calls, tokens, output, None if price is None else price.cost(Usage(tokens, output=output)))
