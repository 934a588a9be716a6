"""Limits and money are told apart by status, identifiers and Retry-After; a limit that lets nothing through ends."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import product
from pathlib import Path

import pytest
from fixtures.batches import PROVIDERS, ask_in_batches, ask_live, batches, live, questions, target

from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.asking.refusals import provider_text, retry_after, status_error
from sotopia_rl_data.asking.stopping import Silence
from sotopia_rl_data.asking.time_limit import standing_still
from sotopia_rl_data.errors import Rejected, Unavailable
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup, Outcome
from sotopia_rl_data.request import Reply, Request, Target

QUICK = Pacing(backoff_s=0.01, wall_s=1.0, longest_wall_s=2.0)
LIMITS = ["limit_that_mentions_billing", "limit_in_a_list", "limit_inside_a_200", "limit_as_403", "odd_retry_after"]
NO_MONEY = ["empty_account", "payment_required"]


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("habit", LIMITS)
def test_a_limit_is_waited_for_in_whatever_words_it_is_told(provider: str, habit: str, tmp_path: Path):
    with running(habit=habit) as at:
        outcome = ask_live(questions(12, target(provider, at)), live(provider, at), tmp_path, pacing=QUICK)
        assert (outcome.asked, outcome.throttled, outcome.unreachable) == (12, 6, 0)
        assert at.log()["requests"] == 18


@pytest.mark.slow
@pytest.mark.parametrize(
    ("provider", "habit"),
    [
        ("openai", "limit_in_a_list"),
        *product(PROVIDERS, ["limit_that_mentions_billing", "limit_inside_a_200", "odd_retry_after"]),
    ],
)
def test_lines_of_a_batch_that_meet_a_limit_go_into_the_next_round(provider: str, habit: str, tmp_path: Path):
    with running(habit=habit) as at:
        outcome, _ = ask_in_batches(questions(10, target(provider, at)), batches(provider, at), tmp_path)
        assert (outcome.asked, outcome.unreachable) == (10, 0)
        assert at.log()["batch"]["sizes"] == [10, 6]


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("habit", NO_MONEY)
def test_an_empty_account_ends_the_run_after_a_few_calls(provider: str, habit: str, tmp_path: Path):
    with running(habit=habit) as at:
        with pytest.raises(Rejected) as caught:
            ask_live(questions(200, target(provider, at)), live(provider, at), tmp_path)
        assert caught.value.status == 402
        assert "top up the account" in caught.value.hint
        assert at.log()["requests"] < 30


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_account_that_runs_dry_in_the_middle_ends_the_run_and_keeps_what_was_paid(provider: str, tmp_path: Path):
    with running(habit="account_that_runs_dry") as at, pytest.raises(Rejected, match="The account is empty"):
        ask_live(questions(200, target(provider, at)), live(provider, at), tmp_path)
    assert answers_in(tmp_path) == 10


def answers_in(ledger: Path) -> int:
    lines = [json.loads(line) for path in ledger.glob("journal-*") for line in path.open()]
    return sum(line["status"] == "answer" for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("habit", ["wall_of_429", "overloaded_for_ever"])
def test_a_wall_is_shown_while_it_stands_and_ends_the_run_with_a_sentence(provider: str, habit: str, tmp_path: Path):
    told: list[str] = []

    def progress(outcome: Outcome) -> None:
        told.append(outcome.words)

    began = time.monotonic()
    with running(habit=habit) as at, pytest.raises(Unavailable) as caught:
        ask_live(questions(50, target(provider, at)), live(provider, at), tmp_path, pacing=QUICK, progress=progress)
    assert time.monotonic() - began < 30
    assert "and not one was answered" in caught.value.message
    assert any(words.startswith("throttled: all refused for ") and "given up in" in words for words in told)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_wall_in_the_middle_of_a_run_ends_it_and_the_answers_are_kept(provider: str, tmp_path: Path):
    with running(habit="wall_after_ten_answers") as at, pytest.raises(Unavailable, match="after 10 answers"):
        ask_live(questions(50, target(provider, at)), live(provider, at), tmp_path, pacing=QUICK)
    assert answers_in(tmp_path) == 10


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("habit", ["never_answers", "stops_after_the_headers", "drips", "falls_silent"])
def test_a_server_that_says_nothing_ends_the_run_with_a_sentence_and_answers_are_kept(
    habit: str, provider: str, tmp_path: Path
):
    pacing = Pacing(silence_s=0.6, grace_s=0.1)
    with running(habit=habit) as at, pytest.raises(Unavailable) as caught:
        ask_live(questions(50, target(provider, at)), live(provider, at), tmp_path, pacing=pacing)
    silent_from_the_start = habit != "falls_silent"
    assert ("yet: it said nothing for 1 s" in caught.value.message) is silent_from_the_start
    assert answers_in(tmp_path) == (0 if silent_from_the_start else 10)
    assert "--timeout" in caught.value.hint


def test_silence_is_measured_by_the_slowest_answer_and_not_broken_by_tries():
    silence = Silence(90)
    silence.look(0, True)
    silence.look(89, False)  # a try has ended and the next has not begun
    assert silence.ended(90) is None
    assert silence.ended(91) is not None
    silence.heard(60)
    silence.look(100, True)
    assert silence.ended(279) is None
    assert silence.ended(281) is not None


@pytest.mark.slow
def test_the_time_that_a_call_waits_on_this_side_is_not_taken_for_the_servers(tmp_path: Path):
    async def send(request: Request) -> Reply:
        if request.target.base_url:
            await asyncio.sleep(60)
        with standing_still():
            await asyncio.sleep(1.0)
        return Reply("1", "stop")

    targets = [Target("openai", "sim", url) for url in ("", "http://127.0.0.1:1/v1")]
    asked = [question for target in targets for question in questions(1, target)]
    pacing = Pacing(silence_s=0.6, grace_s=0.1)
    with Ledger(tmp_path) as ledger:
        run = ask_all(asked, send, Lookup(ledger, lambda request, reply: True), concurrency=1, pacing=pacing)
        with pytest.raises(Unavailable, match="it said nothing for 1 s"):
            asyncio.run(run)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_slow_answer_behind_refusals_is_not_taken_for_a_wall(provider: str, tmp_path: Path):
    with running(limit=2, burst=1, latency=0.4, retry_after=0.1) as at:
        outcome = ask_live(questions(8, target(provider, at)), live(provider, at), tmp_path, pacing=QUICK)
    assert outcome.asked == 8


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_question_too_large_for_the_limit_is_given_up_after_a_few_tries(provider: str, tmp_path: Path):
    with running(habit="too_large_for_the_limit", latency=0.05) as at:
        to = target(provider, at)
        large = Request(to, [{"role": "user", "content": "word " * 2_000}])
        asked = [*questions(5, to), large, *questions(60, to)[5:]]
        outcome = ask_live(asked, live(provider, at), tmp_path, concurrency=4)
        assert (outcome.asked, outcome.unreachable) == (60, 1)
        assert outcome.throttled <= 10


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_redirect_is_not_followed_and_the_run_ends_soon(provider: str, tmp_path: Path):
    with running(habit="redirect") as at:
        with pytest.raises(Rejected, match="307") as caught:
            ask_live(questions(100, target(provider, at)), live(provider, at), tmp_path)
        assert "hunter2" not in str(caught.value)
        assert at.log()["requests"] <= 30


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("habit", "said"),
    [
        ("key_refused_inside_a_200", "401 The token is not known."),
        ("page_of_a_firewall", "403 Your network was blocked ."),
    ],
)
def test_a_refusal_in_another_shape_ends_the_run_soon_and_its_reason_is_told(
    provider: str, habit: str, said: str, tmp_path: Path
):
    with running(habit=habit) as at:
        with pytest.raises(Rejected, match=said):
            ask_live(questions(100, target(provider, at)), live(provider, at), tmp_path)
        assert at.log()["requests"] <= 30


TARGET = Target("openai", "m", "http://127.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("status", "error", "headers", "kind", "meant"),
    [
        (429, {"code": "insufficient_quota"}, {}, Rejected, 402),
        (429, {"code": "insufficient_quota"}, {"retry-after": "2"}, Unavailable, 429),
        (429, {"type": "billing_error", "code": "rate_limit_exceeded"}, {}, Unavailable, 429),
        (429, {"message": "insufficient_quota billing credit balance"}, {}, Unavailable, 429),
        (400, {"message": "Your credit balance is too low."}, {}, Rejected, 400),
        (400, {"type": "billing_error"}, {}, Rejected, 402),
        (403, {"code": "rate_limit_exceeded"}, {}, Unavailable, 429),
        (413, {"code": "rate_limit_exceeded"}, {"retry-after": "1"}, Rejected, 413),
        (401, {"code": "x"}, {"retry-after": "1"}, Rejected, 401),
        (503, {}, {"retry-after": "1"}, Unavailable, 503),
        (500, {"code": "rate_limit_exceeded"}, {}, Unavailable, 429),
        (500, {"code": "x"}, {}, Unavailable, 500),
        (301, {}, {}, Rejected, 301),
    ],
)
def test_what_an_error_means(status: int, error: object, headers: dict[str, str], kind: type, meant: int):
    made = status_error(TARGET, status, {"error": error}, headers)
    assert (type(made), getattr(made, "status", None)) == (kind, meant)


@pytest.mark.parametrize("told", ["nan", "-1", "inf", "-inf", "1e30", "9999999", "", "soon", "Thu, 99 Jan 2026"])
def test_a_time_that_nobody_can_wait_for_is_none(told: str):
    assert retry_after({"retry-after": told}) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "No."}}, "No."),
        ({"error": "plain words"}, "plain words"),
        ("plain", "plain"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": '{"error": {"message": "a b c"}}'}}},
            "Provider returned error: a b c",
        ),
        (
            {"error": {"message": "Upstream failed.", "causes": [{"detail": {"why": "the GPU fell out"}}]}},
            "Upstream failed. the GPU fell out",
        ),
        ({"detail": [{"loc": ["body", "x"], "msg": "Field required here"}]}, "Field required here"),
        ({"error": {"message": '{"error": {"message": "inner words"}}'}}, "inner words"),
        ([{"error": {"message": "In a list."}}], "In a list."),
        ({"object": "error"}, '{"object": "error"}'),
        (None, ""),
    ],
)
def test_the_message_of_a_provider_and_of_the_server_behind_it_are_kept(body: object, said: str):
    assert provider_text(body) == said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"details": [f"a {i}" for i in range(60_000)]}}, "a 0: a 1: a 2: a 3: a 4: a 5: a 6: a 7: a 8: a 9"),
        ({"error": {"message": "x y " * 400_000}}, "x y " * 74 + "x y…"),
        ({"a": "api_key=" * 100_000}, ""),
        ({"a": ["b" * 400_000]}, '{"a": ["' + "b" * 492),
    ],
)
def test_of_an_error_of_megabytes_the_beginning_is_read(body: object, said: str):
    began = time.process_time()
    assert provider_text(body) == said
    assert time.process_time() - began < 3


def test_where_an_error_is_cut_no_half_of_a_key_is_left():
    key = "correct-horse/battery+staple-9471"
    escaped = "".join(f"%{ord(c):02x}" for c in key)
    for junk in range(1, 4_100, 60):
        told = provider_text(
            {"error": {"message": f"no {'A1b2C3d4' * 500}"[:junk] + f" {escaped} " + "so " * 2_000}}, key
        )
        assert "%63" not in told
        assert len(told) <= 300
