"""The bill: every token on one category, in money, the same for a run that was killed as for one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.flat_calls import label
from fixtures.labelling import boats, put, sim
from fixtures.places import ROOT

from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.cards.provenance import provenance
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.costs.bill import Bill, Spent, bill
from sotopia_rl_data.costs.prices import Price, Prices
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.ledger.ledger import Ledger, answered, failed
from sotopia_rl_data.request import Reply, Request, Target, Usage
from sotopia_rl_data.store import Store

TARGET = Target("openai", "sim", "http://localhost:1/v1", {"max_tokens": 100})
ASKED = Request(TARGET, [{"role": "user", "content": "?" * 488}])  # at most 1,000 tokens
PRICES = Prices("2026-11-01", 0.5, {"*": {"sim": Price(2.0, 1.0, 3.0, 10.0)}})


def spent(*attempts: tuple[str, Usage | None, str]) -> dict[str, Spent]:
    made = Spent()
    for category, usage, batch in attempts:
        reply = Reply("1", "stop", "sim-1", usage or Usage())
        made.add(ASKED, answered(ASKED, "k" * 64, "q" * 64, reply, 0.1, batch), category)  # type: ignore[arg-type]
    return {"sim": made}


def test_input_cached_written_and_output_have_prices_of_their_own_and_the_heaps_add_up():
    million = 1_000_000
    (line,) = bill(
        spent(
            ("used", Usage(4 * million, million, million, million), ""),
            ("failed", Usage(million, 0, 0, 0), ""),
            ("repaired", Usage(0, 0, 0, million), ""),
        ),
        {"sim": TARGET},
        PRICES,
    ).lines
    assert (line.input, line.cached, line.written, line.output) == (6.0, 1.0, 3.0, 20.0)
    assert (line.failed, line.repaired, line.total) == (2.0, 10.0, 30.0)
    assert (line.calls, line.failed_calls, line.repaired_calls) == (3, 1, 1)
    assert line.usage == Usage(5 * million, million, million, 2 * million)


def test_each_call_with_a_long_prompt_costs_the_long_context_price_and_many_short_ones_do_not():
    price = Price(1.0, 0.5, 1.0, 10.0, long=((200_000, Price(2.0, 1.0, 2.0, 20.0)),))
    calls = [("used", Usage(150_000, 0, 0, 100_000), "")] * 2 + [("used", Usage(250_000, 50_000, 0, 100_000), "")]
    (line,) = bill(spent(*calls), {"sim": TARGET}, Prices("x", 0.5, {"*": {"sim": price}})).lines
    assert (line.input, line.cached, line.output) == pytest.approx((0.3 + 0.4, 0.05, 2.0 + 2.0))
    assert line.total == pytest.approx(4.75)


def test_what_a_batch_brought_costs_the_batch_price():
    (line,) = bill(
        spent(("used", Usage(1_000_000), "batch_1"), ("used", Usage(1_000_000), "")), {"sim": TARGET}, PRICES
    ).lines
    assert (line.total, line.input) == (3.0, 3.0)


def test_what_may_be_billed_without_tokens_is_apart_and_at_most_what_it_can_be():
    found = spent(("used", None, ""))
    found["sim"].add(ASKED, failed(ASKED, "k" * 64, "q" * 64, "no answer", 1, maybe_billed=True), "used")
    found["sim"].add(ASKED, failed(ASKED, "k" * 64, "q" * 64, "400 too long", 1), "used")
    (line,) = bill(found, {"sim": TARGET}, PRICES).lines
    assert (line.total, line.calls, line.maybe_calls) == (0.0, 3, 2)
    assert line.maybe == pytest.approx(2 * (1_000 * 3.0 + 100 * 10.0) / 1e6)


def test_a_model_without_a_price_has_no_total_and_never_zero():
    unknown = bill(spent(("used", Usage(10), "")), {"sim": Target("openai", "other", "")}, PRICES)
    assert (unknown.lines[0].total, unknown.total, unknown.known) == (None, None, 0.0)
    assert bill({}, {"sim": Target("openai", "other", "")}, PRICES).total == 0.0


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text("as_of: 2026-11-01\nhosts:\n  '*':\n    sim-judge: [2.5, 2.5, 2.5, 10, 1000]\n")
    return path


def paid(log: dict[str, dict[str, int]]) -> float:
    return (log["usage"]["input"] * 2.5 + log["usage"]["output"] * 10) / 1e6


@pytest.mark.slow
def test_the_bill_is_what_the_provider_billed_and_stands_in_the_manifest_and_on_the_card(tmp_path: Path, prices: Path):
    store = Store(tmp_path / "store")
    put(store, boats(40))
    with running(malformed="all", malformed_share=0.5) as provider:
        command = ["label", "lab/episodes", "--judge", sim(provider), "--preset", "goal-only"]
        options = ["--prices", str(prices), "--store", str(store.root)]
        shown = CliRunner().invoke(cli, [*command, *options])
        log = provider.log()
    done = label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only", prices=prices)
    (line,) = done.bill.lines
    assert done.asked == 0
    assert done.bill.total == pytest.approx(paid(log))
    assert (line.usage.input, line.usage.output, line.calls) == (
        log["usage"]["input"],
        log["usage"]["output"],
        log["answered"],
    )
    assert line.failed_calls >= done.unusable > 0
    assert line.repaired_calls == done.repaired > 0
    assert line.failed + line.repaired < done.bill.total  # type: ignore[operator]
    assert "the bill, all runs together, at the prices of 2026-11-01" in shown.output
    unpaid = CliRunner().invoke(
        cli, ["label", "lab/episodes", "--judge", "lexical", "--preset", "goal-only", "--out", "lab/unpaid", *options]
    )
    assert "labelled" in unpaid.output
    assert "the bill" not in unpaid.output
    manifest = store.resolve("lab/episodes-rewards").manifest
    (judge,) = manifest.provenance["judges"]
    assert judge["cost_usd"] == pytest.approx(done.bill.total)
    assert judge["prices_as_of"] == "2026-11-01"
    assert judge["cost_usd_of"]["failed"] == pytest.approx(line.failed)
    assert " USD |" in provenance(manifest)
    assert done.as_dict()["bill"]["total"] == done.bill.total


@pytest.mark.slow
def test_timeouts_are_kept_for_the_bill(tmp_path: Path, prices: Path):
    store = Store(tmp_path / "store")
    put(store, boats(10))
    with running(hanging=0.3, seed=1) as provider:
        pacing = Pacing(timeout_s=0.3, tries=10, backoff_s=0.01)
        done = label(store, "lab/episodes", judges=[sim(provider)], preset="goal-only", prices=prices, pacing=pacing)
    (line,) = done.bill.lines
    with Ledger(store.root / ".ledger") as ledger:
        lost = sum(attempt.maybe_billed for attempt in ledger.scan())
        assert line.maybe_calls == lost > 0
        ledger.compact()
        assert sum(attempt.maybe_billed for attempt in ledger.scan()) == lost
    assert line.maybe is not None
    assert line.maybe > 0


RUN = """
import sys
sys.path.insert(0, "tests")
from fixtures.flat_calls import label
from sotopia_rl_data.store import Store
label(Store(sys.argv[1]), "lab/episodes", judges=[sys.argv[2]], preset="goal-only", prices=sys.argv[3], concurrency=8)
"""


def totals(of: Bill) -> tuple[object, ...]:
    (line,) = of.lines
    return line.usage.input, line.usage.output, line.calls, round(of.total or 0, 9), round(line.failed or 0, 9)


@pytest.mark.slow
def test_after_kill_9_and_resume_the_bill_is_that_of_an_unkilled_run(tmp_path: Path, prices: Path):
    """Fresh and cached input have one price here: whom a kill sent twice finds more cached the second time."""
    killed, unkilled = Store(tmp_path / "killed"), Store(tmp_path / "unkilled")
    with running(latency=0.05, malformed="missing", malformed_share=0.2) as provider:
        for store in (killed, unkilled):
            put(store, boats(60))
        command = [sys.executable, "-c", RUN, str(killed.root), sim(provider), str(prices)]
        for answers in (30, 70):
            process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
            while provider.log()["answered"] < answers:
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        options = {"judges": [sim(provider)], "preset": "goal-only", "prices": prices}
        resumed = label(killed, "lab/episodes", **options)
        straight = label(unkilled, "lab/episodes", **options)
    assert 0 < resumed.asked < straight.asked
    assert totals(resumed.bill) == totals(straight.bill)
    assert resumed.digest == straight.digest
