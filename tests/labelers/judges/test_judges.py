"""Judges: how they are named, what they send, and what they do with a question."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.labelling import BOAT, BY, ODD, Highest, filled
from fixtures.places import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_rl_data.asking.keys import without_api_keys
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.errors import KeyMissing, NotFound, Rejected, Unavailable, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.judges import judge
from sotopia_rl_data.labelers.judges.lexical import Lexical
from sotopia_rl_data.labelers.requests import AskedJudge, request_of, target_of
from sotopia_rl_data.labelers.schemas import answers, schema
from sotopia_rl_data.ledger.ledger import Ledger, answered
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.schema import Turn

OPENAI, CLAUDE = "https://api.openai.com/v1", "https://api.anthropic.com"
SEVEN = tuple(one.name for one in SOTOPIA_EVAL)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-a-key-that-is-none")
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def provider() -> Iterator[Running]:
    with running() as one:
        yield one


def question(name: str = "direct", how: Any = "packed", episode: Any = BOAT) -> Question:
    return next(iter(schema(name).questions(episode, SEVEN, BY, how, 3)))


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "provider_", "model", "url", "sampling"),
    [
        ("gpt-4o", "openai", "gpt-4o", OPENAI, {"temperature": 0}),
        ("gpt-4.1-mini", "openai", "gpt-4.1-mini", OPENAI, {"temperature": 0}),
        ("o3", "openai", "o3", OPENAI, {}),
        ("o4-mini", "openai", "o4-mini", OPENAI, {}),
        ("gpt-5.2", "openai", "gpt-5.2", OPENAI, {}),
        ("openai:gpt-4o", "openai", "gpt-4o", OPENAI, {"temperature": 0}),
        ("openai:Qwen/Qwen2-7B@http://h:8000/v1/", "openai", "Qwen/Qwen2-7B", "http://h:8000/v1", {"temperature": 0}),
        ("openai:llama3:8b@https://h/v1", "openai", "llama3:8b", "https://h/v1", {"temperature": 0}),
        ("openai:a@b@http://h", "openai", "a@b", "http://h", {"temperature": 0}),
        ("claude-haiku-4-5", "anthropic", "claude-haiku-4-5", CLAUDE, {"max_tokens": 8192, "temperature": 0}),
        ("claude-opus-5", "anthropic", "claude-opus-5", CLAUDE, {"max_tokens": 8192}),
        ("anthropic:mine@http://h:1", "anthropic", "mine", "http://h:1", {"max_tokens": 8192}),
    ],
)  # fmt: skip
def test_a_model_is_named_with_its_provider_where_that_is_not_plain(
    spec: str, provider_: str, model: str, url: str, sampling: Any
):
    with without_api_keys():
        made = judge(spec)
    assert made.id == model  # never the URL
    assert target_of(made) == Target(provider_, model, url, sampling)


def test_the_environments_base_url_is_honoured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gateway/v1")
    assert target_of(judge("gpt-4o")).base_url == "http://gateway/v1"
    with without_api_keys():
        assert target_of(judge("openai:m@http://other/v1")).base_url == "http://other/v1"


def test_sampling_is_laid_over_the_defaults_and_none_takes_a_parameter_out():
    assert target_of(judge("gpt-4o", {"temperature": 0.7, "seed": 1})).sampling == {"temperature": 0.7, "seed": 1}
    assert target_of(judge("gpt-4o", {"temperature": None})).sampling == {}
    assert target_of(judge("claude-opus-5", {"max_tokens": 100})).sampling == {"max_tokens": 100}
    with pytest.raises(UsageError, match="does not sample"):
        judge("lexical", {"temperature": 0.7})


@pytest.mark.parametrize("spec", ["gtp-4o", "", "Lexical", "mistral-large", "replays:x", "opus", "nothing:here"])
def test_an_unknown_judge_is_wrong_usage_that_names_the_forms(spec: str):
    with pytest.raises(UsageError) as caught:
        judge(spec)
    for form in (
        "gpt-4o",
        "openai:MODEL[@URL]",
        "anthropic:MODEL[@URL]",
        "replay:LEDGER[#MODEL]",
        "lexical",
        "file.py:Name",
    ):
        assert form in caught.value.hint


@pytest.mark.parametrize("spec", ["openai:", "anthropic:@http://h", "openai:@https://h/v1", "replay:"])
def test_a_judge_that_lacks_its_half_says_which(spec: str):
    with pytest.raises(UsageError, match=r"needs a|does not name"):
        judge(spec)


def test_credentials_in_a_url_are_refused_because_urls_are_kept():
    with pytest.raises(UsageError, match="a user name, a password or a query"):
        judge("openai:m@http://user:password@h/v1")


@pytest.mark.parametrize(("spec", "variable"), [("gpt-4o", "OPENAI_API_KEY"), ("claude-opus-5", "ANTHROPIC_API_KEY")])
def test_a_missing_key_is_found_at_once_with_the_line_that_mends_it(
    spec: str, variable: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(variable)
    with pytest.raises(KeyMissing) as caught:
        judge(spec)
    assert caught.value.hint == f"export {variable}=YOUR_KEY"  # these two do check keys
    monkeypatch.setenv(variable.replace("API_KEY", "BASE_URL"), "http://gateway/v1")
    with pytest.raises(KeyMissing) as caught:
        judge(spec)
    assert caught.value.hint == f"export {variable}=YOUR_KEY (if the server does not check keys, any word will do)"
    local = "openai:m@http://127.0.0.1:1/v1" if spec == "gpt-4o" else "anthropic:m@http://localhost:1"
    assert judge(local).id == "m"  # a server on this machine needs none


def test_naming_a_judge_imports_no_other():
    heavy = "('openai', 'anthropic', 'torch', 'pyarrow', 'sotopia_rl_data.labelers.judges.replay')"
    named = "import sys; from sotopia_rl_data.labelers.judges import judge; judge('lexical')"
    code = f"{named}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- providers, over a real server ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("name", ["direct", "singular"])
def test_a_provider_is_asked_and_its_answer_obeys_the_schema(kind: str, name: str, provider: Running):
    url = provider.openai_url if kind == "openai" else provider.url
    made = judge(f"{kind}:sim-judge@{url}")

    async def ask() -> Reply:
        try:
            return await made.answer(question(name))
        finally:
            await made.close()

    for _ in range(2):  # a judge survives its event loop
        reply = asyncio.run(ask())
        assert len(schema(name).read(question(name), reply.text)) == len(question(name).slots)
        assert reply.model.startswith("sim-judge-")
        assert reply.usage.input > 500


def test_a_request_carries_its_question_and_has_the_hashes_of_a_plain_one():
    target = Target("openai", "m", "http://h", {"temperature": 0})
    asked = request_of(question(), target, 2)
    plain = Request(target, question().messages, question().answer_schema, 2)
    assert (asked.key, asked.question) == (plain.key, plain.question)
    assert asked.cache_until == 3
    assert asked.asked.episode is BOAT
    assert request_of(replace(question(), schema="my rubric/é" * 9), target).schema_name.startswith("my_rubric__my_")


# --- lexical ----------------------------------------------------------------------------------------------------------


def lexical(asked: Question) -> Any:
    return json.loads(asyncio.run(Lexical().answer(asked)))


def test_lexical_counts_what_an_utterance_shares_with_the_dimension():
    said = (
        Turn(0, "a", "speak", "Hm."),
        Turn(1, "b", "speak", "Does it leak? How old is it?"),
        Turn(2, "a", "speak", "I want to sell the boat for 500 dollars."),
        Turn(4, "a", "none"),
    )
    answer = lexical(question(episode=replace(BOAT, turns=said)))
    assert answer["agent_1"]["goal"] == {"turn_0": 0, "turn_2": 3, "turn_4": 0}
    assert answer["agent_2"]["knowledge"] == {"turn_1": 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["direct", "singular"])
@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=6), how=st.sampled_from(["packed", "per-dimension"]))
def test_lexical_answers_any_question_within_its_schema_and_always_the_same(name: str, texts: list[str], how: str):
    episode = replace(BOAT, turns=tuple(Turn(i, "ab"[i % 2], "speak", text) for i, text in enumerate(texts)))
    for asked in schema(name).questions(episode, SEVEN, BY, how, 3):
        assert len(schema(name).read(asked, json.dumps(lexical(asked)))) == len(asked.slots)
        assert lexical(asked) == lexical(asked)


def test_lexical_does_not_look_at_where_an_utterance_stands():
    texts = ["Sell the boat?", "What a calm morning", "500 dollars"]
    forth = replace(BOAT, turns=tuple(Turn(i, "a", "speak", t) for i, t in enumerate(texts)))
    back = replace(BOAT, turns=tuple(Turn(i, "a", "speak", t) for i, t in enumerate(texts[::-1])))
    levels = [list(lexical(question(episode=e))["agent_1"]["goal"].values()) for e in (forth, back)]
    assert levels[0] == levels[1][::-1]


def test_lexical_says_that_it_is_a_baseline():
    from sotopia_rl_data.labelers.judges import lexical as module

    assert "BASELINE" in (module.__doc__ or "")


# --- replay -----------------------------------------------------------------------------------------------------------


def kept(folder: Path, *targets: Target) -> Path:
    with Ledger(folder) as ledger:
        for target in targets:
            asked = request_of(question(), target)
            text = json.dumps(filled(asked.answer_schema, lambda allowed: allowed[0]))
            ledger.append(answered(asked, asked.key, asked.question, Reply(text, model=f"{target.model}-dated"), 0.1))
    return folder


FOUR, MINI = (
    Target("openai", "gpt-4o", "https://h/v1", {"temperature": 0}),
    Target("openai", "gpt-4o-mini", "https://h/v1"),
)
WARM = replace(FOUR, sampling={"temperature": 0.7})


def test_replay_stands_for_the_model_that_answered(tmp_path: Path):
    made = judge(f"replay:{kept(tmp_path / 'ledger', FOUR)}")
    assert (made.id, target_of(made)) == ("gpt-4o", FOUR)
    reply = asyncio.run(made.answer(question()))
    assert reply.model == "gpt-4o-dated"
    assert reply.usage.input == 0
    with pytest.raises(Rejected, match="no answer to this question"):
        asyncio.run(made.answer(question("singular")))


def test_replay_of_several_models_must_be_told_which(tmp_path: Path):
    folder = kept(tmp_path / "ledger", FOUR, MINI)
    with pytest.raises(UsageError, match="gpt-4o@https://h/v1") as caught:
        judge(f"replay:{folder}")
    assert caught.value.hint.endswith(f"replay:{folder}#gpt-4o")
    assert judge(f"replay:{folder}#gpt-4o").id == "gpt-4o"
    assert judge(f"replay:{folder}#mini").id == "gpt-4o-mini"
    with pytest.raises(UsageError, match="no answers of 'claude'"):
        judge(f"replay:{folder}#claude")


def test_replay_of_one_model_that_sampled_differently_is_told_apart_by_any_part(tmp_path: Path):
    folder = kept(tmp_path / "ledger", FOUR, WARM)
    with pytest.raises(UsageError) as caught:
        judge(f"replay:{folder}#gpt-4o")
    example = caught.value.hint.rpartition("#")[2]
    assert target_of(judge(f"replay:{folder}#{example}")) in (FOUR, WARM)
    assert target_of(judge(f'replay:{folder}#"temperature":0.7')) == WARM


def test_replay_finds_the_ledger_of_a_store_and_misses_one_that_is_not_there(tmp_path: Path):
    kept(tmp_path / "store" / ".ledger", FOUR)
    assert judge(f"replay:{tmp_path / 'store'}").id == "gpt-4o"
    with pytest.raises(NotFound, match="nowhere does not exist"):
        judge(f"replay:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no answers"):
        judge(f"replay:{tmp_path / 'empty'}")


# --- plug-ins ---------------------------------------------------------------------------------------------------------

COIN = """
import json
from sotopia_rl_data.labelers.judge import Question

class Coin:
    id = "coin"
    async def answer(self, question: Question) -> str:
        return json.dumps({"agent_1": {}})
"""


def test_a_judge_of_ones_own_is_an_id_and_one_method(tmp_path: Path):
    file = tmp_path / "coin.py"
    file.write_text(COIN)
    made = judge(f"{file}:Coin")
    assert made.id == "coin"
    before = target_of(made)
    reply = asyncio.run(AskedJudge(made, target_of(made)).sends(request_of(question(), before)))
    assert reply == Reply('{"agent_1": {}}', model="coin")
    file.write_text(COIN.replace("agent_1", "agent_2"))  # a judge that changed must be asked anew
    assert target_of(judge(f"{file}:Coin")) != before


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Coin: pass", "is not a judge"),
        ("class Coin:\n    id = 'c'\n    def __init__(self, x): pass", "cannot be made"),
        ("Coin = 3", "is not a judge"),
        ("class Coin:\n    id = ''\n    async def answer(self, q): ...", "is not a judge"),
        (COIN.replace('"coin"', '"coin"; concurrency = "8"'), "has the concurrency '8'"),
        (COIN.replace('"coin"', '"coin"; concurrency = 0'), "has the concurrency 0"),
        ("class Other: pass", "has no 'Coin'"),
        ("def", "cannot be imported: SyntaxError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_plug_in_that_is_no_judge_is_wrong_usage(code: str, said: str, tmp_path: Path):
    file = tmp_path / "coin.py"
    file.write_text(code)
    with pytest.raises(UsageError, match=said):
        judge(f"{file}:Coin")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt4o", "'gpt4o' is not a judge (did you mean 'gpt-4o'?)."),
        ("lexicla", "'lexicla' is not a judge (did you mean 'lexical'?)."),
        ("somebody", "'somebody' is not a judge."),
    ],
)
def test_a_judge_that_is_misspelled_is_suggested(name: str, said: str):
    with pytest.raises(UsageError) as caught:
        judge(name)
    assert caught.value.message == said


@pytest.mark.parametrize("address", ["localhost:8000/v1", "127.0.0.1", "gpu7:8000", "llm.lab.org/v1", "htp://gpu7"])
def test_an_address_without_its_scheme_or_with_another_is_no_model(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(UsageError, match="is not a URL") as caught:
        judge(f"openai:Qwen/Qwen2.5-7B@{address}")
    assert caught.value.hint == f"write openai:Qwen/Qwen2.5-7B@http://{address.removeprefix('htp://')}"


def test_a_model_may_have_a_version_behind_an_at_sign(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert target_of(judge("openai:gpt-oss@2024.1")).model == "gpt-oss@2024.1"


def test_an_installed_judge_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "coin_judge.py").write_text(COIN)
    info = tmp_path / "coin_judge-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coin-judge\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sotopia_rl_data.judges]\ncoin = coin_judge:Coin\nbroken = coin_judge:None_\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert judge("coin").id == "coin"
    assert target_of(judge("coin")) == Target("plugin", "coin")
    with pytest.raises(UsageError, match="cannot be imported") as caught:
        judge("broken")
    assert "coin-judge" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        judge("con")
    assert "coin" in caught.value.hint.split(", ")


class OfALibrary(Exception):
    """Like most libraries' errors, it has no base that could be named."""


class Failing(Highest):
    def __init__(self, error: Exception | object) -> None:
        super().__init__()
        self._error = error

    async def answer(self, question: Question) -> Any:
        if isinstance(self._error, Exception):
            raise self._error
        return self._error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (KeyError("x"), Rejected, "The judge highest failed: KeyError: 'x'"),
        (OfALibrary("rate limit\nreached."), Rejected, "The judge highest failed: OfALibrary: rate limit reached"),
        (AssertionError("no such turn"), Rejected, "The judge highest failed: AssertionError: no such turn"),
        (NotFound("There is no file."), Rejected, "highest: There is no file."),
        (Unavailable("later"), Unavailable, "later"),
        ({"agent_1": 2}, Rejected, "returned dict, not text"),
        (None, Rejected, "returned NoneType, not text"),
    ],
)
def test_a_judge_that_fails_is_an_asking_error_and_no_traceback(error: Any, kind: type[Exception], said: str):
    made = Failing(error)
    with pytest.raises(kind, match=said):
        asyncio.run(AskedJudge(made, target_of(made)).sends(request_of(question(), target_of(made))))


def test_a_judge_with_a_target_that_is_none_is_told():
    made = Highest()
    made.target = "http://h"  # type: ignore[assignment]
    with pytest.raises(UsageError, match="is not a Target"):
        target_of(made)


def test_the_toy_answers_obey_the_schema():
    answers.check(question(episode=ODD).answer_schema, json.loads(Highest().say(question(episode=ODD))))
