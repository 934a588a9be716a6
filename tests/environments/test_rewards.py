"""The rewards of an agent's utterances: by judges or by a server, one number or None for each."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fixtures.labelling import BOAT

from sotopia_rl_data.environments.rewards import RewardChoice, turn_rewards
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.prompts import prompts_of


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    """A reward server that rewards with the number of its messages, and knows nothing about silence; and its items."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.tell({"status": "ok", "model": "toy", "targets": ["reward"]})

        def do_POST(self) -> None:
            items = json.loads(self.rfile.read(int(self.headers["content-length"])))["items"]
            asked.extend(items)
            self.tell({"rewards": [None if "leave" in str(i["completion"]) else len(i["prompt"]) for i in items]})

        def tell(self, body: Any) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *told: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


@pytest.mark.slow
def test_a_server_is_asked_about_each_utterance_as_the_answer_to_its_prompt(server: tuple[str, list[Any]]):
    url, asked = server
    rewards = turn_rewards(RewardChoice(reward_model=url))
    assert rewards(BOAT, "a") == {0: 2.0, 2: 4.0, 4: None}
    told = [(prompt, completion) for agent, _, prompt, completion in prompts_of(BOAT, "chat") if agent == "a"]
    assert [(item["prompt"], item["completion"]) for item in asked] == told


def test_judges_are_asked_about_each_utterance_without_what_follows(tmp_path: Path):
    judge = tmp_path / "judge.py"
    judge.write_text(
        "import json\n"
        "class Turns:\n"
        "    id = 'turns'\n"
        "    async def answer(self, question):\n"
        "        said = question.messages[1]['content']\n"
        "        ((agent, measure),) = question.slots\n"
        "        return json.dumps({agent: {measure: said.count('[turn_')}})\n"
    )
    choice = RewardChoice(judge=f"{judge}:Turns", dimensions=("goal",), weights={"goal": 1.0}, store=tmp_path / "store")
    rewards = turn_rewards(choice)
    assert rewards(BOAT, "a") == {0: pytest.approx(1 / 3), 2: 1.0, 4: None}  # 5 is above the scale
    assert rewards(BOAT, "b") == {1: pytest.approx(2 / 3), 3: None}
    assert rewards(BOAT, "nobody") == {}


@pytest.mark.parametrize("named", [{}, {"judge": "lexical", "reward_model": "./rm"}])
def test_nobody_or_two_to_reward_is_an_error(named: dict[str, str]):
    with pytest.raises(UsageError, match="from a judge or from a reward model"):
        turn_rewards(RewardChoice(**named))
