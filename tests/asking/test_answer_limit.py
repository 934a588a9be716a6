"""Where nobody sets a limit, an answer may have twice the tokens of the longest that its schema allows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.batches import QUICK, ask_in_batches, batches, question
from fixtures.flat_calls import label
from fixtures.labelling import boats, put

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.answer_limit import AnswerLimits
from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.asking.memory import EndpointMemory
from sotopia_rl_data.costs.tokens import longest_answer_tokens
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.labelers.report import LabelReport
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.ledger.ledger import Ledger, answered
from sotopia_rl_data.ledger.lookup import Lookup
from sotopia_rl_data.request import Reply, Request, Usage
from sotopia_rl_data.store import Store

EPISODES = 11
both = pytest.mark.parametrize("protocol", ["openai", "anthropic"])
live_and_batched = pytest.mark.parametrize("batching", [None, QUICK], ids=["live", "batched"])


def labelled(folder: Path, provider: Running, protocol: str, **how: Any) -> LabelReport:
    store = Store(folder / "store")
    put(store, boats(EPISODES))
    url = provider.openai_url if protocol == "openai" else provider.url
    judge = f"{protocol}:sim@{url}"
    return label(store, "lab/episodes", judges=[judge], preset="goal-only", packing="packed", **how)


def limits_sent(provider: Running) -> list[int | None]:
    """The limits that requests had, in the order in which they came for the first time."""
    return [sent.get("max_tokens") for sent in provider.log()["parameters"]]


def test_the_longest_answer_has_the_longest_of_each_value_on_lines_of_their_own():
    schema = answers.of_keys({"a": answers.one_of([0, 1, 10]), "b": answers.one_of(["no", "perhaps"])})
    asked = Request(openai.target("m", "http://localhost:1/v1"), [{"role": "user", "content": "?"}], schema)
    assert longest_answer_tokens(asked) == -(-len('{"a": 10,\n    "b": "perhaps"}') // 2)


@pytest.mark.slow
@both
@live_and_batched
def test_the_limit_is_sent_and_is_not_part_of_the_key(protocol: str, batching: Any, tmp_path: Path):
    with running() as provider:
        done = labelled(tmp_path, provider, protocol, batching=batching)
        (sent,) = limits_sent(provider)
        assert provider.log()["requests"] == EPISODES
    assert done.labels > 0
    assert sent is not None
    assert 64 < sent < 400
    asked = Request(openai.target("m", "http://localhost:1/v1"), [{"role": "user", "content": "?"}], {})
    assert replace(asked, limit=sent).key == asked.key


@pytest.mark.slow
@both
def test_a_limit_of_ones_own_is_the_one_that_is_sent(protocol: str, tmp_path: Path):
    with running() as provider:
        labelled(tmp_path, provider, protocol, sampling={"max_tokens": 777})
        assert limits_sent(provider) == [777]


@pytest.mark.slow
@both
@live_and_batched
def test_a_model_that_runs_away_costs_little(protocol: str, batching: Any, tmp_path: Path):
    with running() as provider:
        playing = provider.playing("runs_away")
        done = labelled(tmp_path, playing, protocol, batching=batching)
        limit = next(limit for limit in limits_sent(playing) if limit is not None)
        usage = sum(line.usage.output for line in done.bill.lines)
    assert done.labels == 0
    assert usage < 2 * EPISODES * limit * 1.2 + 5_000  # a second try for each, and one answer without the limit
    assert done.bill.lines[0].calls <= 2 * EPISODES + 1


@pytest.mark.slow
@both
@live_and_batched
@pytest.mark.parametrize("habit", ["thinks_before_it_answers", "talks_before_it_answers", "takes_no_limit"])
def test_a_model_that_needs_room_gets_it_and_loses_no_answer(habit: str, protocol: str, batching: Any, tmp_path: Path):
    with running() as provider:
        playing = provider.playing(habit)
        done = labelled(tmp_path, playing, protocol, batching=batching)
        sent = playing.log()["requests"]
        again = labelled(tmp_path, playing, protocol, batching=batching)
        assert playing.log()["requests"] == sent
    assert done.failures == {}
    assert done.labels > 0
    assert (done.repaired, done.unusable) == (0, 0)  # the same question again, and no repair
    assert sent <= EPISODES + (16 if batching is None else EPISODES)  # those in flight before it was known
    assert (again.asked, again.digest) == (0, done.digest)
    assert done.bill.lines[0].calls == sent or habit == "takes_no_limit"


def test_anthropics_own_limit_stays_where_the_schema_allows_more(tmp_path: Path):
    schema = answers.of_keys({str(number): answers.free_text() for number in range(9)})
    asked = Request(anthropic.target("m", "http://localhost:1"), [{"role": "user", "content": "?"}], schema)
    assert anthropic.body_of(asked)["max_tokens"] == anthropic.MAX_TOKENS


def test_many_at_once_that_were_cut_off_before_any_answer_are_all_asked_again():
    asked = Request(
        openai.target("m", "http://localhost:1/v1"), [{"role": "user", "content": "?"}], {"type": "integer"}
    )
    limits = AnswerLimits()
    sent = [limits.limited(asked) for _ in range(3)]
    assert all(limits.needs_room(each, Reply("", "length", usage=Usage(9, 0, 0, each.limit or 0))) for each in sent)
    assert limits.limited(asked).limit is None
    others = AnswerLimits()
    cut = [others.needs_room(each, Reply("{  ", "length", usage=Usage(9, 0, 0, each.limit or 0))) for each in sent]
    assert cut == [True, False, False]  # one is tried


def test_a_run_that_was_killed_before_it_could_ask_again_does_so_when_it_goes_on(tmp_path: Path):
    schema = answers.of_keys({"a": answers.one_of([0, 1])})
    asked = Request(openai.target("m", "http://localhost:1/v1"), [{"role": "user", "content": "?"}], schema)
    limit = AnswerLimits().limited(asked).limit or 0
    sent: list[int | None] = []

    async def think(request: Request) -> Reply:
        sent.append(request.limit)
        if request.limit:
            return Reply("", "length", usage=Usage(9, 0, 0, request.limit))
        return Reply('{"a": 1}', usage=Usage(9, 0, 0, 5_000))

    with Ledger(tmp_path) as ledger:
        cut = Reply("", "length", usage=Usage(9, 0, 0, limit))
        ledger.append(answered(asked, asked.key, asked.question, cut, 0.1))
        first, second = (
            asyncio.run(ask_all([asked], think, Lookup(ledger, lambda _, reply: reply.text != ""))) for _ in range(2)
        )
    assert (first.asked, second.asked, second.hits) == (1, 0, 1)
    assert sent == [limit, None]


def in_batches(protocol: str, at: Running, numbers: range, ledger: Path) -> None:
    client = batches(protocol, at)
    client = type(client)(replace(client.target, sampling={"temperature": 0}))
    client.use_memory(EndpointMemory(ledger))
    outcome, _ = ask_in_batches([question(number, client.target) for number in numbers], client, ledger)
    assert (outcome.asked, outcome.unreachable) == (len(numbers), 0)


@pytest.mark.slow
@both
def test_of_a_model_that_is_not_known_few_lines_have_the_limit_and_what_they_show_is_remembered(
    protocol: str, tmp_path: Path
):
    without = anthropic.MAX_TOKENS if protocol == "anthropic" else None
    with running() as provider:
        in_batches(protocol, provider, range(60), tmp_path / "keeps to it")
        assert without not in limits_sent(provider)
        in_batches(protocol, provider, range(60, 160), tmp_path / "keeps to it")
        assert without not in limits_sent(provider)
        thinks = provider.playing("thinks_before_it_answers")
        in_batches(protocol, thinks, range(100), tmp_path / "thinks")
        assert without in limits_sent(thinks)
        in_batches(protocol, thinks, range(100, 180), tmp_path / "thinks")
        assert thinks.log()["batch"]["sizes"] == [100, 64, 80]
