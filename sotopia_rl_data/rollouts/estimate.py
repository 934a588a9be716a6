"""What a rollout would cost, before any model is asked: the scripted policies play some of its episodes.

They talk for about ten turns, and how long a model will talk is not known. So this is an estimate; `most_calls` says
how many calls there would be if every episode went to its turn limit. Answers in the ledger are used first. Second
draws of unreadable answers are not estimated, nor which drafts of an interrupted turn are in the ledger.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sotopia_rl_data.asking.estimate import Estimate, EstimateLine
from sotopia_rl_data.asking.plan import AskOptions, Respondent, is_paid
from sotopia_rl_data.costs.price import NOTHING
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.costs.tokens import prompt_tokens
from sotopia_rl_data.ledger.attempt import Attempt
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Request, Usage
from sotopia_rl_data.rollouts.episode_run import EpisodeRun, EpisodeSpec, TurnRequest
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.rollouts.policies import scripted
from sotopia_rl_data.rollouts.rollout import replay
from sotopia_rl_data.shards import WHOLE, Shard

_PLAYED = 20  # about so many episodes are played with scripts, to measure their prompts
ACTION = 50  # tokens of an action, roughly


@dataclass(frozen=True, slots=True)
class RolloutEstimate(Estimate):
    """Adds: how many `episodes` there are, and the `most_calls` that are left if each goes to its turn limit."""

    episodes: int
    most_calls: int

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON holds it."""
        return Estimate.as_dict(self) | {"episodes": self.episodes, "most_calls": self.most_calls}


def estimate_rollout(
    plan: RolloutPlan, ledger: Ledger, options: AskOptions, prices: Prices, shard: Shard = WHOLE
) -> RolloutEstimate:
    """Play a few of the shard's episodes to their end, from the answers in `ledger` on by the scripted policies, and
    count the calls. Calls no model."""
    is_ours = plan.part(shard)
    specs = [spec for spec in plan.specs() if is_ours(spec.episode_id)]
    hits: Counter[str] = Counter()
    unfinished: list[EpisodeSpec] = []
    most = 0
    for done, spec in enumerate(specs):
        run = EpisodeRun(spec, plan.rules)
        if _play_known(run, ledger, hits) is not None:
            unfinished.append(spec)
            most += sum(spec.drafts[turn % len(spec.drafts)] for turn in range(run.world.turn, plan.rules.turns))
        if options.progress is not None:
            options.progress(done + 1, len(specs))
    inputs: dict[str, Counter[int]] = defaultdict(Counter)
    some = unfinished[:: max(1, len(unfinished) // _PLAYED)]
    for spec in some:
        run = EpisodeRun(spec, plan.rules)
        _play_known(run, ledger, Counter())
        asyncio.run(_play_on(run, inputs))
    scale = len(unfinished) / len(some) if some else 0.0
    lines = [
        line_of(player, prices, hits[player.id], inputs[player.id], scale)
        for player in ([plan.a] if plan.a is plan.b else [plan.a, plan.b])
    ]
    return RolloutEstimate(prices.as_of, tuple(lines), len(specs), most)


def _play_known(run: EpisodeRun, ledger: Ledger, hits: Counter[str]) -> TurnRequest | None:
    """Play an episode as far as the ledger has answers. Returns the next request, if the episode is not over."""

    def attempts(request: TurnRequest) -> Sequence[Attempt]:
        known = ledger.attempts(request.key)
        if any(attempt.status == "answer" for attempt in known):
            hits[request.player.id] += 1
        return known

    return replay(run, attempts)


async def _play_on(run: EpisodeRun, inputs: Mapping[str, Counter[int]]) -> None:
    """Play an episode to its end, and count each player's calls by their input tokens."""
    spec, rules, world = run.spec, run.rules, run.world
    policies = (scripted("warm"), scripted("firm"))
    while not world.done:
        agent = world.acting[0]
        place = spec.scene.agents.index(agent)
        prompt = world.turn_prompt(agent, spec.episode_id, rules.layout, rules.template)
        player, drafts = spec.players[place], spec.drafts[place]
        inputs[player.id][prompt_tokens(Request(player.target, prompt.messages))] += drafts
        world.step({agent: world.read(agent, await policies[place % 2](prompt))})


def line_of(
    one: Respondent, prices: Prices, hits: int, inputs: Mapping[int, int], scale: float = 1.0, output: int = ACTION
) -> EstimateLine:
    """The line of a judge or policy whose calls were counted by their input tokens, for `scale` times as many; each
    answer has `output` tokens."""
    price, calls = prices.of(one.target), round(sum(inputs.values()) * scale)
    usage = Usage(round(sum(size * number for size, number in inputs.items()) * scale), output=calls * output)
    cost = None
    if price is not None:
        each = [number * price.at(size).cost(Usage(size, output=output)) for size, number in inputs.items()]
        cost = sum(each) * scale
    if not is_paid(one) or price == NOTHING:
        cost = 0.0
    return EstimateLine(
        judge=one.id,
        calls=hits + calls,
        hits=hits,
        repeated=0,
        in_batches=0,
        asked=calls,
        usage=usage,
        cost=cost,
        most=None,
        measured=False,
    )
