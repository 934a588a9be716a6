"""One key, one host: each server gets the key that is named for it, live and in batches, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from fixtures.places import ROOT

from sotopia_rl_data.asking import anthropic, openai
from sotopia_rl_data.asking.batch.anthropic import AnthropicBatchClient
from sotopia_rl_data.asking.batch.openai import OpenAIBatchClient
from sotopia_rl_data.asking.fleet import Fleet
from sotopia_rl_data.asking.judges_file import NamedModels
from sotopia_rl_data.asking.keys import HOSTS, api_key, key_for
from sotopia_rl_data.asking.providers import ModelName, api_model
from sotopia_rl_data.asking.transport import clean_url
from sotopia_rl_data.cli.asking import model_of
from sotopia_rl_data.errors import AskingError, KeyMissing, Rejected, UsageError
from sotopia_rl_data.request import Request, Target

SECRETS = {
    "OPENAI_API_KEY": "sk-own-0123456789",
    "OPENAI_ORG_ID": "org-secret",
    "OPENAI_PROJECT_ID": "proj-secret",
    "OPENAI_CUSTOM_HEADERS": "X-Gateway: gateway-secret",
    "ANTHROPIC_API_KEY": "sk-ant-own-0123456789",
    "ANTHROPIC_AUTH_TOKEN": "token-secret",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Gateway: gateway-secret",
    "DEEPSEEK_API_KEY": "sk-deep-0123456789",
    "LAB_KEY": "lab-key-0123456789",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", *(set(HOSTS.values()) - set(SECRETS))):
        monkeypatch.delenv(name, raising=False)


def seen(target: Target, in_batches: bool) -> set[str]:
    """The names of the variables above whose values a server at `target` receives in a request's headers."""
    return asyncio.run(_seen(target, in_batches))


async def _seen(target: Target, in_batches: bool) -> set[str]:
    async with listening() as (url, headers):
        path = target.base_url.partition("PLACE")[2]
        there = Target(target.provider, target.model, url + path, target.sampling, target.key)
        openai_ = target.provider == "openai"
        if in_batches:
            batches = OpenAIBatchClient(there) if openai_ else AnthropicBatchClient(there)
            with pytest.raises(AskingError):
                await batches.newest()
            await batches.close()
        else:
            client = openai.OpenAIClient(there) if openai_ else anthropic.AnthropicClient(there)
            with pytest.raises(AskingError):
                await client.send(Request(there, [{"role": "user", "content": "?"}]))
            await client.close()
        told = json.dumps(headers)
    return {name for name, value in SECRETS.items() if value.rpartition(": ")[2] in told}


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """A server that refuses everything, and the headers that it got."""
    headers: list[dict[str, str]] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        headers.append(dict(request.headers))
        return web.Response(status=400, body=b"{}")

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", headers
    finally:
        await runner.cleanup()


@pytest.mark.slow
@pytest.mark.parametrize("in_batches", [False, True])
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_server_gets_the_key_that_is_named_for_it_and_nothing_else_of_the_environment(
    provider: str, in_batches: bool
):
    assert seen(Target(provider, "m", "PLACE/v1"), in_batches) == set()
    assert seen(Target(provider, "m", "PLACE/v1", key="LAB_KEY"), in_batches) == {"LAB_KEY"}


@pytest.mark.parametrize("in_batches", [False, True])
def test_the_providers_own_key_and_headers_go_to_where_they_are_named(in_batches: bool):
    own = seen(Target("openai", "m", "PLACE/v1", key="OPENAI_API_KEY"), in_batches)
    assert {name for name in own if name.startswith("OPENAI_")} == {name for name in SECRETS if "OPENAI_" in name}
    assert "DEEPSEEK_API_KEY" not in own
    theirs = seen(Target("anthropic", "m", "PLACE", key="ANTHROPIC_API_KEY"), in_batches)
    assert "ANTHROPIC_API_KEY" in theirs
    assert not {"OPENAI_API_KEY", "OPENAI_ORG_ID", "ANTHROPIC_AUTH_TOKEN"} & theirs


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://eu.api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://api.deepseek.com", "DEEPSEEK_API_KEY"),
        ("https://mine.openai.azure.com/openai/v1", "AZURE_OPENAI_API_KEY"),
        ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        ("https://api.openai.com.evil.example/v1", ""),
        ("https://evilapi.openai.com.example", ""),
        ("https://notopenrouter.ai/api/v1", ""),
        ("http://localhost:8000/v1", ""),
    ],
)
def test_a_known_host_has_a_variable_of_its_own(url: str, variable: str):
    assert key_for(Target("openai", "m", url)).variable == variable


def test_the_key_of_a_base_url_goes_to_that_server_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu7:8000/v1")
    assert api_key(Target("openai", "m", "http://gpu7:8000/other")) == SECRETS["OPENAI_API_KEY"]
    for other in ("http://gpu7:8001/v1", "https://gpu7:8000/v1", "http://gpu8:8000/v1"):
        with pytest.raises(KeyMissing, match="OPENAI_API_KEY"):
            api_key(Target("openai", "m", other))
    with pytest.raises(KeyMissing, match="ANTHROPIC_API_KEY"):
        api_key(Target("anthropic", "m", "http://gpu7:8000/v1"))


def test_a_missing_key_is_a_sentence_that_names_its_variable():
    with pytest.raises(KeyMissing, match=r"GROQ_API_KEY is not set: .* for https://api\.groq\.com/openai/v1"):
        api_key(Target("openai", "m", "https://api.groq.com/openai/v1"))
    with pytest.raises(KeyMissing, match="UNSET_KEY is not set"):
        api_key(Target("openai", "m", "http://localhost:1/v1", key="UNSET_KEY"))
    assert api_key(Target("openai", "m", "http://gpu7/v1", key="none")) == "none"


def test_the_hint_for_a_fleet_has_the_name_that_the_option_takes():
    fleet = ModelName("openai", "m", id="ours", servers=("http://gpu1:8000/v1", "http://gpu2:8000/v1"))
    with pytest.raises(KeyMissing) as missing:
        api_model(fleet, {})
    assert "--key ours=VARIABLE" in missing.value.hint
    assert "or --key ours=none" in missing.value.hint
    model = model_of("ours", {"named": NamedModels({"ours": fleet}, {}), "keys": {"ours": "none"}})
    assert isinstance(model, ModelName)
    assert isinstance(api_model(model, {}), Fleet)


def test_a_redirect_is_not_followed_with_the_key():
    async def go() -> str:
        async with listening() as (other, headers):

            async def redirect(request: web.BaseRequest) -> web.Response:
                return web.Response(status=307, headers={"Location": f"{other}/v1/chat/completions"})

            runner = web.ServerRunner(web.Server(redirect, access_log=None))
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            client = openai.OpenAIClient(Target("openai", "m", url, key="LAB_KEY"))
            try:
                with pytest.raises(Rejected) as caught:
                    await client.send(Request(client.target, [{"role": "user", "content": "?"}]))
            finally:
                await client.close()
                await runner.cleanup()
            assert headers == []
            assert other in caught.value.message
            return caught.value.message

    assert "redirects to" in asyncio.run(go())


def test_azures_older_api_gets_its_version_and_the_key_under_its_own_name():
    async def go() -> tuple[str, dict[str, str]]:
        got: list[tuple[str, dict[str, str]]] = []

        async def handle(request: web.BaseRequest) -> web.Response:
            got.append((request.path_qs, {name.lower(): value for name, value in request.headers.items()}))
            return web.Response(status=400, body=b"{}")

        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/openai/deployments/judge/?api-version=2024-10-21"
        client = openai.OpenAIClient(openai.target("gpt-4o", url, key="LAB_KEY"))
        with pytest.raises(Rejected):
            await client.send(Request(client.target, [{"role": "user", "content": "?"}]))
        await client.close()
        await runner.cleanup()
        return got[0]

    path, headers = asyncio.run(go())
    assert path == "/openai/deployments/judge/chat/completions?api-version=2024-10-21"
    assert headers["api-key"] == SECRETS["LAB_KEY"]
    assert "authorization" not in headers


def test_a_named_key_changes_no_requests_key():
    question = [{"role": "user", "content": "?"}]
    plain, named = Target("openai", "m", "http://h/v1"), Target("openai", "m", "http://h/v1", key="LAB_KEY")
    assert Request(plain, question).key == Request(named, question).key  # type: ignore[arg-type]
    assert plain == named


def test_the_page_of_providers_lists_the_hosts_and_their_variables():
    page = (ROOT / "docs" / "providers.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\S+)` \| `(\S+)` \|$", page, re.MULTILINE)
    assert dict(listed) == HOSTS


@pytest.mark.parametrize(
    "address", ["http://me:Tr0ub4dor@host/v1", "http://Tr0ub4dor@host/v1", "http://h?key=Tr0ub4dor"]
)
def test_an_address_with_a_name_a_password_or_a_token_in_it_is_refused_and_not_repeated(address: str):
    with pytest.raises(UsageError, match="contains a user name, a password or a query") as told:
        clean_url(address)
    assert "Tr0ub4dor" not in f"{told.value}{told.value.hint}"
