"""Several processes that ask in batches on one ledger: each question is in one batch, and all have its answer."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fixtures.batches import QUICK, Caller, ask_in_batches, ask_live, batches, live, questions, target
from fixtures.processes import billed, ends, filled, go, kill, priced, start, stores

from sotopia_rl_data.asking.batch.client import BatchClient
from sotopia_rl_data.asking.batch.intent import BatchFolder
from sotopia_rl_data.asking.batch.keys import BatchedKeys
from sotopia_rl_data.asking.batch.rounds import ask_batch
from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup

LEAVE = replace(QUICK, wait=False)
QUESTIONS = {"label": 80, "evaluate": 40, "audit": 120}
# An audit asks about an original episode twice in the same words. Without faults, it does so with nothing else.
TWICE = {"label": 0, "evaluate": 0, "audit": 20}
UNREADABLE: dict[str, Any] = {"malformed": "missing", "malformed_share": 0.2}
FAULTS: dict[str, dict[str, Any]] = {"label": UNREADABLE, "evaluate": UNREADABLE, "audit": {}}
BATCHING = {"batching": {"poll_s": 0.1, "doubt_s": 0.5}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "processes", "shared"),
    [*product(["label"], [2, 4], [True, False]), ("evaluate", 3, False), ("audit", 3, True)],
)
def test_equal_runs_at_once_put_each_question_into_one_batch_and_end_in_one_digest(
    tmp_path: Path, command: str, processes: int, shared: bool
):
    with running(batch_seconds=0.5, **FAULTS[command]) as at:
        folders = stores(tmp_path, processes, shared)
        runs = [start(store, at, tmp_path / "ledger", command, **BATCHING) for store in folders]
        go(tmp_path / "ledger")
        ended = ends(runs)
        log = at.log()
    assert len({digest for digest, _ in ended}) == 1
    assert (log["paid_twice"], log["batch"]["doubled"]) == (TWICE[command], 0)
    assert sum(asked for _, asked in ended) == log["answered"] >= QUESTIONS[command]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "shared"), [(2, False), (4, True)])
def test_the_batch_of_one_that_is_killed_is_taken_over_by_another(tmp_path: Path, processes: int, shared: bool):
    with running(batch_seconds=3, malformed="missing", malformed_share=0.2) as at:
        first, *rest = stores(tmp_path, processes, shared)
        killed = start(first, at, tmp_path / "ledger", **BATCHING)
        others = [start(store, at, tmp_path / "ledger", **BATCHING) for store in rest]
        go(tmp_path / "ledger")
        kill(killed, lambda: at.log()["batch"]["batches"] == 1)
        ended = ends(others)
        log = at.log()
    assert len({digest for digest, _ in ended}) == 1
    assert (log["paid_twice"], log["batch"]["doubled"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "processes", "cap"),
    [("label", 2, 0.4), ("label", 4, 0.4), ("evaluate", 3, 0.25), ("audit", 3, 0.4)],
)
def test_equal_runs_at_once_share_a_budget_though_one_is_killed(
    tmp_path: Path, command: str, processes: int, cap: float
):
    """All calls cost about 0.2 USD in batches, and more at most than the cap, under which they go in rounds."""
    store, options = filled(tmp_path / "store", 40), {"budget": cap, "prices": priced(tmp_path)} | BATCHING
    with running(batch_seconds=0.2, **FAULTS[command]) as at:
        killed, *others = (start(store, at, tmp_path / "ledger", command, **options) for _ in range(processes))
        go(tmp_path / "ledger")
        kill(killed, lambda: at.log()["batch"]["batches"] >= 1)
        ended = ends(others)
        log = at.log()
        assert 0.01 < billed(at) / 2 <= cap
    assert len({digest for digest, _ in ended}) == 1
    assert (log["paid_twice"], log["batch"]["doubled"]) == (TWICE[command], 0)
    assert log["batch"]["batches"] > 2


@pytest.mark.slow
def test_what_does_not_fit_under_the_cap_is_left_by_all(tmp_path: Path):
    store, options = filled(tmp_path / "store", 40), {"budget": 0.05, "prices": priced(tmp_path)} | BATCHING
    with running(batch_seconds=0.2) as at:
        runs = [start(store, at, tmp_path / "ledger", **options) for _ in range(3)]
        go(tmp_path / "ledger")
        told = [run.communicate(timeout=120)[1] for run in runs]
        assert all("BudgetSpent: Nothing more fits under the budget of 0.05 USD" in err for err in told), told
        assert at.log()["paid_twice"] == 0
        assert 0.02 < billed(at) / 2 <= 0.05


@pytest.mark.slow
def test_a_run_with_a_budget_counts_the_batches_of_one_without(tmp_path: Path):
    """Together they hold what the cap allows, whoever comes first: the free one's batch counts at its worst until it is
    fetched, and then at its cost."""
    store, options = filled(tmp_path / "store", 40), {"budget": 0.4, "prices": priced(tmp_path)} | BATCHING
    with running(batch_seconds=1) as at:
        free, capped = (
            start(store, at, tmp_path / "ledger", **BATCHING),
            start(store, at, tmp_path / "ledger", **options),
        )
        go(tmp_path / "ledger")
        (one, _), (other, _) = ends([free, capped])
        assert (one == other, at.log()["paid_twice"]) == (True, 0)


@pytest.mark.slow
def test_a_live_run_and_one_in_batches_ask_nothing_twice(tmp_path: Path):
    """The live one ends with a sentence where it comes to a question in a batch."""
    ledger, store = tmp_path / "ledger", filled(tmp_path / "store", 40)
    with running(latency=0.05, batch_seconds=1) as at:
        batched, one = start(store, at, ledger, **BATCHING), start(store, at, ledger)
        go(ledger)
        (digest, _), (_, err) = ends([batched])[0], one.communicate(timeout=120)
        assert one.returncode == 0 or "are under way in batches of sim-judge" in err
        again = start(store, at, ledger)
        assert ends([again])[0] == (digest, 0)
        assert at.log()["paid_twice"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("in_batches", [True, False], ids=["a run in batches", "a live run"])
def test_while_a_process_drafts_no_other_one_drafts_or_asks(tmp_path: Path, in_batches: bool):
    with running() as at:
        asked, lookup = questions(3, target("openai", at)), Lookup(Ledger(tmp_path), Caller().accept)
        keys = BatchedKeys([asked[0].target], lookup.ledger)

        async def ask() -> None:
            client = batches("openai", at) if in_batches else live("openai", at)
            with BatchFolder(tmp_path, client.target).drafting() as alone:
                assert alone()
                if isinstance(client, BatchClient):
                    run = asyncio.create_task(ask_batch(lambda: asked, client, lookup, batching=QUICK))
                else:
                    run = asyncio.create_task(ask_all(asked, client.send, lookup, batched=keys))
                await asyncio.sleep(0.5)
                assert at.log()["answered"] == 0
            assert (await run).asked == 3
            await client.close()

        asyncio.run(ask())
        assert at.log()["answered"] == 3


@pytest.mark.slow
def test_what_a_live_run_has_claimed_is_put_into_no_batch(tmp_path: Path):
    with running() as at, Ledger(tmp_path) as other:
        asked = questions(3, target("openai", at))
        assert other.claims.take(asked[1].key)

        async def both() -> None:
            client, lookup = batches("openai", at), Lookup(Ledger(tmp_path), Caller().accept)
            run = asyncio.create_task(ask_batch(lambda: asked, client, lookup, batching=LEAVE))
            while not at.log()["batch"]["sizes"]:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)
            assert at.log()["batch"]["sizes"] == [2]
            other.claims.give_up(asked[1].key)
            assert (await run).in_batches == 3
            await client.close()

        asyncio.run(both())
        assert at.log()["batch"]["sizes"] == [2, 1]


@pytest.mark.slow
def test_a_live_run_does_not_ask_what_was_put_into_a_batch_after_it_began(tmp_path: Path):
    with running(batch_seconds=600) as at, Ledger(tmp_path) as ledger:
        asked, client = questions(3, target("openai", at)), live("openai", at)
        keys = BatchedKeys([client.target], ledger)
        ask_in_batches(asked[2:], batches("openai", at), tmp_path, batching=LEAVE)

        async def go_on() -> None:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(client.close)
                await ask_all(asked, client.send, Lookup(ledger, Caller().accept), batched=keys)

        with pytest.raises(UsageError, match="are under way in batches of sim"):
            asyncio.run(go_on())
        assert at.log()["answered"] == 2


@pytest.mark.slow
def test_a_batch_that_another_process_looks_after_is_left_to_it_and_taken_over_when_it_is_given_up(tmp_path: Path):
    with running() as at:
        asked = questions(3, target("openai", at))
        ask_in_batches(asked, batches("openai", at), tmp_path, batching=LEAVE)
        folder = BatchFolder(tmp_path, asked[0].target)
        (intent,) = folder.intents()
        lock = folder.hold(intent)
        assert lock is not None
        assert folder.hold(intent) is None
        outcome, _ = ask_in_batches(asked, batches("openai", at), tmp_path, batching=LEAVE)
        assert (outcome.in_batches, outcome.words) == (3, "0 of 3 in 1 batch, 0 min")
        os.close(lock)
        outcome, _ = ask_in_batches(asked, batches("openai", at), tmp_path)
        assert (outcome.asked, at.log()["batch"]["sizes"]) == (3, [3])
        with pytest.raises(FileNotFoundError):
            folder.hold(intent)
        assert ask_live(asked, live("openai", at), tmp_path).hits == 3
