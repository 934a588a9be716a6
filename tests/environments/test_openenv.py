"""A client of OpenEnv plays the episodes that `rollout` plays, and gets a reward for each turn.

Needs openenv: pip install 'sotopia-rl-data[openenv]', then run this file.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sotopia_rl_data.errors import SotopiaDataError, UsageError
from sotopia_rl_data.rollouts import TurnPrompt, bundled, scripted
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.rollout import plan_of, rollout
from sotopia_rl_data.schema import Episode, Message
from sotopia_rl_data.store import Store
from sotopia_rl_data.tables import row_episode

pytest.importorskip("openenv", reason="needs openenv: pip install 'sotopia-rl-data[openenv]'")
pytestmark = [pytest.mark.slow]

PLAN = plan_of(bundled(), Rules(layout="chat", turns=9), a="scripted:warm", b="scripted:firm")


def by_length(episode: Episode, agent: str) -> dict[int, float | None]:
    """A reward for each utterance: its length; None for a silent one."""
    return {turn.turn: float(len(turn.text)) or None for turn in episode.turns if turn.agent == agent}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    import uvicorn

    from sotopia_rl_data.environments.openenv import dialogue_app
    from sotopia_rl_data.environments.playing import Partners

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(dialogue_app(PLAN, by_length, Partners(PLAN, store=tmp_path)), log_level="warning")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


def test_a_client_plays_what_rollout_plays_and_gets_a_reward_for_each_turn(url: str, tmp_path: Path):
    from sotopia_rl_data.environments.openenv import DialogueAction, DialogueClient

    store = Store(tmp_path)
    rollout(store, PLAN, "lab/rolled")
    files = store.resolve("lab/rolled").files("episodes").values()
    rolled = {
        row["episode_id"]: row_episode(row)
        for paths in files
        for path in paths
        for row in pq.read_table(path).to_pylist()
    }
    warm = scripted("warm", 0)
    with DialogueClient(base_url=url).sync() as client:
        for scene in range(len(PLAN)):
            seen, own, rewards, last = client.reset(scene=scene), 0, [], []
            episode = rolled[client.state().episode_id]
            while not seen.done:
                observed = seen.observation
                last = observed.messages
                told: tuple[Message, ...] = tuple(last)
                prompt = TurnPrompt(episode.episode_id, observed.agent, observed.turn, own, told)
                seen, own = client.step(DialogueAction(text=asyncio.run(warm(prompt)))), own + 1
                rewards.append(seen.reward)
            wanted = by_length(episode, episode.agents[0].agent)
            assert rewards == list(wanted.values())
            assert {int(turn): reward for turn, reward in client.state().turn_rewards.items()} == wanted
            said = [one["content"] for one in last if one["role"] == "assistant"]
            assert len(said) == len(rewards) - 1
        with pytest.raises(RuntimeError, match="There is no episode to act in"):
            client.step(DialogueAction(text="hello"))


def test_clients_at_once_play_episodes_of_their_own(url: str):
    from sotopia_rl_data.environments.openenv import DialogueAction, DialogueClient

    hello = DialogueAction(text='{"action_type": "speak", "argument": "Hello."}')
    with DialogueClient(base_url=url).sync() as one, DialogueClient(base_url=url).sync() as other:
        one.reset(scene=0)
        other.reset(scene=1)
        first, second = one.step(hello), other.step(DialogueAction(text="unreadable"))
        assert (first.reward, second.reward) == (6.0, None)
        assert (one.state().scene, other.state().scene) == (0, 1)
        shown = ["\n".join(message["content"] for message in seen.observation.messages) for seen in (first, second)]
        names = [scene.people[0].name for scene in bundled()[:2]]
        assert all(name in text for name, text in zip(names, shown, strict=True))


def test_the_example_is_a_server_by_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from importlib.util import module_from_spec, spec_from_file_location

    from fixtures.places import ROOT
    from starlette.testclient import TestClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOTOPIA_TURNS", "5")
    monkeypatch.setenv("SOTOPIA_BUDGET", "ten")
    place = spec_from_file_location("app", ROOT / "examples" / "openenv_environment" / "server" / "app.py")
    module = module_from_spec(place)
    with pytest.raises(UsageError, match="SOTOPIA_BUDGET is not a number above 0"):
        place.loader.exec_module(module)
    monkeypatch.setenv("SOTOPIA_BUDGET", "2.5")
    for name, value, says in (
        ("SCENARIOS", "hard", "whose profiles do not ship"),
        ("PROFILES", "./profiles", "profiles is used only with"),
        ("REWARD_MODEL", "./no-model", "no-model"),
    ):
        with monkeypatch.context() as settings:
            settings.setenv(f"SOTOPIA_{name}", value)
            with pytest.raises(SotopiaDataError, match=says):
                place.loader.exec_module(module)
    place.loader.exec_module(module)
    with TestClient(module.app) as client:
        assert client.get("/health").json()["status"] == "healthy"
        assert "text" in client.get("/schema").json()["action"]["properties"]
