"""label --batch killed at every step: no batch is submitted twice, no answer lands on a wrong row."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fixtures.batches import PROVIDERS, judge
from fixtures.flat_calls import label
from fixtures.labelling import boats, put
from fixtures.places import ROOT

from sotopia_rl_data.costs.prices import VARIABLE
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store

STEPS = ["list", "upload", "create", "created", "poll", "fetch"]
FAULTS = {"batch_dropped": 0.1, "batch_doubled": 0.2, "batch_strange": 0.1, "batch_torn": 0.05, "batch_failed": 0.1}
MALFORMED = {"malformed": "missing,strings,refusal", "malformed_share": 0.2}

# A schema of somebody's own: the direct one, whose parsing stands still where a file says so.
SLOW = """
import pathlib, time
from sotopia_rl_data.labelers.schemas.offline import Importance
HERE = pathlib.Path(__file__).parent

class Slow(Importance):
    def read(self, question, text):
        if (HERE / "stand-still").exists():
            (HERE / "stands-still").touch()
            time.sleep(3600)
        return super().read(question, text)
"""

# One import of everything, then a child for every line that comes in; it tells the child's id, then how it ended.
NURSERY = """
import os, sys
sys.path.insert(0, "tests")
import anthropic, openai, pyarrow.parquet
from fixtures.flat_calls import label
from sotopia_rl_data.asking.plan import Batching
from sotopia_rl_data.rewards import build
from sotopia_rl_data.store.stage import Stage
from sotopia_rl_data.store import Store
root, judge, schema, doubt_s, said, budget = sys.argv[1:]
how = Batching(poll_s=0.05, tries=12, doubt_s=float(doubt_s))
print("READY", flush=True)
for _ in sys.stdin:
    child = os.fork()
    if not child:
        done = label(
            Store(root), "lab/episodes", judges=[judge], schema=schema, preset="goal-only", batching=how,
            budget=float(budget) if budget else None,
        )
        open(said, "w").write(done.digest)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Nursery:
    """Runs of one label command, each a process of its own."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        self.process, self.said = process, said

    def start(self) -> int:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return int(self.line())

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def kill(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        assert int(self.line()) == signal.SIGKILL

    def end(self) -> str:
        """Let the run end by itself; the digest of what it made."""
        assert int(self.line()) == 0
        return self.said.read_text()


@contextmanager
def nursery(
    store: Store, at: Running, provider: str, schema: str, doubt_s: float = 0.3, budget: str = ""
) -> Iterator[Nursery]:
    said = store.root.parent / "said"
    command = [sys.executable, "-c", NURSERY, str(store.root), judge(provider, at), schema, str(doubt_s), str(said)]
    command.append(budget)
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        made = Nursery(process, said)
        try:
            assert made.line() == "READY\n"
            yield made
        finally:
            process.kill()


@pytest.fixture
def slow(tmp_path: Path) -> str:
    (tmp_path / "slow.py").write_text(SLOW)
    return f"{tmp_path}/slow.py:Slow"


def wait_until(true: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def check(at: Running, store: Store, provider: str, schema: str, digest: str) -> None:
    """Nothing was submitted twice, nothing paid twice but what the provider lost, each answer is its own question's,
    and the dataset is that of a run that asked live and was left alone."""
    log = at.log()
    assert log["batch"]["doubled"] == 0
    assert log["paid_twice"] == log["batch"]["lost"]
    assert not list(store.root.glob(".ledger/batches/*/*/*"))
    other = Store(store.root.parent / "live")
    put(other, boats(15))
    done = label(other, "lab/episodes", judges=[judge(provider, at)], schema=schema, preset="goal-only")
    assert done.digest == digest
    assert done.repaired > 0
    with Ledger(store.root / ".ledger") as kept, Ledger(other.root / ".ledger") as asked_live:
        answers = [one for one in kept.scan() if one.status == "answer"]
        assert len({one.key for one in answers}) == len(answers) == done.asked
        assert all(one.text == asked_live.attempts(one.key)[0].text for one in answers)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_killed_at_every_step_of_two_rounds_it_ends_the_same(provider: str, tmp_path: Path, slow: str):
    store, rounds = Store(tmp_path / "store"), 2
    put(store, boats(15))
    with running(stall=",".join(STEPS), stalls=rounds, hang=3_600, **FAULTS, **MALFORMED) as at:
        with nursery(store, at, provider, slow) as runs:
            steps = [step for step in STEPS if provider == "openai" or step != "upload"]
            seen: dict[str, int] = {}
            while sum(seen.values()) < rounds * len(steps):
                child = runs.start()
                wait_until(lambda: at.log()["batch"]["stalled"] != seen)  # noqa: B023
                runs.kill(child)
                seen = at.log()["batch"]["stalled"]
            assert seen == dict.fromkeys(steps, rounds)
            (tmp_path / "stand-still").touch()
            child = runs.start()
            wait_until((tmp_path / "stands-still").exists)  # it parses
            runs.kill(child)
            (tmp_path / "stand-still").unlink()
            assert store.names() == ["lab/episodes"]
            runs.start()
            digest = runs.end()
        assert at.log()["batch"]["batches"] > 2
        assert at.log()["batch"]["lost"] > 0
        check(at, store, provider, slow, digest)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_that_begins_only_after_its_client_was_killed_is_not_submitted_again(
    provider: str, tmp_path: Path, slow: str
):
    store = Store(tmp_path / "store")
    put(store, boats(15))
    with running(stall="create", hang=1.0, **MALFORMED) as at:
        with nursery(store, at, provider, slow, doubt_s=4.0) as runs:
            child = runs.start()
            wait_until(lambda: at.log()["batch"]["stalled"])
            runs.kill(child)
            assert at.log()["batch"]["batches"] == 0
            runs.start()
            digest = runs.end()
        check(at, store, provider, slow, digest)


@pytest.mark.slow
@pytest.mark.parametrize(("provider", "budget"), [("openai", ""), ("anthropic", ""), ("openai", "0.3")])
def test_killed_at_twelve_moments_of_chance_it_ends_the_same(
    provider: str, budget: str, tmp_path: Path, slow: str, monkeypatch: pytest.MonkeyPatch
):
    """Under a budget for half of what it may cost at worst, too: that is never passed."""
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nhosts: {'*': {sim: [2.5, 2.5, 2.5, 10, 1000]}}\n")
    monkeypatch.setenv(VARIABLE, str(prices))
    store, chance = Store(tmp_path / "store"), random.Random(provider)
    put(store, boats(15))
    with running(batch_seconds=0.1, **FAULTS, **MALFORMED) as at:
        with nursery(store, at, provider, slow, budget=budget) as runs:
            kills = 0
            while kills < 12:
                child = runs.start()
                time.sleep(chance.uniform(0.02, 0.4))
                if len(store.names()) > 1:
                    break
                runs.kill(child)
                kills += 1
            else:
                runs.start()
            digest = runs.end()
        assert kills > 3
        usage = at.log()["usage"]
        assert not budget or (usage["input"] * 2.5 + usage["output"] * 10) / 1e6 / 2 <= float(budget)
        check(at, store, provider, slow, digest)
