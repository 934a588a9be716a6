"""Clients: our requests are the real SDKs' requests, over both protocols."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anthropic as anthropic_sdk
import openai as openai_sdk
import pytest
from aiohttp import web
from fixtures.clients import MESSAGES, PROVIDERS, SCHEMA, ask, client_for

from sotopia_rl_data.asking import anthropic, openai, refusals
from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.errors import AskingError, KeyMissing, Rejected, Unavailable, UsageError
from sotopia_rl_data.fake_provider.answers import answer, malformed
from sotopia_rl_data.fake_provider.running import MALFORMED, Running, running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup
from sotopia_rl_data.request import Reply, Request, Usage
from sotopia_rl_data.secrets import HIDDEN


class Canned:
    """A server that writes down what it gets and answers what it was told."""

    def __init__(self, status: int = 200, body: str = "{}", **headers: str) -> None:
        self.status, self.body = status, body
        self.headers = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        self.got: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    async def handle(self, request: web.BaseRequest) -> web.Response:
        headers = {k.lower(): v for k, v in request.headers.items()}
        self.got.append((request.path, headers, json.loads(await request.read())))
        return web.Response(status=self.status, body=self.body.encode(), headers=self.headers)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        runner = web.ServerRunner(web.Server(self.handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def ask(self, provider: str) -> Reply:
        """What our client makes of the canned answer."""

        async def go() -> Reply:
            async with self.listening() as url:
                client = client_for(provider, url)
                try:
                    return await client.send(Request(client.target, MESSAGES, SCHEMA))
                finally:
                    await client.close()

        return asyncio.run(go())


def both(ours: Callable[[str], Awaitable[Any]], theirs: Callable[[str], Awaitable[Any]]) -> list[Any]:
    """What a server gets from our client and from the SDK."""
    canned = Canned(500)

    async def go() -> None:
        async with canned.listening() as url:
            for send in (ours, theirs):
                with pytest.raises((AskingError, openai_sdk.APIError, anthropic_sdk.APIError)):
                    await send(url)

    asyncio.run(go())
    return canned.got


def test_what_we_post_to_openai_is_what_its_sdk_posts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    sampling = {"temperature": 0, "max_tokens": 99, "seed": 1}

    async def ours(url: str) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        client = client_for("openai", url, **sampling)
        try:
            await client.send(Request(client.target, MESSAGES, SCHEMA, schema_name="direct"))
        finally:
            await client.close()

    async def theirs(url: str) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "direct", "strict": True, "schema": SCHEMA}}
        async with openai_sdk.AsyncOpenAI(base_url=f"{url}/v1", max_retries=0) as sdk:
            await sdk.chat.completions.create(model="sim", messages=MESSAGES, response_format=wanted, **sampling)

    (our_path, our_headers, our_body), (their_path, their_headers, their_body) = both(ours, theirs)
    assert (our_path, our_body) == (their_path, their_body)
    assert json.dumps(our_body["response_format"]) == json.dumps(their_body["response_format"])  # order of keys, too
    for name in ("authorization", "content-type", "openai-organization"):
        assert our_headers[name] == their_headers[name]
    assert not [name for name in our_headers if name.startswith("x-stainless")]


def test_what_we_post_to_anthropic_is_what_its_sdk_posts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-the-test")

    async def ours(url: str) -> None:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        client = client_for("anthropic", url)
        try:
            await client.send(Request(client.target, MESSAGES, SCHEMA, cache_until=2))
        finally:
            await client.close()

    async def theirs(url: str) -> None:
        mark = {"cache_control": {"type": "ephemeral"}}
        system = [{"type": "text", "text": MESSAGES[0]["content"], **mark}]
        messages = [
            {"role": "user", "content": [{"type": "text", "text": MESSAGES[1]["content"], **mark}]},
            {"role": "user", "content": [{"type": "text", "text": MESSAGES[2]["content"]}]},
        ]
        schema = anthropic_sdk.transform_schema(SCHEMA)
        async with anthropic_sdk.AsyncAnthropic(base_url=url, max_retries=0) as sdk:
            await sdk.messages.create(
                model="sim",
                max_tokens=200,
                system=system,
                messages=messages,
                output_config={"format": {"type": "json_schema", "schema": schema}},
            )

    (our_path, our_headers, our_body), (their_path, their_headers, their_body) = both(ours, theirs)
    assert (our_path, our_body) == (their_path, their_body)
    for name in (
        "authorization",
        "x-api-key",
        "content-type",
        "anthropic-version",
    ):  # which has the key: by the version
        assert our_headers.get(name) == their_headers.get(name)
    assert "key-of-the-test" in our_headers.get("authorization", "") + our_headers.get("x-api-key", "")


def test_the_real_sdks_read_the_loopback_providers_answers():
    async def go(provider: Running) -> None:
        async with openai_sdk.AsyncOpenAI(api_key="any", base_url=provider.openai_url, max_retries=0) as sdk:
            wanted = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}
            completion = await sdk.chat.completions.create(model="sim", messages=MESSAGES, response_format=wanted)
            told = json.loads(completion.choices[0].message.content or "")
            assert told.keys() == {"turn 0", "turn 2"}
            assert completion.usage is not None
            assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
        async with anthropic_sdk.AsyncAnthropic(api_key="any", base_url=provider.url, max_retries=0) as sdk:
            message = await sdk.messages.create(
                model="sim", max_tokens=50, messages=[{"role": "user", "content": "Hello?"}]
            )
            assert message.stop_reason == "end_turn"
            assert message.content[0].type == "text"
            assert message.usage.cache_read_input_tokens == 0
            with pytest.raises(anthropic_sdk.NotFoundError):
                await sdk.models.retrieve("sim")

    with running() as provider:
        asyncio.run(go(provider))


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_has_text_that_obeys_the_schema_the_returned_model_and_the_tokens(provider: str):
    with running(model="sim-2026-05-01") as server:
        reply = ask(client_for(provider, server.url))
        free = ask(client_for(provider, server.url), schema=None)
    assert set(json.loads(reply.text)) == {"turn 0", "turn 2"}
    assert set(json.loads(reply.text).values()) <= {0, 1, 2, 3}
    assert (reply.finish, reply.model) == ("stop", "sim-2026-05-01")
    assert reply.usage.input > 20
    assert reply.usage.output == 13
    assert len(free.text.split()) == 5


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_truncation_and_refusal_are_told_apart(provider: str):
    with running() as server:
        cut = ask(client_for(provider, server.url, max_tokens=2))
    assert (cut.finish, len(cut.text), cut.usage.output) == ("length", 4, 2)
    with running(malformed="refusal", malformed_share=1.0) as server:
        refused = ask(client_for(provider, server.url))
    assert refused.finish == "refusal"
    assert "can't rate" in refused.text


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", MALFORMED)
def test_every_malformed_kind_arrives_as_the_provider_sent_it(malformed_url: dict[str, str], provider: str, kind: str):
    reply = ask(client_for(provider, malformed_url[kind]))
    right = malformed_url["right"]
    text, stop = malformed(kind, right)
    assert (reply.text, reply.finish) == (text, stop)
    assert reply.text != right


@pytest.fixture(scope="module")
def malformed_url() -> Any:
    """A provider for each malformed kind, made when first asked for; under "right" the well-formed answer."""
    prompt = "\x1e".join(f"{m['role']}\x1f{m['content']}" for m in MESSAGES)
    running_ones: list[Any] = []

    class Urls(dict[str, str]):
        def __missing__(self, kind: str) -> str:
            server = running(malformed=kind, malformed_share=1.0)
            running_ones.append(server)
            self[kind] = server.__enter__().url
            return self[kind]

    yield Urls(right=answer(SCHEMA, prompt, 0))
    for server in running_ones:
        server.__exit__(None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("provider", "formats", "extra"),
    [("openai", "json_object", 3), ("openai", "text", 4), ("anthropic", "text", 3)],
)
def test_a_server_without_json_schemas_is_asked_in_the_next_weaker_way(provider: str, formats: str, extra: int):
    async def go(url: str) -> list[Reply]:
        client = client_for(provider, url)
        try:
            return [await client.send(Request(client.target, MESSAGES, SCHEMA, sample=n)) for n in range(3)]
        finally:
            await client.close()

    with running(formats=formats) as server:
        replies = asyncio.run(go(server.url))
        log = server.log()
    assert all(set(json.loads(reply.text)) == {"turn 0", "turn 2"} for reply in replies)
    assert (log["answered"], log["statuses"]["400"]) == (3, extra)


def test_a_schema_that_openai_would_refuse_is_passed_in_a_weaker_way():
    open_schema = SCHEMA | {"additionalProperties": True}
    with running() as server:
        assert "json_object" in ask(client_for("openai", server.url), schema=open_schema).form


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (400, Rejected, ""),
        (401, Rejected, "name the variable that holds its key"),
        (402, Rejected, "top up"),
        (403, Rejected, "name the variable that holds its key"),
        (404, Rejected, "model's name"),
        (408, Unavailable, "again"),
        (429, Unavailable, "again"),
        (500, Unavailable, "again"),
        (503, Unavailable, "again"),
        (529, Unavailable, "again"),
    ],
)
def test_what_a_status_means(provider: str, status: int, kind: type[AskingError], hint: str):
    canned = Canned(status, '{"error": {"message": "no luck\\ntoday"}}')
    with pytest.raises(AskingError) as caught:
        canned.ask(provider)
    assert type(caught.value) is kind
    assert caught.value.message.endswith(f"{status} no luck today")
    assert hint in caught.value.hint
    assert getattr(caught.value, "status", None) == status
    # nobody below us retries; what is not explained is tried in weaker forms
    assert (len(canned.got) == 1) == (status not in (400, 403, 404))


@pytest.mark.slow
def test_a_base_url_without_a_path_that_knows_no_such_route_is_told_of_v1():
    with running() as server:
        with pytest.raises(Rejected) as caught:
            ask(openai.OpenAIClient(openai.target("sim", server.url)))
        assert caught.value.hint == f"most servers answer below /v1: write {server.openai_url} as the base URL"


def test_an_account_without_money_is_refused_whatever_the_status():
    body = '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    with pytest.raises(Rejected, match="quota") as caught:
        Canned(429, body).ask("openai")
    assert "top up" in caught.value.hint


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.25"}, 0.25),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after": formatdate(1, usegmt=True)}, 0.0),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], wanted: float | None):
    with pytest.raises(Unavailable) as caught:
        Canned(429, "{}", **headers).ask("openai")
    assert caught.value.retry_after == wanted


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("body", ["<html>hello</html>", "{}", "null", "[]", '{"choices": [], "content": null}', ""])
def test_a_200_that_is_no_completion_is_not_taken_for_one(provider: str, body: str):
    with pytest.raises(Unavailable, match="not a completion"):
        Canned(200, body).ask(provider)


@pytest.mark.parametrize("choice", [{"message": {}, "finish_reason": "stop"}, {"message": None, "delta": {}}])
def test_an_empty_message_is_not_an_empty_answer_and_its_tokens_count(choice: dict[str, Any]):
    body = {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    with pytest.raises(Unavailable, match="not a completion") as told:
        Canned(200, json.dumps(body)).ask("openai")
    assert told.value.tokens == (9, 0, 0, 2)
    del body["usage"]
    with pytest.raises(Unavailable, match="not a completion") as told:
        Canned(200, json.dumps(body)).ask("openai")
    assert told.value.tokens is None


def test_an_error_wrapped_in_a_200_is_an_error():
    with pytest.raises(Unavailable, match="overloaded"):
        Canned(200, '{"error": {"message": "overloaded", "code": 529}}').ask("openai")
    with pytest.raises(Rejected, match="no such model"):
        Canned(200, '{"error": {"message": "no such model", "code": 404}}').ask("openai")


def test_content_in_parts_and_other_servers_ways_to_count_are_read():
    body = {
        "choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 4},
    }
    assert Canned(200, json.dumps(body)).ask("openai") == Reply("ab", "stop", "", Usage(9, 4, 0, 2))
    for message in ({"content": None}, {}):
        choice = {"message": message, "finish_reason": "content_filter"}
        body = {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 0}}
        assert Canned(200, json.dumps(body)).ask("openai") == Reply("", "refusal", "", Usage(9, 0, 0, 0))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_nobody_listening_is_a_sentence(provider: str):
    with pytest.raises(Unavailable, match="cannot be reached") as told:
        ask(client_for(provider, "http://127.0.0.1:9"))
    assert told.value.message.endswith("cannot be reached: Connection refused")
    assert told.value.message.count("127.0.0.1") == 1  # in the URL, which data is spared


@pytest.mark.parametrize(("provider", "variable"), [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")])
def test_a_key_is_needed_but_not_on_this_machine(provider: str, variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(variable, raising=False)
    for url in ("http://localhost:8000", "http://127.0.0.1:1", "http://[::1]:2"):
        assert client_for(provider, url).target.base_url.startswith(url)
    with pytest.raises(KeyMissing, match=variable):
        client_for(provider, "http://10.0.0.7:8000")
    monkeypatch.setenv(variable, "any")
    with pytest.raises(KeyMissing, match="is sent only to its own provider") as caught:
        client_for(provider, "http://10.0.0.7:8000")
    assert "--key 10.0.0.7:8000=VARIABLE" in caught.value.hint
    monkeypatch.setenv(variable.replace("API_KEY", "BASE_URL"), "http://10.0.0.7:8000/v1")
    client_for(provider, "http://10.0.0.7:8000")


def test_base_urls_come_from_the_call_then_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    assert openai.target("gpt-4o").base_url == "https://api.openai.com/v1"
    assert anthropic.target("claude").base_url == "https://api.anthropic.com"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://vllm:8000/v1/")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://proxy:9000/")
    assert openai.target("gpt-4o").base_url == "http://vllm:8000/v1"
    assert anthropic.target("claude").base_url == "http://proxy:9000"
    assert openai.target("gpt-4o", "http://other/v1").base_url == "http://other/v1"
    for wrong in ("vllm:8000", "ftp://host", "http://", "http://me:secret@host/v1", "http://host/v1?key=secret"):
        with pytest.raises(UsageError) as caught:
            openai.target("gpt-4o", wrong)
        assert "secret" not in str(caught.value)


def marks(body: dict[str, Any]) -> list[str]:
    blocks = [*body.get("system", []), *(b for m in body["messages"] for b in m["content"])]
    return [block["text"] for block in blocks if "cache_control" in block]


def test_anthropics_cache_markers_stand_at_the_end_of_what_siblings_share():
    target = anthropic.target("claude", "http://localhost:1")
    rubric, episode, last = (m["content"] for m in MESSAGES)
    assert marks(anthropic.body_of(Request(target, MESSAGES, SCHEMA))) == []
    assert marks(anthropic.body_of(Request(target, MESSAGES, SCHEMA, cache_until=1))) == [rubric]
    assert marks(anthropic.body_of(Request(target, MESSAGES, SCHEMA, cache_until=2))) == [rubric, episode]
    assert marks(anthropic.body_of(Request(target, MESSAGES, SCHEMA, cache_until=3))) == [rubric, last]
    body = anthropic.body_of(Request(target, MESSAGES, SCHEMA, cache_until=2))
    assert [m["role"] for m in body["messages"]] == ["user", "user"]
    assert body["max_tokens"] == anthropic.MAX_TOKENS


def test_anthropics_schema_keeps_the_order_of_its_keys():
    """The order of the schema's keys is the order in which the model writes them."""
    schema = {"type": "object", "properties": {"reason": {"type": "string"}, "level": {"type": "integer"}}}
    body = anthropic.body_of(Request(anthropic.target("claude", "http://localhost:1"), MESSAGES, schema))
    assert list(body["output_config"]["format"]["schema"]["properties"]) == ["reason", "level"]


@pytest.mark.parametrize("spelled", [str, quote, lambda key: b64encode(f"me:{key}".encode()).decode(), " ".join])
def test_a_key_that_the_provider_repeats_in_an_answer_is_hidden_there(monkeypatch: pytest.MonkeyPatch, spelled: Any):
    monkeypatch.setenv("LAB_KEY", key := "Qz8!w/Trombone+staple9Kf")
    told = f"the key is {spelled(key)} (end)"
    one = openai.target("m", "http://localhost:1", key="LAB_KEY")
    message = {"role": "assistant", "content": told, "reasoning_content": told}
    reply = openai.read_completion(one, {"model": told, "choices": [{"message": message, "finish_reason": "stop"}]})
    other = anthropic.target("m", "http://localhost:1", key="LAB_KEY")
    content = [{"type": "thinking", "thinking": told}, {"type": "text", "text": told}]
    same = anthropic.read_message(other, {"model": told, "content": content, "stop_reason": "end_turn"})
    for text in (reply.text, reply.thought, reply.model, same.text, same.thought, same.model):
        assert text.startswith("the key is ")
        assert HIDDEN in text
        assert not any(part in text for part in ("Trombone", "T r o m", b64encode(b"Trombone").decode()[:8]))


def test_a_word_that_stands_for_a_key_may_be_said_in_an_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAB_KEY", "not-needed")
    one = openai.target("m", "http://localhost:1", key="LAB_KEY")
    message = {"role": "assistant", "content": "His help was not-needed."}
    assert openai.read_completion(one, {"choices": [{"message": message, "finish_reason": "stop"}]}).text == (
        "His help was not-needed."
    )


@pytest.mark.parametrize("length", range(280, 300))
def test_an_error_that_is_cut_within_the_key_shows_no_part_of_it(monkeypatch: pytest.MonkeyPatch, length: int):
    monkeypatch.setenv("LAB_KEY", key := "Qz8wTrombone9KfX1")
    one = openai.target("m", "http://localhost:1", key="LAB_KEY")
    error = refusals.status_error(one, 400, {"error": {"message": f"{'no ' * 99}"[:length] + key}}, {})
    assert "Qz8w" not in str(error)


def test_an_errors_blanks_do_not_push_its_words_out(monkeypatch: pytest.MonkeyPatch):
    message = "This model's maximum context length is 8192 tokens." + f"\n{' ' * 60}x" * 80
    error = refusals.status_error(openai.target("m", "http://localhost:1"), 400, {"error": {"message": message}}, {})
    assert "400 This model's maximum context length is 8192 tokens. x x" in error.message


def test_an_address_that_a_server_redirects_to_does_not_show_the_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAB_CRED", key := "Qz8wTromboneStaple9K")
    one = openai.target("m", "http://localhost:1", key="LAB_CRED")
    error = refusals.status_error(one, 307, {}, {"location": f"http://127.0.0.1:1/{key}/x"})
    assert error.message.endswith("it redirects to http://127.0.0.1:1/[hidden]/x")


@pytest.mark.slow
def test_a_key_that_the_provider_repeats_is_nowhere_in_the_ledger_nor_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "planted0secret0planted")

    async def go(url: str, ledger: Ledger) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        client = client_for("openai", url)
        try:
            requests = (Request(client.target, [{"role": "user", "content": str(n)}]) for n in range(50))
            await ask_all(requests, client.send, Lookup(ledger, lambda q, r: True), pacing=Pacing())
        finally:
            await client.close()

    with running(key="another") as server, Ledger(tmp_path) as ledger, pytest.raises(Rejected) as caught:
        asyncio.run(go(server.url, ledger))
    with Ledger(tmp_path) as ledger:
        assert len(ledger) >= 5
        ledger.compact()
    assert "planted" not in str(caught.value)
    assert "401" in str(caught.value)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"planted" not in path.read_bytes()
