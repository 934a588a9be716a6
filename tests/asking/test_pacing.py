"""Pacing in virtual time: providers of every speed and limit, hours of them in a second."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.batches import ask_live
from fixtures.labelling import boats, put

from sotopia_rl_data.asking import openai
from sotopia_rl_data.asking.memory import EndpointMemory, keep_pace, remembered_pace
from sotopia_rl_data.asking.pacing import Pacer, Pacing
from sotopia_rl_data.cli.asking import ask_options
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.ledger.lookup import Outcome
from sotopia_rl_data.request import Request, Target
from sotopia_rl_data.store import Store


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select
        self._selector.select = lambda timeout=None: self._jump(timeout) or select(0)

    def time(self) -> float:
        return self.now

    def _jump(self, timeout: float | None) -> None:
        self.now += timeout or 0.0


def in_virtual_time(coroutine: Coroutine[Any, Any, Any]) -> Any:
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(coroutine)


class Provider:
    """A token bucket that refuses what is above its limit, and a share of everything whatever the rate."""

    def __init__(self, limit: float, burst: float, latency: float, background: float = 0.0) -> None:
        self.limit, self.burst, self.latency, self.background = limit, burst, latency, background
        self.saved, self.saved_at = max(1.0, limit * burst), 0.0
        self.random = random.Random(7)
        self.received = self.answered = 0

    async def ask(self) -> bool:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.02)
        self.received += 1
        now = loop.time()
        self.saved = min(max(1.0, self.limit * self.burst), self.saved + (now - self.saved_at) * self.limit)
        self.saved_at = now
        if self.random.random() < self.background or self.saved < 1:
            return False
        self.saved -= 1
        await asyncio.sleep(self.latency * self.random.uniform(0.7, 1.3))
        self.answered += 1
        return True


async def drive(
    provider: Provider, requests: int, concurrency: int, pacing: Pacing | None = None
) -> tuple[float, Pacer]:
    """Seconds that it takes to have every request answered, as dispatch.py goes about it."""
    loop = asyncio.get_running_loop()
    pacer = Pacer(pacing or Pacing(), concurrency, loop.time)
    tasks: set[asyncio.Task[None]] = set()
    room = asyncio.Event()

    def landed(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        room.set()

    async def fly(epoch: Any) -> None:
        failures = 0
        while not await provider.ask():
            failures += 1
            pacer.throttled(epoch, 1.0)
            await pacer.rest(pacer.backoff(failures, 1.0))
            epoch = await pacer.admit()
        pacer.answered()

    for _ in range(requests):
        while len(tasks) >= pacer.window:
            room.clear()
            await room.wait()
        task = asyncio.create_task(fly(await pacer.admit()))
        tasks.add(task)
        task.add_done_callback(landed)
    while tasks:
        await asyncio.wait(tasks)
    return loop.time(), pacer


@pytest.mark.slow
@pytest.mark.parametrize("latency", [0.05, 0.5, 3.0])
@pytest.mark.parametrize(("limit", "burst"), [(10, 0.5), (100, 0.1), (100, 1.0), (400, 0.2)])
def test_a_limit_is_found_and_kept_whatever_the_latency_and_the_burst(limit: float, burst: float, latency: float):
    """At least 90 % of what the provider allows and of what the concurrency can do, at most 1.15 times sent."""
    provider = Provider(limit, burst, latency)
    requests = int(min(limit * 60, 10_000))
    seconds, pacer = in_virtual_time(drive(provider, requests, 512))
    possible = min(limit, 512 / (latency + 0.02))
    ramp = 3 + 8 * latency  # slow start, and the last answers
    print(f"{requests / seconds:.1f} of {possible:.1f}/s, {provider.received / requests:.3f} times sent")
    assert provider.answered == requests
    assert requests / (seconds - ramp) >= 0.9 * possible
    assert provider.received <= 1.15 * requests
    assert possible < limit or pacer.rate < 3 * limit


def test_a_limit_that_is_lifted_is_noticed():
    async def go() -> float:
        provider = Provider(20, 0.1, 0.2)
        task = asyncio.create_task(drive(provider, 6_000, 256))
        await asyncio.sleep(30)
        assert provider.answered < 700
        provider.limit = 1_000
        await task
        return asyncio.get_running_loop().time()

    assert in_virtual_time(go()) < 70


def test_a_limit_that_falls_is_found_again():
    async def go() -> tuple[int, float]:
        provider = Provider(200, 0.1, 0.2)
        task = asyncio.create_task(drive(provider, 3_000, 256))
        await asyncio.sleep(8)
        provider.limit = 20
        before, began = provider.received, provider.answered
        await asyncio.sleep(40)
        answered = provider.answered - began
        sent = provider.received - before
        provider.limit = 1_000
        await task
        return answered, sent / answered

    answered, sent = in_virtual_time(go())
    assert answered >= 0.85 * 40 * 20
    assert sent < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("background", [0.03, 0.1, 0.25])
def test_429s_that_come_whatever_the_rate_do_not_slow_the_run_down(background: float):
    """Obeyed, they would: a rate that they lower again and again ends at a few requests a second. It takes less than
    a minute to find out."""
    provider = Provider(1e9, 1, 0.5, background)
    seconds, _ = in_virtual_time(drive(provider, 10_000, 256))
    undisturbed, _ = in_virtual_time(drive(Provider(1e9, 1, 0.5), 10_000, 256))
    print(f"{seconds:.0f} s, without 429s {undisturbed:.0f} s")
    assert seconds < 60 + 2 * undisturbed


def test_a_provider_that_lets_nothing_through_is_asked_less_and_less():
    async def go() -> int:
        provider = Provider(1, 0, 0.1, background=1.0)
        task = asyncio.create_task(drive(provider, 1_000, 256))
        await asyncio.sleep(60)
        first = provider.received
        await asyncio.sleep(60)
        task.cancel()
        assert provider.received - first < first / 2
        return provider.received

    assert in_virtual_time(go()) < 400


def test_requests_a_minute_are_never_exceeded_when_given():
    provider = Provider(1e9, 1, 0.3)
    seconds, _ = in_virtual_time(drive(provider, 600, 256, Pacing(rpm=300)))
    assert 118 < seconds < 123


def test_slow_start_doubles_the_window_with_every_round_and_narrows_it_where_many_time_out():
    pacer = Pacer(Pacing(slow_start=4, timeout_s=10), 64)
    assert pacer.window == 4
    for wanted in (8, 16, 32, 64, 64):
        for _ in range(pacer.window):
            pacer.answered()
        assert pacer.window == wanted
    for _ in range(4):
        pacer.timed_out()
    assert pacer.window == 64  # four of some hundred are no sign
    for _ in range(40):
        pacer.timed_out()
    assert pacer.window < 64
    narrow = pacer.window
    for _ in range(narrow):
        pacer.answered()
    assert pacer.window in (narrow, narrow + 1)


def test_backoff_keeps_retry_after_and_grows_without_it():
    pacer = Pacer(Pacing(backoff_s=1, longest_wait_s=20), 8)
    assert all(7 <= pacer.backoff(1, 7.0) <= 8.75 for _ in range(100))
    assert len({pacer.backoff(1, 7.0) for _ in range(100)}) > 90
    for failures, most in ((1, 1), (2, 2), (3, 4), (5, 16), (9, 20), (99, 20)):
        assert all(most / 2 <= pacer.backoff(failures, None) <= most for _ in range(50))


@pytest.mark.parametrize(
    "wrong", [{"rpm": 0}, {"tpm": -1}, {"timeout_s": 0}, {"tries": 0}, {"timeout_s": float("nan")}]
)
def test_a_setting_that_makes_no_sense_is_a_sentence(wrong: dict[str, float]):
    with pytest.raises(UsageError, match="above zero"):
        Pacing(**wrong)


@pytest.mark.slow
def test_what_a_command_is_told_of_the_pace_is_kept(tmp_path: Path):
    unset = dict.fromkeys(("rpm", "tpm", "timeout", "concurrency", "budget", "prices", "ledger", "named"))
    options: dict[str, Any] = {**unset, "rpm": 60.0, "timeout": 9.0, "judge": "lexical"}
    assert ask_options(options).pacing == Pacing(rpm=60, timeout_s=9)
    assert ask_options({**unset, "timeout": 600.0}).pacing == Pacing(timeout_s=600, silence_s=600)
    assert options == {"judge": "lexical", "named": None}  # the file of judges is read by those who make them
    assert ask_options(dict(unset)).pacing == Pacing()
    put(Store(tmp_path), boats(5))
    began = time.monotonic()
    told = ["label", "lab/episodes", "--judge", "lexical", "--preset", "goal-only", "--rpm", "240"]
    assert CliRunner().invoke(cli, [*told, "--store", str(tmp_path)]).exit_code == 0
    assert time.monotonic() - began > 9 * 0.25 - 0.05


def test_a_run_begins_at_the_pace_that_the_last_one_ended_with(tmp_path: Path):
    memory, target = EndpointMemory(tmp_path), Target("openai", "sim", "http://127.0.0.1:1/v1")
    assert remembered_pace(memory, [target], Pacing()) == Pacing()
    keep_pace(memory, [target], Outcome(asked=10, pace={"slow_start": 200, "start_rate": None}))
    assert remembered_pace(memory, [target], Pacing()) == Pacing()  # ten answers are too few to know
    keep_pace(memory, [target], Outcome(asked=500, pace={"slow_start": 200, "start_rate": 40.0}))
    pacing = remembered_pace(memory, [target], Pacing(timeout_s=9))
    assert (pacing.slow_start, pacing.start_rate, pacing.timeout_s) == (200, 40.0, 9)
    pacer = Pacer(pacing, 64)
    assert (pacer.window, pacer.rate) == (64, 40.0)
    assert remembered_pace(memory, [Target("openai", "other", target.base_url)], Pacing()) == Pacing()


@pytest.mark.parametrize(
    "pace", [3, {"slow_start": 0}, {"slow_start": "9"}, {"slow_start": True}, {"start_rate": 5}, {"slow_start": 1e9}]
)
def test_a_pace_that_makes_no_sense_is_not_taken(pace: object, tmp_path: Path):
    memory, target = EndpointMemory(tmp_path), Target("openai", "sim", "http://127.0.0.1:1/v1")
    memory.keep(target, "pace", pace)
    assert remembered_pace(memory, [target], Pacing()) == Pacing()


@pytest.mark.alone  # what else the machine does shows in when limits are met
@pytest.mark.slow
def test_a_second_run_begins_at_the_rate_that_the_limit_of_the_first_allowed(tmp_path: Path):
    """A provider of 60 requests/s: the first run has to find that out."""
    memory, throttled = EndpointMemory(tmp_path), []
    with running(limit=60, retry_after=0.2) as at:
        target = openai.target("sim", at.openai_url)
        for number in range(2):
            pacing = remembered_pace(memory, [target], Pacing())
            asked = [Request(target, [{"role": "user", "content": f"{number} {n}"}]) for n in range(300)]
            outcome = ask_live(asked, openai.OpenAIClient(target), tmp_path / "ledger", pacing=pacing)
            keep_pace(memory, [target], outcome)
            throttled.append(outcome.throttled)
    again = remembered_pace(memory, [target], Pacing())
    assert again.start_rate is not None
    assert 20 <= again.start_rate <= 90
    assert throttled[1] <= max(throttled[0], 30)  # one call in ten, since a limit is tried again and again
