"""A fleet of servers: one target, whose name is in the key. Shared prefixes stay together; a dead one is left out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.asking import SCHEMA
from fixtures.flat_calls import label
from fixtures.labelling import boats, put, rows

from sotopia_rl_data.asking import openai
from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.asking.fleet import Fleet
from sotopia_rl_data.asking.judges_file import read_judges
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.asking.providers import ModelName, api_model
from sotopia_rl_data.errors import InputError, Rejected, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, Outcome
from sotopia_rl_data.request import Request
from sotopia_rl_data.store import Store


def read(tmp_path: Path, **entry: Any) -> ModelName:
    file = tmp_path / "judges.yaml"
    file.write_text(json.dumps([{"name": "ours", "model": "qwen"} | entry]))
    return read_judges(file).models["ours"]


def siblings(name: ModelName, episodes: int, each: int = 6) -> Iterator[Request]:
    """So many questions about each of these episodes, whose text is long enough to be cached."""
    target = api_model(name, {"temperature": 0}).target
    for episode in range(episodes):
        told = {"role": "system", "content": f"Episode {episode}. " + f"What was said, {episode}. " * 250}
        for number in range(each):
            yield Request(target, [told, {"role": "user", "content": f"Question {number}."}], SCHEMA, cache_until=1)


def ask(name: ModelName, requests: Iterable[Request], ledger: Path, concurrency: int = 32) -> Outcome:
    async def run() -> Outcome:
        model = api_model(name, {"temperature": 0})
        with Ledger(ledger) as kept:
            lookup = Lookup(kept, lambda request, reply: reply.text.startswith("{"))
            pacing = Pacing(backoff_s=0.05, timeout_s=60)
            try:
                return await ask_all(requests, model.send, lookup, concurrency=concurrency, pacing=pacing)
            finally:
                await model.close()

    return asyncio.run(run())


def cached(servers: Iterable[Running]) -> float:
    """The share of the input that these servers found in their prefix caches."""
    usage: Counter[str] = Counter()
    for server in servers:
        usage.update(server.log()["usage"])
    return usage["cached"] / usage["input"]


def fleet(*servers: Running) -> ModelName:
    return ModelName("openai", "qwen", id="ours", servers=tuple(server.openai_url for server in servers))


def test_a_fleet_is_known_by_its_name_and_one_url_keys_as_a_url_does(tmp_path: Path):
    urls = ["http://gpu2:8000/v1/", "http://gpu1:8000/v1"]
    ours = read(tmp_path, urls=urls, key="none")
    assert ours.servers == ("http://gpu1:8000/v1", "http://gpu2:8000/v1")
    target = api_model(ours, {}).target
    assert (target.base_url, target.model) == ("fleet://ours", "qwen")
    one, plain = read(tmp_path, urls=urls[1:], key="none"), read(tmp_path, url=urls[1], key="none")
    assert one == plain
    assert api_model(one, {}).target == openai.target("qwen", urls[1])


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ({"urls": []}, "must be a list of URLs"),
        ({"urls": "http://gpu1:8000/v1"}, "must be a list of URLs"),
        ({"urls": ["gpu1:8000"]}, "does not begin with http"),
        ({"urls": ["http://gpu1:8000/v1", "http://gpu1:8000/v1/"]}, "the same server"),
        ({"urls": ["http://gpu1:8000/v1"], "url": "http://gpu1:8000/v1"}, "either `url` or `urls`"),
    ],
)
def test_a_wrong_fleet_is_refused_with_its_line(tmp_path: Path, entry: dict[str, Any], wrong: str):
    with pytest.raises(InputError, match=wrong) as told:
        read(tmp_path, **entry)
    assert "urls: [http://gpu1:8000/v1, " in told.value.hint


@pytest.mark.slow
def test_other_servers_of_the_same_fleet_are_not_asked_again(tmp_path: Path):
    store = Store(tmp_path / "store")
    put(store, boats(6))
    with running() as a, running() as b, running() as c:
        first = label(store, "lab/episodes", judges=[fleet(a, b)], preset="goal-only")
        assert (first.asked, first.hits) == (12, 0)
        again = label(store, "lab/episodes", judges=[fleet(b, c)], preset="goal-only")
        assert (again.asked, again.hits, again.digest) == (0, 12, first.digest)
        assert c.log()["requests"] == 0
        assert min(a.log()["requests"], b.log()["requests"]) > 0  # both have work


@pytest.mark.slow
def test_questions_with_the_same_prefix_stay_at_the_server_that_has_it_in_its_cache(tmp_path: Path):
    with ExitStack() as stack:
        servers = [stack.enter_context(running(latency=0.02)) for _ in range(4)]
        outcome = ask(fleet(*servers), siblings(fleet(*servers), 40), tmp_path / "fleet")
        assert (outcome.asked, outcome.unreachable) == (240, 0)
        alone = stack.enter_context(running(latency=0.02))
        ask(fleet(alone, alone), siblings(fleet(alone, alone), 40), tmp_path / "alone")
        assert cached(servers) > 0.95 * cached([alone]) > 0.5
        assert min(server.log()["requests"] for server in servers) > 5  # and yet all of them have work


@pytest.mark.slow
def test_of_four_servers_one_dies_and_one_is_slow_and_nothing_is_lost(tmp_path: Path):
    with ExitStack() as stack:
        quick = [stack.enter_context(running(latency=0.05)) for _ in range(2)]
        slow, dying = stack.enter_context(running(latency=2.0)), stack.enter_context(running(latency=0.05))
        name = fleet(*quick, slow, dying)

        def requests() -> Iterator[Request]:
            for number, request in enumerate(siblings(name, 100, each=3)):
                if number == 100:
                    os.kill(dying.pid, signal.SIGKILL)
                yield request

        outcome = ask(name, requests(), tmp_path / "ledger")
        assert (outcome.asked, outcome.unreachable) == (300, 0)
        assert 0 < outcome.faults < 100  # what was in flight there, and now and then one that tries it again
        answered = [server.log()["answered"] for server in (*quick, slow)]
        assert sum(answered) >= 200
        assert answered[2] < 0.7 * min(answered[:2])  # a slow server gets what it can do


def rate(ledger: Path, first: int, last: int) -> float:
    """Answers a second between two answers, counted in the order in which they came."""
    with Ledger(ledger) as kept:
        times = sorted(attempt.time for attempt in kept.scan() if attempt.status == "answer")
    return (last - first) / (times[last] - times[first])


@pytest.mark.slow
@pytest.mark.alone
def test_what_is_left_of_a_fleet_answers_as_fast_as_if_it_had_never_had_more(tmp_path: Path):
    """Two quick servers and a slow one, with and without a fourth that dies: both at once, under the same load."""
    with ExitStack() as stack:
        servers = [stack.enter_context(running(latency=seconds)) for seconds in (0.5, 0.5, 2.0, 0.5)]
        name, left = fleet(*servers), fleet(*(stack.enter_context(running(latency=s)) for s in (0.5, 0.5, 2.0)))

        def requests() -> Iterator[Request]:
            for number, request in enumerate(siblings(name, 200, each=3)):
                if number == 200:
                    os.kill(servers[-1].pid, signal.SIGKILL)
                yield request

        with ThreadPoolExecutor(2) as pool:
            ours = pool.submit(ask, name, requests(), tmp_path / "ours", 16)
            pool.submit(ask, left, siblings(left, 200, each=3), tmp_path / "left", 16).result()
        assert (ours.result().asked, ours.result().unreachable) == (600, 0)
        assert rate(tmp_path / "ours", 300, 570) >= 0.9 * rate(tmp_path / "left", 300, 570)


@pytest.mark.slow
def test_a_server_that_comes_back_is_asked_again(tmp_path: Path):
    command = [sys.executable, "-m", "sotopia_rl_data.fake_provider"]
    with running(latency=0.02) as steady, running() as other:
        port = other.url.rpartition(":")[2]
        name = fleet(steady, other)
        os.kill(other.pid, signal.SIGKILL)
        back: list[subprocess.Popen[bytes]] = []

        def requests() -> Iterator[Request]:
            began = time.monotonic()
            for number, request in enumerate(siblings(name, 100_000, each=1)):
                if number == 100:
                    back.append(subprocess.Popen([*command, "--port", port], stdout=subprocess.DEVNULL))
                if back and number % 50 == 0 and (is_asked(other) or time.monotonic() - began > 60):
                    return
                yield request

        try:
            outcome = ask(name, requests(), tmp_path / "ledger", concurrency=8)
            assert outcome.unreachable == 0
            assert is_asked(other)
        finally:
            for process in back:
                process.kill()
                process.wait()


def is_asked(server: Running) -> bool:
    try:
        return bool(server.log()["answered"])
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("status", [404, 422])
def test_a_server_that_takes_nothing_costs_no_question_where_others_answer(tmp_path: Path, status: int):
    with running(latency=0.02) as able, running(refuse=status) as unable:
        outcome = ask(fleet(able, unable), siblings(fleet(able, unable), 30, each=1), tmp_path / "ledger", 4)
        assert (outcome.asked, outcome.unreachable) == (30, 0)
    with running(refuse=status) as one, running(refuse=status) as other, pytest.raises(Rejected, match=str(status)):
        ask(fleet(one, other), siblings(fleet(one, other), 30, each=1), tmp_path / "none", 4)


@pytest.mark.slow
def test_a_question_that_no_server_takes_is_lost_and_its_error_tells_no_address(tmp_path: Path):
    store = Store(tmp_path / "store")
    short, long = boats(12), replace(boats(1)[0], episode_id="long", scenario="It is a long story. " * 600)
    put(store, [*short, long])
    with running(habit="too_long") as one, running(habit="too_long") as other:
        made = label(store, "lab/episodes", judges=[fleet(one, other)], preset="goal-only", concurrency=4)
    reasons = {row["reason"] for row in rows(made.version, "failures", store)}
    assert (made.asked, made.unreachable) == (24, 2)
    assert all("no answer: qwen at its provider: 4" in reason for reason in reasons), reasons
    assert reasons


@pytest.mark.slow
def test_a_question_that_is_too_long_at_the_start_takes_no_server_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "sotopia_rl_data.asking.fleet")
    with running(habit="too_long") as one, running(habit="too_long") as other:
        name = fleet(one, other)
        first, *others = siblings(name, 8, each=1)
        long = [{"role": "user", "content": "It is a long story. " * 600}]
        questions = [replace(first, messages=long, answer_schema=None, cache_until=0), *others]
        outcome = ask(name, questions, tmp_path / "ledger", 1)
        assert (outcome.asked, outcome.unreachable) == (7, 1)
        assert all(server.log()["answered"] for server in (one, other))
    assert not [told.getMessage() for told in caplog.records if "out of service" in told.getMessage()]


def test_a_fleet_has_no_batches(tmp_path: Path):
    store = Store(tmp_path / "store")
    put(store, boats(1))
    from sotopia_rl_data.asking.plan import Batching

    name = ModelName("openai", "qwen", key="none", id="ours", servers=("http://gpu1/v1", "http://gpu2/v1"))
    with pytest.raises(UsageError, match="has no batch API"):
        label(store, "lab/episodes", judges=[name], preset="goal-only", batching=Batching())
    assert isinstance(api_model(name, {}), Fleet)
