"""Play one episode: ask whose turn it is, read, step, until it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from sotopia_rl_data.prompts import Layout, Template
from sotopia_rl_data.rollouts.policies import Asked, Policy
from sotopia_rl_data.rollouts.world import World


@dataclass(frozen=True, slots=True)
class Exchange:
    """One prompt that was served, and the completion that came back for it."""

    asked: Asked
    completion: str


async def play(
    world: World,
    policies: Mapping[str, Policy],
    episode_id: str,
    *,
    layout: Layout = "single",
    template: Template | None = None,
) -> list[Exchange]:
    """Play `world` to its end; `policies` by agent id. Returns what was served, in order.

    What a policy raises ends the episode with it. An answer that cannot be read is a no-op that is flagged.
    """
    served: list[Exchange] = []
    while not world.done:
        asked = [world.asked(agent, episode_id, layout, template) for agent in world.acting]
        completions = await asyncio.gather(*(policies[one.agent](one) for one in asked))
        answers = list(zip(asked, completions, strict=True))
        served += [Exchange(one, completion) for one, completion in answers]
        world.step({one.agent: world.read_or_nothing(one.agent, completion) for one, completion in answers})
    return served
