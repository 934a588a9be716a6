"""How fast a provider is asked: our loop, journal included, beside what people usually write.

    python benchmarks/asking_throughput.py [--latency 0.5] [--seconds 20] [--concurrency 256 512]

All three ask the same localhost provider for the same strict JSON, each in a process of its own, one after the other.
Ideal is the concurrency divided by the latency. CPU is the asking process's own, user and system, threads included.
Prints a Markdown table. On a machine that does other work the rates fall; the CPU per call hardly does.
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

from sotopia_rl_data.asking.loopback.running import running

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
    from sotopia_rl_data.asking.ledger import Ledger
    from sotopia_rl_data.asking.request import Reply, Request

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
            outcome = await ask_all(requests(), client.send, ledger, accept=accept, concurrency=concurrency)
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


def in_a_process(way: str, url: str, concurrency: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", way, "--url", url, "--concurrency", str(concurrency)]
    done = subprocess.run([*command, "--seconds", str(seconds)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.url, given.concurrency[0], given.seconds)))
        return
    print("| way | concurrency | calls/s | of ideal | CPU ms a call |\n|---|---|---|---|---|")
    with running(latency=given.latency) as provider:
        for concurrency in given.concurrency:
            for way, (name, _) in WAYS.items():
                found = in_a_process(way, provider.openai_url, concurrency, given.seconds)
                ideal = found["rate"] / (concurrency / given.latency)
                print(
                    f"| {name} | {concurrency} | {found['rate']:.0f} | {ideal:.0%} | {found['cpu_ms']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
