"""The reward server, as a process of its own: what it answers is what the model scores, and nothing hangs."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from fixtures.places import ROOT
from fixtures.reward_servers import TOKEN, ServerProcess, reward_server
from fixtures.training import WORDS, toy_model

from sotopia_rl_data.cli.listening import bound
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError

pytestmark = [pytest.mark.train, pytest.mark.slow]


def started(model: str, *options: str) -> ServerProcess:
    return reward_server("--reward-model", model, "--device", "cpu", *options)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sequence classifier with one head and random weights."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("rm")
    tiny = toy_model(folder / "tiny")
    classifier = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    classifier.save_pretrained(folder / "rm")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder / "rm")
    return str(folder / "rm")


@pytest.fixture(scope="module")
def server(model: str) -> Iterator[ServerProcess]:
    running = started(model, "--token", "--queue", "2000")
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(200) == 0


def items(count: int) -> list[dict[str, Any]]:
    """Dialogues of different lengths, as messages and as texts."""
    made: list[dict[str, Any]] = []
    for i in range(count):
        said = " ".join(WORDS[(i + k) % len(WORDS)] for k in range(3 + i % 5))
        if i % 2:
            made.append({"prompt": [{"role": "user", "content": f"{said} ?"}], "completion": f"yes {i % 7}"})
        else:
            made.append({"prompt": said, "completion": [{"role": "assistant", "content": "no"}]})
    return made


def expected(model: str, asked: list[dict[str, Any]]) -> list[float]:
    from sotopia_rl_data.trainers import RewardModel

    scores = RewardModel.load(model, device="cpu").score_batch([(one["prompt"], one["completion"]) for one in asked])
    return [float(score) for score in scores]


def test_a_thousand_rewards_are_those_of_the_model(server, model):
    asked = items(1_000)
    told = server.post("/score", {"items": asked}).json()
    assert told["rewards"] == pytest.approx(expected(model, asked), abs=1e-6)
    (component,) = told["components"].values()
    assert component == told["rewards"]


def test_256_requests_at_once_lose_none(server, model):
    asked = items(512)

    async def one(client: httpx2.AsyncClient, i: int) -> list[float]:
        answer = await client.post("/score", json={"items": asked[2 * i : 2 * i + 2]})
        assert answer.status_code == 200, answer.text
        return answer.json()["rewards"]

    async def all_of_them() -> list[list[float]]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        limits = httpx2.Limits(max_connections=256)
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=500, limits=limits) as client:
            return await asyncio.gather(*(one(client, i) for i in range(256)))

    found = [reward for pair in asyncio.run(all_of_them()) for reward in pair]
    assert found == pytest.approx(expected(model, asked), abs=1e-6)


def test_openrlhf_is_answered_what_follows_the_prompt(server, model):
    asked = items(4)[::2]
    prompts = [one["prompt"] for one in asked]
    body = {"query": [f"{prompt} no" for prompt in prompts], "prompts": prompts, "labels": [None, ""]}
    told = server.post("/get_reward", body).json()
    assert set(told) == {"rewards", "scores", "extra_logs"}  # all that OpenRLHF reads
    pairs = [{"prompt": one["prompt"], "completion": " no"} for one in asked]
    assert told["rewards"] == told["scores"] == pytest.approx(expected(model, pairs), abs=1e-6)


def test_vllm_is_answered_for_texts_in_the_models_own_template(server, model):
    from transformers import AutoTokenizer

    asked = items(4)[1::2]
    chats = [[*one["prompt"], {"role": "assistant", "content": one["completion"]}] for one in asked]
    texts = AutoTokenizer.from_pretrained(model).apply_chat_template(chats, tokenize=False)
    told = server.post("/classify", {"input": texts, "model": "any"}).json()
    assert [one["probs"][0] for one in told["data"]] == pytest.approx(expected(model, asked), abs=1e-6)
    assert [one["num_classes"] for one in told["data"]] == [1, 1]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/score", {"items": []}, 422, "items:"),
        ("/score", {"items": [{"prompt": "hi"}]}, 422, "items.0.completion: Field required."),
        ("/score", {"items": [{"prompt": "hi", "completion": 5}]}, 422, "items.0.completion"),
        ("/score", {"items": [{"prompt": "word " * 9_000, "completion": "yes"}]}, 422, "A prompt does not fit into"),
        ("/get_reward", {"query": ["a b"], "prompts": ["c"]}, 422, "A query does not begin with its prompt."),
        ("/get_reward", {"query": ["a b"], "prompts": []}, 422, "There is not one prompt for each query."),
        ("/classify", {"input": []}, 422, "There are 0 texts in it."),
        ("/classify", {"input": " "}, 422, "A text is blank."),
        ("/nowhere", {}, 404, "Not Found."),
    ],
)
def test_what_cannot_be_answered_is_a_sentence_and_a_hint(path, body, status, says, server):
    answer = server.post(path, body)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text
    assert answer.json()["hint"]


def test_half_a_character_in_a_request_is_read_as_an_unknown_one(server):
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    rewards = []
    for text in (rb"yes \ud800", rb"yes \ufffd"):
        for body in (
            b'{"prompt": "hi", "completion": "%s"}',
            b'{"prompt": [{"role": "user", "content": "%s"}], "completion": "no"}',
        ):
            answer = httpx2.post(
                f"{server.url}/score", content=b'{"items": [%s]}' % (body % text), headers=headers, timeout=500
            )
            assert answer.status_code == 200, answer.text
            rewards.append(answer.json()["rewards"])
    assert rewards[:2] == rewards[2:]


def test_a_bad_request_among_good_ones_fails_alone(server):
    async def together() -> list[int]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=500) as client:
            bad = {"items": [{"prompt": "word " * 9_000, "completion": "yes"}]}
            asked = [client.post("/score", json=bad if i == 3 else {"items": items(2)}) for i in range(8)]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert asyncio.run(together()) == [200, 200, 200, 422, 200, 200, 200, 200]


def test_a_wrong_token_a_huge_body_and_a_full_queue_are_refused(server):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        refused = httpx2.post(server.url + "/score", json={"items": items(1)}, headers=headers)
        assert (refused.status_code, refused.json()["error"]) == (401, "The token is missing or wrong.")
    huge = server.post("/score", {"items": [{"prompt": "x" * 100_000_000, "completion": "y"}]})
    assert (huge.status_code, huge.json()["error"]) == (413, "The request has more than 33,554,432 bytes.")
    assert httpx2.get(server.url + "/health").json()["status"] == "ok"
    counts = httpx2.get(server.url + "/metrics").text
    assert 'requests_total{path="/score",status="401"} 2.0' in counts
    assert 'requests_total{path="/score",status="413"} 1.0' in counts


def test_more_than_the_queue_holds_is_asked_to_come_again(server):
    async def crowd() -> set[int]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=500) as client:
            asked = [client.post("/score", json={"items": items(900)}) for _ in range(6)]
            answers = await asyncio.gather(*asked)
        full = [answer for answer in answers if answer.status_code == 429]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in full)
        return {answer.status_code for answer in answers}

    assert asyncio.run(crowd()) == {200, 429}


def test_what_clients_that_left_had_asked_is_not_scored(server):
    def scored() -> float:
        text = httpx2.get(server.url + "/metrics").text
        return float(re.search(r"^completions_scored (\S+)$", text, re.MULTILINE)[1])

    before = scored()
    server.process.send_signal(signal.SIGSTOP)  # so that they have left before it sees what they asked
    try:
        for _ in range(5):
            with pytest.raises(httpx2.TimeoutException):
                server.post("/score", {"items": items(390)}, timeout=httpx2.Timeout(60, read=0.01))
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert server.post("/score", {"items": items(1)}).status_code == 200
    assert scored() - before <= 2 * 390 + 1  # at most what is begun before it is seen that the client has left


def test_killed_and_started_again_it_answers_the_same(model):
    first = started(model)
    reward = first.post("/score", {"items": items(1)}).json()["rewards"]
    first.process.kill()
    first.process.wait()
    again = started(model, "--json")
    assert again.post("/score", {"items": items(1)}).json()["rewards"] == reward
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(200) == 0


def test_the_reward_functions_of_trl_and_verl_ask_it(server, model, monkeypatch: pytest.MonkeyPatch):
    from importlib.util import module_from_spec, spec_from_file_location

    from sotopia_rl_data.errors import KeyMissing
    from sotopia_rl_data.serve import clients
    from sotopia_rl_data.serve.clients import URL, trl_reward
    from sotopia_rl_data.trainers.reward_server import TOKEN as VARIABLE

    asked = items(4)[1::2]
    monkeypatch.delenv(URL, raising=False)
    with pytest.raises(KeyMissing, match="is not set"):
        asyncio.run(trl_reward(["a"], ["b"]))
    monkeypatch.setenv(URL, server.url)
    monkeypatch.setenv(VARIABLE, TOKEN)
    wanted = pytest.approx(expected(model, asked), abs=1e-6)
    completions = [[{"role": "assistant", "content": one["completion"]}] for one in asked]
    assert asyncio.run(trl_reward([one["prompt"] for one in asked], completions, turn=[0, 1])) == wanted

    place = spec_from_file_location("custom_module", clients.__file__)  # as verl loads it, and calls it: by name
    assert place is not None
    assert place.loader is not None
    by_path = module_from_spec(place)
    place.loader.exec_module(by_path)

    def scores() -> list[float]:
        called = {"data_source": "o/n", "ground_truth": ""}
        return [
            by_path.compute_score(solution_str=one["completion"], extra_info={"messages": one["prompt"]}, **called)
            for one in asked
        ]

    async def scores_within_a_loop() -> list[float]:
        return scores()

    assert scores() == asyncio.run(scores_within_a_loop()) == wanted


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--reward-model", "./no-such-folder"], "no-such-folder"),
        (["--reward-model", "./any", "--token"], "SOTOPIA_RL_DATA_REWARD_TOKEN is not set"),
    ],
)
def test_what_keeps_it_from_starting_is_a_sentence_and_a_hint(options, says):
    command = [sys.executable, "-m", "sotopia_rl_data", "serve", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode in (1, 2), says in done.stderr, "hint:" in done.stderr) == (True, True, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--reward-model", "./no-such-folder", "--port", str(port)]
        done = CliRunner().invoke(cli, ["serve", *options], standalone_mode=False)
    assert isinstance(done.exception, UsageError)
    assert done.exception.message.startswith(f"Port {port} of 127.0.0.1 cannot be used")
    assert done.exception.hint == "name another --port (0: any free one) or --host"


@pytest.mark.parametrize("host", ["a..b", "x" * 300, "nowhere.invalid"])
def test_a_host_that_is_none_is_told_in_a_sentence(host: str):
    with pytest.raises(UsageError, match=r"^Port 8080 of .* cannot be used: "):
        bound(host, 8080)
