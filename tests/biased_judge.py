"""A judge with known biases, as a server that speaks OpenAI's protocol: `python biased_judge.py` prints READY URL.

Every utterance of the toys says what it is worth: "[1.5]". The judge reads that, adds half a level where its model's
name says so (order: who is listed first; name: who has one; length: what is long; position: what comes late), adds
noise, rounds and stays on the scale. The noise is drawn from the model, the prompt and how often that prompt was put:
asking twice gives two draws, and every run gives the same.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

BIAS, NOISE = 0.5, 0.6
_AGENT = re.compile(r"^(agent_\d+): (.+)$", re.MULTILINE)
_TURN = re.compile(r"^\[(turn_\d+)\] (agent_\d+) says:\n((?:  .*\n?)+)", re.MULTILINE)
_WORTH = re.compile(r"\[(\d(?:\.\d+)?)\]")


def answer(body: dict[str, Any], seen: int) -> str:
    """What the judge says to one request."""
    model, prompt = body["model"], body["messages"][1]["content"]
    asked = "\n".join(message["content"] for message in body["messages"])
    schema = body["response_format"]["json_schema"]["schema"]
    draw = random.Random(f"{model}\0{seen}\0{asked}")
    names = dict(_AGENT.findall(prompt))
    said = {turn: (agent, text) for turn, agent, text in _TURN.findall(prompt)}
    late = sorted(said, key=lambda turn: int(turn[5:]))[len(said) // 2 :]

    def level(turn: str) -> int:
        agent, text = said[turn]
        biased = {
            "order": agent == "agent_1",
            "name": not names[agent].startswith("Person "),
            "length": len(text) > 200,
            "position": turn in late,
        }
        bias = BIAS * sum(on for name, on in biased.items() if model.startswith(name))
        return min(3, max(0, round(float(_WORTH.search(text)[1]) + bias + draw.gauss(0, NOISE))))

    def filled(part: dict[str, Any], key: str) -> Any:
        part = schema["$defs"][part["$ref"].rsplit("/", 1)[-1]] if "$ref" in part else part
        if part["type"] != "object":
            return level(key)
        return {name: filled(inner, name) for name, inner in part["properties"].items()}

    return json.dumps(filled(schema, ""))


async def serve() -> None:
    seen: Counter[str] = Counter()

    async def handle(request: web.BaseRequest) -> web.Response:
        raw = await request.text()
        body = json.loads(raw)
        text = answer(body, seen[raw])
        seen[raw] += 1
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        return web.json_response({"model": body["model"], "choices": [choice]})

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"READY http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await runner.cleanup()


@contextmanager
def running() -> Iterator[str]:
    """The server as a child process; its URL."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(serve())
