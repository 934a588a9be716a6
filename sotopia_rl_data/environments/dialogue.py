"""SOTOPIA's dialogues as an environment of `verifiers` (0.4 or later): two seats, one of them a frozen partner.

    vf-eval sotopia-dialogue -m MODEL --env.judge gpt-4o --env.policy.runtime.type subprocess \\
        --env.partner.model OTHER --env.partner.runtime.type subprocess

Each seat is one conversation in the layout `chat`: the scene as a system message, then what the agent saw since its
last action as a user message, and its action as an answer. The policy's trace has `info["turn_rewards"]`, one number or
None for each of its utterances, and their mean as its reward. Where one is None, there is none, or the partner ended
before the episode did, the episode ends in an error, so that trainers leave it out, and no reward is made up.

A hub's package is a module of its own that names these classes in `__all__`, as the one in the repository's examples.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import verifiers.v1 as vf

from sotopia_rl_data.environments.rewards import RewardChoice, turn_rewards
from sotopia_rl_data.errors import AskingError, UsageError
from sotopia_rl_data.prompts import Layout
from sotopia_rl_data.rollouts import DialectName, Scene, World
from sotopia_rl_data.rollouts.scenarios import scenes_of

_CHAT = {"id": "null"}  # the harness that only talks


class DialogueData(vf.TaskData):  # type: ignore[misc]  # mypy does not read verifiers
    """A scene: its place among those of the taskset."""

    scene: int


class DialogueTask(vf.Task[DialogueData]):  # type: ignore[misc]
    """One scene to be played."""


class DialogueTasksetConfig(vf.TasksetConfig):  # type: ignore[misc]
    """Which scenes are played: as `rollout --scenarios`, `--profiles` and `--pairs`."""

    scenarios: str = "samples"
    profiles: str | None = None
    pairs: int | None = None


class DialogueTaskset(vf.Taskset[DialogueTask, DialogueTasksetConfig]):  # type: ignore[misc]
    """The scenes, in the order of `rollout`."""

    def load(self) -> Any:
        """A task for each scene."""
        for place, scene in enumerate(self.scenes()):
            yield DialogueTask(DialogueData(name=scene.environment.codename, prompt=None, scene=place))

    def scenes(self) -> list[Scene]:
        """The scenes. Raises UsageError, InputError, NotFound."""
        return scenes_of(self.config.scenarios, self.config.profiles, self.config.pairs)


class DialogueEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """The seats, the rules, and who rewards."""

    policy: vf.AgentConfig = vf.AgentConfig(harness=_CHAT, network_notice=False)
    partner: vf.AgentConfig = vf.AgentConfig(harness=_CHAT, network_notice=False)
    place: int = 0
    """The policy's place in the speaking order; the partner plays all others."""
    turns: int = 20
    """The most turns of an episode."""
    dialect: DialectName = "legacy"
    """The version of the sotopia library whose rules hold: legacy, 0.1.5 or head."""
    judge: str = ""
    """A judge by name, as in `label --judge`."""
    reward_model: str = ""
    """Instead of a judge: a folder, a Hub id, or the URL of a reward server."""
    layout: Layout = "chat"
    """The layout of the prompts that the reward model was trained on."""
    schema_name: str = "utterance-quality"
    """What the judge is asked."""
    dimensions: str = ""
    """With commas. Default: goal, relationship and knowledge, or all of a rubric's."""
    store: str = ""
    """Whose ledger keeps the judge's answers. Default: the store."""
    budget: float | None = None
    """A cap in USD on what the judge's answers cost while this runs."""


class DialogueEnv(vf.Env[DialogueEnvConfig]):  # type: ignore[misc]
    """One scene, played by the policy and its partner."""

    def __init__(self, config: DialogueEnvConfig) -> None:
        super().__init__(config)
        dimensions = tuple(name.strip() for name in config.dimensions.split(",") if name.strip())
        self._rewards = turn_rewards(
            RewardChoice(
                judge=config.judge,
                reward_model=config.reward_model,
                schema=config.schema_name,
                dimensions=dimensions,
                weights=dict.fromkeys(dimensions, 1.0) or None,
                store=Path(config.store) if config.store else None,
                budget=config.budget,
                layout=config.layout,
            )
        )
        self._scenes: list[Scene] = self.taskset.scenes()
        if not 0 <= config.place < min(len(scene.people) for scene in self._scenes):
            raise UsageError(f"A scene has no place {config.place}.", "give --env.place 0 or --env.place 1")
        for scene in self._scenes:
            World(scene, config.dialect, max_turns=config.turns)  # raises UsageError if the rules do not fit the scene
        self._rewarding = ThreadPoolExecutor(1, "rewards")  # judges are asked in one thread

    async def setup(self, agents: Any) -> None:
        """The partner's words are never trained on."""
        agents.partner.trainable = False

    async def run(self, task: Any, agents: Any) -> None:
        """Play the scene to its end. Raises AskingError where a seat ends before it, or a reward is missing."""
        scene = self._scenes[task.data.scene]
        world = World(scene, self.config.dialect, max_turns=self.config.turns)
        me = scene.agents[self.config.place]
        async with AsyncExitStack() as opened:
            seats = {}
            for agent in scene.agents:
                seat = agents.policy if agent == me else agents.partner
                seats[agent] = await opened.enter_async_context(seat.interaction(_seat_task(task, world, agent)))
            while not world.done:
                said = await asyncio.gather(*(_answer(seats[agent], world, agent) for agent in world.acting))
                world.step(
                    {agent: world.read_or_nothing(agent, text) for agent, text in zip(world.acting, said, strict=True)}
                )
            episode = world.episode(task.data.name or "")
            rewards = await asyncio.get_running_loop().run_in_executor(self._rewarding, self._rewards, episode, me)
            trace = seats[me].trace
            trace.info["turn_rewards"] = list(rewards.values())
            trace.info["turns"] = list(rewards)
            trace.record_metric("unreadable", sum(1 for turn in episode.turns if turn.agent == me and turn.failed))
            known = [reward for reward in rewards.values() if reward is not None]
            if len(known) < len(rewards):
                raise AskingError(f"{len(rewards) - len(known)} of {len(rewards)} utterances have no reward.")
            if not known:
                raise AskingError("The policy never acted, so the episode has no reward.")
            trace.record_reward("mean_turn_reward", sum(known) / len(known))

    async def stop(self) -> None:
        """End the thread that asks for rewards."""
        self._rewarding.shutdown()


def _seat_task(task: Any, world: World, agent: str) -> Any:
    """The conversation of a seat: its system message; what the agent sees comes turn by turn."""
    (system, *_) = world.prompt(agent, "chat")
    return vf.Task(vf.TaskData(idx=task.data.idx, name=task.data.name, prompt=None, system_prompt=system["content"]))


async def _answer(seat: Any, world: World, agent: str) -> str:
    segment = await seat.turn(world.prompt(agent, "chat")[-1]["content"])
    if segment.terminated:
        raise AskingError(f"The seat of {agent} ended before the episode did.")
    return str(segment.last_reply)
