"""Whatever a model thinks aloud and whatever its server puts around the answer: the same labels, for one call each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fixtures.batches import PROVIDERS, QUICK, judge
from fixtures.flat_calls import audit, evaluate, label
from fixtures.labelling import boats, put, rows

from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.errors import BudgetSpent
from sotopia_rl_data.fake_provider.habits import completions, thoughts
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.store import Store

SOON = Pacing(tries=4, backoff_s=0.01)
CUT_OFF = [
    "thought_that_is_cut_off",
    "other_thought_that_is_cut_off",
    "channel_that_is_cut_off",
    "field_that_is_cut_off",
]
REFUSED = [
    "two_objects",
    "two_fences",
    "answer_in_a_list",
    "answer_in_a_broken_object",
    "comments",
    "thought_alone",
]
FILTERS = [
    "content_filter_as_400",
    "content_filter_inside_an_error",
    "content_filter_in_a_reply",
    "content_filter_by_another_name",
    "content_filter_in_a_sentence",
]
ODD_BYTES = ["half_of_a_character", "packed_without_a_word", "header_of_many_bytes", "number_of_a_thousand_digits"]
USAGES = [name for name in completions.HABITS if "usage" in name or "cached" in name or "outside" in name]
NEITHER = "content_filter_in_words"  # refuses questions that only tests/asking/test_negotiation.py asks
FAULTS = [name for name in completions.HABITS if name not in (*FILTERS, *ODD_BYTES, *USAGES, NEITHER)]
READ = [name for name in thoughts.HABITS if name not in (*CUT_OFF, *REFUSED)] + USAGES + ODD_BYTES
BESIDE_THE_TEXT = ("field", "parts", "call", "type", "reasoning", "stream", "list", "names", "reply", "lines_in")
IN_THE_TEXT = [
    name for name in READ if name not in (*USAGES, *ODD_BYTES) and not any(word in name for word in BESIDE_THE_TEXT)
]

Labels = Mapping[tuple[str, str, int, str], float]


@pytest.fixture(scope="module")
def provider() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    put(made, boats(2))
    return made


def labels_of(store: Store, at: Running, protocol: str, **given: Any) -> tuple[Any, Labels]:
    """The report of a label run over eight utterances, and what each was given."""
    asked = {"judges": [judge(protocol, at)], "preset": "goal-only", "pacing": SOON, **given}
    done = label(store, "lab/episodes", **asked)
    found = rows(done.version, "attributions", store)
    return done, {(r["episode_id"], r["agent"], r["turn"], r["dimension"]): r["raw"] for r in found}


@pytest.fixture(scope="module")
def steady(provider: Running, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Labels]:
    """The labels from a model without habits, by protocol."""
    found = {}
    for protocol in PROVIDERS:
        made = Store(tmp_path_factory.mktemp("steady"))
        put(made, boats(2))
        found[protocol] = labels_of(made, provider, protocol)[1]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "habit"),
    [(protocol, habit) for protocol in PROVIDERS for habit in READ if protocol == "openai" or habit not in IN_THE_TEXT],
)
def test_every_way_to_tell_an_answer_gives_the_same_labels_for_one_call_each(
    habit: str, protocol: str, steady: Any, provider: Running, store: Store
):
    at = provider.playing(habit)
    before = at.log()["answered"]
    done, labels = labels_of(store, at, protocol)
    assert labels == steady[protocol]
    assert at.log()["answered"] - before == done.asked == 4


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROVIDERS)
@pytest.mark.parametrize(
    "habit",
    [
        "thinks_in_every_way",
        "answer_in_reasoning_content",
        "thought_in_parts_with_a_mark",
        "reply_in_a_list",
        "reply_in_a_text",
        "empty_error_beside_the_reply",
        "two_equal_tool_calls",
        "usage_beyond_reason",
    ],
)
def test_and_so_it_is_in_batches(habit: str, protocol: str, steady: Any, provider: Running, store: Store):
    _, labels = labels_of(store, provider.playing(habit), protocol, batching=QUICK)
    assert labels == steady[protocol]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROVIDERS)
@pytest.mark.parametrize("habit", FAULTS)
def test_a_fault_inside_a_200_is_asked_again_and_never_an_answer(
    habit: str, protocol: str, steady: Any, provider: Running, store: Store
):
    done, labels = labels_of(store, provider.playing(habit), protocol)
    assert labels == steady[protocol]
    assert done.outcomes[0].faults >= 1
    assert labels_of(store, provider.playing(habit), protocol)[0].asked == 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROVIDERS)
@pytest.mark.parametrize("habit", ["error_inside_a_choice", "no_choices", "null_body"])
def test_and_so_is_a_fault_in_a_line_of_a_batch(
    habit: str, protocol: str, steady: Any, provider: Running, store: Store
):
    _, labels = labels_of(store, provider.playing(habit), protocol, batching=QUICK)
    assert labels == steady[protocol]


@pytest.mark.slow
@pytest.mark.parametrize("habit", REFUSED)
def test_what_is_not_one_answer_gives_no_label_and_a_reason(habit: str, provider: Running, store: Store):
    done, labels = labels_of(store, provider.playing(habit), "openai")
    assert labels == {}
    assert done.unusable == 4
    assert "cut off" not in str(done.failures)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROVIDERS)
@pytest.mark.parametrize("habit", CUT_OFF)
def test_a_thought_that_was_cut_off_is_a_truncation_and_says_so(
    habit: str, protocol: str, provider: Running, store: Store
):
    done, labels = labels_of(store, provider.playing(habit), protocol)
    assert labels == {}
    assert all("was cut off at the token limit" in reason for reason in done.failures)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROVIDERS)
@pytest.mark.parametrize(
    ("habit", "batching"),
    [*((name, None) for name in FILTERS), *((name, QUICK) for name in (FILTERS[0], FILTERS[-1]))],
)
def test_a_content_filter_is_a_refusal_that_is_not_asked_again_by_the_next_run(
    habit: str, batching: Any, protocol: str, provider: Running, store: Store, tmp_path: Path
):
    put(store, boats(8))
    done, labels = labels_of(store, provider.playing(habit), protocol, batching=batching)
    assert set(done.failures) == {"the judge refused to answer"}
    assert 0 < len(labels) < 32
    again, same = labels_of(store, provider.playing(habit), protocol, batching=batching)
    assert (again.asked, same) == (0, labels)


@pytest.mark.parametrize("protocol", PROVIDERS)
def test_a_thought_that_was_told_apart_is_kept_in_the_ledger(protocol: str, provider: Running, store: Store):
    labels_of(store, provider.playing("thought_in_a_field"), protocol)
    with Ledger.default(store.root) as ledger:
        assert all("the score was high" in attempt.thought for attempt in ledger.scan())
        ledger.compact()
        assert ledger.query("SELECT count(*) AS n FROM calls WHERE thought LIKE 'They want%'")["n"].to_pylist() == [4]
        assert all("the score was high" in attempt.thought for attempt in ledger.scan())


@pytest.mark.parametrize("protocol", PROVIDERS)
def test_tokens_of_thoughts_outside_the_answers_count_are_billed(protocol: str, provider: Running, store: Store):
    done, _ = labels_of(store, provider.playing("thinks_outside_completion_tokens"), protocol)
    assert 12_000 < done.usage["sim"].output < 12_400


@pytest.mark.parametrize("protocol", PROVIDERS)
@pytest.mark.parametrize("habit", ["usage_beyond_reason", "usage_without_a_prompt", "usage_without_an_answer"])
def test_tokens_that_cannot_be_are_unknown(habit: str, protocol: str, provider: Running, store: Store):
    done, _ = labels_of(store, provider.playing(habit), protocol)
    assert done.usage == {}
    assert done.bill.lines[0].maybe_calls == 4


def test_a_fault_is_billed_for_the_tokens_that_it_reports(provider: Running, store: Store):
    done, _ = labels_of(store, provider.playing("unknown_finish_reason"), "anthropic")
    (line,) = done.bill.lines
    assert line.usage.output > 0
    assert line.calls > done.asked == 4
    assert line.maybe_calls == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "habit",
    [
        "thinks_in_every_way",
        "answer_in_reasoning_content",
        "words_around_one_object",
        "words_beside_a_tool_call",
        "call_in_a_tag_with_a_name",
        "stream_that_nobody_asked_for",
    ],
)
@pytest.mark.parametrize("protocol", PROVIDERS)
def test_evaluations_are_read_as_labels_are(habit: str, protocol: str, provider: Running, store: Store):
    found = []
    for number, at in enumerate((provider, provider.playing(habit))):
        made = Store(store.root / str(number))
        put(made, boats(2))
        done = evaluate(made, "lab/episodes", judges=[judge(protocol, at)], pacing=SOON)
        assert (done.asked, done.failures) == (2, {})
        found.append([(r["agent"], r["dimension"], r["raw"]) for r in rows(done.version, "attributions", made)])
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_ledger_with_tokens_that_cannot_be_is_read_compacted_and_asked_again_by_nobody(
    provider: Running, store: Store
):
    capped = {"sampling": {"max_tokens": 500}, "budget": 5, "prices": prices_file(store.root)}
    _, labels = labels_of(store, provider, "openai", **capped)
    (journal,) = (store.root / ".ledger").glob("journal-*.jsonl")
    poisoned = re.sub(r'"usage":\[\d+,', f'"usage":[{10**30},', journal.read_text(), count=3)
    journal.write_text(poisoned)
    done, same = labels_of(store, provider, "openai", **capped)
    assert (done.asked, same, done.bill.lines[0].maybe_calls) == (0, labels, 3)
    with Ledger.default(store.root) as ledger:
        assert ledger.compact() == 4
        assert ledger.query("SELECT count(input) AS n FROM calls")["n"].to_pylist() == [1]
    assert labels_of(store, provider, "openai", **capped)[0].asked == 0


@pytest.mark.parametrize("protocol", PROVIDERS)
def test_a_cap_holds_for_thoughts_that_no_limit_counts(protocol: str, provider: Running, store: Store):
    """Each call costs 0.03 USD and more, and its answer's limit of 200 tokens says 0.003."""
    put(store, boats(12))
    capped = {"sampling": {"max_tokens": 200}, "budget": 0.35, "prices": prices_file(store.root), "concurrency": 4}
    with pytest.raises(BudgetSpent):
        labels_of(store, provider.playing("thinks_outside_completion_tokens"), protocol, **capped)
    with Ledger.default(store.root) as ledger:
        spent = sum(one.usage.input + 10 * one.usage.output for one in ledger.scan() if one.usage) / 1e6
    assert 0.2 < spent <= 0.35


def test_a_cap_that_one_call_passes_by_its_thoughts_ends_the_run_and_says_by_how_much(provider: Running, store: Store):
    """Nobody can know before the first answer that the limit of 200 tokens does not count 3,000 of thought."""
    capped = {"sampling": {"max_tokens": 200}, "budget": 0.02, "prices": prices_file(store.root), "concurrency": 4}
    before = provider.playing("thinks_outside_completion_tokens").log()["requests"]
    with pytest.raises(BudgetSpent, match=r"0\.0\d+ beyond it: a call cost more than the limit of its answer allows"):
        labels_of(store, provider.playing("thinks_outside_completion_tokens"), "openai", **capped)
    assert provider.playing("thinks_outside_completion_tokens").log()["requests"] - before == 1


def prices_file(folder: Path) -> Path:
    """One and ten USD a million tokens, in and out, for whatever is asked."""
    path = folder / "prices.yaml"
    path.write_text('{as_of: 2026-11-01, hosts: {"*": {sim: [1, 1, 1, 10]}}}')
    return path


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROVIDERS)
def test_an_audit_reads_what_a_model_thinks_aloud(protocol: str, provider: Running, store: Store):
    found = [
        audit(store, "lab/episodes", judge=judge(protocol, at), pacing=SOON, ledger=store.root / name).as_dict()
        for name, at in (("plain", provider), ("thinking", provider.playing("thinks_in_every_way")))
    ]
    assert found[1]["failures"] == {}
    assert found[0]["verdict"] == found[1]["verdict"]
