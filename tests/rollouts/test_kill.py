"""rollout() when it is killed, or interrupted: what was answered is kept, and the next run plays on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.flat_calls import plan_of, rollout
from fixtures.playing import many, talkative
from fixtures.processes import ends, go, kill, started

from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store

EPISODES = 200
RUN = """
import sys, time
sys.path.insert(0, "tests")
from pathlib import Path
import openai
from fixtures.playing import many, talkative
from fixtures.flat_calls import plan_of, rollout
from sotopia_rl_data.store import Store
plan = plan_of(many(int(sys.argv[4])), a=sys.argv[2], b=sys.argv[3], turns=5, template=talkative())
options = {"ledger": Path(sys.argv[5]), "concurrency": 16} if sys.argv[5:] else {}
print("ready", flush=True)
while options and not Path(sys.argv[5] + ".go").exists():  # all begin at once
    time.sleep(0.01)
done = rollout(Store(sys.argv[1]), plan, "lab/play", **options)
print(done.digest, done.asked, done.hits)
"""


def start(store: Store, provider: Running, episodes: int = EPISODES, *ledger: str) -> subprocess.Popen[str]:
    """A process that plays; with a ledger, it begins when the file LEDGER.go appears."""
    policies = [f"openai:{name}@{provider.openai_url}" for name in ("sim-a", "sim-b")]
    return started([sys.executable, "-c", RUN, str(store.root), *policies, str(episodes), *ledger])


def wait_for(provider: Running, requests: int, process: subprocess.Popen[str]) -> None:
    while provider.log()["requests"] < requests and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_in_the_middle_of_200_episodes_it_pays_again_only_for_what_was_in_flight(tmp_path: Path):
    killed, unkilled = Store(tmp_path / "killed"), Store(tmp_path / "unkilled")
    with running(latency=0.5) as provider:
        for requests in (300, 800):  # while they begin, and with all of them in flight
            process = start(killed, provider)
            wait_for(provider, requests, process)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert killed.names() == []
        assert provider.log()["most_in_flight"] > 0.5 * EPISODES  # on the wire; the others are between two turns
        time.sleep(0.8)  # what was in flight lands, at nobody's
        paid = provider.log()["answered"]
        with Ledger(killed.root / ".ledger") as ledger:
            kept = sum(1 for _ in ledger.scan())
        process = start(killed, provider)
        said, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
        log = provider.log()
        policies = {"a": f"openai:sim-a@{provider.openai_url}", "b": f"openai:sim-b@{provider.openai_url}"}
        plan = plan_of(many(EPISODES), **policies, turns=5, template=talkative())
        whole = rollout(unkilled, plan, "lab/play")
    digest, asked, hits = said.split()
    assert digest == whole.digest
    assert int(hits) == kept
    assert int(asked) + int(hits) == whole.asked == log["distinct"] == 5 * EPISODES
    assert log["paid_twice"] == paid - kept <= 2 * EPISODES  # in flight at the two kills
    assert not list(killed.root.glob(".staging/*--*"))


@pytest.mark.slow
def test_ctrl_c_lets_the_turns_in_flight_come_home_and_the_next_run_plays_on(tmp_path: Path):
    store = Store(tmp_path / "store")
    with running(latency=0.2) as provider:
        process = start(store, provider, 60)
        wait_for(provider, 90, process)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert "Interrupted after" in told
        assert store.names() == []
        process = start(store, provider, 60)
        said, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
        assert provider.log()["paid_twice"] == 0
    assert int(said.split()[2]) >= 90


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["one store", "a store each"])
@pytest.mark.parametrize("processes", [2, 4])
def test_equal_rollouts_at_once_ask_each_turn_once_and_end_in_one_digest(tmp_path: Path, processes: int, shared: bool):
    ledger = str(tmp_path / "ledger")
    stores = [Store(tmp_path / ("store" if shared else f"store{n}")) for n in range(processes)]
    with running(latency=0.05) as provider:
        runs = [start(store, provider, 20, ledger) for store in stores]
        go(Path(ledger))
        ended = ends(runs)
        log = provider.log()
    assert len({digest for digest, _ in ended}) == 1
    assert log["paid_twice"] == 0
    assert sum(asked for _, asked in ended) == log["answered"] == 5 * 20


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["one store", "a store each"])
def test_one_of_two_that_play_the_same_is_killed_and_the_other_plays_on(tmp_path: Path, shared: bool):
    ledger = str(tmp_path / "ledger")
    stores = [Store(tmp_path / ("store" if shared else f"store{n}")) for n in range(2)]
    with running(latency=0.2) as provider:
        killed, other = (start(store, provider, 20, ledger) for store in stores)
        go(Path(ledger))
        kill(killed, lambda: provider.log()["answered"] >= 15)
        ends([other])
        assert provider.log()["paid_twice"] <= 16
