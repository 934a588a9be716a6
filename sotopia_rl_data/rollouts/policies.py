"""What a policy is to the simulator: an async callable that is asked and answers with an action as JSON.

    async def policy(prompt: TurnPrompt) -> str: ...

Two scripted policies need no model and no network: they are what `rollout` plays with when none is named. `play` lets
callables play one episode, without a ledger; how models are asked is in `players.py`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.prompts import Layout, Template
from sotopia_rl_data.rollouts.world import TurnPrompt, World
from sotopia_rl_data.schema import ActionType

Policy = Callable[[TurnPrompt], Awaitable[str]]
_Line = tuple[ActionType, str]

_WARM: tuple[_Line, ...] = (
    ("speak", "I'm glad we get to talk about this. How has your week been, honestly?"),
    ("speak", "Tell me what matters most to you here, and I'll tell you what matters to me."),
    ("speak", "I can see why you'd want that. Is there a part of it that could wait?"),
    ("non-verbal communication", "nods slowly and leans in to listen"),
    ("speak", "What if each of us gives up the half we care about less?"),
    ("speak", "That's fair. I hadn't thought of it from your side before."),
    ("action", "pulls up a second chair and offers it"),
    ("speak", "I'd rather leave here on good terms than get every last thing I came for."),
    ("speak", "Then let's try it your way first, and talk again if it doesn't work out."),
)
_FIRM: tuple[_Line, ...] = (
    ("speak", "Let me be plain about what I need, so that we don't waste your time."),
    ("speak", "I have thought this through, and I can't go much lower than that."),
    ("non-verbal communication", "folds both arms and waits"),
    ("speak", "You say so, but what would you actually put on the table?"),
    ("speak", "I could move a little, if you move first."),
    ("speak", "No. The last time I agreed to something like it, I paid for it alone."),
    ("action", "writes a figure on a slip of paper and turns it around"),
    ("speak", "That is closer. Say it once more, with a date."),
    ("speak", "Good. Then we both know where we stand."),
)
SCRIPTED = {"warm": _WARM, "firm": _FIRM}


def scripted(name: str, seed: int = 0) -> Policy:
    """The scripted policy of this name: "warm" looks for common ground, "firm" holds its own.

    What it says is a function of the seed, the episode, the agent and how often it acted, and of nothing that it is
    shown; it leaves after five to eight turns of its own. Raises UsageError for another name.
    """
    if name not in SCRIPTED:
        raise UsageError(f"There is no scripted policy {name!r}.", f"name one of: {', '.join(SCRIPTED)}")
    first, *between, last = SCRIPTED[name]

    async def policy(prompt: TurnPrompt) -> str:
        drawn = random.Random(f"{seed} {prompt.episode_id} {prompt.agent}")
        lines = [first, *drawn.sample(between, drawn.randint(3, 6)), last]
        action_type, argument = lines[prompt.own] if prompt.own < len(lines) else ("leave", "")
        answer: dict[str, object] = {"action_type": action_type, "argument": argument}
        if prompt.private:
            answer["to"] = []
        return json.dumps(answer, ensure_ascii=False)

    return policy


@dataclass(frozen=True, slots=True)
class Exchange:
    """One prompt that was served, and the completion that came for it."""

    prompt: TurnPrompt
    completion: str


async def play(
    world: World,
    policies: Mapping[str, Policy],
    episode_id: str,
    *,
    layout: Layout = "single",
    template: Template | None = None,
) -> list[Exchange]:
    """Play `world` to its end; `policies` by agent id. Returns what was served, in order; completions are as they came,
    a model's thoughts included.

    What a policy raises ends the episode with it. An answer that cannot be read is a no-op that is flagged.
    """
    served: list[Exchange] = []
    while not world.done:
        prompts = [world.turn_prompt(agent, episode_id, layout, template) for agent in world.acting]
        completions = await asyncio.gather(*(policies[prompt.agent](prompt) for prompt in prompts))
        served += map(Exchange, prompts, completions)
        answers = zip(world.acting, completions, strict=True)
        world.step({agent: world.read_or_nothing(agent, completion) for agent, completion in answers})
    return served
