"""A hard cap on costs over batches: what is under way is reserved at its worst, whoever submitted it and whenever."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fixtures.batch_budgets import PRICES, Killed, Provider, asked_about, goal_only, in_rounds
from fixtures.batches import QUICK, judge
from fixtures.flat_calls import audit, estimate, label, planned, prepare
from fixtures.labelling import BY, boats, put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sotopia_rl_data.asking.ask import capped
from sotopia_rl_data.costs.budget import Waiters
from sotopia_rl_data.costs.prices import load
from sotopia_rl_data.errors import BudgetSpent, Unavailable, UnderWay, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.labelers.audit.auditing import AuditPlan
from sotopia_rl_data.labelers.evaluation.sotopia_eval import SOTOPIA_EVAL
from sotopia_rl_data.labelers.plan import LabelPlan
from sotopia_rl_data.labelers.questions import Questions
from sotopia_rl_data.labelers.requests import target_of
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store


@cache
def evaluation() -> LabelPlan:
    return replace(goal_only(), schema=SOTOPIA_EVAL, dimensions=("goal",), evaluator="", samples=2)


@cache
def probed() -> AuditPlan:
    with TemporaryDirectory() as folder:
        version = put(Store(Path(folder)), boats(2))
        return planned(version, goal_only().judges[0], dimensions=["goal"], probes=["order"], evaluator=BY)


KINDS: dict[str, Callable[[int], Questions]] = {
    "label": lambda count: asked_about(goal_only(), boats(count)),
    "evaluate": lambda count: asked_about(evaluation(), boats(count)),
    "audit": lambda count: replace(probed(), episodes=probed().episodes[: 1 + count % 2]).questions(),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 6),
    caps=st.lists(st.floats(0.05, 4.0), min_size=1, max_size=3),
    deadly=st.sampled_from((0, 0.05)),
)
def test_batches_never_cost_more_than_the_cap_in_200_random_schedules_of_runs_that_are_killed(
    kind: str, tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, caps: list[float], deadly: float
):
    """Each run has a cap of its own; where it is below what earlier ones spent, nothing more is billed."""
    folder, questions = tmp_path_factory.mktemp("ledger"), KINDS[kind](count)
    provider = Provider(target_of(goal_only().judges[0]), random.Random(seed), deadly)
    for cap in islice(cycle(caps), 40):
        before = provider.billed
        try:
            outcome = in_rounds(questions, folder, cap, provider)
        except Killed:
            outcome = None
        except Unavailable:  # nothing but faults: the run ends, the cap holds
            break
        assert provider.billed <= max(cap, before) + 1e-9
        if outcome is not None and not outcome.in_batches:
            assert outcome.exhausted or outcome.settled - outcome.followed == questions.total
            break
    else:
        raise AssertionError("it never came to an end")
    with Ledger(folder) as ledger, capped(1.0, questions, ledger, PRICES) as budget:
        assert provider.billed <= budget.spent + 1e-9 <= max(caps) + 2e-9


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    put(made, boats(12))
    return made


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "as_of: 2026-11-01\nhosts:\n  '*':\n    sim: [2.5, 2.5, 2.5, 10, 1000]\n    other: [2.5, 2.5, 2.5, 10, 1000]\n"
    )
    return path


@pytest.fixture
def provider() -> Iterator[Running]:
    with running() as one:
        yield one


def billed(provider: Running) -> float:
    """USD, by what the provider counted; everything was asked in batches."""
    usage = provider.log()["usage"]
    return (usage.get("input", 0) * 2.5 + usage.get("output", 0) * 10) / 1e6 / 2


@pytest.mark.slow
def test_what_answers_leave_over_is_submitted_in_further_rounds_until_all_is_answered(
    store: Store, prices: Path, provider: Running, tmp_path: Path
):
    """24 calls cost at most 0.17 USD, and in truth 0.03."""
    asked = {"judges": [judge("openai", provider)], "preset": "goal-only", "prices": prices, "batching": QUICK}
    done = label(store, "lab/episodes", **asked, budget=0.06)
    assert (done.asked, done.unreachable) == (24, 0)
    assert done.bill.total == pytest.approx(billed(provider))
    assert 0.02 < billed(provider) < 0.06
    first, *more = provider.log()["batch"]["sizes"]
    assert first < 12
    assert sum(more) == 24 - first
    put(other := Store(tmp_path / "other"), boats(12))
    assert label(other, "lab/episodes", **asked).digest == done.digest


@pytest.mark.slow
def test_under_a_budget_of_what_the_dry_run_says_at_most_everything_goes_in_one_batch(
    store: Store, prices: Path, provider: Running
):
    asked = {"judges": [judge("openai", provider)], "preset": "goal-only", "prices": prices}
    told = estimate(store, "lab/episodes", **asked, in_batches=True)
    assert told.total is not None
    assert told.most is not None
    assert told.total < 0.05 < 0.2 < told.most
    label(store, "lab/episodes", **asked, batching=QUICK, budget=told.most)
    assert provider.log()["batch"]["sizes"] == [24]


@pytest.mark.slow
def test_a_cap_that_is_too_small_ends_with_a_sentence_and_a_larger_one_goes_on(
    store: Store, prices: Path, provider: Running
):
    asked = {"judges": [judge("openai", provider)], "preset": "goal-only", "prices": prices, "batching": QUICK}
    with pytest.raises(BudgetSpent, match=r"0\.\d+ USD are spent, and \d+ of 24 calls are left undone") as ended:
        label(store, "lab/episodes", **asked, budget=0.02)
    assert "raise --budget" in ended.value.hint
    assert 0.005 < billed(provider) <= 0.02
    with pytest.raises(BudgetSpent):
        label(store, "lab/episodes", **asked, budget=0.02)
    assert billed(provider) <= 0.02  # the cap is for all runs together
    done = label(store, "lab/episodes", **asked, budget=0.2)
    assert done.bill.total == pytest.approx(billed(provider))
    assert provider.log()["paid_twice"] == 0


@pytest.mark.slow
def test_what_an_earlier_run_has_under_way_counts_in_the_next_one_budget_or_not(store: Store, prices: Path):
    with running(batch_seconds=600) as at:
        asked = {"judges": [judge("anthropic", at)], "preset": "goal-only", "prices": prices}
        leave, come = replace(QUICK, wait=False), QUICK
        with pytest.raises(UnderWay, match="fits under the budget only if these cost less than is reserved"):
            label(store, "lab/episodes", **asked, batching=leave, budget=0.06)
        (first,) = at.log()["batch"]["sizes"]
        assert 0 < first < 12
        with pytest.raises(UnderWay, match=f"{first} requests are under way in 1 batch;"):
            label(store, "lab/episodes", **asked, batching=leave, budget=0.06)
        assert at.log()["batch"]["sizes"] == [first]
        with pytest.raises(UnderWay, match="24 requests are under way in 2 batches"):
            label(store, "lab/episodes", **asked, batching=leave)
        with pytest.raises(UnderWay, match="24 requests are under way in 2 batches"):
            label(store, "lab/episodes", **asked, batching=leave, budget=0.001)  # it is billed all the same
        at.hurry()
        done = label(store, "lab/episodes", **asked, batching=come, budget=0.06)
        assert (done.asked, at.log()["batch"]["sizes"]) == (24, [first, 24 - first])


@pytest.mark.slow
def test_a_fetch_that_was_killed_before_its_end_counts_what_it_brought_once(store: Store, prices: Path, tmp_path: Path):
    with running(batch_seconds=600) as at:
        asked = {"judges": [judge("openai", at)], "preset": "goal-only"}
        with pytest.raises(UnderWay):
            label(store, "lab/episodes", **asked, batching=replace(QUICK, wait=False))
        folder, listed = store.root / ".ledger", load(prices)
        shutil.copytree(folder / "batches", tmp_path / "batches")
        plan, episodes = prepare(**asked, evaluator=BY)[0], boats(12)
        with Ledger(folder) as ledger, capped(1.0, asked_about(plan, episodes), ledger, listed) as budget:
            assert (budget.spent, round(budget.in_batches, 2)) == (0.0, 0.30)
        at.hurry()
        done = label(store, "lab/episodes", **asked, batching=QUICK, prices=prices)
        shutil.copytree(tmp_path / "batches", folder / "batches", dirs_exist_ok=True)
        with Ledger(folder) as ledger, capped(1.0, asked_about(plan, episodes), ledger, listed) as budget:
            assert (budget.spent, budget.in_batches) == (pytest.approx(done.bill.total), 0.0)
        again = label(store, "lab/episodes", **asked, batching=QUICK, budget=1.0, prices=prices)
        assert (again.digest, again.bill.total) == (done.digest, done.bill.total)
        assert at.log()["batch"]["batches"] == 1


@pytest.mark.slow
def test_judges_that_share_a_budget_wait_for_each_others_batches_and_not_for_ever(store: Store, prices: Path):
    with running(batch_seconds=0.3) as at:
        judges = [judge("openai", at), judge("anthropic", at).replace("sim@", "other@")]
        asked = {"judges": judges, "preset": "goal-only", "prices": prices, "sampling": {"max_tokens": 1000}}
        done = label(store, "lab/episodes", **asked, batching=QUICK, budget=0.11)
        assert (done.asked, done.unreachable) == (48, 0)
        assert done.bill.total == pytest.approx(billed(at))
        assert billed(at) <= 0.11
        assert len(at.log()["batch"]["sizes"]) > 3


@pytest.mark.slow
def test_a_live_run_does_not_ask_again_what_is_under_way_in_a_batch(store: Store, prices: Path):
    with running(batch_seconds=600) as at:
        asked = {"judges": [judge("openai", at)], "preset": "goal-only"}
        with pytest.raises(UnderWay):
            label(store, "lab/episodes", **asked, batching=replace(QUICK, wait=False))
        with pytest.raises(UsageError, match="asking them now would pay twice") as told:
            label(store, "lab/episodes", **asked)
        assert "with --batch" in told.value.hint
        with pytest.raises(UsageError, match="asking them now would pay twice"):
            audit(store, "lab/episodes", judge("openai", at), dimensions=["goal"])
        (line,) = estimate(store, "lab/episodes", **asked, prices=prices).lines
        assert (line.calls, line.in_batches, line.asked, line.cost) == (24, 24, 0, 0.0)
        at.hurry()
        done = label(store, "lab/episodes", **asked, batching=QUICK)
        assert (done.asked, at.log()["paid_twice"], at.log()["answered"]) == (24, 0, 24)
        assert label(store, "lab/episodes", **asked).hits == 24


@pytest.mark.slow
def test_a_line_without_a_result_may_have_been_billed_and_one_that_failed_has_not(
    store: Store, prices: Path, tmp_path: Path
):
    for faults, may in (({"batch_dropped": 1.0}, 24), ({"batch_failed": 1.0}, 0), ({"batch_expired": 1.0}, 0)):
        with running(**faults) as at:
            folder = tmp_path / f"ledger-{next(iter(faults))}"
            asked = {"judges": [judge("openai", at)], "preset": "goal-only", "prices": prices, "ledger": folder}
            with pytest.raises(Unavailable):
                label(store, "lab/episodes", **asked, batching=replace(QUICK, tries=1), budget=0.5)
            with Ledger(folder) as kept:
                assert sum(one.maybe_billed for one in kept.scan()) == may
            assert (billed(at) > 0) == bool(may)


def test_who_finds_no_room_waits_for_who_may_make_some_and_no_longer():
    async def run(room: Waiters, turns: int) -> list[bool]:
        """Finds no room, and releases some after so many turns of the loop, unless it has none."""
        found = []
        with room.sharing():
            since = room.releases
            await asyncio.sleep(0)  # until the others are there
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns:
                room.release()
            found.append(await room.more(since))
            found.append(await room.more(room.releases))
        return found

    async def together(*turns: int) -> list[list[bool]]:
        room = Waiters()
        return await asyncio.gather(*(run(room, one) for one in turns))

    async def closed() -> bool:
        room = Waiters()
        with room.sharing(), room.sharing():
            room.release()
            room.close()
            return await room.more(0)

    assert not asyncio.run(closed())
    assert asyncio.run(together(0)) == [[False, False]]
    assert asyncio.run(together(0, 0, 0)) == [[False, False]] * 3
    assert asyncio.run(together(0, 10)) == [[True, False], [True, False]]
    assert asyncio.run(together(0, 10, 20)) == [[True, True], [True, True], [True, False]]
