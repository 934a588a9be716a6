"""A hard cap on costs: never passed, whatever is answered, lost or killed, and a run that reaches it ends by itself."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.flat_calls import label, prepare
from fixtures.labelling import boats, put, sim
from fixtures.places import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sotopia_rl_data.asking import openai
from sotopia_rl_data.asking.ask import capped
from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.costs.budget import Budget, price_of
from sotopia_rl_data.costs.prices import Price, Prices, load
from sotopia_rl_data.costs.reservations import left_behind
from sotopia_rl_data.costs.tokens import most_prompt_tokens
from sotopia_rl_data.errors import BudgetSpent, SotopiaDataError, Unavailable, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.labelers.plan import episodes_of, with_episodes
from sotopia_rl_data.labelers.questions import QuestionPart, Questions
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, Outcome
from sotopia_rl_data.request import Reply, Request, Target, Usage
from sotopia_rl_data.store import Store

LIMIT = 50  # tokens
TARGET = Target("openai", "sim", "http://localhost:1/v1", {"max_tokens": LIMIT})
PRICE = Price(input=1_000.0, cached=100.0, written=1_250.0, output=4_000.0)  # so that a call costs about a dollar
PRICES = Prices("2026-11-01", 0.5, {"*": {"sim": PRICE}})
QUICK = Pacing(backoff_s=0.0005, tries=3, throttles=4, timeout_s=0.02)


def question(number: int) -> Request:
    return Request(TARGET, [{"role": "user", "content": f"question {number} " * (1 + number % 5)}])


class Provider:
    """Answers, throttles, fails and hangs by chance, and knows what it billed: some of what it never answered, too."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.billed = 0.0

    async def send(self, request: Request) -> Reply:
        fate = self.chance.random()
        usage = self.usage(request)
        await asyncio.sleep(self.chance.choice((0, 0, 0.001, 0.003)))
        if fate < 0.1:
            raise Unavailable("slow down", status=429, retry_after=0.001)
        if fate < 0.2:
            self.billed += self.chance.choice((0.0, PRICE.cost(usage)))
            raise Unavailable("broken", status=500)
        if fate < 0.25:
            self.billed += PRICE.cost(usage)
            await asyncio.sleep(60)
        self.billed += PRICE.cost(usage)
        return Reply("1", "stop", "sim-1", usage)

    def usage(self, request: Request) -> Usage:
        into = self.chance.randint(1, most_prompt_tokens(request))
        written = self.chance.choice((0, into))
        return Usage(into, self.chance.randint(0, into - written), written, self.chance.randint(0, LIMIT))


async def schedule(
    budget: Budget, provider: Provider, ledger: Ledger, count: int, concurrency: int, pacing: Pacing = QUICK
) -> Outcome:
    try:
        return await ask_all(
            map(question, range(count)),
            provider.send,
            Lookup(ledger, lambda request, reply: True),
            concurrency=concurrency,
            pacing=pacing,
            budget=budget,
        )
    finally:
        budget.close()


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), count=st.integers(1, 25), concurrency=st.integers(1, 16), cap=st.floats(0.5, 30.0))
def test_spend_never_passes_the_cap_in_200_random_schedules(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, concurrency: int, cap: float
):
    folder = tmp_path_factory.mktemp("ledger")
    provider = Provider(seed)
    with Ledger(folder) as ledger:
        budget = Budget(cap, PRICES, folder)
        try:
            outcome = asyncio.run(schedule(budget, provider, ledger, count, concurrency))
        except Unavailable:  # eight in a row that met nothing but faults: the run ends, the cap holds
            outcome = None
    assert provider.billed <= budget.spent + 1e-9 <= cap + 2e-9
    assert budget.reserved == 0
    if outcome is not None and not outcome.exhausted:
        assert outcome.settled == count
    assert list(left_behind(folder)) == []


class Thinker(Provider):
    """As a Provider, but it tells the tokens of its thoughts in the total alone."""

    async def send(self, request: Request) -> Reply:
        reply = await super().send(request)
        paid = reply.usage
        answer = self.chance.randint(0, paid.output)
        told = {"prompt_tokens": paid.input, "completion_tokens": answer, "total_tokens": paid.input + paid.output}
        choice = {"message": {"content": "1"}, "finish_reason": "stop"}
        return openai.read_completion(request.target, {"choices": [choice], "usage": told})

    def usage(self, request: Request) -> Usage:
        return replace(super().usage(request), cached=0, written=0)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), count=st.integers(1, 25), concurrency=st.integers(1, 16), cap=st.floats(0.5, 30.0))
def test_nor_in_200_schedules_with_thoughts_outside_the_completions_tokens(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, concurrency: int, cap: float
):
    folder = tmp_path_factory.mktemp("ledger")
    provider = Thinker(seed)
    with Ledger(folder) as ledger:
        budget = Budget(cap, PRICES, folder)
        with suppress(Unavailable):
            asyncio.run(schedule(budget, provider, ledger, count, concurrency))
    assert provider.billed <= budget.spent + 1e-9 <= cap + 2e-9


class DeepThinker(Provider):
    """It thinks so many times longer than the limit of the answer, and loses no call that it bills."""

    def __init__(self, seed: int, times: int) -> None:
        super().__init__(seed)
        self.times = times

    async def send(self, request: Request) -> Reply:
        await asyncio.sleep(self.chance.choice((0, 0, 0.001, 0.003)))
        if self.chance.random() < 0.1:
            raise Unavailable("slow down", status=429, retry_after=0.001)
        self.billed += PRICE.cost(self.usage(request))
        return Reply("1", "stop", "sim-1", self.usage(request))

    def usage(self, request: Request) -> Usage:
        return Usage(most_prompt_tokens(request), 0, 0, self.times * LIMIT)

    @property
    def dearest(self) -> float:
        """USD that one call costs at most."""
        return max(PRICE.cost(self.usage(question(number))) for number in range(5))


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    times=st.integers(2, 60),
    count=st.integers(1, 25),
    concurrency=st.integers(1, 16),
    calls=st.floats(1.0, 20.0),
)
def test_nor_in_200_schedules_with_thoughts_beyond_the_limit_if_one_call_fits(
    tmp_path_factory: pytest.TempPathFactory, seed: int, times: int, count: int, concurrency: int, calls: float
):
    folder = tmp_path_factory.mktemp("ledger")
    provider = DeepThinker(seed, times)
    cap = calls * provider.dearest
    with Ledger(folder) as ledger:
        budget = Budget(cap, PRICES, folder)
        budget.first_alone = True
        with suppress(Unavailable):
            asyncio.run(schedule(budget, provider, ledger, count, concurrency))
    assert provider.billed <= cap + 1e-9


def test_where_the_first_answer_is_waited_for_calls_at_other_prices_go_on(tmp_path: Path):
    prices = Prices("2026-11-01", 0.5, {"*": {"sim": PRICE, "fast": replace(PRICE, input=1.0)}})
    other = replace(question(9), target=replace(TARGET, model="fast"))

    async def go() -> None:
        budget = Budget(1_000.0, prices, tmp_path)
        budget.first_alone = True
        first = await budget.reserve("0", question(0))
        waiting = [asyncio.create_task(budget.reserve(str(number), question(number))) for number in (1, 2)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert await budget.reserve("9", other) is not None
        assert first is not None
        assert not any(task.done() for task in waiting)
        budget.answered(first, Usage(1, 0, 0, 1))
        assert None not in await asyncio.gather(*waiting)
        budget.close()

    asyncio.run(go())


def test_what_does_not_fit_waits_for_what_is_in_flight_and_then_the_run_ends(tmp_path: Path):
    """Reservations are for the worst, answers cost less: more calls fit than reservations would."""
    provider = Provider(0)
    most = PRICE.most(most_prompt_tokens(question(0)), LIMIT)
    together = 0

    async def cheap(request: Request) -> Reply:
        nonlocal together
        together = max(together, len(budget._held))
        await asyncio.sleep(0.001)
        return Reply("1", "stop", "sim-1", Usage(100, 0, 0, 5))

    provider.send = cheap  # type: ignore[method-assign]
    with Ledger(tmp_path) as ledger:
        budget = Budget(3.5 * most, PRICES, tmp_path)
        outcome = asyncio.run(schedule(budget, provider, ledger, 500, 32, replace(QUICK, timeout_s=60)))
        asked = outcome.asked
    assert outcome.exhausted
    assert together == 3
    assert budget.spent == pytest.approx(asked * 0.12)
    assert 3.5 * most - most < budget.spent + PRICE.most(most_prompt_tokens(question(4)), LIMIT)
    assert asked > 3


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    put(made, boats(30))
    return made


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text("as_of: 2026-11-01\nhosts:\n  '*':\n    sim-judge: [2.5, 2.5, 2.5, 10, 1000]\n")
    return path


def billed(provider: Running) -> float:
    usage = provider.log()["usage"]
    return (usage["input"] * 2.5 + usage["output"] * 10) / 1e6


@pytest.fixture
def provider() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.mark.slow
def test_a_run_that_reaches_its_budget_ends_with_a_sentence_and_goes_on_with_a_larger_one(
    store: Store, prices: Path, provider: Running
):
    options = {"judges": [sim(provider)], "preset": "goal-only", "prices": prices}
    with pytest.raises(BudgetSpent) as ended:
        label(store, "lab/episodes", budget=0.15, **options)
    first = provider.log()
    left = 60 - first["answered"]
    assert f"{billed(provider):.4f} USD are spent, and {left} of 60 calls are left undone" in ended.value.message
    assert "raise --budget" in ended.value.hint
    assert 0.05 < billed(provider) <= 0.15
    assert store.names() == ["lab/episodes"]
    with pytest.raises(BudgetSpent):
        label(store, "lab/episodes", budget=0.15, **options)
    assert billed(provider) <= 0.15  # the cap is for all runs together
    replayed = options | {"judges": [f"replay:{store.root}#sim-judge"], "out": "lab/part"}
    part = label(store, "lab/episodes", **replayed)
    assert (part.hits, part.unreachable, part.bill.total) == (first["answered"], left, pytest.approx(billed(provider)))
    assert provider.log()["requests"] == first["requests"]
    done = label(store, "lab/episodes", budget=5, **options)
    assert provider.log()["paid_twice"] == 0
    assert done.bill.total == pytest.approx(billed(provider))
    assert label(store, "lab/episodes", budget=0.01, **options).asked == 0  # what costs nothing always fits


@pytest.mark.slow
def test_killed_under_a_budget_what_was_in_flight_counts_as_spent(store: Store, prices: Path, tmp_path: Path):
    code = (
        "import sys\nsys.path.insert(0, 'tests')\n"
        "from fixtures.flat_calls import label\nfrom sotopia_rl_data.store import Store\n"
        "label(Store(sys.argv[1]), 'lab/episodes', judges=[sys.argv[2]], preset='goal-only', prices=sys.argv[3],"
        " budget=0.3, concurrency=4)\n"
    )
    with running(latency=0.1) as slow:
        command = [sys.executable, "-c", code, str(store.root), sim(slow), str(prices)]
        for _ in range(2):
            process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
            before = slow.log()["answered"]
            while slow.log()["answered"] < before + 4 or slow.log()["in_flight"] < 1:
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        lost = list(left_behind(store.root / ".ledger"))
        assert 2 <= len(lost) <= 8
        with pytest.raises(BudgetSpent):
            label(store, "lab/episodes", judges=[sim(slow)], preset="goal-only", prices=prices, budget=0.3)
        time.sleep(0.3)  # until the provider is through with what nobody waits for
        log = slow.log()
        assert log["answered"] > sum(1 for a in Ledger(store.root / ".ledger").scan() if a.status == "answer")
        assert billed(slow) <= 0.3


def test_a_call_that_nobody_waits_for_any_more_is_spent_and_on_record(tmp_path: Path):
    budget = Budget(10.0, PRICES, tmp_path)
    kept, dropped = (asyncio.run(budget.reserve(key, question(0))) for key in ("a", "b"))
    assert kept is not None
    assert dropped is not None
    budget.answered(kept, Usage(100, 0, 0, 5))
    budget.given_up(dropped)
    budget.close()
    assert budget.spent == pytest.approx(0.12 + dropped.usd)
    assert [(hold.key, hold.usd) for hold in left_behind(tmp_path)] == [("b", dropped.usd)]


@pytest.mark.slow
def test_what_was_in_flight_at_a_kill_stays_spent_when_the_call_was_made_again(
    store: Store, prices: Path, provider: Running
):
    plan, _ = prepare(judges=[sim(provider)], preset="goal-only")
    parent, plan = with_episodes(plan, store, "lab/episodes")
    files = [path for paths in parent.files("episodes").values() for path in paths]
    first = next(plan.requests(episodes_of(files), plan.judges[0]))
    folder, listed = store.root / ".ledger", load(prices)
    lost = Budget(1.0, listed, folder)
    hold = asyncio.run(lost.reserve(first.key, first))
    assert hold is not None
    lost.given_up(hold)
    lost.close()
    time.sleep(0.05)
    done = label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only", prices=prices)
    questions = Questions(QuestionPart(plan, lambda: episodes_of(files)))
    with Ledger(folder) as ledger, capped(9.0, questions, ledger, listed) as budget:
        assert budget.spent == pytest.approx((done.bill.total or 0) + hold.usd)


def test_the_price_list_that_a_hint_shows_is_one(tmp_path: Path):
    target = replace(TARGET, model="ft:mine/odd model")
    with pytest.raises(UsageError) as told:
        price_of(PRICES, target)
    (tmp_path / "mine.yaml").write_text("{" + told.value.hint.partition("{")[2])
    assert price_of(load(tmp_path / "mine.yaml"), target) == Price(2.5, 1.25, 2.5, 10)


@pytest.mark.parametrize(
    ("options", "wrong", "hint"),
    [
        (["--budget", "0"], "must be above 0 USD", "above zero"),
        (["--budget", "nan"], "must be above 0 USD", "above zero"),
        (["--budget", "5", "--prices", "none.yaml"], "cannot be read", "check"),
        (["--budget", "5"], "There is no price for sim-judge", "--prices"),
        (["--budget", "5", "--prices", "short.yaml"], "how long an answer of sim-judge can be", "--max-tokens"),
        (["--budget", "5", "--batch"], "There is no price for sim-judge", "--prices"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_a_sentence_before_anything_is_asked_or_written(
    tmp_path: Path, prices: Path, options: list[str], wrong: str, hint: str
):
    prices.with_name("short.yaml").write_text("as_of: x\nhosts: {'*': {sim-judge: [1, 1, 1, 1]}}\n")
    named = [str(tmp_path / word) if word.endswith(".yaml") else word for word in options]
    command = ["label", "--judge", "openai:sim-judge@http://127.0.0.1:9/v1", "--store", str(tmp_path / "new"), *named]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, SotopiaDataError)
    assert wrong in done.exception.message
    assert hint in done.exception.hint
    assert not (tmp_path / "new").exists()


def test_a_judge_that_nobody_pays_needs_no_price(store: Store):
    done = label(store, "lab/episodes", judges=["lexical"], preset="goal-only", budget=0.01)
    assert (done.asked, done.bill.total) == (60, 0.0)
    assert json.dumps(done.as_dict())


def test_a_price_with_no_longest_answer_is_kept_by_max_tokens(tmp_path: Path):
    short = Prices("x", 0.5, {"*": {"sim": Price(1, 1, 1, 1)}})
    budget = Budget(1.0, short, tmp_path)
    endless = Request(Target("openai", "sim", "http://localhost:1/v1"), [{"role": "user", "content": "?"}])
    with pytest.raises(UsageError, match="It is not known how long"):
        asyncio.run(budget.reserve("k", endless))
    assert asyncio.run(budget.reserve("k", question(1))) is not None


@pytest.mark.parametrize(
    ("model", "url", "name"),
    [
        ("o3", openai.URL, "max_completion_tokens"),
        ("gpt-5.4-mini", openai.URL, "max_completion_tokens"),
        ("gpt-4o", openai.URL, "max_tokens"),
        ("o3", "http://localhost:1/v1", "max_tokens"),
    ],
)
def test_openais_reasoning_models_get_the_longest_answer_under_the_name_that_they_take(model: str, url: str, name: str):
    asked = Request(openai.target(model, url, {"max_tokens": 77}), [{"role": "user", "content": "?"}])
    assert {k: v for k, v in openai.body_of(asked).items() if k.startswith("max")} == {name: 77}
