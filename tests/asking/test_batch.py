"""Asking in batches: half the price, the same ledger, nothing twice, and every answer on its own row."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic as anthropic_sdk
import openai as openai_sdk
import pytest
from fixtures.batches import PROVIDERS, QUICK, ask_in_batches, ask_live, batches, live, questions, target

from sotopia_rl_data.asking.batch import anthropic, openai
from sotopia_rl_data.asking.batch.client import BatchLimits, lines_of
from sotopia_rl_data.asking.batch.intent import Intent
from sotopia_rl_data.errors import Rejected, Unavailable, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Target


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batchs_answers_are_hits_for_a_live_run_and_the_other_way_round(provider: str, tmp_path: Path):
    with running(batch_seconds=0.2) as at:
        asked = questions(30, target(provider, at))
        first = ask_live(asked[:10], live(provider, at), tmp_path)
        outcome, caller = ask_in_batches(asked[:20], batches(provider, at), tmp_path)
        assert (first.asked, outcome.hits, outcome.asked, outcome.sent) == (10, 10, 10, 10)
        last = ask_live(asked, live(provider, at), tmp_path)
        assert (last.hits, last.asked) == (20, 10)
        log = at.log()
        assert (log["paid_twice"], log["answered"], log["batch"]["sizes"]) == (0, 30, [10])
        fresh = ask_live(asked[:20], live(provider, at), tmp_path / "live")
        assert fresh.asked == 20
    with Ledger(tmp_path) as kept, Ledger(tmp_path / "live") as other:
        for request in asked[:20]:
            assert caller.texts[request.key] == other.attempts(request.key)[0].text
        told = kept.query(
            "SELECT batch IS NULL AS live, count(*) AS n FROM calls GROUP BY ALL ORDER BY ALL"
        ).to_pylist()
        assert told == [{"live": False, "n": 10}, {"live": True, "n": 20}]
        assert not list(tmp_path.glob("batches/*/*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_results_are_joined_by_their_id_whatever_order_gaps_doubles_and_strangers_they_come_in(
    provider: str, tmp_path: Path
):
    faults = {"dropped": 0.15, "doubled": 0.3, "strange": 0.2, "torn": 0.1, "failed": 0.1, "expired": 0.1}
    with running(**{f"batch_{name}": share for name, share in faults.items()}) as at:
        asked = questions(200, replace(target(provider, at), sampling={"max_tokens": 200}))
        outcome, caller = ask_in_batches(asked, batches(provider, at), tmp_path, batching=replace(QUICK, tries=20))
        log = at.log()
        assert (outcome.asked, outcome.settled, outcome.unreachable) == (200, 200, 0)
        assert set(caller.times.values()) == {1}
        assert log["paid_twice"] == log["batch"]["lost"] > 20
        assert log["batch"]["batches"] > 2
        ask_live(asked, live(provider, at), tmp_path / "live")
    with Ledger(tmp_path) as kept, Ledger(tmp_path / "live") as other:
        for request in asked:
            (answer,) = [one for one in kept.attempts(request.key) if one.status == "answer"]
            (right,) = other.attempts(request.key)
            assert caller.texts[request.key] == answer.text == right.text
            assert (answer.usage, answer.finish, answer.returned_model) == (right.usage, "stop", "sim-2026-01-01")
            assert (answer.sampling, answer.sample, answer.question) == (right.sampling, 0, right.question)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("told", ["bare", "loud", "late"])
def test_a_batch_is_fetched_once_in_whatever_words_its_end_and_its_results_are_told(
    told: str, provider: str, tmp_path: Path
):
    with running(batch_told=told) as at:
        outcome, _ = ask_in_batches(questions(6, target(provider, at)), batches(provider, at), tmp_path)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o600}
        assert (outcome.asked, outcome.unreachable, outcome.faults) == (6, 0, 0)
        assert at.log()["batch"]["sizes"] == [6]


@pytest.mark.slow
def test_a_batch_that_never_names_its_results_ends_the_run_and_is_not_submitted_anew(tmp_path: Path):
    with running(batch_told="never") as at:
        for _ in range(2):
            with pytest.raises(Unavailable, match="fetched: sim: the batch has ended, and names no file") as told:
                ask_in_batches(questions(6, target("openai", at)), batches("openai", at), tmp_path)
            folder = re.search("delete the folder (.*) to ask its requests again", told.value.hint)
            assert folder is not None
            assert Path(folder[1]).is_dir()
        assert at.log()["batch"]["sizes"] == [6]


def test_a_line_that_succeeded_without_a_message_may_have_been_billed():
    client = anthropic.AnthropicBatchClient(Target("anthropic", "sim", "http://127.0.0.1:1"))
    assert getattr(client._read_line({"result": {"type": "succeeded", "message": None}}), "status", None) == 200


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_fails_every_time_is_given_up_after_its_tries_and_asked_again_by_the_next_run(
    provider: str, tmp_path: Path
):
    with running(batch_expired=1.0) as at:
        asked = questions(3, target(provider, at))
        with pytest.raises(Unavailable, match="the batch expired before this was asked"):
            ask_in_batches(asked, batches(provider, at), tmp_path)
        assert at.log()["batch"]["sizes"] == [3, 3, 3]
    with Ledger(tmp_path) as kept:
        assert [len(kept.attempts(request.key)) for request in asked] == [3, 3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_batches_are_split_at_the_providers_limits(provider: str, tmp_path: Path):
    with running() as at:
        asked = questions(25, replace(target(provider, at), sampling={"max_tokens": 200}))
        client = batches(provider, at, BatchLimits(10, 10**6))
        assert ask_in_batches(asked, client, tmp_path)[0].asked == 25
        assert at.log()["batch"]["sizes"] == [10, 10, 5]
        size = len(client.line("0" * 57, asked[-1])) + 1
        client = batches(provider, at, BatchLimits(10**6, 4 * size + 100))
        assert ask_in_batches(asked, client, tmp_path / "other")[0].asked == 25
        assert at.log()["batch"]["sizes"][3:] == [4, 4, 4, 4, 4, 4, 1]
        client, leave = batches(provider, at, BatchLimits(10, 10**6)), replace(QUICK, wait=False)
        assert ask_in_batches(asked, client, tmp_path / "left", batching=leave)[0].in_batches == 25  # all at once


def test_the_limits_are_the_providers_own():
    assert (openai.LIMITS.requests, openai.LIMITS.size_bytes) == (50_000, 200_000_000)
    assert (anthropic.LIMITS.requests, anthropic.LIMITS.size_bytes) == (100_000, 256_000_000)
    custom_id = Intent("0123456789abcdef", 1, 0.0).custom_id("f" * 64)
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", custom_id)


@pytest.mark.slow
def test_where_the_queue_is_full_less_is_submitted_at_once(tmp_path: Path):
    with running(batch_queue=20, batch_seconds=0.1) as at:
        asked = questions(50, target("openai", at))
        outcome, _ = ask_in_batches(asked, batches("openai", at), tmp_path)
        log = at.log()["batch"]
    assert outcome.asked == 50
    assert (log["refused"], sum(log["sizes"]), max(log["sizes"])) == (2, 50, 12)


@pytest.mark.slow
def test_a_queue_that_others_fill_ends_with_its_reason(tmp_path: Path):
    with running(batch_queue=1, batch_seconds=600) as at:
        asked = questions(3, target("openai", at))
        others = replace(QUICK, wait=False)
        assert ask_in_batches(asked[:1], batches("openai", at), tmp_path / "other", batching=others)[0].in_batches == 1
        with pytest.raises(Rejected, match="Enqueued token limit reached"):
            ask_in_batches(asked[1:], batches("openai", at), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_server_that_knows_no_schemas_is_asked_in_a_weaker_way_in_the_next_batch(provider: str, tmp_path: Path):
    with running(formats="json_object") as at:
        asked = questions(5, target(provider, at))
        outcome, caller = ask_in_batches(asked, batches(provider, at), tmp_path)
        sizes = at.log()["batch"]["sizes"]
        assert (sizes[0], len(sizes)) == (5, 3)
    assert outcome.asked == 5
    assert all(text and text.startswith('{"importance"') for text in caller.texts.values())


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_that_somebody_cancels_gives_what_it_has_and_is_not_submitted_again_by_this_run(
    provider: str, tmp_path: Path
):
    with running(batch_seconds=600) as at:
        asked = questions(40, target(provider, at))
        outcome, _ = ask_in_batches(asked, batches(provider, at), tmp_path, batching=replace(QUICK, wait=False))
        assert (outcome.in_batches, outcome.batches, outcome.settled) == (40, 1, 0)
        asyncio.run(cancel(provider, at))
        with pytest.raises(Rejected, match="cancelled at its provider"):
            ask_in_batches(asked, batches(provider, at), tmp_path)
        assert at.log()["batch"]["batches"] == 1


async def cancel(provider: str, at: Running) -> None:
    """End the newest batch, as its owner would."""
    if provider == "openai":
        async with openai_sdk.AsyncOpenAI(api_key="x", base_url=at.openai_url) as sdk:
            await sdk.batches.cancel((await sdk.batches.list()).data[0].id)
    else:
        async with anthropic_sdk.AsyncAnthropic(api_key="x", base_url=at.url) as other:
            await other.messages.batches.cancel((await other.messages.batches.list()).data[0].id)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_under_way_is_fetched_by_the_next_run_and_never_submitted_again(provider: str, tmp_path: Path):
    with running(batch_seconds=600) as at:
        asked = questions(20, target(provider, at))
        leave = replace(QUICK, wait=False)
        first, _ = ask_in_batches(asked[:15], batches(provider, at), tmp_path, batching=leave)
        again, _ = ask_in_batches(asked, batches(provider, at), tmp_path, batching=leave)
        assert (first.in_batches, again.in_batches, again.batches, again.sent) == (15, 20, 2, 5)
        at.hurry()
        outcome, caller = ask_in_batches(asked, batches(provider, at), tmp_path)
        assert (outcome.asked, outcome.sent, outcome.in_batches) == (20, 0, 0)
        assert set(caller.times.values()) == {1}
        assert (at.log()["batch"]["sizes"], at.log()["paid_twice"]) == ([15, 5], 0)


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_batches_of_other_questions_are_fetched_by_the_way_and_not_waited_for(provider: str, tmp_path: Path):
    with running(batch_seconds=600) as at:
        asked, leave = questions(20, target(provider, at)), replace(QUICK, wait=False)
        ask_in_batches(asked[:5], batches(provider, at), tmp_path, batching=leave)
        other, _ = ask_in_batches(asked[5:], batches(provider, at), tmp_path, batching=leave)
        assert (other.in_batches, other.batches) == (15, 1)
        at.hurry()
        outcome, _ = ask_in_batches(asked[5:], batches(provider, at), tmp_path)
        assert (outcome.asked, outcome.in_batches) == (15, 0)
        later, _ = ask_in_batches(asked, batches(provider, at), tmp_path)
        assert (later.sent, later.hits) == (0, 20)
        assert at.log()["batch"]["sizes"] == [5, 15]


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_only_failures_are_retried_and_once_though_a_run_leaves_in_between(provider: str, tmp_path: Path):
    with running(malformed="refusal", malformed_where="question 1") as at:
        asked = questions(20, target(provider, at))
        first, _ = ask_in_batches(asked, batches(provider, at), tmp_path)
        assert (first.asked, first.failed) == (20, 11)
        again = {"retry_failed": True, "batching": replace(QUICK, wait=False)}
        assert ask_in_batches(asked, batches(provider, at), tmp_path, **again)[0].in_batches == 11
        while ask_in_batches(asked, batches(provider, at), tmp_path, **again)[0].in_batches:
            time.sleep(0.05)
        assert at.log()["batch"]["sizes"] == [20, 11]


@pytest.mark.slow
def test_a_retry_that_fails_at_the_provider_is_made_again_though_the_queue_is_full(tmp_path: Path):
    with running(malformed="refusal", malformed_where="question", batch_failed=0.4, batch_queue=5) as at:
        asked, patient = questions(12, target("openai", at)), replace(QUICK, tries=30)
        ask_in_batches(asked, batches("openai", at), tmp_path, batching=patient)
        ask_in_batches(asked, batches("openai", at), tmp_path, batching=patient, retry_failed=True)
        assert at.log()["answered"] == 24
    with Ledger(tmp_path) as kept:
        answers = [[one for one in kept.attempts(request.key) if one.status == "answer"] for request in asked]
        assert {len(many) for many in answers} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_lost_answer_to_a_submission_is_looked_for_and_not_submitted_again(provider: str, tmp_path: Path):
    """The provider hangs after it began the batch, so that the client's time is up before it hears the id."""
    with running(stall="created", hang=30, batch_seconds=0.3) as at:
        asked = questions(10, target(provider, at))
        client = batches(provider, at)
        client.patience_s = 0.5
        outcome, _ = ask_in_batches(asked, client, tmp_path)
        assert (outcome.asked, at.log()["batch"]["sizes"]) == (10, [10])


@pytest.mark.slow
def test_of_two_batches_of_one_size_the_custom_ids_say_which_is_ours(tmp_path: Path):
    """Anthropic's batches carry nothing of ours while they are under way: a stranger's may be ours until it ends."""
    with running(stall="created", hang=30, batch_seconds=600) as at:
        ours, strangers = questions(4, target("anthropic", at)), questions(8, target("anthropic", at))[4:]
        client = batches("anthropic", at)
        client.patience_s = 0.5
        away = replace(QUICK, wait=False)
        assert ask_in_batches(ours, client, tmp_path, batching=away)[0].in_batches == 4
        ask_in_batches(strangers, batches("anthropic", at), tmp_path / "other", batching=away)
        time.sleep(2 * QUICK.doubt_s)
        assert ask_in_batches(ours, batches("anthropic", at), tmp_path, batching=away)[0].in_batches == 4
        at.hurry()
        outcome, caller = ask_in_batches(ours, batches("anthropic", at), tmp_path, batching=away)
        assert (outcome.asked, len(caller.texts)) == (4, 4)
        assert at.log()["batch"]["sizes"] == [4, 4]
        assert at.log()["paid_twice"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_submission_that_never_arrived_is_made_again_once_that_is_certain(provider: str, tmp_path: Path):
    with running(stall="create", hang=30) as at:
        client = batches(provider, at)
        client.patience_s = 0.5
        outcome, _ = ask_in_batches(questions(3, target(provider, at)), client, tmp_path)
        assert (outcome.asked, at.log()["batch"]["sizes"]) == (3, [3])


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_server_without_a_batch_api_is_a_sentence_and_nothing_is_written(provider: str, tmp_path: Path):
    with running(batches=0) as at, pytest.raises(UsageError, match="has no batch API"):
        ask_in_batches(questions(3, target(provider, at)), batches(provider, at), tmp_path)
    assert not list(tmp_path.glob("batches/*/*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_wrong_key_and_a_server_that_is_down_are_sentences(provider: str, tmp_path: Path):
    with running(key="right") as at, pytest.raises(Rejected, match="401"):
        ask_in_batches(questions(3, target(provider, at)), batches(provider, at), tmp_path)
    with pytest.raises(Unavailable, match="cannot be reached"):
        ask_in_batches(questions(3, target(provider, at)), batches(provider, at), tmp_path)


def test_a_line_ends_at_a_line_feed_and_nowhere_else():
    async def read(*chunks: bytes) -> list[Any]:
        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return [line async for line in lines_of(body())]

    text = "one\u2028two\x85three"
    whole = json.dumps({"text": text}, ensure_ascii=False).encode()
    assert asyncio.run(read(whole[:9], whole[9:] + b"\n" + whole)) == [{"text": text}] * 2
    assert asyncio.run(read(whole + b"\n" + whole[:20] + b"\n\n" + whole + b"\n")) == [{"text": text}] * 2
