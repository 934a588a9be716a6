"""What a rollout would cost, before anybody is asked: some of its episodes are played by the scripted policies.

They talk for ten turns or a little more, and nobody knows how long a model will: an estimate, and what it would be if
every episode went to its turn limit. What the ledger has already is played from there; second draws and the drafts of a
turn that was cut off are not told apart.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.asking.estimate import Estimate, EstimateLine
from sotopia_rl_data.asking.plan import AskOptions, is_paid
from sotopia_rl_data.costs.prices import NOTHING, Prices
from sotopia_rl_data.costs.tokens import prompt_tokens
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Request, Usage
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec, TurnRequest
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.rollouts.policies import Player, scripted
from sotopia_rl_data.rollouts.run import replay

_PLAYED = 20  # episodes
_OUTPUT = 50  # tokens of an action, about


@dataclass(frozen=True, slots=True)
class RolloutEstimate(Estimate):
    """Also: how many `episodes` there are, and the `most_calls` that are left if each goes to its turn limit."""

    episodes: int
    most_calls: int

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON holds it."""
        return Estimate.as_dict(self) | {"episodes": self.episodes, "most_calls": self.most_calls}


def estimate_rollout(plan: RolloutPlan, ledger: Ledger, options: AskOptions, prices: Prices) -> RolloutEstimate:
    """Play on a few of the plan's episodes with the scripted policies, from where `ledger` has them, and count. Asks
    nobody."""
    hits: Counter[str] = Counter()
    unfinished: list[EpisodeSpec] = []
    most = 0
    for done, spec in enumerate(plan.specs()):
        run = EpisodeRun(spec, plan.rules)
        if _play_known(run, ledger, hits) is not None:
            unfinished.append(spec)
            most += sum(spec.drafts[turn % len(spec.drafts)] for turn in range(run.world.turn, plan.rules.turns))
        if options.progress is not None:
            options.progress(done + 1, len(plan))
    calls: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    some = unfinished[:: max(1, len(unfinished) // _PLAYED)]
    for spec in some:
        run = EpisodeRun(spec, plan.rules)
        _play_known(run, ledger, Counter())
        asyncio.run(_play_on(run, calls, tokens))
    scale = len(unfinished) / len(some) if some else 0.0
    lines = [
        _line(one, prices, hits[one.id], round(calls[one.id] * scale), round(tokens[one.id] * scale))
        for one in ([plan.a] if plan.a is plan.b else [plan.a, plan.b])
    ]
    return RolloutEstimate(prices.as_of, tuple(lines), len(plan), most)


def _play_known(run: EpisodeRun, ledger: Ledger, hits: Counter[str]) -> TurnRequest | None:
    """Play an episode as far as the ledger has it; the request that is next, if it is not over."""

    def attempts(request: TurnRequest) -> Sequence[Attempt]:
        found = ledger.attempts(request.key)
        if any(one.status == "answer" for one in found):
            hits[request.player.id] += 1
        return found

    return replay(run, attempts)


async def _play_on(run: EpisodeRun, calls: Counter[str], tokens: Counter[str]) -> None:
    spec, rules, world = run.spec, run.rules, run.world
    policies = (scripted("warm"), scripted("firm"))
    while not world.done:
        agent = world.acting[0]
        place = spec.scene.agents.index(agent)
        prompt = world.turn_prompt(agent, spec.episode_id, rules.layout, rules.template)
        player, drafts = spec.players[place], spec.drafts[place]
        calls[player.id] += drafts
        tokens[player.id] += drafts * prompt_tokens(Request(player.target, prompt.messages))
        world.step({agent: world.read(agent, await policies[place % 2](prompt))})


def _line(player: Player, prices: Prices, hits: int, calls: int, tokens: int) -> EstimateLine:
    price, usage = prices.of(player.target), Usage(tokens, output=calls * _OUTPUT)
    free = not is_paid(player) or price == NOTHING
    return EstimateLine(
        judge=player.id,
        calls=hits + calls,
        hits=hits,
        repeated=0,
        in_batches=0,
        asked=calls,
        usage=usage,
        cost=0.0 if free else None if price is None else price.cost(usage),
        most=None,
        measured=False,
    )
