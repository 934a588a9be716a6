"""models check: one tiny question, and what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import KeyMissing, Rejected, SotopiaDataError, Unavailable, UsageError
from sotopia_rl_data.fake_provider.running import running


def check(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["models", "check", *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_one_call_shows_way_parameters_tokens_and_cost(protocol: str, tmp_path: Path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("{as_of: 2026-11-01, hosts: {'*': {sim: [1000, 1000, 1000, 4000]}}}")
    with running() as provider:
        url = provider.openai_url if protocol == "openai" else provider.url
        done = check(f"{protocol}:sim@{url}", "--extra", "top_p=0.9", "--prices", str(prices), "--json")
        assert provider.log()["requests"] == 1
    told = json.loads(done.stdout)
    assert (done.exit_code, told["way"], told["fault"], told["returned_model"]) == (
        0,
        "json_schema",
        "",
        "sim-2026-01-01",
    )
    assert (told["parameters"]["top_p"], told["key"]) == (0.9, "")
    assert told["cost"] == pytest.approx(told["usage"]["input"] / 1e3 + told["usage"]["output"] / 250)


def test_a_server_without_schemas_is_asked_in_a_weaker_way_and_a_person_is_told():
    with running(formats="json_object") as provider:
        done = check(f"openai:sim@{provider.openai_url}")
    assert done.exit_code == 0
    assert "in JSON mode, with the schema in words" in done.stdout
    assert "no known price" in done.stdout


def test_an_answer_that_cannot_be_used_is_told_and_the_exit_code_is_3():
    with running(malformed="extra", malformed_share=1.0) as provider:
        done = check(f"openai:sim@{provider.openai_url}", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["fault"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("habit", "code", "most"),
    [("runs_away", 3, 200), ("thinks_before_it_answers", 0, 1_800), ("takes_no_limit", 0, 50)],
)
def test_the_answer_is_limited_as_in_a_run_and_a_model_that_thinks_gets_room(habit: str, code: int, most: int):
    with running() as provider:
        done = check(f"openai:sim@{provider.playing(habit).openai_url}", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == code
    assert 0 < told["usage"]["output"] <= most


def error_of(spec: str, *options: str) -> SotopiaDataError:
    error = check(spec, *options).exception
    assert isinstance(error, SotopiaDataError)
    return error


@pytest.mark.slow
def test_what_cannot_be_asked_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    assert isinstance(error_of("lexical"), UsageError)
    assert isinstance(error_of("openai:m@http://127.0.0.1:9/v1"), Unavailable)
    assert isinstance(error_of("openai:m@https://api.deepseek.com/v1"), KeyMissing)
    with running(key="sk-right-0123456789") as provider:
        monkeypatch.setenv("LAB_KEY", "sk-wrong-0123456789")
        host = provider.openai_url.split("/")[2]
        refused = error_of(f"openai:m@{provider.openai_url}", "--key", f"{host}=LAB_KEY")
    assert isinstance(refused, Rejected)
    assert "LAB_KEY" in refused.hint
    assert "wrong-0123" not in str(refused)
    with running(latency=5) as provider:
        assert (
            "has not answered within 0.2 s" in error_of(f"openai:m@{provider.openai_url}", "--timeout", "0.2").message
        )
