"""A server that does not take a request as it is meant is asked in the strongest form that it takes, as found by
trying."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from fixtures.batches import PROVIDERS, SCHEMA, ask_in_batches, ask_live
from fixtures.flat_calls import label, plan_of, rollout
from fixtures.labelling import boats, put
from fixtures.playing import many

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.batch.anthropic import AnthropicBatchClient
from sotopia_rl_data.asking.batch.client import BatchClient
from sotopia_rl_data.asking.batch.openai import OpenAIBatchClient
from sotopia_rl_data.asking.forms import MEANT, RequestForm, body_in
from sotopia_rl_data.asking.memory import EndpointMemory
from sotopia_rl_data.asking.negotiation import MOST_CONTROLS, MOST_PROBES, Negotiation
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.asking.transport import ApiClient
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.prices import Price, Prices
from sotopia_rl_data.errors import Filtered, Rejected
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Reply, Request
from sotopia_rl_data.schema import Message
from sotopia_rl_data.store import Store

LONG = "word " * 2_500
SYSTEM = "the system text in the first user message"
LIMIT = "the token limit as max_completion_tokens"
WORDS, MODE = "the schema in words", "json_object in place of a schema"


def client_of(provider: str, at: Running, ledger: Path | None = None) -> ApiClient:
    """A client as a new process makes one, with the memory in the ledger's folder."""
    sampling = {"temperature": 0, "max_tokens": 200}
    if provider == "openai":
        client: ApiClient = openai.OpenAIClient(openai.target("sim", at.openai_url, sampling))
    else:
        client = anthropic.AnthropicClient(anthropic.target("sim", at.url, sampling))
    if ledger is not None:
        client.use_memory(EndpointMemory(ledger))
    return client


def asked_of(client: ApiClient, texts: list[str]) -> list[Request]:
    system: Message = {"role": "system", "content": "You rate utterances."}
    return [Request(client.target, [system, {"role": "user", "content": text}], SCHEMA) for text in texts]


def numbered(count: int, begin: int = 0) -> list[str]:
    return [f"question {number}" for number in range(begin, begin + count)]


def forms_in(ledger: Path) -> Counter[str]:
    with Ledger(ledger) as kept:
        return Counter(attempt.form for attempt in kept.scan() if attempt.status == "answer")


def refused(at: Running) -> int:
    log = at.log()
    return int(log["requests"]) - int(log["answered"])


FOUND = {
    "takes_no_temperature": "no temperature",
    "wants_max_completion_tokens": LIMIT,
    "takes_no_system_message": SYSTEM,
    "no_schema_compiler": MODE,
    "words_alone": WORDS,
    "no_route_404": MODE,
    "unprocessable_422": MODE,
    "not_implemented_501": MODE,
    "forbidden_403": MODE,
    "neither_temperature_nor_schema": f"{MODE}, no temperature",
    "neither_system_nor_json": f"{WORDS}, {SYSTEM}",
    "an_early_reasoner": f"{WORDS}, no temperature, {SYSTEM}, {LIMIT}",
    "names_the_parameter": f"no temperature, {LIMIT}",
    "names_the_wrong_parameter": MODE,
    "refuses_at_random": "",
}


NEVER = {("anthropic", habit) for habit in FOUND if LIMIT in FOUND[habit]}  # its API requires `max_tokens`


@pytest.mark.slow
@pytest.mark.parametrize(
    ("provider", "habit"),
    [(provider, habit) for provider, habit in product(PROVIDERS, FOUND) if (provider, habit) not in NEVER],
)
def test_the_strongest_form_is_found_with_few_calls_and_remembered(provider: str, habit: str, tmp_path: Path):
    wanted = FOUND[habit]
    if provider == "anthropic":
        wanted = wanted.replace(MODE, WORDS)  # it has no JSON mode
    with running(habit=habit) as at:
        client = client_of(provider, at, tmp_path)
        assert ask_live(asked_of(client, numbered(60)), client, tmp_path).asked == 60
        forms, vain = forms_in(tmp_path), refused(at)
        assert forms.most_common(1)[0][0] == wanted
        assert forms[wanted] >= 60 - MOST_PROBES
        assert vain <= (MOST_PROBES if wanted else 25)
        again = client_of(provider, at, tmp_path)
        assert ask_live(asked_of(again, numbered(20, 60)), again, tmp_path).asked == 20
        assert refused(at) == vain or not wanted
        assert forms_in(tmp_path)[wanted] == forms[wanted] + 20
    with Ledger(tmp_path) as kept:
        assert all(kept.attempts(request.key) for request in asked_of(client, numbered(80)))


def in_batches(provider: str, at: Running, ledger: Path) -> BatchClient:
    target = client_of(provider, at).target
    client = OpenAIBatchClient(target) if provider == "openai" else AnthropicBatchClient(target)
    client.use_memory(EndpointMemory(ledger))
    return client


@pytest.mark.slow
@pytest.mark.parametrize(
    ("provider", "habit"),
    [(provider, habit) for provider, habit in product(PROVIDERS, FOUND) if (provider, habit) not in NEVER],
)
def test_batches_find_a_form_with_one_small_batch_and_live_runs_go_on_with_it(
    provider: str, habit: str, tmp_path: Path
):
    wanted = FOUND[habit] if provider == "openai" else FOUND[habit].replace(MODE, WORDS)
    with running(habit=habit) as at:
        client = in_batches(provider, at, tmp_path)
        outcome, _ = ask_in_batches(asked_of(client_of(provider, at), numbered(25)), client, tmp_path)
        assert (outcome.asked, outcome.unreachable) == (25, 0)
        if habit == "refuses_at_random":
            return
        sizes = at.log()["batch"]["sizes"]
        assert (sizes[0], len(sizes)) == (25, 3)
        assert sizes[1] <= MOST_PROBES
        form = forms_in(tmp_path).most_common(1)[0][0]
        assert set(wanted.split(", ")) <= set(form.split(", "))
        vain, again = refused(at), in_batches(provider, at, tmp_path)
        assert ask_in_batches(asked_of(client_of(provider, at), numbered(9, 25)), again, tmp_path)[0].asked == 9
        live = client_of(provider, at, tmp_path)
        assert ask_live(asked_of(live, numbered(9, 50)), live, tmp_path).asked == 9
        assert refused(at) == vain


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_overlong_line_of_a_batch_weakens_nothing_and_is_asked_twice_with_controls_that_are_refused_too(
    provider: str, tmp_path: Path
):
    with running(habit="too_long") as at:
        client = in_batches(provider, at, tmp_path)
        asked = asked_of(client_of(provider, at), [LONG, *numbered(30)])
        outcome, _ = ask_in_batches(asked, client, tmp_path)
        assert (outcome.asked, outcome.unreachable) == (30, 1)
        assert forms_in(tmp_path) == {"": 30}
        assert at.log()["batch"]["sizes"] == [31, 1 + 3]
        assert at.log()["answered"] == 30


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_api_that_refuses_everything_is_judged_after_one_small_batch(provider: str, tmp_path: Path):
    with running(habit="refuses_everything") as at:
        client = in_batches(provider, at, tmp_path)
        with pytest.raises(Rejected, match="No"):
            ask_in_batches(asked_of(client_of(provider, at), numbered(30)), client, tmp_path)
        assert at.log()["batch"]["sizes"][0] == 30
        assert sum(at.log()["batch"]["sizes"][1:]) <= MOST_PROBES + 2


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("concurrency", [1, 16])
def test_an_overlong_first_question_does_not_weaken_the_run(provider: str, concurrency: int, tmp_path: Path):
    with running(habit="too_long") as at:
        client = client_of(provider, at, tmp_path)
        asked = asked_of(client, [LONG, *numbered(199)])
        outcome = ask_live(asked, client, tmp_path, concurrency=concurrency)
        assert (outcome.asked, outcome.unreachable) == (199, 1)
        assert forms_in(tmp_path) == {"": 199}
        assert refused(at) <= MOST_PROBES


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_several_overlong_questions_first_and_a_parameter_that_is_refused(provider: str, tmp_path: Path):
    with running(habit="too_long_without_temperature", latency=0.02) as at:
        client = client_of(provider, at, tmp_path)
        asked = asked_of(client, [LONG, LONG + "a", LONG + "b", *numbered(60)])
        outcome = ask_live(asked, client, tmp_path, concurrency=16)
        assert (outcome.asked, outcome.unreachable) == (60, 3)
        assert all("no temperature" in form for form in forms_in(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("habit", ["refuses_everything", "no_such_model"])
def test_an_endpoint_that_refuses_everything_is_judged_by_few_calls(provider: str, habit: str, tmp_path: Path):
    with running(habit=habit) as at:
        client = client_of(provider, at, tmp_path)
        with pytest.raises(Rejected) as caught:
            ask_live(asked_of(client, [LONG, *numbered(300)]), client, tmp_path)
        assert "a much shorter question was refused too" in caught.value.message
        assert at.log()["requests"] <= MOST_PROBES
        assert not (tmp_path / "endpoints.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_limits_and_faults_while_the_form_is_looked_for_change_nothing(provider: str, tmp_path: Path):
    with running(habit="takes_no_temperature", throttled=0.2, broken=0.1, retry_after=0.05, seed=4) as at:
        client = client_of(provider, at, tmp_path)
        outcome = ask_live(asked_of(client, numbered(60)), client, tmp_path)
        assert (outcome.asked, outcome.unreachable) == (60, 0)
        assert forms_in(tmp_path)["no temperature"] >= 50
        assert at.log()["statuses"]["400"] <= MOST_PROBES


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_limit_that_nothing_tells_as_one_costs_no_question_and_no_strength(provider: str, tmp_path: Path):
    for habit in ("limit_under_any_status", "refuses_for_a_while"):
        with running(habit=habit) as at:
            client = client_of(provider, at, tmp_path / habit)
            outcome = ask_live(asked_of(client, numbered(30)), client, tmp_path / habit)
            assert (outcome.asked, outcome.unreachable, refused(at)) == (30, 0, 6)
            assert forms_in(tmp_path / habit)[""] >= 30 - MOST_PROBES


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_question_that_is_refused_while_others_pass_meets_a_filter_and_is_not_asked_anew(
    provider: str, tmp_path: Path
):
    with running(habit="content_filter_in_words") as at:
        client = client_of(provider, at, tmp_path)
        outcome = ask_live(asked_of(client, numbered(20)), client, tmp_path, concurrency=2)
        assert (outcome.asked, outcome.unreachable) == (20, 0)
        assert forms_in(tmp_path) == {"": 20}
        with Ledger(tmp_path) as kept:
            (filtered,) = (attempt for attempt in kept.scan() if attempt.finish == "refusal")
        assert "We would rather not" in filtered.text
        calls, again = at.log()["requests"], client_of(provider, at, tmp_path)
        assert ask_live(asked_of(again, numbered(20)), again, tmp_path).asked == 0
        assert at.log()["requests"] == calls


FILTERED = [f"harm {'so ' * number}3" for number in range(12)]


def filtered_in(ledger: Path) -> list[str]:
    with Ledger(ledger) as kept:
        return [attempt.text for attempt in kept.scan() if attempt.finish == "refusal"]


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("texts", "concurrency"), [(FILTERED[:1], 1), (FILTERED, 16)])
def test_the_last_questions_of_a_run_that_meet_a_filter_are_told_by_harmless_texts_and_not_asked_anew(
    texts: list[str], concurrency: int, provider: str, tmp_path: Path
):
    with running(habit="content_filter_in_words") as at:
        client = client_of(provider, at, tmp_path)
        outcome = ask_live(asked_of(client, numbered(3) + texts), client, tmp_path, concurrency=concurrency)
        assert (outcome.unreachable, len(filtered_in(tmp_path))) == (0, len(texts))
        log = at.log()
        assert 3 <= log["answered"] - 3 <= MOST_CONTROLS
        with Ledger(tmp_path) as kept:
            assert sum(one.usage is not None for one in kept.scan()) == log["answered"]
        again = client_of(provider, at, tmp_path)
        assert ask_live(asked_of(again, numbered(3) + texts), again, tmp_path).asked == 0
        assert at.log()["requests"] == log["requests"]
        assert forms_in(tmp_path) == {"": 3 + len(texts)}


@pytest.mark.slow
@pytest.mark.parametrize(("cap", "found"), [(1.0, 8), (0.003, 0)])
def test_where_nothing_is_left_but_what_meets_a_filter_controls_are_sent_as_far_as_the_budget_allows(
    cap: float, found: int, tmp_path: Path
):
    """Each call costs 0.002 USD at most; the form of an earlier run is kept, since a control is answered in it."""
    with running(habit="content_filter_in_words") as at:
        first = client_of("openai", at, tmp_path)
        ask_live(asked_of(first, numbered(3)), first, tmp_path)
        before, client = at.log(), client_of("openai", at, tmp_path)
        budget = Budget(cap, Prices("2026-11-01", 0.5, {"*": {"sim": Price(1, 1, 1, 10)}}), tmp_path)
        ask_live(asked_of(client, FILTERED[:8]), client, tmp_path, concurrency=8, budget=budget)
        assert len(filtered_in(tmp_path)) == found
        answered = at.log()["answered"] - before["answered"]
        assert (1 if found else 0) <= answered <= MOST_CONTROLS
        with Ledger(tmp_path) as kept:
            told = [one.usage for one in kept.scan() if one.usage is not None][3:]
        assert len(told) == answered
        assert budget.spent == pytest.approx(sum(one.input + 10 * one.output for one in told) / 1e6)
        assert budget.spent <= cap
        budget.close()


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_line_that_is_refused_while_harmless_texts_pass_meets_a_filter_and_is_not_asked_anew(
    provider: str, tmp_path: Path
):
    with running(habit="content_filter_in_words") as at:
        asked = asked_of(client_of(provider, at), numbered(20))
        outcome, _ = ask_in_batches(asked, in_batches(provider, at, tmp_path), tmp_path)
        assert (outcome.asked, outcome.unreachable) == (20, 0)
        assert at.log()["batch"]["sizes"] == [20, 1 + 3]
        with Ledger(tmp_path) as kept:
            past = list(kept.scan())
            (filtered,) = (attempt for attempt in past if attempt.finish == "refusal")
            controls = [one for one in past if one.key == filtered.key and one.status == "error" and one.usage]
        assert "We would rather not" in filtered.text
        assert len(controls) == 3
        spent = sum(one.usage.output for one in past if one.usage)
        assert [usage.output for usage in outcome.usage.values()] == [spent]
        again, _ = ask_in_batches(asked, in_batches(provider, at, tmp_path), tmp_path)
        assert (again.asked, again.hits, at.log()["batch"]["batches"]) == (0, 20, 2)


@pytest.mark.slow
@pytest.mark.parametrize("habit", ["account_that_runs_dry_in_words", "one_in_eight_and_400"])
def test_a_limit_or_an_empty_account_is_not_taken_for_a_filter_in_batches(habit: str, tmp_path: Path):
    with running(habit=habit) as at:
        asked = asked_of(client_of("openai", at), numbered(30, 10))
        outcome, _ = ask_in_batches(asked, in_batches("openai", at, tmp_path), tmp_path)
    assert outcome.asked >= 10
    with Ledger(tmp_path) as kept:
        assert [attempt.finish for attempt in kept.scan() if attempt.status == "answer"] == ["stop"] * outcome.asked


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_limit_that_lets_some_questions_pass_is_not_taken_for_a_filter(status: int, tmp_path: Path):
    with running(habit=f"one_in_eight_and_{status}") as at:
        client = client_of("openai", at, tmp_path)
        outcome = ask_live(asked_of(client, numbered(60, 10)), client, tmp_path, concurrency=16)
        assert outcome.asked >= 10
        with Ledger(tmp_path) as kept:
            assert [attempt.finish for attempt in kept.scan() if attempt.status == "answer"] == ["stop"] * outcome.asked


@pytest.mark.slow
@pytest.mark.parametrize(("is_filter", "end"), [(True, Filtered), (False, Reply)])
def test_the_last_try_is_made_alone_so_that_a_limit_of_calls_at_once_is_not_taken_for_a_filter(
    is_filter: bool, end: type
):
    """Nine workers keep nine calls on their way, and the server takes no tenth."""
    on_way, ended = 0, asyncio.Event()

    async def answered(request: Request, form: RequestForm) -> Reply:
        nonlocal on_way
        if "suspect" in request.messages[-1]["content"] and (on_way == 9 or is_filter):
            raise Rejected("No.", status=400)
        on_way += 1
        await asyncio.sleep(0.02)
        on_way -= 1
        return Reply("{}", "stop")

    async def work(negotiation: Negotiation, asked: Request) -> None:
        while not ended.is_set():
            await negotiation.ask(asked)

    async def go() -> object:
        negotiation = Negotiation(openai.body_of, openai.WAYS, answered, lambda form: None, MEANT)
        target = openai.target("sim", "http://127.0.0.1:1/v1")
        texts = ["suspect", *numbered(9)]
        suspect, *others = [Request(target, [{"role": "user", "content": text}]) for text in texts]
        workers = [asyncio.create_task(work(negotiation, other)) for other in others]
        await asyncio.sleep(0.1)
        (result,) = await asyncio.gather(negotiation.ask(suspect), return_exceptions=True)
        ended.set()
        await asyncio.gather(*workers)
        return result

    assert type(asyncio.run(go())) is end


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_account_that_is_empty_in_words_ends_the_run_and_is_not_taken_for_a_filter(provider: str, tmp_path: Path):
    with running(habit="account_that_runs_dry_in_words") as at:
        client = client_of(provider, at, tmp_path)
        with pytest.raises(Rejected, match="The balance is too low"):
            ask_live(asked_of(client, numbered(500, 100)), client, tmp_path)
        assert forms_in(tmp_path) == {"": 10}
        before = at.log()["requests"]
        assert before < 300
        with pytest.raises(Rejected, match="The balance is too low"):
            ask_live(asked_of(client, numbered(500, 100)), client, tmp_path)
        assert at.log()["requests"] - before < 300


@pytest.mark.slow
def test_a_remembered_form_that_is_refused_by_now_is_looked_for_again(tmp_path: Path):
    with running(habit="takes_no_system_message") as at:
        client = client_of("openai", at, tmp_path)
        EndpointMemory(tmp_path).keep(client.target, "form for schema", RequestForm(no_temperature=True).as_dict())
        outcome = ask_live(asked_of(client, numbered(40)), client, tmp_path)
        assert outcome.asked >= 39
        assert forms_in(tmp_path)[SYSTEM] >= 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 9, "endpoints": {}}', '{"version": 1, "endpoints": {"x": 1}}']
)
def test_a_damaged_memory_is_no_memory(text: str, tmp_path: Path):
    file = tmp_path / "endpoints.json"
    file.write_text(text)
    with running() as at:
        client = client_of("openai", at, tmp_path)
        assert ask_live(asked_of(client, numbered(3)), client, tmp_path).asked == 3
    kept = file.read_text()
    assert kept == text if "9" in text else json.loads(kept)["version"] == 1


@pytest.mark.slow
def test_while_one_question_probes_the_rest_wait_and_their_time_limit_stands_still(tmp_path: Path):
    with running(habit="an_early_reasoner", latency=0.4) as at:
        client = client_of("openai", at, tmp_path)
        outcome = ask_live(asked_of(client, numbered(12)), client, tmp_path, pacing=Pacing(timeout_s=2.0))
        assert (outcome.asked, outcome.faults) == (12, 0)
        assert refused(at) <= MOST_PROBES


@pytest.mark.slow
def test_what_was_adopted_stands_in_the_warnings_and_in_the_provenance_and_costs_nothing_anew(tmp_path: Path):
    store = Store(tmp_path)
    put(store, boats(12))
    with running(habit="no_schema_compiler") as at:
        asked = {"judges": [f"openai:sim@{at.openai_url}"], "preset": "goal-only"}
        done = label(store, "lab/episodes", **asked)
        told = [warning for warning in done.warnings if MODE in warning]
        assert len(told) == 1
        (judge,) = done.committed.version.manifest.provenance["judges"]
        assert judge["forms"][MODE] >= 20
        calls = at.log()["requests"]
        assert label(store, "lab/episodes", **asked).digest == done.digest
        assert at.log()["requests"] == calls


def test_policies_negotiate_too(tmp_path: Path):
    with running(habit="takes_no_system_message") as at:
        policy = f"openai:sim@{at.openai_url}"
        done = rollout(Store(tmp_path), plan_of(many(4), a=policy, b=policy), "lab/play")
        assert done.episodes == 4


def test_a_client_of_its_own_is_asked_many_times_at_once(tmp_path: Path):
    async def go(client: ApiClient) -> list[str]:
        try:
            return [reply.form for reply in await asyncio.gather(*map(client.send, asked_of(client, numbered(40))))]
        finally:
            await client.close()

    with running(habit="words_alone") as at:
        forms = Counter(asyncio.run(go(client_of("openai", at))))
        assert forms[WORDS] >= 35
        assert refused(at) <= MOST_PROBES


def test_the_system_text_is_folded_with_what_siblings_share():
    messages: list[Message] = [
        {"role": "system", "content": "Rules."},
        {"role": "user", "content": "Episode."},
        {"role": "user", "content": "Rate it."},
    ]
    target = openai.target("sim", "http://127.0.0.1:1/v1", {"max_tokens": 9})
    request = Request(target, messages, cache_until=2)
    body = body_in(RequestForm(folded=True, limit="max_completion_tokens"), request, openai.body_of, openai.WAYS)
    assert [message["content"] for message in body["messages"]] == ["Rules.\n\nEpisode.", "Rate it."]
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body
    assert body_in(MEANT, request, openai.body_of, openai.WAYS) == openai.body_of(request)
