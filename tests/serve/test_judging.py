"""Judges as reward servers: a completion gets what `label` would give its utterance, no answer is paid for twice."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fixtures.demo import Thanks
from fixtures.labelling import BOAT, boats, put, rows, sim
from fixtures.places import ROOT
from fixtures.reward_servers import ServerProcess, reward_server

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.together import Spending
from sotopia_rl_data.errors import BudgetSpent, Unavailable, UsageError
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.labelers import Elicitation, RewardSettings, label
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.serve.judging import JudgeRewards
from sotopia_rl_data.serve.scoring import BatchedScoring
from sotopia_rl_data.store import Store

JUDGE = f"import json\nfrom typing import Any\n\n{inspect.getsource(Thanks)}"


def judged(folder: Path, *judges: Any, schema: str | None = None, **options: Any) -> JudgeRewards:
    asked = Elicitation(judges=judges, schema=schema, dimensions=["goal"])
    return JudgeRewards(asked, RewardSettings(weights={"goal": 1}), Spending.at(Store(folder), AskOptions(**options)))


def up_to_each(episodes: Sequence[Episode]) -> list[Episode]:
    """For each utterance the episode up to and including it."""
    return [replace(one, turns=one.turns[: place + 1]) for one in episodes for place in range(len(one.turns))]


@pytest.mark.slow
@pytest.mark.parametrize("schema", ["utterance-quality", "goal-progress"])
def test_an_utterance_that_nothing_follows_gets_what_label_gives_it_and_asks_nothing_again(schema, tmp_path: Path):
    episodes = [BOAT, *boats(3)]
    store = Store(tmp_path / "store")
    put(store, episodes)
    with running() as provider:
        done = label(
            store,
            "lab/episodes",
            Elicitation(judges=[sim(provider)], schema=schema, dimensions=["goal"]),
            RewardSettings(weights={"goal": 1}),
        )
        asked = provider.log()["requests"]
        source = judged(store.root, sim(provider), schema=schema)
        found = source.aggregate(source.of_last_turns(up_to_each(episodes)))
        source.close()
        assert provider.log()["requests"] == asked
    raw = {
        (row["episode_id"], row["agent"], row["turn"]): row["raw_goal"] for row in rows(done.version, "rewards", store)
    }
    wanted = [raw[one.episode_id, one.turns[-1].agent, one.turns[-1].turn] for one in up_to_each(episodes)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-9)


def test_leave_one_out_asks_for_the_episode_with_and_without_the_completion(tmp_path: Path):
    judge = tmp_path / "judge.py"
    judge.write_text(JUDGE)
    source = judged(tmp_path, f"{judge}:Thanks", schema="leave-one-out")
    found = source.score([("How are you?", "thank you, thank you"), ("How are you?", "fine")])
    source.close()
    assert found[:, 0].tolist() == pytest.approx([0.2, 0.0])


# Of 10 points the agent has 3 and its partner 9, and the agent 1 where its utterance is left out.
SCORES = """
import json
class Scores:
    id = "scores"
    async def answer(self, question):
        answer = {}
        for (*keys, last), slot in question.slots.items():
            inner = answer
            for key in keys:
                inner = inner.setdefault(key, {})
            inner[last] = 9 if slot.agent == "partner" else 3 if slot.turn == -1 else 1
        return json.dumps(answer)
"""


@pytest.mark.parametrize("packing", ["packed", "per-dimension"])
def test_the_score_of_the_partner_in_a_packed_answer_is_not_the_agents(packing, tmp_path: Path):
    judge = tmp_path / "judge.py"
    judge.write_text(SCORES)
    asked = Elicitation(judges=[f"{judge}:Scores"], schema="leave-one-out", dimensions=["goal"], packing=packing)
    source = JudgeRewards(asked, RewardSettings(weights={"goal": 1}), Spending.at(Store(tmp_path), AskOptions()))
    found = source.score([([{"role": "user", "content": text} for text in ("A scene.", "How are you?")], "Fine.")])
    source.close()
    assert found.tolist() == [pytest.approx([0.2])]


@pytest.mark.parametrize("schema", ["direct", "discounted"])
def test_a_schema_that_divides_the_score_of_an_episode_is_refused(schema, tmp_path: Path):
    with pytest.raises(UsageError) as refused:
        judged(tmp_path, *(["lexical"] if schema == "direct" else []), schema=schema)
    assert "--schema utterance-quality" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_budget_caps_all_that_is_asked_and_known_answers_are_free(tmp_path: Path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nhosts:\n  '*':\n    sim-judge: [2.5, 2.5, 2.5, 10, 1000]\n")
    asked = [("How are you?", f"fine {i}") for i in range(40)]
    with running() as provider:
        options = {"prices": prices, "budget": 0.05}
        source = judged(tmp_path / "store", sim(provider), **options)
        first, answered = source.score(asked[:1]), 1
        while 0.05 - source.spending.spent > 0.012:  # the most that a call can cost is above 0.01
            source.score([asked[answered]])
            answered += 1
        with pytest.raises(BudgetSpent, match=r"the server's budget of 0\.05 USD"):
            source.score(asked[answered:])
        log = provider.log()
        cost = (log["usage"]["input"] * 2.5 + log["usage"]["output"] * 10) / 1e6
        assert 2 < answered < 30
        assert source.spending.spent == pytest.approx(cost)
        assert cost <= 0.05
        assert source.score(asked[:answered])[0] == first[0]  # all of them are known
        source.close()
        again = judged(tmp_path / "store", sim(provider), **options)
        again.score(asked[: answered + 1])
        assert 0 < again.spending.spent < 0.05
        again.close()


def test_where_a_judge_is_down_the_requests_of_a_batch_are_not_asked_one_by_one():
    batches = []

    def down(dialogues: Sequence[Any]) -> Any:
        batches.append(len(dialogues))
        raise Unavailable("nobody answers")

    async def ask() -> list[Any]:
        scoring = BatchedScoring(down)
        asking = [asyncio.ensure_future(scoring.score([("a", "b")])) for _ in range(5)]
        await asyncio.sleep(0)
        run = asyncio.ensure_future(scoring.run())
        told = await asyncio.gather(*asking, return_exceptions=True)
        run.cancel()
        return told

    told = asyncio.run(ask())
    assert ([type(error) for error in told], batches) == ([Unavailable] * 5, [5])


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("judge")
    (folder / "judge.py").write_text(JUDGE)
    options = ["--judge", f"{folder / 'judge.py'}:Thanks", "--store", str(folder / "store"), "--token"]
    running_server = reward_server(*options, "--dimensions", "goal,knowledge", "--weights", "goal=1,knowledge=1")
    yield running_server
    running_server.process.send_signal(signal.SIGINT)
    assert running_server.process.wait(200) == 0


@pytest.mark.slow
def test_the_endpoints_answer_with_the_judges_number_and_null_where_there_is_none(server):
    chat = [
        {"role": "system", "content": "You are Ann."},
        {"role": "user", "content": "Ann meets Bo."},
        {"role": "assistant", "content": '{"action_type": "speak", "argument": "thank you"}'},
        {"role": "user", "content": "What for?"},
    ]
    asked = [
        {"prompt": chat, "completion": '<think>thank you</think>{"action_type": "speak", "argument": "thank you"}'},
        {"prompt": "Hello.", "completion": [{"role": "assistant", "content": "Hi."}]},
        {"prompt": "Hello.", "completion": "???"},
    ]
    told = server.post("/score", {"items": asked}).json()
    assert told["rewards"] == [pytest.approx(2 / 3), 0.0, None]
    assert told["components"] == {"knowledge": told["rewards"], "goal": told["rewards"]}
    assert told["model"] == "utterance-quality by thanks"
    assert httpx2.get(server.url + "/health").json()["targets"] == ["knowledge", "goal"]
    plain = {"query": ["Hello. thank you"], "prompts": ["Hello."]}
    assert server.post("/get_reward", plain).json()["rewards"] == [pytest.approx(1 / 3)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/get_reward", {"query": ["Hello. ???"], "prompts": ["Hello."]}, 502, "cannot be used"),
        ("/classify", {"input": "<|user|>Hello"}, 422, "A judge reads no text that is rendered"),
    ],
)
def test_what_a_judge_cannot_answer_is_a_sentence_and_a_hint(path, body, status, says, server):
    answer = server.post(path, body)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text
    assert answer.json()["hint"]


@pytest.mark.slow
def test_a_provider_that_refuses_the_key_is_told_to_the_client(tmp_path: Path):
    with running(key="right") as provider:
        options = ["--judge", sim(provider), "--store", str(tmp_path)]
        refused = reward_server(*options, OPENAI_API_KEY="wrong")
        try:
            answer = refused.post("/score", {"items": [{"prompt": "Hello.", "completion": "Hi."}]})
            assert answer.status_code == 502, answer.text
            assert answer.json()["hint"]
            assert "wrong" not in answer.json()["error"]
        finally:
            refused.process.kill()
            refused.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "A server needs a reward model or a judge."),
        (["--judge", "lexical", "--reward-model", "./any"], "both are named"),
        (["--judge", "lexical", "--schema", "direct"], "divides the score of an episode that has ended"),
        (["--judge", "lexical", "--weights", "goal"], "not a list of weights"),
    ],
)
def test_what_keeps_it_from_starting_is_a_sentence_and_a_hint(options, says, tmp_path: Path):
    command = [sys.executable, "-m", "sotopia_rl_data", "serve", *options, "--store", str(tmp_path / "store")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, says in done.stderr, "hint:" in done.stderr) == (2, True, True), done.stderr
    assert "Traceback" not in done.stderr
