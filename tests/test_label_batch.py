"""label --batch: the same dataset as live, for half the price; what is under way is found again and fetched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from batch_toys import PROVIDERS, QUICK
from label_toys import boats, put

from labelers.run import label
from sotopia_rl_data.asking.loopback.running import Running, running
from sotopia_rl_data.store import Store


def judge(provider: str, at: Running) -> str:
    return f"openai:sim@{at.openai_url}" if provider == "openai" else f"anthropic:sim@{at.url}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    put(made, boats(12))
    return made


@pytest.mark.parametrize("provider", PROVIDERS)
def test_batches_end_in_the_digest_of_a_live_run_second_tries_included(provider: str, store: Store, tmp_path: Path):
    with running(malformed="missing,refusal", malformed_share=0.3, batch_failed=0.2, batch_expired=0.1) as at:
        asked = {"judges": [judge(provider, at)], "preset": "goal-only"}
        done = label(store, "lab/episodes", **asked, batching=replace(QUICK, tries=9))
        log = at.log()
        assert log["batch"]["batches"] >= 2
        assert log["paid_twice"] == log["batch"]["doubled"] == 0
        other = Store(tmp_path / "live")
        put(other, boats(12))
        live = label(other, "lab/episodes", **asked)
    assert done.digest == live.digest
    assert (done.labels, done.repaired, done.unusable) == (live.labels, live.repaired, live.unusable)
    assert done.asked == live.asked == log["answered"]
    assert done.repaired > 0
    assert done.unusable > 0
