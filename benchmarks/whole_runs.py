"""How much of the ideal rate whole runs reach, from the first call to the last: the first run, and the one after it.

    python benchmarks/whole_runs.py [--latency 0.5] [--calls 6000] [--concurrency 256]

Ideal is the concurrency divided by the latency. The first run finds out what the provider takes and begins with 16
requests in flight; the second, in a process of its own, begins where the first ended (`endpoints.json` in the ledger's
folder). Both ask other questions. Prints a Markdown table and what is wanted of the second run. On a machine that does
other work the rates fall.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sotopia_rl_data.fake_provider.running import running

SCHEMA = {
    "type": "object",
    "properties": {f"turn {n}": {"type": "integer", "enum": [0, 1, 2, 3]} for n in range(0, 20, 2)},
    "required": [f"turn {n}" for n in range(0, 20, 2)],
    "additionalProperties": False,
}
EPISODE = "Mia said: shall we split the bill? " * 60  # about 500 tokens


def one_run(number: int, url: str, folder: Path, calls: int, concurrency: int) -> dict[str, float]:
    """Ask so many questions; the seconds from the first call to the last answer."""
    from sotopia_rl_data.asking import openai
    from sotopia_rl_data.asking.dispatch import ask_all
    from sotopia_rl_data.asking.memory import EndpointMemory, keep_pace, remembered_pace
    from sotopia_rl_data.asking.pacing import Pacing
    from sotopia_rl_data.ledger.ledger import Ledger
    from sotopia_rl_data.ledger.lookup import Lookup
    from sotopia_rl_data.request import Reply, Request

    client, memory = openai.OpenAIClient(openai.target("sim", url, {"temperature": 0})), EndpointMemory(folder)
    client.use_memory(memory)
    times: list[float] = []

    async def send(request: Request) -> Reply:
        times.append(time.monotonic())
        reply = await client.send(request)
        times.append(time.monotonic())
        return reply

    async def go(ledger: Ledger) -> None:
        pacing = remembered_pace(memory, [client.target], Pacing())
        asked = (
            Request(
                client.target,
                [{"role": "system", "content": EPISODE}, {"role": "user", "content": f"Run {number}: {n}."}],
                SCHEMA,
            )
            for n in range(calls)
        )
        lookup = Lookup(ledger, lambda request, reply: bool(json.loads(reply.text)))
        outcome = await ask_all(asked, send, lookup, concurrency=concurrency, pacing=pacing)
        keep_pace(memory, [client.target], outcome)
        await client.close()

    with Ledger(folder) as ledger:
        asyncio.run(go(ledger))
    return {"calls": len(times) / 2, "seconds": max(times) - min(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--calls", type=int, default=6_000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        number, url, folder = given.one
        print(json.dumps(one_run(int(number), url, Path(folder), given.calls, given.concurrency)))
        return
    print("| run | calls | seconds | of ideal |\n|---|--:|--:|--:|")
    share = 0.0
    with running(latency=given.latency) as provider, tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(("first", "second")):
            command = [sys.executable, __file__, "--one", str(number), provider.openai_url, folder]
            command += ["--calls", str(given.calls), "--concurrency", str(given.concurrency)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            share = found["calls"] / found["seconds"] / (given.concurrency / given.latency)
            print(f"| {name} | {found['calls']:,.0f} | {found['seconds']:.1f} | {share:.0%} |", flush=True)
    print(f"second run: {share:.0%} of ideal from its first call to its last (wanted: >= 90 %)")


if __name__ == "__main__":
    main()
