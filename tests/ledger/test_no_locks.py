"""On a file system without locks everything works that one process does alone, and a sentence says what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.labelling import sim
from fixtures.no_locks import CAN_DENY
from fixtures.places import ROOT
from fixtures.processes import filled, priced

from sotopia_rl_data.fake_provider.running import running

RUN = """
import json, sys
sys.path.insert(0, "tests")
from fixtures.no_locks import deny_locks
deny_locks()
from fixtures.flat_calls import label
from sotopia_rl_data.asking.plan import Batching
from sotopia_rl_data.errors import StoreError
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store
store, judge, prices = sys.argv[1:]
how = {"judges": [judge], "preset": "goal-only"}

def error(act, *given, **named):
    try:
        act(*given, **named)
    except StoreError as told:
        return str(told)

live = label(Store(store), "lab/episodes", **how)
batched = label(Store(store), "lab/episodes", samples=2, batching=Batching(poll_s=0.1), **how)
with Ledger.default(store) as ledger:
    print(json.dumps({
        "asked": [live.asked, batched.asked],
        "warned": [any("has no locks" in one for one in done.warnings) for done in (live, batched)],
        "budget": error(label, Store(store), "lab/episodes", samples=3, budget=5, prices=prices, **how),
        "compact": error(ledger.compact),
        "rows": ledger.query("SELECT count(*) AS n FROM calls").to_pylist()[0]["n"],
    }))
"""


@pytest.mark.slow
@pytest.mark.skipif(not CAN_DENY, reason="only Linux's seccomp can let a kernel refuse locks: run it on Linux")
def test_a_run_alone_works_and_says_what_it_cannot_promise(tmp_path: Path):
    store = filled(tmp_path / "store", 6)
    with running() as at:
        command = [sys.executable, "-c", RUN, str(store.root), sim(at), priced(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert at.log()["answered"] == 24  # twelve questions and a second sample of each
    told = json.loads(done.stdout)
    assert (told["asked"], told["warned"], told["rows"]) == ([12, 12], [True, True], 24)
    assert "its file system has no locks.\n  hint: leave --budget out, or name a ledger on a disk" in told["budget"]
    assert "cannot be compacted: its file system has no locks" in told["compact"]
