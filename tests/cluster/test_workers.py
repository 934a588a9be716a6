"""Workers ask what one process would ask, under one pace and one budget, and a worker that is lost costs little."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.flat_calls import evaluate, label, plan_of, rollout
from fixtures.labelling import BOAT, boats, put, sim
from fixtures.places import ROOT
from fixtures.thread_workers import PRICES, ThreadWorkers, cost

from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.errors import AskingError, BudgetSpent, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.rollouts.scenarios import scenes_of
from sotopia_rl_data.store import Store

ASKED = {"preset": "goal-only", "sampling": {"max_tokens": 200}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def digest_of_one_process(provider: Running, tmp_path: Path, episodes: int) -> str:
    alone = Store(tmp_path / "alone")
    put(alone, boats(episodes))
    return label(alone, "lab/episodes", judges=[sim(provider)], **ASKED).digest


@pytest.mark.slow
def test_workers_make_the_version_of_one_process_and_ask_each_question_once(store: Store, tmp_path: Path):
    put(store, boats(30))
    workers, shown = ThreadWorkers(3), []
    with running() as provider:
        run = {"judges": [sim(provider)], "progress": lambda *told: shown.append(told), **ASKED}
        made = label(store, "lab/episodes", workers=workers, **run)
        assert (made.asked, made.hits) == (60, 0)
        assert provider.log()["requests"] == provider.log()["distinct"] == 60
        assert len(workers.tasks) == 12  # more shards than workers
        assert max(done for done, *_ in shown) == 60
        again = label(store, "lab/episodes", workers=workers, **run)
        assert (again.asked, again.hits, again.created) == (0, 60, False)
        assert len(workers.tasks) == 12  # nobody is started where nothing is left to ask
        assert made.digest == digest_of_one_process(provider, tmp_path, 30)
        assert made.usage  # the tokens that workers took are on this run's account


@pytest.mark.slow
def test_what_the_ledger_has_already_is_not_asked_by_workers(store: Store, tmp_path: Path):
    put(store, boats(8), "lab/some")
    put(store, boats(20))
    with running(malformed="truncated", malformed_share=0.3) as provider:
        label(store, "lab/some", judges=[sim(provider)], **ASKED)
        before = provider.log()["requests"]
        made = label(store, "lab/episodes", judges=[sim(provider)], workers=ThreadWorkers(2), **ASKED)
        log = provider.log()
        assert log["requests"] == log["distinct"]
        assert made.asked == log["requests"] - before > 24  # with the second tries at answers that were cut off
        assert made.digest == digest_of_one_process(provider, tmp_path, 20)


@pytest.mark.slow
def test_a_lost_worker_repeats_no_more_than_it_had_in_flight(store: Store, tmp_path: Path):
    put(store, boats(40))
    workers = ThreadWorkers(2, kill_after=6)
    with running(latency=0.05) as provider:
        made = label(store, "lab/episodes", judges=[sim(provider)], workers=workers, concurrency=8, **ASKED)
        log = provider.log()
        assert log["requests"] - log["distinct"] <= 8
        retried = next(task for task in workers.tasks if task.name == "0.1")
        assert len(retried.known) >= 6  # it begins with what the lost one had told
        assert made.digest == digest_of_one_process(provider, tmp_path, 40)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [None, 1])
def test_equal_prompts_in_two_shards_are_counted_and_said_and_those_of_a_lost_worker_are_not(
    killed: int | None, store: Store, tmp_path: Path
):
    put(store, [*(replace(BOAT, episode_id=f"boat again {number}") for number in range(6)), *boats(6)])
    workers = ThreadWorkers(3, kill_after=killed)
    with running(latency=0.05) as provider:
        made = label(store, "lab/episodes", judges=[sim(provider)], workers=workers, concurrency=2, **ASKED)
        log = provider.log()
        again = label(store, "lab/episodes", judges=[sim(provider)], workers=workers, **ASKED)
    by_shard = {(name.partition(".")[0], one.key) for name, told in workers.tolds for one in told.attempts}
    assert (log["distinct"], len(by_shard) > 14) == (14, True)  # six dialogues are one: a question for each agent
    assert [one for one in made.warnings if "equal questions" in one] == [
        "2 equal questions were asked by more than one worker"
    ]
    assert not any("equal questions" in one for one in again.warnings)


@pytest.mark.slow
def test_a_budget_holds_for_all_workers_together(store: Store, tmp_path: Path):
    put(store, boats(20))
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    with running() as provider:
        run = {"judges": [sim(provider)], "prices": prices, "workers": ThreadWorkers(3), **ASKED}
        with pytest.raises(BudgetSpent):
            label(store, "lab/episodes", budget=20.0, **run)
        assert 20.0 - 9.0 < cost(provider) <= 20.0  # the most that a call can cost is 8.3 USD
        made = label(store, "lab/episodes", budget=1_000.0, **run)
        log = provider.log()
        assert log["requests"] == log["distinct"] == 40
        assert made.bill.known == pytest.approx(cost(provider))
        assert made.digest == digest_of_one_process(provider, tmp_path, 20)


@pytest.mark.slow
def test_the_tokens_of_calls_that_brought_no_answer_are_on_the_account_of_the_run_too(store: Store):
    put(store, boats(4))
    with running(habit="error_inside_a_choice") as provider:
        made = label(store, "lab/episodes", judges=[sim(provider)], workers=ThreadWorkers(2), **ASKED)
        used, usage = made.usage["sim-judge"], provider.log()["usage"]
        assert made.asked == 8 < provider.log()["requests"]
        assert (used.input, used.output) == (usage["input"], usage["output"])


@pytest.mark.slow
def test_requests_a_minute_hold_for_all_workers_together(store: Store):
    put(store, boats(15))
    with running() as provider:
        pacing = Pacing(rpm=1_200)
        made = label(store, "lab/episodes", judges=[sim(provider)], workers=ThreadWorkers(3), pacing=pacing, **ASKED)
        assert made.asked == 30
        assert made.seconds >= 29 / 20  # 20 a second


@pytest.mark.slow
def test_rollouts_and_evaluations_by_workers_are_those_of_one_process(store: Store, tmp_path: Path):
    alone = Store(tmp_path / "alone")
    scenes = list(scenes_of("samples"))[:6]
    with running() as provider:
        for where, workers in ((store, ThreadWorkers(2)), (alone, None)):
            a, b = (f"openai:{name}@{provider.openai_url}" for name in ("a", "b"))
            plan = plan_of(scenes, a=a, b=b, turns=4)
            rollout(where, plan, "lab/play", workers=workers)
        assert store.resolve("lab/play").digest == alone.resolve("lab/play").digest
        log = provider.log()
        once = log["requests"] - log["distinct"]
        assert once == log["distinct"]  # the run of one process repeats each request of the workers once
        for where, workers in ((store, ThreadWorkers(2)), (alone, None)):
            evaluate(where, "lab/play", judges=[sim(provider)], workers=workers)
        assert store.resolve("lab/play").digest == alone.resolve("lab/play").digest


@pytest.mark.slow
def test_a_provider_that_refuses_everything_ends_the_run_with_its_sentence(store: Store):
    put(store, boats(12))
    with running(refuse=401) as provider, pytest.raises(AskingError) as told:
        label(store, "lab/episodes", judges=[sim(provider)], workers=ThreadWorkers(2), **ASKED)
    assert "401" in told.value.message
    assert store.names() == ["lab/episodes"]


def test_ray_addresses_are_read_and_others_are_refused_with_an_example():
    from sotopia_rl_data.cluster.on_ray import RayWorkers

    assert RayWorkers.parse("ray").address == ""
    assert RayWorkers.parse("ray://head:10001", 0.5) == RayWorkers("ray://head:10001", 0.5)
    for text in ("", "slurm", "ray:", "ray://", "ray://head", "ray://head:port", "ray://[head:1", "http://head:10001"):
        with pytest.raises(UsageError) as told:
            RayWorkers.parse(text)
        assert "ray://HOST:10001" in told.value.hint


@pytest.mark.slow
def test_where_ray_is_missing_the_command_that_installs_it_is_named(tmp_path: Path):
    command = ["label", "--judge", "lexical", "--on", "ray", "--store", str(tmp_path)]
    program = f"import sys; sys.modules['ray'] = None; sys.argv[1:] = {command}\n"
    program += "from sotopia_rl_data.cli.program import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--on ray needs ray, which is not installed." in done.stderr
    assert "[ray]" in done.stderr
    assert Store(tmp_path).names() == ["samples"]  # the bundled episodes, which are imported first
