"""Policies: plain callables, the two scripted ones, and models by name as players that can be sent Requests.

    async def policy(prompt: TurnPrompt) -> str: ...    # answers with an action as JSON

The scripted policies need no model and no network; `rollout` plays with them if none is named. `play` lets callables
play one episode, without a ledger.

A Player is to a rollout what a judge is to a label run: an id, a target (what determines its answers, for the ledger's
key), `send` and `close`. `player` makes one of a name (`gpt-4o`, `openai:MODEL@URL`, `scripted:warm`, a plug-in) or of
a callable. Local models need a library that the core does not import: the caller passes in `local`, which makes a
Player of `transformers:…`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sotopia_rl_data import plugins
from sotopia_rl_data.asking.providers import (
    ApiModel,
    ModelName,
    api_model,
    parse_model,
    sampling_of,
    takes_temperature,
)
from sotopia_rl_data.errors import AskingError, Rejected, SotopiaDataError, UsageError
from sotopia_rl_data.prompts import Layout, Template
from sotopia_rl_data.request import Reply, Request, Target
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

    What it says depends on the seed, the episode, the agent and how often it has acted, and not on what it is shown. It
    leaves after five to eight turns of its own. Raises UsageError for an unknown name.
    """
    if name not in SCRIPTED:
        raise UsageError(f"There is no scripted policy {name!r}.", f"name one of: {', '.join(SCRIPTED)}")
    first, *between, last = SCRIPTED[name]

    async def policy(prompt: TurnPrompt) -> str:
        generator = random.Random(f"{seed} {prompt.episode_id} {prompt.agent}")
        lines = [first, *generator.sample(between, generator.randint(3, 6)), last]
        action_type, argument = lines[prompt.own] if prompt.own < len(lines) else ("leave", "")
        answer: dict[str, object] = {"action_type": action_type, "argument": argument}
        if prompt.private:
            answer["to"] = []
        return json.dumps(answer, ensure_ascii=False)

    return policy


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt that was served, and the completion that answered it."""

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
    """Play `world` to its end, with `policies` by agent id. Returns the exchanges in order; completions are unchanged,
    a model's thoughts included.

    An exception of a policy is passed on. An answer that cannot be read becomes a no-op that is flagged as failed.
    """
    served: list[Exchange] = []
    while not world.done:
        prompts = [world.turn_prompt(agent, episode_id, layout, template) for agent in world.acting]
        completions = await asyncio.gather(*(policies[prompt.agent](prompt) for prompt in prompts))
        served += map(Exchange, prompts, completions)
        answers = zip(world.acting, completions, strict=True)
        world.step({agent: world.read_or_nothing(agent, completion) for agent, completion in answers})
    return served


GROUP = "sotopia_rl_data.policies"
TEMPERATURE = 0.7  # the default of the sotopia library's agents
CONCURRENCY = 256
MEANINGS = {
    "gpt-4o (any OpenAI model)": "asked at OpenAI, with OPENAI_API_KEY",
    "openai:MODEL[@URL]": "a model on any server that speaks OpenAI's protocol: vLLM, Together, DeepSeek, Ollama …",
    "claude-… (any Anthropic model)": "asked at Anthropic, with ANTHROPIC_API_KEY",
    "anthropic:MODEL[@URL]": "a model on any server that speaks Anthropic's protocol",
    "transformers:PATH[+ADAPTER]": "a model loaded on this machine, with an adapter on it",
    "scripted:warm": "written lines that look for common ground; it needs no key",
    "scripted:firm": "written lines that hold their own; it needs no key",
    "path/to/file.py:Name": "a function or class of your own",
}
"""The forms in which a policy is named, and what each is."""
FORMS = ", ".join(MEANINGS)


class Player(Protocol):
    """A policy that can be sent requests. `id` is the model's name in the data; `concurrency` is how many requests it
    takes at once. `send` raises what the `send` of a client in `asking/` raises."""

    id: str
    target: Target
    concurrency: int

    async def send(self, request: Request) -> Reply: ...

    async def close(self) -> None: ...


Local = Callable[[str, Mapping[str, Any] | None], Player]
"""Makes a Player from the text after `transformers:` and the sampling options."""


def player(
    spec: str | ModelName | Policy | Player,
    sampling: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    local: Local | None = None,
) -> Player:
    """The player of `spec`: a name, a model, a callable, or a Player already. `sampling` (temperature, max_tokens …)
    overrides a model's defaults and does not apply to callables. `seed` is the seed of the scripted policies.

    Raises UsageError, which lists the forms, for an unknown name, and KeyMissing where the provider needs a key.
    """
    if isinstance(spec, ModelName):
        return _api(spec, sampling)
    if not isinstance(spec, str):
        return _called(spec, getattr(spec, "id", "") or getattr(spec, "__name__", ""))
    if plugins.is_file(spec):
        return _plugin(spec)
    name = parse_model(spec)
    if name is not None:
        return _api(name, sampling)
    kind, colon, rest = spec.partition(":")
    if colon and kind == "scripted":
        return Called(spec, scripted(rest, seed), Target("offline", spec, "", {"seed": seed}))
    if colon and kind == "transformers":
        if local is None:
            raise UsageError(
                f"{spec!r} is a local model, and no function to load it was given.",
                "pass local=local_player, from sotopia_rl_data.applications.local_policies",
            )
        return local(rest, sampling)
    return _plugin(spec)


@dataclass(slots=True)
class Called:
    """A callable as a player."""

    id: str
    policy: Policy
    target: Target
    concurrency: int = 64

    async def send(self, request: Request) -> Reply:
        """One action. Raises Rejected where the policy fails or answers with something that is not text."""
        prompt = getattr(request, "prompt", None)
        if not isinstance(prompt, TurnPrompt):
            raise TypeError(f"a {type(request).__name__} does not ask a policy")
        hint = "repair it, then run the same command again"
        try:
            with plugins.calling(lambda reason: Rejected(f"The policy {self.id} failed: {reason}", hint)):
                answer: Any = self.policy(prompt)
                if inspect.isawaitable(answer):
                    answer = await answer
        except AskingError:
            raise
        except SotopiaDataError as error:
            raise Rejected(f"{self.id}: {error.message}", error.hint) from error
        if not isinstance(answer, str):
            raise Rejected(f"The policy {self.id} returned {type(answer).__name__}, not text.", "return a str")
        return Reply(answer, model=self.id)

    async def close(self) -> None:
        """Call the policy's own `close`, if it has one."""
        closing = getattr(self.policy, "close", None)
        if closing is not None:
            await closing()


def is_model(player: Player) -> bool:
    """True for a model that samples, False for a callable."""
    return not isinstance(player, Called)


def takes_schema(player: Player) -> bool:
    """True for a model behind an API, which can be sent the schema of its answers."""
    return isinstance(player, ApiModel)


def _api(name: ModelName, sampling: Mapping[str, Any] | None) -> Player:
    default = {"temperature": TEMPERATURE} if takes_temperature(name.provider, name.model) else {}
    chosen = sampling_of(sampling_of(default, name.sampling), sampling)
    return ApiModel(api_model(name, chosen), CONCURRENCY * max(1, len(name.servers)), name.id)


def _plugin(spec: str) -> Player:
    try:
        loaded = plugins.load("policy", GROUP, spec, {})
    except UsageError as unknown:
        if plugins.is_file(spec) or spec in plugins.names(GROUP, {}):
            raise
        also = "".join(f", {name}" for name in plugins.names(GROUP, {}))
        raise UsageError(f"{spec!r} is not a policy.", f"write {FORMS}{also}") from unknown
    hint = "make the class callable without arguments"
    with plugins.calling(lambda reason: UsageError(f"The policy {spec} cannot be created: {reason}.", hint)):
        policy = loaded() if isinstance(loaded, type) else loaded
    return _called(policy, getattr(policy, "id", "") or spec.rpartition(":")[2])


def _called(policy: Any, name: str) -> Player:
    """`policy`, if it is a Player already, or else a Player that calls it. Raises UsageError if it is not callable."""
    if isinstance(getattr(policy, "target", None), Target) and isinstance(getattr(policy, "id", None), str):
        missing = [name for name in ("send", "close", "concurrency") if not hasattr(policy, name)]
        if missing:
            raise UsageError(
                f"The policy {name} has a target but no {missing[0]}.",
                "add it (a policy with a target is a Player), or leave `target` out",
            )
        ready: Player = policy
        return ready
    if not callable(policy) or not isinstance(name, str) or not name:
        raise UsageError(
            f"{policy!r} is not a policy.", "write `async def policy(prompt) -> str`, or a class with __call__"
        )
    source = plugins.source_sha256(policy)
    return Called(name, policy, Target("plugin", name, "", {"source_sha256": source} if source else {}))
