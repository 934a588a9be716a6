"""How fast a provider is asked: our loop, journal included, beside what people usually write.

    python benchmarks/asking_throughput.py [--latency 0.5] [--seconds 60] [--concurrency 256 512] [--ways ours shared]

All three ask the same localhost provider for the same strict JSON, each in a process of its own, one after the other;
the provider has a process of its own, too. Ideal is the concurrency divided by the latency; ours begins with 16 in
flight and doubles (slow start), which is part of its time, as are the last answers. CPU is the asking process's own,
user and system, threads included; the provider's stands beside it. Prints a Markdown table and what is wanted of it.
On a machine that does other work the rates fall; the CPU per call hardly does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from sotopia_rl_data.fake_provider.running import running

SCHEMA = {
    "type": "object",
    "properties": {f"turn {n}": {"type": "integer", "enum": [0, 1, 2, 3]} for n in range(0, 20, 2)},
    "required": [f"turn {n}" for n in range(0, 20, 2)],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
EPISODE = "Mia said: shall we split the bill? " * 60  # about 500 tokens


def messages(number: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": EPISODE}, {"role": "user", "content": f"Rate dimension {number}."}]


def pool_of_clients(url: str, concurrency: int, seconds: float) -> int:
    """A thread pool, an SDK client for every call, the SDK's own retries."""
    import openai

    def call(number: int) -> None:
        client = openai.OpenAI(api_key="none", base_url=url)
        reply = client.chat.completions.create(model="sim", messages=messages(number), response_format=FORMAT)
        json.loads(reply.choices[0].message.content)

    done, end = 0, time.monotonic() + seconds
    with ThreadPoolExecutor(concurrency) as pool:
        numbers = itertools.takewhile(lambda _: time.monotonic() < end, itertools.count())
        waiting = set()
        for number in numbers:
            waiting.add(pool.submit(call, number))
            while len(waiting) >= concurrency and time.monotonic() < end:
                finished = {future for future in waiting if future.done()}
                waiting -= finished
                done += len(finished)
                time.sleep(0.002)
        return done + len(waiting)


def shared_async(url: str, concurrency: int, seconds: float) -> int:
    """One AsyncOpenAI, shared by as many tasks as may be in flight."""
    import openai

    async def go() -> int:
        end, numbers, done = time.monotonic() + seconds, itertools.count(), 0
        async with openai.AsyncOpenAI(api_key="none", base_url=url) as client:

            async def worker() -> None:
                nonlocal done
                while time.monotonic() < end:
                    reply = await client.chat.completions.create(
                        model="sim", messages=messages(next(numbers)), response_format=FORMAT
                    )
                    json.loads(reply.choices[0].message.content or "")
                    done += 1

            await asyncio.gather(*(worker() for _ in range(concurrency)))
        return done

    return asyncio.run(go())


def ours(url: str, concurrency: int, seconds: float) -> int:
    """ask_all: deduplicated, looked up, paced, journaled, parsed."""
    from sotopia_rl_data.asking import openai
    from sotopia_rl_data.asking.dispatch import ask_all
    from sotopia_rl_data.ledger.ledger import Ledger
    from sotopia_rl_data.ledger.lookup import Lookup
    from sotopia_rl_data.request import Reply, Request

    client = openai.OpenAIClient(openai.target("sim", url, {"temperature": 0}))

    def requests() -> Iterator[Request]:
        end = time.monotonic() + seconds
        for number in itertools.count():
            if time.monotonic() > end:
                return
            yield Request(client.target, messages(number), SCHEMA)

    def accept(request: Request, reply: Reply) -> bool:
        return len(json.loads(reply.text)) == len(SCHEMA["required"])

    async def go(ledger: Ledger) -> int:
        try:
            outcome = await ask_all(requests(), client.send, Lookup(ledger, accept), concurrency=concurrency)
        finally:
            await client.close()
        return outcome.asked

    with tempfile.TemporaryDirectory() as directory, Ledger(directory) as ledger:
        return asyncio.run(go(ledger))


WAYS: dict[str, tuple[str, Callable[[str, int, float], int]]] = {
    "pool": ("thread pool, an SDK client a call", pool_of_clients),
    "shared": ("shared AsyncOpenAI", shared_async),
    "ours": ("`ask_all`, journal included", ours),
}


def measure(way: str, url: str, concurrency: int, seconds: float) -> dict[str, float]:
    """Run one way in this process."""
    import openai  # noqa: F401  (its import is not what is measured)

    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    calls = WAYS[way][1](url, concurrency, seconds)
    lasted, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"calls": calls, "rate": calls / lasted, "cpu_ms": cpu / max(calls, 1) * 1_000}


def cpu_of(pid: int) -> float:
    """CPU seconds that a process has used so far, user and system."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def in_a_process(way: str, url: str, concurrency: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", way, "--url", url, "--concurrency", str(concurrency)]
    done = subprocess.run([*command, "--seconds", str(seconds)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--concurrency", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.url, given.concurrency[0], given.seconds)))
        return
    print("| way | in flight | calls/s | of ideal | CPU ms a call | the provider's |\n|---|--:|--:|--:|--:|--:|")
    shown: dict[int, dict[str, float]] = {}
    with running(latency=given.latency) as provider:
        for concurrency in given.concurrency:
            for way in given.ways:
                before = cpu_of(provider.pid)
                found = in_a_process(way, provider.openai_url, concurrency, given.seconds)
                theirs = (cpu_of(provider.pid) - before) / max(found["calls"], 1) * 1_000
                ideal = found["rate"] / (concurrency / given.latency)
                numbers = f"{found['rate']:.0f} | {ideal:.0%} | {found['cpu_ms']:.2f} | {theirs:.2f}"
                print(f"| {WAYS[way][0]} | {concurrency} | {numbers} |", flush=True)
                if way == "ours":
                    shown[concurrency] = {**found, "ideal": ideal}
    print_wanted(shown)


def print_wanted(shown: dict[int, dict[str, float]]) -> None:
    """Our figures beside what is wanted of them."""
    if 256 in shown:
        print(f"at 256: {shown[256]['ideal']:.0%} of ideal (wanted: >= 90 %)")
    if 512 in shown:
        print(f"at 512: {shown[512]['rate']:.0f} calls/s (wanted: >= 600)")
    for concurrency, found in shown.items():
        print(f"at {concurrency}: {found['cpu_ms']:.2f} ms of CPU a call (wanted: <= 1.2)")


if __name__ == "__main__":
    main()
