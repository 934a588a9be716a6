"""Asking in batches: half the price, the same ledger, nothing twice, and every answer on its own row."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_toys import PROVIDERS, ask_in_batches, ask_live, batches, live, questions, target

from sotopia_rl_data.asking.ledger import Ledger
from sotopia_rl_data.asking.loopback.running import running


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batchs_answers_are_hits_for_a_live_run_and_the_other_way_round(provider: str, tmp_path: Path):
    with running(batch_seconds=0.2) as at:
        asked = questions(30, target(provider, at))
        first = ask_live(asked[:10], live(provider, at), tmp_path)
        outcome, caller = ask_in_batches(asked[:20], batches(provider, at), tmp_path)
        assert (first.asked, outcome.hits, outcome.asked, outcome.sent) == (10, 10, 10, 10)
        last = ask_live(asked, live(provider, at), tmp_path)
        assert (last.hits, last.asked) == (20, 10)
        log = at.log()
        assert (log["paid_twice"], log["answered"], log["batch"]["sizes"]) == (0, 30, [10])
        fresh = ask_live(asked[:20], live(provider, at), tmp_path / "live")
        assert fresh.asked == 20
    with Ledger(tmp_path) as kept, Ledger(tmp_path / "live") as other:
        for request in asked[:20]:
            assert caller.texts[request.key] == other.attempts(request.key)[0].text
        told = kept.query(
            "SELECT batch IS NULL AS live, count(*) AS n FROM calls GROUP BY ALL ORDER BY ALL"
        ).to_pylist()
        assert told == [{"live": False, "n": 10}, {"live": True, "n": 20}]
        assert not list(tmp_path.glob("batches/*/*/*"))
