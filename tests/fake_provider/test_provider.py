"""The loopback provider: it caches, counts and fails as its options say, and ends cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest
from fixtures.clients import PROVIDERS, SCHEMA, ask, client_for

from sotopia_rl_data.costs.tokens import PrefixCache
from sotopia_rl_data.errors import Unavailable
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.request import Request, Usage
from sotopia_rl_data.schema import Message


def siblings(count: int) -> list[list[Message]]:
    """Questions that share a rubric and an episode of 1,500 tokens each and differ in the last message."""
    shared: list[Message] = [
        {"role": "system", "content": "rubric " * 857},
        {"role": "user", "content": "episode " * 750},
    ]
    return [[*shared, {"role": "user", "content": f"Rate dimension {n}."}] for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_shared_prefix_is_read_from_the_providers_cache(provider: str):
    async def go(url: str) -> list[Usage]:
        client = client_for(provider, url)
        try:
            asked = [Request(client.target, messages, SCHEMA, cache_until=2) for messages in siblings(4)]
            return [(await client.send(request)).usage for request in asked]
        finally:
            await client.close()

    with running() as server:
        first, *others = asyncio.run(go(server.url))
    assert first.cached == 0
    # Anthropic's has the schema in it, which versions of its SDK word differently
    assert 3_030 < first.written < 3_070 if provider == "anthropic" else first.written == 0
    for usage in others:
        assert usage.written == 0
        assert usage.cached == (first.written if provider == "anthropic" else 2_944)
        assert usage.input > usage.cached


def test_the_prefix_cache_counts_as_openai_does():
    cache = PrefixCache()
    long = b"a" * 4 * 2_000
    first = cache.blocks("m", long)
    assert (first.read, first.written, len(first.hashes)) == (0, 0, 15)
    assert cache.blocks("m", long).read == 0  # sent at once: not known yet
    cache.learn("m", first)
    assert cache.blocks("m", long).read == 1_920  # fifteen blocks of 128
    assert cache.blocks("m", long[: 4 * 1_500] + b"b" * 2_000).read == 1_408
    assert cache.blocks("m", long[: 4 * 1_000] + b"b" * 2_000).read == 0  # seven blocks are too few
    assert cache.blocks("m", b"b" + long).read == 0
    assert cache.blocks("other", long).read == 0
    assert cache.blocks("m", long[: 4 * 1_023]).hashes == ()


def test_the_prefix_cache_counts_as_anthropic_does():
    cache = PrefixCache()
    parts = [(b"s" * 4_800, True), (b"e" * 4_800, True), (b"q1", False)]
    first = cache.marked("m", parts)
    assert (first.read, first.written) == (0, 2_400)
    cache.learn("m", first)
    assert (cache.marked("m", parts).read, cache.marked("m", parts).written) == (2_400, 0)
    other_episode = [(b"s" * 4_800, True), (b"f" * 4_800, True), (b"q1", False)]
    assert (cache.marked("m", other_episode).read, cache.marked("m", other_episode).written) == (1_200, 1_200)
    unmarked = [(text, False) for text, _ in parts]
    assert (cache.marked("m", unmarked).read, cache.marked("m", unmarked).written) == (0, 0)
    assert cache.marked("m", [(b"s" * 400, True)]).written == 0  # too short to be kept


def test_another_answer_schema_is_another_prefix():
    other = {**SCHEMA, "properties": {"turn 1": {"type": "integer", "enum": [0, 1]}}, "required": ["turn 1"]}
    with running() as server:
        seen = [
            ask(client_for("openai", server.url), *siblings(1)[0], schema=s).usage.cached
            for s in (SCHEMA, SCHEMA, other)
        ]
    assert seen[0] == 0
    assert seen[1] > 1_024
    assert seen[2] == 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answers_and_another_does_not():
    def told(**options: Any) -> list[str]:
        with running(**options) as server:
            return [ask(client_for("openai", server.url), {"role": "user", "content": f"q{n}"}).text for n in range(9)]

    assert told(seed=1) == told(seed=1)
    assert told(seed=1) != told(seed=2)


@pytest.mark.slow
def test_faults_follow_the_seed_and_the_request_and_nothing_else():
    async def statuses(url: str) -> list[int]:
        client = client_for("openai", url)
        found = []
        try:
            for n in range(60):
                try:
                    await client.send(Request(client.target, [{"role": "user", "content": str(n)}], SCHEMA))
                    found.append(200)
                except Unavailable as error:
                    found.append(error.status)
        finally:
            await client.close()
        return found

    with running(throttled=0.2, broken=0.2) as server:
        first = asyncio.run(statuses(server.url))
    with running(throttled=0.2, broken=0.2) as server:
        assert asyncio.run(statuses(server.url)) == first
    assert {200, 429, 500} <= set(first)


def test_the_provider_counts_what_it_got_and_what_it_was_paid_for_twice():
    with running() as server:
        for text in ("a", "b", "a", "a"):
            ask(client_for("openai", server.url), {"role": "user", "content": text})
        log = server.log()
    assert (log["requests"], log["distinct"], log["repeated"]) == (4, 2, 2)
    assert (log["answered"], log["answered_distinct"], log["paid_twice"]) == (4, 2, 2)
    assert log["usage"]["output"] == 4 * 13


@pytest.mark.slow
def test_the_provider_ends_cleanly_on_sigterm_and_says_what_is_wrong_with_its_options():
    command = [sys.executable, "-m", "sotopia_rl_data.fake_provider"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("READY ").strip()
        port = url.rsplit(":", 1)[1]
        taken = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=60, check=False)
        assert (taken.returncode, "cannot be used" in taken.stderr) == (2, True)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == f"judges here: openai:any@{url}/v1, anthropic:any@{url}\n"
    for wrong in (["--broken", "2"], ["--latency", "-1"], ["--malformed", "rude"]):
        said = subprocess.run([*command, *wrong], capture_output=True, text=True, timeout=60, check=False)
        assert (said.returncode, "hint: " in said.stderr) == (2, True)


@pytest.mark.alone
@pytest.mark.slow
def test_the_provider_needs_less_than_a_1500th_of_a_second_of_cpu_a_request():
    async def go(url: str) -> None:
        client = client_for("openai", url)
        try:
            numbers = iter(range(6_000))

            async def worker() -> None:
                for n in numbers:
                    await client.send(Request(client.target, [{"role": "user", "content": f"{n} " * 500}], SCHEMA))

            await asyncio.gather(*(worker() for _ in range(64)))
        finally:
            await client.close()

    with running() as server:
        process = psutil.Process(server.pid)
        before = sum(process.cpu_times()[:2])
        asyncio.run(go(server.url))
        spent = sum(process.cpu_times()[:2]) - before
    assert spent / 6_000 < 1 / 1_500, f"{spent / 6_000 * 1_000:.2f} ms of CPU a request"


def test_a_prompt_that_goes_on_from_another_has_the_blocks_that_it_would_have_alone():
    """What two prompts share is hashed once; a prompt of another beginning may come between them."""
    cache, before = PrefixCache(), b"a" * 8_000
    for prompt in (before, b"b" * 9_000, before + b"c" * 3_000, before[:5_000] + b"d" * 5_000, before):
        alone = PrefixCache().blocks("m", prompt)
        assert cache.blocks("m", prompt).hashes == alone.hashes
        assert len(set(alone.hashes)) == len(prompt) // 512
