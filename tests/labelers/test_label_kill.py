"""label() when it is killed, or interrupted: what was answered is kept, and the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.flat_calls import label
from fixtures.labelling import boats, put, sim
from fixtures.places import ROOT

from sotopia_rl_data.errors import Interrupted
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


RUN = """
import sys
sys.path.insert(0, "tests")
from fixtures.flat_calls import label
from sotopia_rl_data.store import Store
done = label(Store(sys.argv[1]), "lab/episodes", judges=[sys.argv[2]], preset="goal-only", concurrency=int(sys.argv[3]))
print(done.digest, done.asked, done.hits)
"""


def start(store: Store, judge: str, concurrency: int = 16) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(store.root), judge, str(concurrency)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(provider: Running, requests: int, process: subprocess.Popen[str]) -> None:
    while provider.log()["requests"] < requests and process.poll() is None:
        time.sleep(0.005)


# The same, twenty times over: importing everything once and forking saves a minute of the suite.
NURSERY = """
import os, sys
sys.path.insert(0, "tests")
import openai, pyarrow.parquet
from fixtures.flat_calls import label
from sotopia_rl_data.rewards import build
from sotopia_rl_data.store.stage import Stage
from sotopia_rl_data.store import Store
root, judge, concurrency, said = sys.argv[1:]
print("READY", flush=True)
for _ in sys.stdin:
    child = os.fork()
    if not child:
        done = label(Store(root), "lab/episodes", judges=[judge], preset="goal-only", concurrency=int(concurrency))
        open(said, "w").write(f"{done.digest} {done.asked} {done.hits}")
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.long)])
def test_killed_again_and_again_it_repeats_only_what_was_in_flight_and_ends_the_same(
    kills: int, store: Store, tmp_path: Path
):
    episodes, concurrency, said = boats(25 * kills), 16, tmp_path / "said"
    put(store, episodes)
    with running(latency=0.03) as provider:
        judge = sim(provider)
        command = [sys.executable, "-c", NURSERY, str(store.root), judge, str(concurrency), str(said)]
        nursery = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert nursery.stdin
        assert nursery.stdout
        with nursery:
            assert nursery.stdout.readline() == "READY\n"
            for kill in range(kills + 1):
                nursery.stdin.write("go\n")
                nursery.stdin.flush()
                child = int(nursery.stdout.readline())
                if kill < kills:
                    while provider.log()["requests"] < 45 * (kill + 1):
                        time.sleep(0.02)
                    os.kill(child, signal.SIGKILL)
                    assert int(nursery.stdout.readline()) == signal.SIGKILL
                    assert store.names() == ["lab/episodes"]
                    if kill == kills - 1:  # sent but not kept: what was in flight at the kills, all of them together
                        time.sleep(0.2)
                        in_flight = provider.log()["requests"] - sum(1 for _ in Ledger(store.root / ".ledger").scan())
            assert int(nursery.stdout.readline()) == 0
            nursery.stdin.close()
        log = provider.log()
        assert log["distinct"] == 50 * kills
        assert log["repeated"] <= in_flight <= kills * concurrency
        other = Store(tmp_path / "unkilled")
        put(other, episodes)
        unkilled = label(other, "lab/episodes", judges=[judge], preset="goal-only")
    digest, asked, hits = said.read_text().split()
    assert (digest, int(asked) + int(hits)) == (unkilled.digest, unkilled.asked)
    assert unkilled.asked == 50 * kills
    assert not list(store.root.glob(".staging/*--*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_again_and_again_ends_with_130_all_the_same(store: Store, number: signal.Signals):
    put(store, boats(100))
    with running(latency=0.1) as provider:
        told = [sys.executable, "cli.py", "label", "lab/episodes", "--judge", sim(provider), "--preset", "goal-only"]
        told += ["--store", str(store.root)]
        process = subprocess.Popen(told, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(provider, 10, process)
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.002)
        out, wrong = process.communicate()
    assert (process.returncode, out) == (130, ""), wrong
    assert "Traceback" not in wrong
    assert store.names() == ["lab/episodes"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_lets_what_is_in_flight_come_home_and_the_next_run_goes_on(
    store: Store, number: signal.Signals
):
    put(store, boats(100))
    with running(latency=0.1) as provider:
        process = start(store, sim(provider), 8)
        wait_for(provider, 30, process)
        process.send_signal(number)
        _, wrong = process.communicate(timeout=60)
        assert "Interrupted after" in wrong
        assert "of 200 calls" in wrong
        assert process.returncode == 1
        assert Interrupted.exit_code == 130
        before = provider.log()
        assert before["requests"] < 200
        assert store.names() == ["lab/episodes"]
        done = label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only")
        assert provider.log()["repeated"] == 0
        assert done.hits == before["requests"] == before["answered"]
