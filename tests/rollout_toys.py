"""Toys of the rollouts' tests: policies that are real ones, if simple, and how a run is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sotopia_rl_data import open_dataset
from sotopia_rl_data.prompts.template import Template, own_template
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.rollouts import Scene, TurnPrompt
from sotopia_rl_data.rollouts.scenarios import bundled
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store


def act(action_type: str = "speak", argument: str = "Well.", to: Sequence[str] | None = None) -> str:
    action: dict[str, Any] = {"action_type": action_type, "argument": argument}
    return json.dumps(action if to is None else action | {"to": list(to)})


def scenes(count: int = 3) -> Sequence[Scene]:
    """The first of the bundled scenes."""
    return bundled()[:count]


class Sampler:
    """A model in this process: it answers by the prompt and the sample, and remembers what it was sent."""

    concurrency = 8

    def __init__(self, name: str, answer: Callable[[Request], str] | None = None, **sampling: Any) -> None:
        self.id = name
        self.target = Target("toy", name, "", sampling)
        self.sent: list[Request] = []
        self._answer = answer or (lambda request: act(argument=f"{name} {request.key[:8]}"))

    async def send(self, request: Request) -> Reply:
        self.sent.append(request)
        return Reply(self._answer(request), model=self.id)

    async def close(self) -> None:
        pass


class Longest(Sampler):
    """Scores drafts by their length."""

    def __init__(self) -> None:
        super().__init__("rm:longest", self._scores)

    @staticmethod
    def _scores(request: Request) -> str:
        drafts = [one["content"] for one in request.messages if one["role"] == "assistant"]
        return json.dumps([len(draft) / 100 for draft in drafts])


def brief(turns: int = 2) -> Callable[[TurnPrompt], Any]:
    """A policy that speaks `turns` times and leaves."""

    async def policy(prompt: TurnPrompt) -> str:
        return act(argument=f"This is my turn {prompt.own}.") if prompt.own < turns else act("leave", "")

    policy.id = "brief"  # type: ignore[attr-defined]
    return policy


def episodes(store: Store, name: str) -> list[Episode]:
    return list(open_dataset(name, store).episodes())


def rows(store: Store, name: str, sql: str) -> list[dict[str, Any]]:
    return open_dataset(name, store).sql(sql).to_pylist()


def many(count: int) -> list[Scene]:
    """As many different scenes: the bundled ones, each told a little differently every time."""
    told, known = [], bundled()
    for number in range(count):
        scene = known[number % len(known)]
        environment = replace(
            scene.environment,
            environment_id=f"{scene.environment.environment_id}-{number}",
            scenario=f"{scene.environment.scenario} It is day {number}.",
        )
        told.append(Scene(environment, scene.people))
    return told


def talkative() -> Template:
    """Our own template, but for a schema that lets nobody leave or fall silent: the loopback provider obeys it."""
    own = own_template("single")
    talk = {"action_type": {"const": "speak"}, "argument": {"type": "string"}}
    schema = json.dumps({"type": "object", "properties": talk, "required": list(talk), "additionalProperties": False})
    return replace(own, variants=tuple(replace(one, schema=schema) for one in own.variants))
