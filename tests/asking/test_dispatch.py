"""Asking many: nothing twice, nothing lost, nothing hangs, and a provider's limits are found and kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fixtures.asking import TARGET, Caller, Toy, ask_provider, question, questions, run, said
from fixtures.places import ROOT

from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.errors import KeyMissing, Rejected, StoreError, Unavailable, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, Settled
from sotopia_rl_data.request import Reply, Request, Usage


def test_everything_is_asked_once_and_a_second_run_asks_nothing(tmp_path: Path):
    toy = Toy()
    outcome, caller = run(questions(100), toy, tmp_path)
    assert (outcome.asked, outcome.hits, outcome.sent, outcome.failed) == (100, 0, 100, 0)
    assert caller.texts() == {f"question {n}": str(n) for n in range(100)}
    assert outcome.usage == {"toy": Usage(1_000, 400, 0, 100)}
    outcome, caller = run(questions(110), toy, tmp_path)
    assert (outcome.asked, outcome.hits, outcome.sent) == (10, 100, 10)
    assert set(toy.asked.values()) == {1}
    assert len(caller.settled) == 110


def test_equal_requests_are_asked_once_and_all_get_the_answer(tmp_path: Path):
    toy = Toy()
    outcome, caller = run((question(n % 7) for n in range(3_000)), toy, tmp_path)
    assert toy.asked == {f"question {n}": 1 for n in range(7)}
    assert (outcome.asked, outcome.repeated, outcome.settled) == (7, 2_993, 3_000)
    assert Counter(name for name, _ in caller.settled)["question 0"] == 429


def test_the_reply_is_durable_before_it_is_judged(tmp_path: Path):
    def accept(request: Request, reply: Reply) -> bool:
        lines = b"".join(path.read_bytes() for path in tmp_path.glob("journal-*")).splitlines()
        assert any(json.loads(line)["text"] == reply.text for line in lines)
        return True

    run(questions(5), Toy(), tmp_path, accept=accept)


def test_a_failed_answer_costs_no_second_call_unless_asked_for(tmp_path: Path):
    toy = Toy(question_1=["three", "still three", "1"])
    outcome, caller = run(questions(3), toy, tmp_path)
    assert (outcome.asked, outcome.failed) == (3, 1)
    assert [s.accepted for name, s in caller.settled if name == "question 1"] == [False]
    outcome, caller = run(questions(3), toy, tmp_path)
    assert (outcome.asked, outcome.hits, outcome.failed) == (0, 3, 1)
    assert caller.texts()["question 1"] == "three"
    outcome, caller = run(questions(3), toy, tmp_path, retry_failed=True)
    assert (outcome.asked, outcome.hits, outcome.failed) == (1, 2, 1)
    assert caller.texts()["question 1"] == "still three"
    outcome, caller = run([question(1)] * 3, toy, tmp_path, retry_failed=True)
    assert (outcome.asked, outcome.repeated, outcome.failed) == (1, 2, 0)
    assert caller.texts()["question 1"] == "1"
    assert toy.asked == {"question 0": 1, "question 1": 3, "question 2": 1}


def test_a_failed_key_is_retried_once_a_run_however_often_it_comes(tmp_path: Path):
    toy = Toy(question_1=["bad", "bad again", "1"])
    run([question(1)], toy, tmp_path)
    outcome, _ = run([question(1), question(2), question(1)], toy, tmp_path, concurrency=1, retry_failed=True)
    assert (outcome.asked, outcome.repeated, outcome.failed) == (2, 1, 2)
    assert toy.asked["question 1"] == 2


def test_retrying_asks_exactly_the_failed_keys_once_more(tmp_path: Path):
    toy = Toy(**{f"question_{n}": ["bad", "bad again"] for n in range(0, 1_000, 20)})
    run(questions(1_000), toy, tmp_path, concurrency=64)
    outcome, _ = run(questions(1_000), toy, tmp_path, concurrency=64, retry_failed=True)
    assert (outcome.asked, outcome.sent, outcome.failed) == (50, 50, 50)


def test_the_newest_answer_that_is_accepted_counts_and_a_better_parser_costs_no_call(tmp_path: Path):
    toy = Toy(question_0=["five", "6"])
    run([question(0)], toy, tmp_path)
    run([question(0)], toy, tmp_path, retry_failed=True)
    outcome, caller = run([question(0)], toy, tmp_path, accept=lambda request, reply: reply.text == "five")
    assert (outcome.asked, caller.texts()) == (0, {"question 0": "five"})
    _, caller = run([question(0)], toy, tmp_path)
    assert caller.texts() == {"question 0": "6"}


def test_a_transport_error_is_kept_for_the_bill_and_never_a_hit(tmp_path: Path):
    down: list[BaseException | str] = [Unavailable("busy", status=500)] * 3
    toy = Toy(question_1=down)
    outcome, caller = run(questions(20), toy, tmp_path)
    assert (outcome.asked, outcome.unreachable, outcome.faults, outcome.sent) == (19, 1, 3, 22)
    assert caller.texts()["question 1"] is None
    assert dict(caller.settled)["question 1"].error == "busy"
    with Ledger(tmp_path) as ledger:
        assert [a.status for a in ledger.attempts(question(1).key)] == ["error"] * 3
    outcome, caller = run(questions(20), toy, tmp_path)
    assert (outcome.asked, outcome.hits, caller.texts()["question 1"]) == (1, 19, "1")


def test_an_error_is_not_asked_again_for_equal_requests_of_the_same_run(tmp_path: Path):
    toy = Toy(question_1=[Rejected("too long", status=400)])
    outcome, _ = run([question(0), question(1), question(2), question(1), question(3), question(1)], toy, tmp_path)
    assert (outcome.asked, outcome.unreachable) == (3, 3)
    assert toy.asked["question 1"] == 1


def test_a_follow_up_is_asked_in_the_same_place_and_found_again_by_the_next_run(tmp_path: Path):
    toy = Toy(question_2=["two"])

    class Repairing(Caller):
        def on_settled(self, request: Request, settled: Settled) -> Request | None:
            super().on_settled(request, settled)
            return None if settled.accepted or "repair" in said(request) else question("2 repair")

        def accept(self, request: Request, reply: Reply) -> bool:
            return reply.text in ("0", "1", "2", "3", "2 repair")

    outcome, caller = run([*questions(4), question(2)], toy, tmp_path, Repairing())
    assert toy.asked["question 2 repair"] == 1
    assert caller.texts()["question 2 repair"] == "2 repair"
    assert (outcome.asked, outcome.failed) == (5, 2)
    outcome, caller = run(questions(4), toy, tmp_path, Repairing())
    assert (outcome.asked, outcome.hits, len(caller.settled)) == (0, 5, 5)


def test_requests_are_held_only_while_in_flight(tmp_path: Path):
    """The iterator is never more than the window ahead of what was settled."""
    caller, ahead = Caller(), []

    def watched() -> Iterator[Request]:
        for n in range(400):
            ahead.append(n - len(caller.settled))
            yield question(n)

    toy = Toy()
    run(watched(), toy, tmp_path, caller, concurrency=16)
    assert max(ahead) <= 17
    assert toy.most_together <= 16


def test_a_provider_that_refuses_the_key_ends_the_run_after_a_few_requests(tmp_path: Path):
    refusal = Rejected("401 wrong key", "check the key", status=401)
    toy = Toy(**{f"question_{n}": [refusal] for n in range(10_000)})
    with pytest.raises(Rejected, match="401 wrong key"):
        run(questions(10_000), toy, tmp_path)
    assert sum(toy.asked.values()) < 30
    with pytest.raises(Rejected):
        run(questions(2), Toy(question_0=[refusal], question_1=[refusal]), tmp_path)


def test_a_single_refusal_costs_only_its_own_request(tmp_path: Path):
    toy = Toy(question_3=[Rejected("context too long", status=400)])
    outcome, caller = run(questions(10), toy, tmp_path)
    assert (outcome.asked, outcome.unreachable, dict(caller.settled)["question 3"].error) == (9, 1, "context too long")


def test_a_provider_that_takes_no_request_at_all_ends_the_run(tmp_path: Path):
    toy = Toy(**{f"question_{n}": [Rejected("unknown parameter", status=400)] for n in range(1_000)})
    with pytest.raises(Rejected, match="unknown parameter"):
        run(questions(1_000), toy, tmp_path)
    assert sum(toy.asked.values()) < 60


def test_what_is_left_may_be_refused_altogether_where_the_rest_is_answered(tmp_path: Path):
    """The same failures as in the first run, and no end of the run, though every request on the wire is refused."""
    refused = {f"question_{n}": [Rejected("context too long", status=400)] * 2 for n in range(10, 50)}
    toy = Toy(**refused)
    first, _ = run(questions(60), toy, tmp_path)
    second, caller = run(questions(60), toy, tmp_path)
    assert (first.asked, first.unreachable) == (20, 40)
    assert (second.hits, second.asked, second.unreachable) == (20, 0, 40)
    assert caller.texts()["question 5"] == "5"


def test_a_provider_that_is_down_ends_the_run_after_bounded_retries(tmp_path: Path):
    class Down:
        sent = 0

        async def send(self, request: Request) -> Reply:
            self.sent += 1
            raise Unavailable("nobody listens", "start the server")

    toy = Down()
    with pytest.raises(Unavailable, match="nobody listens"):
        run(questions(100_000), toy, tmp_path)
    assert toy.sent < 100
    with pytest.raises(Unavailable):
        run([question(0)], Down(), tmp_path)


def test_no_concurrency_is_a_sentence(tmp_path: Path):
    with pytest.raises(UsageError, match="must be 1 or more, not 0"):
        run(questions(1), Toy(), tmp_path, concurrency=0)


def test_a_missing_key_ends_the_run_at_once(tmp_path: Path):
    toy = Toy(question_0=[KeyMissing("no key", "export it")])
    with pytest.raises(KeyMissing):
        run(questions(1_000), toy, tmp_path, concurrency=1)
    assert sum(toy.asked.values()) <= 2


def test_a_ledger_that_cannot_be_written_ends_the_run(tmp_path: Path):
    (tmp_path / "file").write_text("")
    toy = Toy()
    with pytest.raises(StoreError):
        run(questions(1_000), toy, tmp_path / "file" / "ledger")
    assert sum(toy.asked.values()) <= 16


def test_what_the_iterator_or_the_caller_raises_comes_out_and_the_answers_are_kept(tmp_path: Path):
    def broken() -> Iterator[Request]:
        yield from questions(5)
        raise LookupError("no more episodes")

    with pytest.raises(LookupError):
        run(broken(), Toy(), tmp_path)
    with Ledger(tmp_path) as ledger:
        assert len(ledger) == 5

    def wrong(request: Request, reply: Reply) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(questions(50), Toy(), tmp_path / "other", accept=wrong)
    with Ledger(tmp_path / "other") as ledger:
        assert 1 <= len(ledger) <= 8


@pytest.mark.alone
def test_retry_after_is_kept_and_a_longer_one_than_allowed_gives_the_request_up(tmp_path: Path):
    times: list[float] = []

    class Limited(Toy):
        async def send(self, request: Request) -> Reply:
            times.append(time.monotonic())
            return await super().send(request)

    busy = Unavailable("slow down", status=429, retry_after=0.3)
    outcome, _ = run([question(0)], Limited(question_0=[busy]), tmp_path)
    assert (outcome.asked, outcome.throttled, outcome.faults) == (1, 1, 0)
    assert 0.3 <= times[1] - times[0] < 1
    tomorrow = Unavailable("come back tomorrow", status=429, retry_after=86_400)
    outcome, caller = run(questions(3), Toy(question_1=[tomorrow]), tmp_path / "other")
    assert (outcome.asked, outcome.unreachable) == (2, 1)
    assert dict(caller.settled)["question 1"].error == "come back tomorrow"


def test_a_request_that_hangs_is_cut_off_and_asked_again(tmp_path: Path):
    class Hanging(Toy):
        async def send(self, request: Request) -> Reply:
            if said(request) == "question 1" and not self.asked["question 1"]:
                self.asked["question 1"] += 1
                await asyncio.sleep(3_600)
            return await super().send(request)

    outcome, caller = run(questions(3), Hanging(), tmp_path, pacing=Pacing(timeout_s=0.2, backoff_s=0.01))
    assert (outcome.asked, outcome.faults, caller.texts()["question 1"]) == (3, 1, "1")
    with Ledger(tmp_path) as ledger:
        assert "gave no answer within 0.2 s" in ledger.attempts(question(1).key)[1].error


@pytest.mark.alone
def test_a_client_that_cannot_be_cancelled_does_not_hang_the_run(tmp_path: Path):
    """The watchdog: asyncio's own time limit has no power over a client that swallows its cancellation."""
    pacing = Pacing(timeout_s=0.1, grace_s=0.3)
    released = asyncio.Event()

    async def stubborn(request: Request) -> Reply:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return Reply("1")

    async def body(ledger: Ledger) -> None:
        try:
            with pytest.raises(Unavailable, match="has hung"):
                await ask_all(questions(3), stubborn, Lookup(ledger, lambda q, r: True), pacing=pacing)
        finally:
            released.set()
            await asyncio.sleep(0.05)

    with Ledger(tmp_path) as ledger:
        began = time.monotonic()
        asyncio.run(body(ledger))
        assert time.monotonic() - began < 5


@pytest.mark.alone
def test_requests_and_tokens_a_minute_are_respected_from_the_start(tmp_path: Path):
    began = time.monotonic()
    run(questions(20), Toy(), tmp_path / "rpm", pacing=Pacing(rpm=1_200))
    assert 0.9 <= time.monotonic() - began < 2.5
    began = time.monotonic()
    run(questions(20), Toy(), tmp_path / "tpm", pacing=Pacing(tpm=13_200))  # every answer costs 11 tokens
    assert 0.8 <= time.monotonic() - began < 2.5


@pytest.mark.alone
def test_progress_is_told_along_the_way_and_at_the_end(tmp_path: Path):
    told: list[tuple[int, int]] = []

    class Slow(Toy):
        async def send(self, request: Request) -> Reply:
            await asyncio.sleep(0.05)
            return await super().send(request)

    outcome, _ = run(
        questions(100), Slow(), tmp_path, total=100, progress=lambda o: told.append((o.settled, o.in_flight))
    )
    assert len(told) >= 3
    assert told[-1] == (100, 0)
    assert told == sorted(told, key=lambda t: t[0])
    assert outcome.eta == 0
    assert outcome.rate is not None
    assert outcome.rate > 10


def sibling(episode: int, number: int) -> Request:
    """A question that shares a rubric and a long episode with its siblings."""
    shared = [{"role": "system", "content": "rubric " * 400}, {"role": "user", "content": f"episode {episode} " * 400}]
    return Request(TARGET, [*shared, {"role": "user", "content": f"question {episode}{number}"}], cache_until=2)


def test_a_shared_prefix_goes_ahead_and_its_siblings_follow_while_others_go_on(tmp_path: Path):
    events: list[tuple[str, str]] = []

    class Watched(Toy):
        async def send(self, request: Request) -> Reply:
            events.append(("sent", said(request)))
            reply = await super().send(request)
            events.append(("answered", said(request)))
            return reply

    outcome, _ = run((sibling(e, n) for e in range(1, 4) for n in range(5)), Watched(), tmp_path, concurrency=64)
    assert outcome.asked == 15
    for episode in "123":
        mine = [event for event in events if event[1].startswith(f"question {episode}")]
        assert mine[:2] == [("sent", f"question {episode}0"), ("answered", f"question {episode}0")]
    assert [name for kind, name in events[:3]] == ["question 10", "question 20", "question 30"]
    assert (outcome.cache_expected, outcome.cache_missed) == (12, 0)


def test_a_cache_that_should_hit_and_does_not_is_counted(tmp_path: Path):
    class Forgetful(Toy):
        async def send(self, request: Request) -> Reply:
            return Reply("1", "stop", "toy", Usage(2_000, 0, 0, 1))

    outcome, _ = run((sibling(1, n) for n in range(9)), Forgetful(), tmp_path)
    assert (outcome.cache_expected, outcome.cache_missed) == (8, 8)


def test_siblings_follow_when_the_first_of_them_fails(tmp_path: Path):
    toy = Toy(question_10=[Rejected("no", status=400)])
    outcome, _ = run((sibling(1, n) for n in range(300)), toy, tmp_path, concurrency=2)
    assert (outcome.asked, outcome.unreachable) == (299, 1)


# With a real provider on this machine.


@pytest.mark.alone
@pytest.mark.slow
def test_5_000_calls_through_429s_5xx_and_hangs_lose_nothing_in_bounded_time(tmp_path: Path):
    pacing = Pacing(timeout_s=1.5, backoff_s=0.1, tries=8)
    with (
        running(throttled=0.1, broken=0.05, hanging=0.02, retry_after=0.2, latency=0.02) as provider,
        Ledger(tmp_path) as ledger,
    ):
        outcome = asyncio.run(ask_provider(provider, ledger, 5_000, 256, pacing))
        log = provider.log()
    print(f"{outcome.seconds:.1f} s, {outcome.throttled} throttled, {outcome.faults} faults")
    assert (outcome.asked, outcome.unreachable, outcome.failed) == (5_000, 0, 0)
    assert log["answered_distinct"] == 5_000
    assert outcome.throttled > 400
    assert outcome.faults > 250
    assert outcome.seconds < 90


@pytest.mark.alone
@pytest.mark.slow
def test_a_limit_of_100_a_second_is_found_and_kept_with_256_workers(tmp_path: Path):
    with running(limit=100, burst=1.0, latency=0.05) as provider, Ledger(tmp_path) as ledger:
        outcome = asyncio.run(ask_provider(provider, ledger, 2_500, 256))
        log = provider.log()
    rate, sent = 2_500 / outcome.seconds, log["requests"] / 2_500
    print(f"{rate:.1f} requests/s, {sent:.3f} times sent")
    assert (outcome.asked, outcome.unreachable) == (2_500, 0)
    assert rate >= 90
    assert sent <= 1.2


CHILD = """
import asyncio, sys
sys.path[:0] = {paths!r}
from fixtures.asking import *
with Ledger(sys.argv[2]) as ledger:
    outcome = asyncio.run(ask_provider(Running(sys.argv[1], 0), ledger, 1_000, 32))
    print(f"settled {{outcome.settled}} hits {{outcome.hits}} interrupted {{outcome.interrupted}}", flush=True)
"""


def start_child(provider: Running, ledger: Path) -> subprocess.Popen[str]:
    code = CHILD.format(paths=[str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen([sys.executable, "-c", code, provider.url, str(ledger)], stdout=subprocess.PIPE, text=True)


def wait_for_answers(provider: Running, more: int, process: subprocess.Popen[str]) -> None:
    wanted = provider.log()["answered"] + more
    deadline = time.monotonic() + 60
    while provider.log()["answered"] < wanted and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [6, pytest.param(16, marks=pytest.mark.long)])
def test_kill_9_repeats_at_most_what_was_in_flight(kills: int, tmp_path: Path):
    with running(latency=0.1) as provider:
        for _ in range(kills):
            process = start_child(provider, tmp_path)
            wait_for_answers(provider, 60, process)
            process.kill()
            process.wait()
        process = start_child(provider, tmp_path)
        told, _ = process.communicate(timeout=120)
        log = provider.log()
    assert told.startswith("settled 1000")
    assert log["answered_distinct"] == 1_000
    assert log["repeated"] <= kills * 32
    with Ledger(tmp_path) as ledger:
        assert len({a.key for a in ledger.scan()}) == 1_000


@pytest.mark.slow
def test_ctrl_c_lets_what_is_in_flight_come_home(tmp_path: Path):
    with running(latency=0.3) as provider:
        process = start_child(provider, tmp_path)
        wait_for_answers(provider, 40, process)
        os.kill(process.pid, signal.SIGINT)
        told, _ = process.communicate(timeout=60)
        answered = provider.log()["answered"]
        assert told.strip() == f"settled {answered} hits 0 interrupted True"
        assert answered < 1_000
        with Ledger(tmp_path) as ledger:
            assert len(ledger) == answered
        told, _ = start_child(provider, tmp_path).communicate(timeout=120)
        assert told.strip() == f"settled 1000 hits {answered} interrupted False"
        assert provider.log()["repeated"] == 0


def test_nobody_is_asked_where_the_answer_cannot_be_kept(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    toy = Toy()
    with pytest.raises(StoreError, match="cannot be written: Not a directory"):
        run(questions(3), toy, tmp_path / "file" / "ledger")
    assert not toy.asked


@pytest.mark.slow
def test_ctrl_c_twice_gives_up_what_is_in_flight(tmp_path: Path):
    with running(latency=0.05, hanging=0.2) as provider:
        process = start_child(provider, tmp_path)
        wait_for_answers(provider, 40, process)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        told, _ = process.communicate(timeout=30)
        assert "interrupted True" in told


@pytest.mark.alone
@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_requests(tmp_path: Path):
    """What is held is the ledger's index and the window, however many requests come."""
    with Ledger(tmp_path) as ledger:
        toy = Toy()
        asyncio.run(ask_all(questions(1_000), toy.send, Lookup(ledger, lambda q, r: True), concurrency=64))
        process = psutil.Process()
        before = process.memory_info().rss
        many = (question(n % 1_000) for n in range(60_000))
        outcome = asyncio.run(ask_all(many, toy.send, Lookup(ledger, lambda q, r: True), concurrency=64))
        assert (outcome.hits, outcome.asked) == (60_000, 0)
        assert process.memory_info().rss - before < 30e6
