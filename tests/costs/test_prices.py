"""What tokens cost: exact sums, dated lists, and no made-up zero."""

from __future__ import annotations

from pathlib import Path

import pytest

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.costs.prices import VARIABLE, Price, load
from sotopia_rl_data.errors import InputError
from sotopia_rl_data.request import Target, Usage


def test_cached_and_written_tokens_are_parts_of_the_input_at_prices_of_their_own():
    price = Price(input=3.0, cached=0.3, written=3.75, output=15.0)
    assert price.cost(Usage(1_000_000, 0, 0, 0)) == 3.0
    assert price.cost(Usage(1_000_000, 600_000, 400_000, 100_000)) == pytest.approx(0.18 + 1.5 + 1.5)
    assert price.cost(Usage()) == 0.0


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("gpt-4o", 2.5),
        ("gpt-4o-2024-08-06", 2.5),
        ("gpt-4o-2024-05-13", 5.0),  # a snapshot with a price of its own
        ("gpt-4o-mini-2024-07-18", 0.15),
        ("gpt-4o-2024-08-06-mine", None),
        ("gpt-5.4-mini", 0.75),
        ("gpt-99", None),
    ],
)
def test_a_snapshot_has_its_models_price_and_another_model_has_not(model: str, wanted: float | None):
    price = load().of(openai.target(model, openai.URL))
    assert (price.input if price else None) == wanted


def test_the_same_name_elsewhere_has_no_price():
    assert load().of(Target("openai", "gpt-4o", "http://localhost:8000/v1")) is None
    claude = load().of(anthropic.target("claude-sonnet-4-5-20250929", anthropic.URL))
    assert claude is not None
    assert (claude.input, claude.cached, claude.written, claude.output) == (3.0, 0.3, 3.75, 15.0)


def test_a_file_of_ones_own_overrides_entries_and_adds_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "prices.yaml"
    file.write_text(
        "as_of: 2027-01-01\nhosts:\n  api.openai.com:\n    gpt-4o: [1, 0.5, 1, 4]\n  '*':\n    sim: [1, 1, 1, 1]\n"
    )
    monkeypatch.setenv(VARIABLE, str(file))
    prices = load()
    assert prices.as_of == "2027-01-01"
    assert prices.of(Target("openai", "gpt-4o", openai.URL)) == Price(1, 0.5, 1, 4)
    kept = Target("openai", "gpt-4.1", openai.URL)
    assert prices.of(kept) == Price(2.0, 0.5, 2.0, 8.0, 32_768, batch=Price(1.0, 0.5, 1.0, 4.0))
    assert prices.source(kept).startswith("genai-prices ")
    assert prices.source(Target("openai", "gpt-4o", openai.URL)) == "2027-01-01"
    assert prices.of(Target("openai", "sim", "http://localhost:1/v1")) == Price(1, 1, 1, 1)


def test_the_kept_list_has_long_contexts_batches_and_the_dearest_hour_and_no_price_where_calls_cost_something_too():
    prices = load()
    gpt = prices.of(Target("openai", "gpt-5.4", openai.URL))
    assert gpt is not None
    assert (gpt.at(272_000).input, gpt.at(272_001).input) == (2.5, 5.0)
    in_batch = prices.of(Target("openai", "gpt-5.4", openai.URL), in_batch=True)
    assert in_batch is not None
    assert (in_batch.input, in_batch.at(272_001).output, in_batch.longest) == (1.25, 11.25, 128_000)
    azure = prices.of(Target("openai", "gpt-5.4", "https://mine.openai.azure.com/openai/v1"))
    assert azure is not None
    assert azure.output == 15.0
    deepseek = prices.of(Target("openai", "deepseek-chat", "https://api.deepseek.com/v1"))
    assert deepseek is not None
    assert deepseek.output == 1.1  # half of it at night
    sonar = prices.of(Target("openai", "sonar", "https://api.perplexity.ai"))
    assert sonar is None  # each call costs something besides
    assert prices.of(Target("openai", "gpt-4.1-free", "https://openrouter.ai/api/v1")) is None


def test_a_batch_costs_a_share_of_the_price_where_no_batch_price_is_known(tmp_path: Path):
    file = tmp_path / "prices.yaml"
    file.write_text("{as_of: 2027-01-01, batch: 0.4, hosts: {'*': {sim: [10, 5, 10, 20, 99]}}}")
    assert load(file).of(Target("openai", "sim", openai.URL), in_batch=True) == Price(4, 2, 4, 8, 99)


def test_a_call_at_most_costs_the_dearest_price_that_its_input_may_reach():
    price = Price(1.0, 1.0, 1.0, 10.0, long=((200_000, Price(2.0, 2.0, 2.0, 15.0)),))
    assert price.most(200_000, 1_000) == pytest.approx(0.21)
    assert price.most(200_001, 1_000) == pytest.approx(0.400002 + 0.015)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "hosts: {}",
        "as_of: x\nhosts: {h: {m: [1, 2]}}",
        "as_of: x\nhosts: {h: {m: [1, 2, 3, a]}}",
        "a: [",
        "as_of: x\nhosts: {h: {m: [1, 2, 3, -4]}}",
        "as_of: x\nhosts: {h: {m: [1, 2, 3, .nan]}}",
        "as_of: x\nhosts: {h: {m: [1, 2, 3, 4, .inf]}}",
        "as_of: x\nhosts: {h: {m: [1, 2, 3, 4, -5]}}",
        "as_of: x\nbatch: -1\nhosts: {h: {m: [1, 2, 3, 4]}}",
        "as_of: x\nbatch: .nan\nhosts: {h: {m: [1, 2, 3, 4]}}",
    ],
)
def test_what_is_no_price_list_is_a_sentence(tmp_path: Path, text: str):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"The (file|price list) "):
        load(file)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.yaml")
