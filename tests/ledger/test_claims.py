"""Several processes on one ledger: each question is asked by one of them, and all have its answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.processes import billed, ends, filled, go, kill, priced, start, stores

from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.ledger.attempt import answered
from sotopia_rl_data.ledger.claims import Claims
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Reply, Request, Target

KEY, OTHER = "a" * 64, "b" * 64


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


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["one store", "a store each"])
@pytest.mark.parametrize("processes", [2, 4])
def test_equal_runs_at_once_ask_each_question_once_and_end_in_one_digest(tmp_path: Path, processes: int, shared: bool):
    with running(latency=0.05, malformed="missing", malformed_share=0.2) as provider:
        runs = [start(store, provider, tmp_path / "ledger") for store in stores(tmp_path, processes, shared)]
        go(tmp_path / "ledger")
        ended = ends(runs)
        log = provider.log()
    assert len({digest for digest, _ in ended}) == 1
    assert log["paid_twice"] == 0
    assert sum(asked for _, asked in ended) == log["answered"]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["one store", "a store each"])
def test_one_of_two_is_killed_and_at_most_what_it_had_in_flight_is_asked_again(tmp_path: Path, shared: bool):
    with running(latency=0.2) as provider:
        killed, other = (start(store, provider, tmp_path / "ledger") for store in stores(tmp_path, 2, shared))
        go(tmp_path / "ledger")
        kill(killed, lambda: provider.log()["answered"] >= 20)
        ends([other])
        assert provider.log()["paid_twice"] <= 8


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_equal_runs_at_once_share_a_budget_and_one_that_is_killed_spends_no_more_than_it_had_in_flight(
    tmp_path: Path, processes: int
):
    """All calls cost about 0.25 USD, and 2.4 at most."""
    store, options = filled(tmp_path / "store", 40), {"budget": 0.8, "prices": priced(tmp_path)}
    with running(latency=0.1) as provider:
        killed, *others = (start(store, provider, tmp_path / "ledger", **options) for _ in range(processes))
        go(tmp_path / "ledger")
        kill(killed, lambda: provider.log()["answered"] >= 10)
        ended = ends(others)
        assert provider.log()["paid_twice"] <= 8
        assert billed(provider) <= 0.8
    assert len({digest for digest, _ in ended}) == 1


@pytest.mark.slow
def test_equal_runs_at_once_end_together_where_their_budget_is_spent(tmp_path: Path):
    store, options = filled(tmp_path / "store", 40), {"budget": 0.05, "prices": priced(tmp_path)}
    with running(latency=0.02) as provider:
        runs = [start(store, provider, tmp_path / "ledger", **options) for _ in range(3)]
        go(tmp_path / "ledger")
        ended = [run.communicate(timeout=120) for run in runs]
        assert [run.returncode for run in runs] == [1] * 3
        assert all("BudgetSpent: Nothing more fits under the budget of 0.05 USD" in err for _, err in ended), ended
        assert provider.log()["paid_twice"] == 0
        assert 0.02 < billed(provider) <= 0.05
