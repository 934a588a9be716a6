"""What happens between two looks: another run works on the same batches, a run is killed before it submits, a cap is
lowered. The cap holds, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.batch_budgets import PRICE, PRICES, Killed, Provider, asked_about, goal_only, in_rounds
from fixtures.batches import PROVIDERS, QUICK, Caller, ask_in_batches, batches, judge, questions, target
from fixtures.flat_calls import label, prepare
from fixtures.labelling import BY, boats, put

from sotopia_rl_data.asking.ask import ask, capped
from sotopia_rl_data.asking.batch.client import BatchLimits, BatchResult
from sotopia_rl_data.asking.batch.rounds import ask_batch
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.asking.refusals import not_an_answer
from sotopia_rl_data.errors import BudgetSpent, Unavailable, UsageError
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.labelers.judges import judge as find_judge
from sotopia_rl_data.labelers.requests import target_of
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup
from sotopia_rl_data.store import Store

LEAVE = replace(QUICK, wait=False)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_another_run_fetched_since_the_ledger_was_opened_is_not_asked_again(provider: str, tmp_path: Path):
    with running() as at, Ledger(tmp_path) as opened:
        asked, client = questions(5, target(provider, at)), batches(provider, at)
        ask_in_batches(asked, batches(provider, at), tmp_path)

        async def go() -> None:
            outcome = await ask_batch(lambda: asked, client, Lookup(opened, Caller().accept), batching=QUICK)
            await client.close()
            assert (outcome.hits, outcome.sent) == (5, 0)

        asyncio.run(go())
        assert at.log()["paid_twice"] == 0


@pytest.mark.slow
def test_a_live_run_does_not_ask_what_a_batch_brought_since_its_ledger_was_opened(tmp_path: Path):
    """A judge's turn may come hours after the run began."""
    with running() as at, Ledger(tmp_path) as opened:
        plan, episodes = prepare(judges=[judge("openai", at)], preset="goal-only", evaluator=BY)[0], boats(2)
        (only,) = plan.judges
        requests = list(plan.requests(episodes, only))
        client = batches("openai", at)
        client.target = target_of(only)
        ask_in_batches(requests, client, tmp_path)
        (done,) = ask(asked_about(plan, episodes), opened, AskOptions(), PRICES)
        assert (done.hits, done.sent, at.log()["paid_twice"]) == (4, 0, 0)


def test_batches_that_another_run_submits_after_the_cap_was_added_up_count_under_it(tmp_path: Path):
    """Another run, without a cap, submits between the moment when a run adds up what is spent and its first round."""
    episodes, plan, folder = boats(3), goal_only(), tmp_path / "ledger"
    provider = Provider(target_of(plan.judges[0]), random.Random(0), 0.0)
    requests = list(plan.requests(episodes, plan.judges[0]))

    async def go() -> None:
        with Ledger(folder) as ledger, capped(0.05, asked_about(plan, episodes), ledger, PRICES) as budget:
            with Ledger(folder) as other:
                await ask_batch(lambda: requests[:3], provider, Lookup(other, Caller().accept), batching=LEAVE)
            lookup = Lookup(ledger, Caller().accept)
            outcome = await ask_batch(lambda: requests, provider, lookup, batching=LEAVE, budget=budget)
            assert (outcome.in_batches, outcome.exhausted) == (3, True)
            assert budget.in_batches > 0.05

    asyncio.run(go())


@pytest.mark.parametrize("dies_at", ["upload", "create"])
def test_what_was_about_to_be_submitted_at_a_kill_is_not_under_a_cap_that_is_smaller_by_then(
    tmp_path: Path, dies_at: str
):
    class Deadly(Provider):
        async def upload(self, lines: Path, intent: object) -> str:
            if dies_at == "upload":
                raise Killed
            return "file"

        async def create(self, lines: Path, intent: object) -> str:
            raise Killed

    episodes, plan, chance = boats(6), goal_only(), random.Random(3)
    deadly = Deadly(target_of(plan.judges[0]), chance, 0.0)
    deadly.limits = BatchLimits(12, 1 << 20)
    with pytest.raises(Killed):
        in_rounds(asked_about(plan, episodes), tmp_path, 10.0, deadly)
    provider = Provider(deadly.target, chance, 0.0)
    provider.requests = deadly.requests
    while in_rounds(asked_about(plan, episodes), tmp_path, 0.5, provider).in_batches:
        pass
    assert 0.1 < provider.billed <= 0.5


def test_a_line_whose_answer_cannot_be_read_counts_at_its_worst(tmp_path: Path):
    class Garbled(Provider):
        def answer(self, batch: str, custom_id: str) -> None:
            self.billed += 0.05
            self.results_of[batch].append(BatchResult(custom_id, not_an_answer(self.target, {"choices": []})))

    episodes, plan = boats(6), goal_only()
    provider = Garbled(target_of(plan.judges[0]), random.Random(0), 0.0)
    with suppress(Unavailable):  # nothing but faults
        while in_rounds(asked_about(plan, episodes), tmp_path, 0.5, provider).in_batches:
            pass
    assert 0.05 <= provider.billed <= 0.5


def test_a_live_run_that_finds_no_room_says_what_batches_take_of_it(tmp_path: Path):
    with running(batch_seconds=600) as at:
        plan = prepare(judges=[judge("openai", at)], preset="goal-only", evaluator=BY, sampling={"max_tokens": 300})[0]
        episodes, listed = boats(3), replace(PRICES, hosts={"*": {"sim": PRICE}})
        client = batches("openai", at)
        client.target = target_of(plan.judges[0])
        ask_in_batches(list(plan.requests(episodes, plan.judges[0]))[3:], client, tmp_path, batching=LEAVE)
        spent = r"0\.0000 USD are spent, \d\.\d+ are reserved for requests under way"
        with Ledger(tmp_path) as ledger, pytest.raises(BudgetSpent, match=spent) as told:
            ask(asked_about(plan, episodes), ledger, AskOptions(budget=0.1, concurrency=1), listed)
        assert "with --batch" in told.value.hint


def test_two_judges_of_one_model_are_told_before_anything_is_submitted(tmp_path: Path):
    store = Store(tmp_path / "store")
    put(store, boats(2))
    with running() as at:
        judges = [find_judge(f"openai:sim@{at.openai_url}", sampling) for sampling in (None, {"temperature": 1})]
        judges[1].id = "warm"
        with pytest.raises(UsageError, match="sim and warm both ask sim, whose batches only one of them can work on"):
            label(store, "lab/episodes", judges=judges, preset="goal-only", batching=QUICK)
        assert at.log()["requests"] == 0


@pytest.mark.slow
def test_a_model_that_costs_nothing_goes_in_one_round_whatever_the_cap(tmp_path: Path):
    store, prices = Store(tmp_path / "store"), tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nhosts: {'*': {sim: [0, 0, 0, 0]}}\n")
    put(store, boats(12))
    with running() as at:
        done = label(
            store,
            "lab/episodes",
            judges=[judge("anthropic", at)],
            preset="goal-only",
            prices=prices,
            batching=QUICK,
            budget=0.000001,
        )
        assert (done.asked, done.bill.total, at.log()["batch"]["sizes"]) == (24, 0.0, [24])
