"""Dialogues as an environment of OpenEnv (0.3 or later): a server that plays the partner, and its client.

    app = dialogue_app(plan, rewards)                       # an ASGI application: uvicorn module:app
    with DialogueClient(base_url="http://127.0.0.1:8000").sync() as client:
        seen = client.reset(scene=3)
        while not seen.done:
            seen = client.step(DialogueAction(text=policy(seen.observation.messages)))   # seen.reward: of this turn

`messages` is the whole chat that the seat has seen, as `rollout` would send it; `text` is an action as JSON. A reward
that is not known is null.
"""

from __future__ import annotations

from typing import Any

from openenv.core.client_types import StepResult
from openenv.core.env_client import EnvClient
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field

from sotopia_rl_data.environments.playing import Partners, Table
from sotopia_rl_data.environments.rewards import TurnRewards
from sotopia_rl_data.rollouts.plan import RolloutPlan

SESSIONS = 64  # clients at once


class DialogueAction(Action):  # type: ignore[misc]  # mypy does not read openenv
    """What the seat says or does: `{"action_type": …, "argument": …}` as text, perhaps after a thought."""

    text: str


class DialogueObservation(Observation):  # type: ignore[misc]
    """What the seat has seen and done so far, as a chat; the `turn` that it has to play, None after the end."""

    messages: list[dict[str, str]] = Field(default_factory=list)
    agent: str = ""
    turn: int | None = None


class DialogueState(State):  # type: ignore[misc]
    """Which episode is played, and the rewards of its turns so far, by turn."""

    scene: int = -1
    turn_rewards: dict[int, float | None] = Field(default_factory=dict)


class DialogueServer(Environment[DialogueAction, DialogueObservation, DialogueState]):  # type: ignore[misc]
    """The environment of one client."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, scene: int | None = None, **more: Any
    ) -> DialogueObservation:
        """Begin the episode `scene` of the plan, or else the next; its seed is the plan's."""
        self._table.reset(scene)
        return self._observed(None)

    def step(self, action: DialogueAction, timeout_s: float | None = None, **more: Any) -> DialogueObservation:
        """Play the seat's turn, and the partner's after it."""
        return self._observed(self._table.act(action.text))

    @property
    def state(self) -> DialogueState:
        """Which episode is played, and how far it is."""
        seated, rewards = self._table.seated, self._table.turn_rewards
        return DialogueState(
            episode_id=None if seated is None else seated.episode.episode_id,
            step_count=len(rewards),
            scene=self._table.number,
            turn_rewards=rewards,
        )

    def _observed(self, reward: float | None) -> DialogueObservation:
        seated = self._table.seated
        prompt = None if seated is None else seated.prompt
        if seated is None or prompt is None:
            return DialogueObservation(agent="" if seated is None else seated.agent, done=True, reward=reward)
        messages = [dict(message) for message in prompt.messages]
        return DialogueObservation(messages=messages, agent=seated.agent, turn=prompt.turn, done=False, reward=reward)


def dialogue_app(
    plan: RolloutPlan, rewards: TurnRewards, partners: Partners | None = None, sessions: int = SESSIONS
) -> Any:
    """The application that serves a plan whose `a` is `outside()`. Raises what `Table` raises."""
    partners = partners or Partners(plan)
    Table(plan, rewards, partners)
    return create_fastapi_app(
        lambda: DialogueServer(Table(plan, rewards, partners)),
        DialogueAction,
        DialogueObservation,
        max_concurrent_envs=sessions,
    )


class DialogueClient(EnvClient[DialogueAction, DialogueObservation, DialogueState]):  # type: ignore[misc]
    """The client of such a server."""

    def _step_payload(self, action: DialogueAction) -> dict[str, Any]:
        return {"text": action.text}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[DialogueObservation]:
        told = payload.get("observation", {}) | {"done": payload.get("done", False), "reward": payload.get("reward")}
        observation = DialogueObservation.model_validate(told)
        return StepResult(observation=observation, reward=observation.reward, done=observation.done)

    def _parse_state(self, payload: dict[str, Any]) -> DialogueState:
        state: DialogueState = DialogueState.model_validate(payload)
        return state
