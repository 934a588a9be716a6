"""Several processes on one ledger: each question is asked by one of them, and all have its answer."""

from __future__ import annotations

import errno
import json
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

from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.attempt import answered
from sotopia_rl_data.ledger.claims import Claims
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.store import Store

KEY, OTHER = "a" * 64, "b" * 64
LABEL = """
import json, sys, time
sys.path.insert(0, "tests")
from pathlib import Path
from fixtures.flat_calls import label
from sotopia_rl_data.store import Store
print("ready", flush=True)
while not Path(sys.argv[3] + ".go").exists():  # all begin at once, however long each takes to import
    time.sleep(0.01)
how = {"judges": [sys.argv[2]], "preset": "goal-only", "ledger": Path(sys.argv[3]), "concurrency": 8}
how |= json.loads(sys.argv[4])
done = label(Store(sys.argv[1]), "lab/episodes", **how)
print(done.digest, done.asked)
"""


def test_a_key_is_one_holders_at_a_time_and_free_when_it_is_given_up(tmp_path: Path):
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert (first.take(KEY), second.take(KEY), second.take(OTHER)) == (True, False, True)
    first.give_up(KEY)
    assert second.take(KEY)
    second.close()
    assert (first.take(KEY), first.take(OTHER)) == (True, True)


def test_a_claim_dies_with_its_process(tmp_path: Path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom sotopia_rl_data.ledger.claims import Claims\n"
        "print(Claims(Path(sys.argv[1])).take(sys.argv[2]), flush=True)\ntime.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), KEY], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    claims = Claims(tmp_path)
    assert not claims.take(KEY)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert claims.take(KEY)


def attempt(number: int) -> tuple[Request, object]:
    request = Request(Target("plugin", "toy"), [{"role": "user", "content": str(number)}])
    question, key = request.hashes
    return request, answered(request, key, question, Reply("1"), 0.1)


def test_what_another_process_appends_is_seen_without_opening_the_ledger_anew(tmp_path: Path):
    mine, other = Ledger(tmp_path), Ledger(tmp_path)
    assert not mine.catch_up()
    for number in range(3):
        request, made = attempt(number)
        other.append(made)
        assert mine.catch_up()
        assert [one.text for one in mine.attempts(request.key)] == ["1"]
        assert mine.tries(request.key) == 1
        assert not mine.catch_up()
    other.close()
    other.compact()
    mine.catch_up()
    assert mine.tries(attempt(0)[0].key) == 1


def test_what_was_torn_when_the_ledger_was_opened_is_seen_when_it_is_whole(tmp_path: Path):
    other = Ledger(tmp_path)
    other.append(attempt(0)[1])
    request, made = attempt(1)
    line = made.line()
    handle = os.open(other._journal.path, os.O_WRONLY | os.O_APPEND)
    os.write(handle, line[:40])
    mine = Ledger(tmp_path)
    assert mine.attempts(request.key) == []
    os.write(handle, line[40:])
    os.close(handle)
    assert mine.catch_up()
    assert [one.text for one in mine.attempts(request.key)] == ["1"]


def start(store: Store, provider: Running, ledger: Path, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LABEL, str(store.root), sim(provider), str(ledger), json.dumps(options)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    return run


def priced(folder: Path) -> str:
    path = folder / "prices.yaml"
    path.write_text("as_of: 2026-11-01\nhosts:\n  '*':\n    sim-judge: [2.5, 2.5, 2.5, 10, 1000]\n")
    return str(path)


def billed(provider: Running) -> float:
    usage = provider.log()["usage"]
    return float(usage["input"] * 2.5 + usage["output"] * 10) / 1e6


def filled(folder: Path, episodes: int) -> Store:
    store = Store(folder)
    put(store, boats(episodes))
    return store


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["one store", "a store each"])
@pytest.mark.parametrize("processes", [2, 4])
def test_equal_runs_at_once_ask_each_question_once_and_end_in_one_digest(tmp_path: Path, processes: int, shared: bool):
    stores = [filled(tmp_path / "store", 40)] * processes
    if not shared:
        stores = [filled(tmp_path / f"store{n}", 40) for n in range(processes)]
    with running(latency=0.05, malformed="missing", malformed_share=0.2) as provider:
        runs = [start(store, provider, tmp_path / "ledger") for store in stores]
        (tmp_path / "ledger.go").touch()
        ended = [run.communicate(timeout=120) for run in runs]
        assert [run.returncode for run in runs] == [0] * processes, ended
        log = provider.log()
    digests, asked = zip(*(out.split() for out, _ in ended), strict=True)
    assert len(set(digests)) == 1
    assert log["paid_twice"] == 0
    assert sum(map(int, asked)) == log["answered"]


@pytest.mark.slow
def test_one_of_two_is_killed_and_at_most_what_it_had_in_flight_is_asked_again(tmp_path: Path):
    store = filled(tmp_path / "store", 40)
    with running(latency=0.2) as provider:
        killed, other = (start(store, provider, tmp_path / "ledger") for _ in range(2))
        (tmp_path / "ledger.go").touch()
        deadline = time.monotonic() + 60
        while provider.log()["answered"] < 20:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        _, err = other.communicate(timeout=120)
        assert other.returncode == 0, err
        assert provider.log()["paid_twice"] <= 8


def test_where_a_file_system_has_no_locks_the_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.fcntl", no_locks)
    store = filled(tmp_path / "store", 2)
    done = label(store, "lab/episodes", judges=["lexical"], preset="goal-only")
    assert any("has no locks" in one for one in done.warnings)
    assert done.asked == 4


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_equal_runs_at_once_share_a_budget_and_one_that_is_killed_spends_no_more_than_it_had_in_flight(
    tmp_path: Path, processes: int
):
    """All calls cost about 0.25 USD, and 2.4 at most."""
    store, options = filled(tmp_path / "store", 40), {"budget": 0.8, "prices": priced(tmp_path)}
    with running(latency=0.1) as provider:
        killed, *others = (start(store, provider, tmp_path / "ledger", **options) for _ in range(processes))
        (tmp_path / "ledger.go").touch()
        deadline = time.monotonic() + 60
        while provider.log()["answered"] < 10:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        ended = [run.communicate(timeout=120) for run in others]
        assert [run.returncode for run in others] == [0] * (processes - 1), "".join(err[-400:] for _, err in ended)
        assert provider.log()["paid_twice"] <= 8
        assert billed(provider) <= 0.8
    assert len({out.split()[0] for out, _ in ended}) == 1


@pytest.mark.slow
def test_equal_runs_at_once_end_together_where_their_budget_is_spent(tmp_path: Path):
    store, options = filled(tmp_path / "store", 40), {"budget": 0.05, "prices": priced(tmp_path)}
    with running(latency=0.02) as provider:
        runs = [start(store, provider, tmp_path / "ledger", **options) for _ in range(3)]
        (tmp_path / "ledger.go").touch()
        ended = [run.communicate(timeout=120) for run in runs]
        assert [run.returncode for run in runs] == [1] * 3
        assert all("BudgetSpent: Nothing more fits under the budget of 0.05 USD" in err for _, err in ended), ended
        assert provider.log()["paid_twice"] == 0
        assert 0.02 < billed(provider) <= 0.05
