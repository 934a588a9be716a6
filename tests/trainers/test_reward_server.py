"""GRPO with the rewards of a server: what the server does not know is left out, never 0, and nothing hangs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.reward_servers import TOKEN, ServerProcess, reward_server
from fixtures.training import make_dataset, toy_model, train_grpo

from sotopia_rl_data.errors import InputError, SotopiaDataError, Unavailable, UsageError
from sotopia_rl_data.trainers import reward_server as asking

pytestmark = [pytest.mark.train, pytest.mark.slow]

# The level is 1; about every second completion it says nonsense.
JUDGE = """
import json, hashlib
class Half:
    id = "half"
    concurrency = 8
    async def answer(self, question):
        said = question.messages[1]["content"]
        level = 3 if hashlib.sha256(said.encode()).digest()[0] % 2 else "pardon"
        ((agent, measure),) = question.slots
        return json.dumps({agent: {measure: level}})
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("judge")
    (folder / "judge.py").write_text(JUDGE)
    server = reward_server(
        *("--judge", f"{folder / 'judge.py'}:Half", "--store", str(folder / "store"), "--token"),
        *("--dimensions", "goal", "--weights", "goal=1"),
    )
    yield server
    server.process.kill()
    server.process.wait()


def test_a_completion_without_a_reward_is_left_out_of_the_step(judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from datasets import load_dataset

    monkeypatch.setenv(asking.TOKEN, TOKEN)
    make_dataset(tmp_path / "store", episodes=10, turns=4)
    record = train_grpo(
        "toys/rewards",
        toy_model(tmp_path / "tiny"),
        tmp_path / "run",
        reward_model=judge.url,
        preset="tiny",
        store=str(tmp_path / "store"),
        settings=["max_steps=2", "truncated_reward=null", "format_weight=0.2", "report_to=none"],
    )
    assert record["reward_model"] == {"identity": "utterance-quality by half (served)", "targets": ["goal"]}
    rows = load_dataset("parquet", data_dir=str(tmp_path / "run" / "completions"), split="train").to_list()
    known = [row for row in rows if row["reward_model"] is not None and not np.isnan(row["reward_model"])]
    unknown = [row for row in rows if row not in known]
    assert known
    assert unknown
    assert {row["reward_model"] for row in known} == {1.0}
    assert {row["advantage"] for row in unknown} == {0.0}
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["rewards/reward_model/mean"] for row in logged if "rewards/reward_model/mean" in row} == {1.0}


def test_a_server_is_asked_in_parts_and_in_order(judge, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(asking.TOKEN, TOKEN)
    pairs = [("Hello.", f"{i}") for i in range(600)]
    found = asking.RewardServer(judge.url).score_batch(pairs)
    told = [
        judge.post("/score", {"items": [{"prompt": p, "completion": c}]}).json()["rewards"] for p, c in pairs[::150]
    ]
    assert found[::150].tolist() == pytest.approx(
        [float("nan") if one is None else one for (one,) in told], nan_ok=True
    )
    assert set(found[~np.isnan(found)]) == {1.0}
    assert 0 < np.isnan(found).sum() < 600


def test_a_wrong_token_and_nobody_there_are_a_sentence_and_a_hint(judge, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(asking.TOKEN, "wrong")
    with pytest.raises(Unavailable, match=r"refused: The token is missing or wrong\.") as refused:
        asking.RewardServer(judge.url).score_batch([("a", "b")])
    assert refused.value.hint == f"put the token of the server into {asking.TOKEN}"
    with pytest.raises(Unavailable, match="gave no answer"):
        asking.RewardServer("http://127.0.0.1:9")


@contextmanager
def stranger(*answers: tuple[int, Any]) -> Iterator[str]:
    """A server that gives these answers, one a request, then the last; status 0 closes the connection."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.answer()

        def answer(self) -> None:
            status, body = left.pop(0) if len(left) > 1 else left[0]
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *told: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


HEALTHY = (200, {"status": "ok", "model": "m", "targets": ["reward"]})


def test_a_full_queue_and_a_lost_connection_are_asked_again():
    with stranger(HEALTHY, (429, {"error": "full"}), (0, None), (503, {}), (200, {"rewards": [0.5, None]})) as url:
        found = asking.RewardServer(url).score_batch([("a", "b"), ("a", "c")])
    assert found.tolist() == pytest.approx([0.5, float("nan")], nan_ok=True)


def test_a_run_is_resumed_where_its_server_has_moved_and_not_with_another_reward(tmp_path: Path):
    from transformers import TrainerState

    from sotopia_rl_data.trainers.api import TrainingRun
    from sotopia_rl_data.trainers.config import PolicyGRPOConfig, configure

    make_dataset(tmp_path / "store", episodes=10, turns=4)
    options = {"dataset": "toys/rewards", "store": str(tmp_path / "store"), "output_dir": str(tmp_path / "run")}
    options["model"] = toy_model(tmp_path / "tiny")

    def run(url: str, resume: bool = True) -> TrainingRun:
        given = {**options, "reward_model": url, "resume": resume}
        return TrainingRun(configure(PolicyGRPOConfig, preset="tiny", options=given), need_reward=False)

    with stranger(HEALTHY) as url, stranger(HEALTHY) as moved:
        first = run(url, resume=False)
        checkpoint = tmp_path / "run" / "checkpoint-1"
        checkpoint.mkdir()
        for callback in first.callbacks:
            callback.on_save(first.config, TrainerState(global_step=1), None)
        assert run(moved).checkpoint == run(url).checkpoint == checkpoint
    with stranger((200, {"model": "n", "targets": []})) as other, pytest.raises(UsageError, match="reward_server=m"):
        run(other)


@pytest.mark.parametrize(
    "answers",
    [
        [(200, {"hello": "world"})],
        [(200, ["no"])],
        [HEALTHY, (200, {"rewards": [1.0]})],
        [HEALTHY, (200, {"rewards": [1.0, "2"]})],
        [HEALTHY, (200, {"rewards": [1.0, float("nan")]})],
        [HEALTHY, (200, {"rewards": [1.0, True]})],
        [HEALTHY, (422, {"error": "Too long.", "hint": "cut it"})],
    ],
)
def test_what_is_not_a_reward_for_each_is_an_error(answers: list[tuple[int, Any]]):
    with stranger(*answers) as url, pytest.raises(SotopiaDataError) as wrong:
        asking.RewardServer(url).score_batch([("a", "b"), ("a", "c")])
    assert isinstance(wrong.value, InputError) == (answers[-1][0] == 200)
    assert wrong.value.hint
