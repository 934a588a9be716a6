"""Several runs with a budget on one ledger: each sees what the others reserve and spend on its own requests."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.prices import Price, Prices
from sotopia_rl_data.costs.reservations import left_behind
from sotopia_rl_data.costs.tokens import most_prompt_tokens
from sotopia_rl_data.errors import Unavailable
from sotopia_rl_data.ledger.index import short
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, Outcome
from sotopia_rl_data.request import Reply, Request, Target, Usage

LIMIT = 50  # tokens
TARGET = Target("openai", "sim", "http://localhost:1/v1", {"max_tokens": LIMIT})
PRICE = Price(input=1_000.0, cached=100.0, written=1_250.0, output=4_000.0)
PRICES = Prices("2026-11-01", 0.5, {"*": {"sim": PRICE}})
QUICK = Pacing(backoff_s=0.0005, tries=3, throttles=4, timeout_s=0.02)
KILLED = """
import asyncio, sys, time
from pathlib import Path
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.prices import Price, Prices
from sotopia_rl_data.request import Request, Target
prices = Prices("2026-11-01", 0.5, {"*": {"sim": Price(1_000.0, 100.0, 1_250.0, 4_000.0)}})
target = Target("openai", "sim", "http://localhost:1/v1", {"max_tokens": 50})
asked = Request(target, [{"role": "user", "content": "?"}])
print(asyncio.run(Budget(9.0, prices, Path(sys.argv[1])).reserve(sys.argv[2], asked)).usd, flush=True)
time.sleep(60)
"""


def question(number: int) -> Request:
    return Request(TARGET, [{"role": "user", "content": f"question {number} " * (1 + number % 5)}])


MOST = PRICE.most(most_prompt_tokens(question(0)), LIMIT)
KEYS = [question(number).key for number in range(6)]
SPENT = Usage(100, 0, 0, 5)  # 0.12 USD


async def reserve(budget: Budget, key: str, chain: str = "", patience_s: float = 0.2) -> object:
    """The reservation; None where it never fits, "waits" where it may."""
    try:
        async with asyncio.timeout(patience_s):
            return await budget.reserve(key, question(0), chain)
    except TimeoutError:
        return "waits"


def test_a_run_waits_for_the_room_that_another_one_may_make(tmp_path: Path):
    async def both() -> None:
        mine, other = Budget(1.5 * MOST, PRICES, tmp_path), Budget(9.0, PRICES, tmp_path)
        held = await other.reserve(KEYS[0], question(0))
        assert held is not None
        assert await reserve(mine, KEYS[1]) == "waits"
        other.answered(held, SPENT)
        await asyncio.sleep(0)
        got = await mine.reserve(KEYS[1], question(0))
        assert got is not None
        assert mine.spent == pytest.approx(0.12)
        mine.answered(got, SPENT)
        other.close()
        mine.close()

    asyncio.run(both())
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".budget.lock"]


def test_a_run_ends_where_nobody_may_make_room(tmp_path: Path):
    async def both() -> None:
        mine, other = Budget(1.5 * MOST, PRICES, tmp_path), Budget(9.0, PRICES, tmp_path)
        held = await other.reserve(KEYS[0], question(0))
        assert held is not None
        other.answered(held, Usage())  # nobody knows what it cost
        await asyncio.sleep(0)
        assert await reserve(mine, KEYS[1]) is None
        assert (mine.exhausted, mine.spent) == (True, pytest.approx(MOST))

    asyncio.run(both())


@pytest.mark.slow
def test_what_other_runs_spend_on_requests_that_are_not_ours_does_not_count(tmp_path: Path):
    async def both() -> None:
        mine, other = Budget(3.5 * MOST, PRICES, tmp_path), Budget(9.0, PRICES, tmp_path)
        mine.start(0.0, {short(KEYS[0])}, lambda hold: False)
        await other.reserve(KEYS[0], question(0))  # ours
        await other.reserve(KEYS[1], question(0), KEYS[0])  # the second of a chain of ours
        await other.reserve(KEYS[2], question(0))
        assert other.take(KEYS[3], question(0), KEYS[0])
        assert await reserve(mine, KEYS[4]) is not None
        assert await reserve(mine, KEYS[5]) == "waits"
        assert mine.in_batches == pytest.approx(MOST / 2)
        other.came(KEYS[3], TARGET, SPENT)
        assert await reserve(mine, KEYS[5]) == "waits"
        assert (mine.in_batches, mine.spent) == (0.0, pytest.approx(0.06))

    asyncio.run(both())


def test_who_joins_counts_what_is_not_in_the_ledger_yet_and_nothing_twice(tmp_path: Path):
    async def both() -> None:
        other = Budget(9.0, PRICES, tmp_path)
        in_ledger, later, _ = [await other.reserve(key, question(0)) for key in KEYS[:3]]
        mine = Budget(1.12 + 1.5 * MOST, PRICES, tmp_path)
        for hold in (in_ledger, later):
            assert hold is not None
            other.answered(hold, SPENT)
        await asyncio.sleep(0)
        mine.start(1.0, set(map(short, KEYS)), lambda hold: hold.key == KEYS[0])
        assert mine.spent == pytest.approx(1.12)
        assert await reserve(mine, KEYS[3]) == "waits"

    asyncio.run(both())


def test_what_a_killed_run_had_reserved_counts_as_spent_for_those_that_live_and_those_that_come(tmp_path: Path):
    mine = Budget(9.0, PRICES, tmp_path)
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), KEYS[0]], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    usd = float(killed.stdout.readline())
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert mine.take(KEYS[1], question(0))
    mine._bury()
    assert mine.spent == pytest.approx(usd)
    mine.close()
    assert [(hold.key, hold.usd) for hold in left_behind(tmp_path)] == [(KEYS[0], usd)]
    late = Budget(9.0, PRICES, tmp_path)
    late.start(1.0, {short(KEYS[0])}, lambda hold: False)
    assert late.spent == pytest.approx(1.0 + usd)


class Provider:
    """Answers, throttles, fails and hangs by chance, and knows what it billed: some of what it never answered, too."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.billed = 0.0
        self.answered: list[str] = []

    async def send(self, request: Request) -> Reply:
        fate = self.chance.random()
        into = self.chance.randint(1, most_prompt_tokens(request))
        usage = Usage(into, 0, self.chance.choice((0, into)), self.chance.randint(0, LIMIT))
        await asyncio.sleep(self.chance.choice((0, 0, 0.001, 0.003)))
        if fate < 0.1:
            raise Unavailable("slow down", status=429, retry_after=0.001)
        if fate < 0.2:
            self.billed += self.chance.choice((0.0, PRICE.cost(usage)))
            raise Unavailable("broken", status=500)
        self.billed += PRICE.cost(usage)
        if fate < 0.25:
            await asyncio.sleep(60)
        self.answered.append(request.key)
        return Reply("1", "stop", "sim-1", usage)


async def run(folder: Path, provider: Provider, cap: float, count: int, concurrency: int) -> Outcome | None:
    budget = Budget(cap, PRICES, folder)
    try:
        with Ledger(folder) as ledger:
            return await ask_all(
                map(question, range(count)),
                provider.send,
                Lookup(ledger, lambda request, reply: True),
                concurrency=concurrency,
                pacing=QUICK,
                budget=budget,
            )
    except Unavailable:  # nothing but faults
        return None
    finally:
        budget.close()


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 12),
    concurrency=st.integers(1, 8),
    runs=st.integers(2, 4),
    cap=st.floats(0.5, 15.0),
)
def test_runs_at_once_never_pass_their_cap_together_and_ask_nothing_twice(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, concurrency: int, runs: int, cap: float
):
    folder, provider = tmp_path_factory.mktemp("ledger"), Provider(seed)

    async def together() -> list[Outcome | None]:
        return await asyncio.gather(*(run(folder, provider, cap, count, concurrency) for _ in range(runs)))

    outcomes = asyncio.run(together())
    assert provider.billed <= cap + 1e-9
    assert len(set(provider.answered)) == len(provider.answered)
    assert list(left_behind(folder)) == []
    for outcome in outcomes:
        assert outcome is None or outcome.exhausted or outcome.settled == count
