"""A model whose answers cannot be used ends the run after some 25 of them; what was paid is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.batches import PROVIDERS, QUICK, judge
from fixtures.flat_calls import evaluate, label, plan_of, rollout
from fixtures.labelling import boats, put
from fixtures.playing import many

from sotopia_rl_data.errors import UnusableAnswers
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store

USELESS = ["prose_for_ever", "other_keys_for_ever", "empty_for_ever", "refuses_for_ever"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    put(made, boats(100))
    return made


def kept(store: Store) -> int:
    with Ledger.default(store.root) as ledger:
        return sum(attempt.status == "answer" for attempt in ledger.scan())


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("habit", USELESS)
def test_a_run_ends_with_a_reason_and_three_examples_and_keeps_what_was_paid(provider: str, habit: str, store: Store):
    with running(habit=habit) as at:
        with pytest.raises(UnusableAnswers, match=r"answers of sim in a row could not be used, most of them because"):
            label(store, "lab/episodes", judges=[judge(provider, at)], preset="goal-only", concurrency=16)
        assert 25 <= at.log()["answered"] <= 70
        assert kept(store) == at.log()["answered"]
    assert store.names() == ["lab/episodes"]


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_of_useless_answers_is_not_followed_by_a_batch_of_second_tries(provider: str, store: Store):
    with running(habit="prose_for_ever") as at:
        with pytest.raises(UnusableAnswers, match=r"because the answer is not JSON.*'Every turn mattered"):
            label(store, "lab/episodes", judges=[judge(provider, at)], preset="goal-only", batching=QUICK)
        assert at.log()["batch"]["sizes"] == [200]
        assert kept(store) == 200
    assert not list(store.root.glob(".ledger/batches/*/*/*"))


@pytest.mark.slow
def test_a_few_usable_answers_between_keep_the_run_going(store: Store):
    with running(habit="one_usable_in_ten") as at:
        done = label(store, "lab/episodes", judges=[judge("openai", at)], preset="goal-only", concurrency=16)
        assert done.labels > 0
        assert at.log()["answered"] > 200


@pytest.mark.slow
def test_evaluations_and_rollouts_end_likewise(store: Store):
    with running(habit="prose_for_ever") as at:
        with pytest.raises(UnusableAnswers, match="could not be used"):
            evaluate(store, "lab/episodes", judges=[judge("anthropic", at)])
        assert at.log()["answered"] < 200
        policy = judge("openai", at)
        with pytest.raises(UnusableAnswers, match="'Every turn mattered"):
            rollout(store, plan_of(many(20), a=policy, b=policy), "lab/play")


@pytest.mark.slow
def test_with_retry_failed_every_question_is_asked_once_more_all_the_same(store: Store):
    with running(habit="prose_for_ever") as at:
        asked = {"judges": [judge("openai", at)], "preset": "goal-only"}
        done = label(store, "lab/episodes", **asked, retry_failed=True)
        assert (done.labels, done.asked) == (0, 400)
