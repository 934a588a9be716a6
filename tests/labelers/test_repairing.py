"""Answers that cannot be used: sent back once, never turned into a number, never asked about twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures.flat_calls import label
from fixtures.labelling import BOAT, Highest, Stumbling, boats, filled, put, rows, sim
from fixtures.places import ROOT

from sotopia_rl_data.fake_provider.running import MALFORMED, running
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.requests import follow_up, raised, request_of
from sotopia_rl_data.labelers.schemas import BUILTINS, own_dimensions, schema
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Reply, Target
from sotopia_rl_data.store import Store

RUBRIC = ROOT / "examples" / "rubric.yaml"
MODEL = Target("openai", "m", "http://h", {"temperature": 0, "max_tokens": 100})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def question() -> Question:
    return next(iter(schema("direct").questions(BOAT, ("goal",), "gpt-4", "packed", 3)))


REASONS = {
    "fenced": None,  # a fence is no fault
    "truncated": "the answer was cut off at the token limit",
    "extra": "overall_impression was not asked for",
    "missing": "is missing",
    "range": "expected an integer from 0 to 3, got",
    "strings": "expected an integer from 0 to 3, got",
    "floats": "expected an integer from 0 to 3, got",
    "null": "got null",
    "nested": "answer was not asked for",
    "agent": "was not asked for",
    "empty": "the answer is empty",
    "refusal": "the judge refused to answer",
}


def test_there_are_twelve_kinds_of_malformed_reply():
    assert set(MALFORMED) == set(REASONS)
    assert len(MALFORMED) == 12


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
@pytest.mark.parametrize(("ask", "calls"), [("per-dimension", 6), ("packed", 1)])
@pytest.mark.parametrize("kind", MALFORMED)
def test_twelve_kinds_of_malformed_reply_cost_one_call_more_at_most_and_never_make_a_number(
    store: Store, kind: str, ask: Any, calls: int, protocol: str
):
    put(store, [BOAT])
    with running(malformed=kind, malformed_share=1.0) as provider:
        judge = sim(provider) if protocol == "openai" else f"anthropic:sim-judge@{provider.url}"
        done = label(store, "lab/episodes", judges=[judge], packing=ask)
        sent = provider.log()["requests"]
    if REASONS[kind] is None:
        assert (done.labels, sent) == (15, calls)
        return
    assert (done.labels, done.failed, done.rewarded) == (0, 15, 0)
    assert sent == (calls if kind == "refusal" else 2 * calls)
    assert done.unusable == calls
    assert all(REASONS[kind] in reason for reason in done.failures), done.failures
    assert all(len(reason) < 160 and "\n" not in reason for reason in done.failures)
    assert {r["reward"] for r in rows(done.version, "rewards", store)} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(name for name in BUILTINS if schema(name).needs_judge), f"rubric:{RUBRIC}"])
def test_whatever_the_schema_only_a_fenced_reply_of_the_twelve_kinds_makes_numbers(store: Store, name: str):
    put(store, boats(15))  # scored on the goal alone
    weights = None if own_dimensions(schema(name)) else {"goal": 1.0}
    with running(malformed="all", malformed_share=1.0) as provider:
        # with retry_failed, so that the run is not ended for its useless answers
        done = label(store, "lab/episodes", judges=[sim(provider)], schema=name, weights=weights, retry_failed=True)
        assert provider.log()["requests"] <= 4 * done.calls
    assert len(done.failures) >= 8
    assert all(len(reason) < 160 and "\n" not in reason for reason in done.failures)
    with Ledger.default(store.root) as ledger:
        used = {row["call_id"] for row in rows(done.version, "attributions", store)}
        assert all("```" in ledger.attempts(call)[0].text for call in used)
    assert used


def test_a_bad_answer_is_sent_back_with_the_reason_and_the_second_one_counts(store: Store):
    put(store, [BOAT])
    judge = Stumbling()
    done = label(store, "lab/episodes", judges=[judge])
    assert (done.calls, done.asked, done.repaired, done.unusable, done.labels) == (6, 12, 6, 0, 15)
    assert all("This answer cannot be used: the answer is not JSON: I think all of them" in told for told in judge.told)
    assert rows(done.version, "failures", store) == []


def test_a_repaired_answer_is_found_again_by_every_later_run(store: Store, tmp_path: Path):
    put(store, [BOAT])
    first = label(store, "lab/episodes", judges=[Stumbling()])
    for options in ({}, {"retry_failed": True}):
        judge = Stumbling()
        again = label(store, "lab/episodes", judges=[judge], **options)  # type: ignore[arg-type]
        assert (judge.calls, again.asked, again.digest, again.repaired) == (0, 0, first.digest, 6)
    other = Store(tmp_path / "other")
    put(other, [BOAT])
    replayed = label(other, "lab/episodes", judges=[f"replay:{store.root}"])
    assert replayed.digest == first.digest


def test_the_call_id_of_a_repaired_label_is_that_of_the_answer_that_counts(store: Store):
    put(store, [BOAT])
    done = label(store, "lab/episodes", judges=[Stumbling()])
    with Ledger.default(store.root) as ledger:
        for row in rows(done.version, "attributions", store):
            (attempt,) = ledger.attempts(row["call_id"])
            assert "turn_" in attempt.text


def test_a_run_that_ended_before_the_second_try_ends_in_the_same_digest(store: Store, tmp_path: Path):
    """The ledger of an undisturbed run, cut off after its first answers, stands for a run that was killed there."""
    put(store, [BOAT])
    whole = label(store, "lab/episodes", judges=[Stumbling()])
    other = Store(tmp_path / "other")
    put(other, [BOAT])
    with Ledger.default(store.root) as ledger, Ledger.default(other.root) as cut:
        for attempt in sorted(ledger.scan(), key=lambda a: a.time)[:7]:
            cut.append(attempt)
    judge = Stumbling()
    resumed = label(other, "lab/episodes", judges=[judge])
    assert (resumed.digest, judge.calls) == (whole.digest, 5)


def test_retry_failed_asks_the_failed_ones_and_no_other(store: Store):
    put(store, boats(12))

    class Moody(Highest):
        """Refuses to be clear about some episodes, until its mood mends."""

        mood = True

        def say(self, question: Question) -> str:
            bad = self.mood and question.episode.episode_id < "e0005"
            return "hm" if bad else super().say(question)

    judge = Moody("moody")
    first = label(store, "lab/episodes", judges=[judge], preset="goal-only")
    assert (first.unusable, judge.calls) == (10, 34)
    judge.mood = False
    again = label(store, "lab/episodes", judges=[judge], preset="goal-only", retry_failed=True)
    assert (again.asked, judge.calls, again.failures) == (10, 44, {})


def test_what_was_cut_off_at_our_limit_is_asked_again_with_a_higher_one():
    asked = request_of(question(), MODEL)
    second = follow_up(asked, Reply('{"agent_1"', "length"), "the answer was cut off at the token limit")
    assert second is not None
    assert second.target.sampling == {"temperature": 0, "max_tokens": 400}
    assert (list(second.messages), second.question) == (list(asked.messages), asked.question)
    assert second.key != asked.key
    assert follow_up(second, Reply("", "length"), "cut") is None  # once
    higher = [raised(Target("anthropic", "m", "", {"max_tokens": n})) for n in (1_000, 8_192, 20_000)]
    assert [one and one.sampling["max_tokens"] for one in higher] == [4_000, 32_000, 40_000]
    unlimited = request_of(question(), Target("openai", "m", "http://h"))
    assert raised(unlimited.target) is None
    shown = follow_up(unlimited, Reply("{" * 99_999, "length"), "cut")
    assert shown is not None
    assert len(shown.messages[-2]["content"]) == 6_000


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_a_limit_that_is_too_low_costs_a_call_more_and_the_longer_answer_counts(store: Store, protocol: str):
    put(store, [BOAT])
    with running() as provider:
        judge = sim(provider) if protocol == "openai" else f"anthropic:sim-judge@{provider.url}"
        done = label(store, "lab/episodes", judges=[judge], sampling={"max_tokens": 15})
        assert provider.log()["requests"] == 12
    assert (done.labels, done.repaired, done.unusable, done.failures) == (15, 6, 0, {})
    with Ledger.default(store.root) as ledger:
        said = [(attempt.sampling["max_tokens"], attempt.finish) for attempt in ledger.scan()]
    assert sorted(said) == [(15, "length")] * 6 + [(60, "stop")] * 6


@pytest.mark.slow
def test_truncated_answers_are_replayed_as_one_judge(store: Store, tmp_path: Path):
    put(store, [BOAT])
    with running(malformed="truncated", malformed_share=0.5, seed=3) as provider:
        first = label(store, "lab/episodes", judges=[sim(provider)], sampling={"max_tokens": 500})
    other = Store(tmp_path / "other")
    put(other, [BOAT])
    again = label(other, "lab/episodes", judges=[f"replay:{store.root}"])
    assert again.digest == first.digest


@pytest.mark.parametrize("reply", [Reply("", "refusal"), Reply("{}", "refusal")])
def test_a_refusal_is_taken_as_it_stands(reply: Reply):
    assert follow_up(request_of(question(), MODEL), reply, "the judge refused to answer") is None


def test_an_empty_answer_leaves_no_empty_message():
    second = follow_up(request_of(question(), MODEL), Reply("  "), "the answer is empty")
    assert second is not None
    assert [m["role"] for m in second.messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert all(m["content"].strip() for m in second.messages)


def test_progress_never_passes_the_total(store: Store):
    put(store, [BOAT])
    heard: list[Any] = []
    label(store, "lab/episodes", judges=[Stumbling()], progress=lambda *told: heard.append(told))
    assert heard[-1][:2] == (6, 6)
    assert all(done <= 6 for done, *_ in heard)


def test_equal_questions_are_repaired_once(store: Store):
    from dataclasses import replace

    put(store, [BOAT, replace(BOAT, episode_id="copy")])
    judge = Stumbling(bad=json.dumps(filled({"type": "object", "properties": {}}, lambda allowed: allowed[0])))
    done = label(store, "lab/episodes", judges=[judge])
    assert (judge.calls, done.labels) == (12, 30)
