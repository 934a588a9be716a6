"""label --batch: the same dataset as live, for half the price; what is under way is found again and fetched."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.batches import PROVIDERS, QUICK, judge
from fixtures.flat_calls import label
from fixtures.labelling import boats, put
from fixtures.places import ROOT

from sotopia_rl_data.errors import UnderWay, UsageError
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    put(made, boats(12))
    return made


@pytest.mark.slow
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


@pytest.mark.slow
def test_judges_without_a_batch_api_are_told_before_anything_is_asked(store: Store, tmp_path: Path):
    with pytest.raises(UsageError, match="lexical has no batch API") as told:
        label(store, "lab/episodes", judges=["lexical"], batching=QUICK)
    assert "leave --batch out" in told.value.hint
    with running(batches=0) as at:
        for provider in PROVIDERS:
            with pytest.raises(UsageError, match=r"127\.0\.0\.1:\d+(/v1)? has no batch API"):
                label(store, "lab/episodes", judges=[judge(provider, at)], preset="goal-only", batching=QUICK)
        assert at.log()["requests"] == 0
    assert store.names() == ["lab/episodes"]
    with running() as at:  # what replays a provider's answers is not that provider
        label(store, "lab/episodes", judges=[judge("openai", at)], preset="goal-only")
        before = at.log()["requests"]
        with pytest.raises(UsageError, match="sim has no batch API"):
            label(store, "lab/episodes", judges=[f"replay:{store.root}#sim"], batching=QUICK)
        assert at.log()["requests"] == before


@pytest.mark.slow
def test_several_judges_batches_are_under_way_at_the_same_time(store: Store):
    with running(batch_seconds=600) as at:
        judges = [judge("openai", at), judge("anthropic", at).replace("sim@", "other@")]
        with pytest.raises(UnderWay, match="48 requests are under way in 2 batches"):
            label(store, "lab/episodes", judges=judges, preset="goal-only", batching=replace(QUICK, wait=False))
        assert at.log()["batch"]["sizes"] == [24, 24]
        at.hurry()
        done = label(store, "lab/episodes", judges=judges, preset="goal-only", batching=QUICK)
        assert (done.asked, done.labels, at.log()["batch"]["batches"]) == (48, 96, 2)


def command(store: Store, *arguments: str) -> tuple[int, str, str]:
    """The program as it is called in a shell."""
    whole = [sys.executable, "cli.py", "label", "lab/episodes", "--preset", "goal-only", "--store", str(store.root)]
    done = subprocess.run([*whole, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_the_command_submits_and_leaves_and_later_fetches(store: Store):
    with running(batch_seconds=600) as at:
        asked = ["--judge", judge("openai", at), "--batch"]
        code, out, wrong = command(store, *asked, "--no-wait")
        assert (code, out) == (0, "")
        assert "24 requests are under way in 1 batch. Next: run the same command again" in wrong
        code, out, _ = command(store, *asked, "--no-wait", "--json")
        assert (code, json.loads(out)) == (0, {"under_way": {"requests": 24, "batches": 1}})
        assert store.names() == ["lab/episodes"]
        at.hurry()
        code, out, _ = command(store, *asked, "--poll", "1")
        assert code == 0
        assert "lab/episodes-rewards@v1.0.0" in out
        assert at.log()["batch"]["sizes"] == [24]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "wrong"), [(["--no-wait"], "--no-wait"), (["--poll", "9"], "--poll")])
def test_options_about_batches_need_batches(store: Store, arguments: list[str], wrong: str):
    code, out, told = command(store, "--judge", "lexical", *arguments)
    assert (code, out) == (2, "")
    assert told == (
        f"error: {wrong} applies only to batches, and --batch is missing.\n hint: add --batch, or omit {wrong}\n"
    )


@pytest.mark.slow
def test_ctrl_c_leaves_the_batches_running_and_says_how_to_go_on(store: Store):
    with running(batch_seconds=600) as at:
        whole = [sys.executable, "cli.py", "label", "lab/episodes", "--preset", "goal-only", "--store", str(store.root)]
        whole += ["--judge", judge("anthropic", at), "--batch"]
        process = subprocess.Popen(whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not at.log()["batch"]["batches"] and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, wrong = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert (
            "Interrupted after 0 of 24 calls; 24 requests are under way in 1 batch, and go on at the provider." in wrong
        )
        assert "hint: run the same command again" in wrong
        at.hurry()
        done = label(store, "lab/episodes", judges=[judge("anthropic", at)], preset="goal-only", batching=QUICK)
        assert done.asked == 24
        assert at.log()["batch"]["sizes"] == [24]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["live", "batch"])
def test_of_10_000_questions_the_500_that_failed_are_asked_again_and_no_other(way: str, tmp_path: Path):
    """Every twentieth dialogue has a word at which the judge refuses; then it comes to its senses."""
    store, batching = Store(tmp_path / "store"), None if way == "live" else QUICK
    put(store, [one if number % 20 else unwelcome(one) for number, one in enumerate(boats(5_000, turns=2))])
    asked = {"preset": "goal-only", "batching": batching, "concurrency": 256}
    with running(malformed="refusal", malformed_where="unwelcome") as at:
        first = label(store, "lab/episodes", judges=[judge("openai", at)], **asked)
        assert (first.calls, first.asked, first.unusable) == (10_000, 10_000, 500)
        port = int(at.url.rpartition(":")[2])
    with running(port=port) as at:
        again = label(store, "lab/episodes", judges=[judge("openai", at)], retry_failed=True, **asked)
        log = at.log()
        assert (again.asked, again.hits, again.unusable) == (500, 9_500, 0)
        assert (log["requests"], log["paid_twice"]) == (500, 0)
        assert log["batch"]["sizes"] == ([] if way == "live" else [500])


def unwelcome(episode: Episode) -> Episode:
    return replace(episode, scenario=f"{episode.scenario} An unwelcome one.")
