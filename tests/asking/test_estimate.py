"""--dry-run: what a run would ask and cost, known before it asks anybody, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.flat_calls import estimate, label
from fixtures.labelling import BOAT, Highest, Sulking, boats, put

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import KeyMissing
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.request import Reply, Target, Usage
from sotopia_rl_data.store import Store

PRICES = """
as_of: 2026-11-01
batch: 0.5
hosts:
  "*":
    sim: [2.5, 1.25, 3.0, 10, 4096]
    counting: [2.5, 1.25, 3.0, 10]
"""


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def provider() -> Iterator[Running]:
    with running(latency=0.2) as one:
        yield one


def judge_at(provider: Running, protocol: str) -> str:
    return f"{protocol}:sim@{provider.openai_url if protocol == 'openai' else provider.url}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("openai", {}),
        ("anthropic", {}),
        ("openai", {"packing": "packed"}),
        ("anthropic", {"packing": "packed"}),
        # how much of these comes from the provider's cache depends on how fast this machine is meanwhile
        pytest.param("openai", {"schema": "goal-progress", "packing": "packed"}, marks=pytest.mark.alone),
        ("openai", {"schema": "singular"}),
        ("anthropic", {"schema": "conversation-behaviour", "packing": "packed"}),
    ],
    ids=str,
)
def test_the_estimate_is_within_15_percent_of_the_bill_on_the_samples(
    store: Store, prices: Path, provider: Running, protocol: str, options: dict[str, Any]
):
    asked = options | {"judges": [judge_at(provider, protocol)], "prices": prices}
    guess = estimate(store, None, **asked)
    assert not store.root.exists()
    before = provider.log()["answered"]
    done = label(store, None, **asked)
    assert guess.total is not None
    assert done.bill.total is not None
    print(f"estimated {guess.total:.4f}, billed {done.bill.total:.4f} USD")
    assert guess.lines[0].asked == done.asked == provider.log()["answered"] - before
    assert abs(guess.total / done.bill.total - 1) <= 0.15
    again = estimate(store, None, **asked)
    assert (again.total, again.lines[0].asked, again.lines[0].hits) == (0.0, 0, done.asked)


class Counting(Highest):
    """A judge behind a protocol that can be counted, whose tokenizer knows other tokens: two bytes in, one out."""

    def __init__(self) -> None:
        super().__init__("counting")
        self.target = Target("openai", "counting", "http://localhost:1/v1")

    async def answer(self, question: Any) -> Any:
        text = self.say(question)
        asked = len(json.dumps(question.answer_schema)) + sum(len(m["content"]) for m in question.messages)
        return Reply(text, "stop", "counting-1", Usage(asked // 2, 0, 0, 3 * len(text)))


@pytest.mark.slow
def test_after_the_first_answers_the_estimate_is_scaled_by_what_they_took(store: Store, prices: Path, tmp_path: Path):
    put(store, boats(20, turns=6))
    some = tmp_path / "some.csv"
    some.write_text("episode_id\ne0000\ne0001\n")
    blind = estimate(store, "lab/episodes", judges=[Counting()], preset="goal-only", prices=prices).lines[0]
    label(store, "lab/episodes", judges=[Counting()], preset="goal-only", prices=prices, only=some, out="lab/some")
    seen = estimate(store, "lab/episodes", judges=[Counting()], preset="goal-only", prices=prices).lines[0]
    done = label(store, "lab/episodes", judges=[Counting()], preset="goal-only", prices=prices)
    (paid,) = done.usage.values()
    assert (blind.measured, seen.measured) == (False, True)
    assert (seen.calls, seen.hits, seen.asked) == (40, 4, 36)
    assert blind.usage is not None
    assert seen.usage is not None
    assert blind.usage.input < 0.7 * paid.input
    assert abs(seen.usage.input / paid.input - 1) < 0.05
    assert abs(seen.usage.output / paid.output - 1) < 0.05


def test_second_tries_that_are_due_and_retries_that_are_asked_for_are_counted(store: Store):
    put(store, [BOAT])
    sulking = Sulking("a")
    label(store, "lab/episodes", judges=[sulking])
    again = estimate(store, "lab/episodes", judges=[sulking]).lines[0]
    assert (again.calls, again.hits, again.asked) == (6, 6, 0)
    retried = estimate(store, "lab/episodes", judges=[sulking], retry_failed=True).lines[0]
    assert (retried.calls, retried.hits, retried.asked) == (6, 3, 3)


@pytest.mark.slow
def test_a_dry_run_of_a_file_prints_the_calls_and_writes_nothing(tmp_path: Path, prices: Path, provider: Running):
    from sotopia_rl_data.importers import samples_path

    before = provider.log()["requests"]
    command = ["label", str(samples_path()), "--judge", judge_at(provider, "openai"), "--judge", "lexical"]
    options = ["--dry-run", "--prices", str(prices), "--store", str(tmp_path / "new")]
    shown = CliRunner().invoke(cli, [*command, *options], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "at the prices of 2026-11-01" in shown.output
    told = CliRunner().invoke(cli, [*command, *options, "--json"], catch_exceptions=False)
    found = json.loads(told.stdout)
    sim, lexical = found["judges"]
    assert (sim["calls"], sim["asked"], sim["hits"], lexical["asked"]) == (186, 186, 0, 186)
    assert found["total"] == pytest.approx(sim["cost"])
    assert sim["usage"]["cached"] > 0.5 * sim["usage"]["input"]
    halved = CliRunner().invoke(cli, [*command, *options, "--json", "--batch"], catch_exceptions=False)
    assert json.loads(halved.stdout)["total"] == pytest.approx(found["total"] / 2)
    assert json.loads(halved.stdout)["most"] == pytest.approx(found["most"] / 2)
    assert provider.log()["requests"] == before
    assert not (tmp_path / "new").exists()


def test_no_key_is_needed_to_know_the_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    found = estimate(Store(tmp_path / "new"), None, judges=["gpt-4o"])
    assert found.total is not None
    assert 0.5 < found.total < 1.0
    with pytest.raises(KeyMissing):
        label(Store(tmp_path / "new"), None, judges=["gpt-4o"])


@pytest.mark.slow
def test_what_has_no_known_price_has_no_cost_and_says_how_to_give_one(tmp_path: Path, provider: Running):
    command = ["label", "--judge", judge_at(provider, "openai"), "--dry-run", "--store", str(tmp_path / "new")]
    shown = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert "--prices" in shown.output
    told = json.loads(CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).stdout)
    assert (told["total"], told["judges"][0]["cost"], told["most"]) == (None, None, None)
