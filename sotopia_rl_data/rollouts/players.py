"""Policies by name, as something that can be sent Requests: `gpt-4o`, `openai:MODEL@URL`, `scripted:warm`, your own.

A Player is to a rollout what a judge is to a label run: an id, a target (what determines its answers, for the ledger's
key), `send` and `close`. A plain callable (`policies.py`) is wrapped into one. Local models need a library that the
core does not import: whoever may import it hands in `local`, which makes a Player of `transformers:…`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sotopia_rl_data import plugins
from sotopia_rl_data.asking.providers import (
    ApiModel,
    ModelName,
    api_client,
    parse_model,
    sampling_of,
    takes_temperature,
)
from sotopia_rl_data.errors import AskingError, Rejected, SotopiaDataError, UsageError
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.rollouts.policies import Policy, scripted
from sotopia_rl_data.rollouts.world import TurnPrompt

GROUP = "sotopia_rl_data.policies"
TEMPERATURE = 0.7  # the sotopia library's own for agents
CONCURRENCY = 256
FORMS = (
    "gpt-4o (any OpenAI model), openai:MODEL[@URL], claude-… (any Anthropic model), anthropic:MODEL[@URL], "
    "transformers:PATH[+ADAPTER], scripted:warm, scripted:firm, path/to/file.py:Name"
)


class Player(Protocol):
    """Who plays. `id` is the model's name in the data; `concurrency` how many requests it takes at once. Raises what
    `asking.request.Client` does."""

    id: str
    target: Target
    concurrency: int

    async def send(self, request: Request) -> Reply: ...

    async def close(self) -> None: ...


Local = Callable[[str, Mapping[str, Any] | None], Player]
"""Makes a Player of what stands behind `transformers:`, with the sampling that was given."""


def player(
    spec: str | Policy | Player, sampling: Mapping[str, Any] | None = None, *, seed: int = 0, local: Local | None = None
) -> Player:
    """The player that `spec` names or is. `sampling` (temperature, max_tokens …) is laid over a model's defaults and
    means nothing to a callable; `seed` is that of the scripted policies.

    Raises UsageError, naming the forms, where nothing answers to it, and KeyMissing where its provider wants a key.
    """
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
                f"{spec!r} needs torch.",
                "hand in `local`: sotopia_rl_data.applications.local_policies.local_player",
            )
        return local(rest, sampling)
    return _plugin(spec)


@dataclass(slots=True)
class Called:
    """A callable as a player."""

    id: str
    policy: Policy
    target: Target
    concurrency: int = field(default=64)

    async def send(self, request: Request) -> Reply:
        """One action. Raises Rejected where the policy fails or answers with something that is not text."""
        prompt = getattr(request, "prompt", None)
        if not isinstance(prompt, TurnPrompt):
            raise TypeError(f"a {type(request).__name__} does not ask a policy")
        hint = "repair it, then run the same command again"
        try:
            with plugins.calling(lambda said: Rejected(f"The policy {self.id} failed: {said}", hint)):
                answer: Any = self.policy(prompt)
                if inspect.isawaitable(answer):
                    answer = await answer
        except AskingError:
            raise
        except SotopiaDataError as wrong:
            raise Rejected(f"{self.id}: {wrong.message}", wrong.hint) from wrong
        if not isinstance(answer, str):
            raise Rejected(f"The policy {self.id} returned {type(answer).__name__}, not text.", "return a str")
        return Reply(answer, model=self.id)

    async def close(self) -> None:
        """Let the policy release what it holds, where it has a `close`."""
        closing = getattr(self.policy, "close", None)
        if closing is not None:
            await closing()


def is_model(one: Player) -> bool:
    """True for a model that samples, False for a callable."""
    return not isinstance(one, Called)


def _api(name: ModelName, sampling: Mapping[str, Any] | None) -> Player:
    default = {"temperature": TEMPERATURE} if takes_temperature(name.provider, name.model) else {}
    return ApiModel(api_client(name, sampling_of(default, sampling)), CONCURRENCY)


def _plugin(spec: str) -> Player:
    try:
        found = plugins.load("policy", GROUP, spec, {})
    except UsageError as unknown:
        if plugins.is_file(spec) or spec in plugins.names(GROUP, {}):
            raise
        also = "".join(f", {name}" for name in plugins.names(GROUP, {}))
        raise UsageError(f"{spec!r} is not a policy.", f"write {FORMS}{also}") from unknown
    hint = "let it be made without arguments"
    with plugins.calling(lambda said: UsageError(f"The policy {spec} cannot be made: {said}.", hint)):
        made = found() if isinstance(found, type) else found
    return _called(made, getattr(made, "id", "") or spec.rpartition(":")[2])


def _called(made: Any, name: str) -> Player:
    """A player: what is one already, or a callable in its wrapping. Raises UsageError for what is neither."""
    if isinstance(getattr(made, "target", None), Target) and isinstance(getattr(made, "id", None), str):
        missing = next((one for one in ("send", "close", "concurrency") if not hasattr(made, one)), None)
        if missing is not None:
            raise UsageError(f"The policy {name} has a target but no {missing}.", "leave `target` out, or be a Player")
        ready: Player = made
        return ready
    if not callable(made) or not isinstance(name, str) or not name:
        raise UsageError(
            f"{made!r} is not a policy.", "write `async def policy(prompt) -> str`, or a class with __call__"
        )
    source = plugins.source_sha256(made)
    return Called(name, made, Target("plugin", name, "", {"source_sha256": source} if source else {}))
