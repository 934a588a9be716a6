"""A reward server with 256 requests at once against `score` on the same model, in turns, and that they agree.

    python benchmarks/serving.py
    python benchmarks/serving.py --hidden 64 --layers 2      # a model so small that HTTP is most of the work

Random weights; the prompts and completions of the bundled samples in the layout `chat`, with other first words each
time that they come again, 1,024 in all, four a request. The server is a process of its own on the same machine, and the
client takes its share of it. Prints utterances a second of `score`'s own loop and of the server, round by round,
requests lost, and the largest difference of a reward.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from sotopia_rl_data.errors import Unavailable
from sotopia_rl_data.labelers import Elicitation, RewardSettings, label
from sotopia_rl_data.query import sql
from sotopia_rl_data.store import Store
from sotopia_rl_data.trainers import RewardModel
from sotopia_rl_data.trainers.score import BATCH
from sotopia_rl_data.trainers.tiny import make_tiny

REQUESTS, ITEMS = 256, 4


def made(folder: Path, hidden: int, layers: int) -> str:
    """A sequence classifier with random weights."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tiny = make_tiny(folder / "tiny", hidden=hidden, layers=layers)
    AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1).save_pretrained(folder / "rm")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder / "rm")
    return str(folder / "rm")


def utterances(folder: Path) -> list[dict[str, Any]]:
    """Prompts and completions in the order in which `score` reads them; each time that they come again, the dialogue
    begins with other words."""
    version = label(Store(folder), None, Elicitation(judges=["lexical"]), RewardSettings(layout="chat")).version
    select = "SELECT prompt, completion FROM rewards ORDER BY episode_id, agent, turn"
    rows = sql(Store(folder).resolve(version), select).to_pylist()
    items = []
    for i in range(REQUESTS * ITEMS):
        again, place = divmod(i, len(rows))
        first, *others = rows[place]["prompt"]
        begun = {**first, "content": f"Day {again}. {first['content']}"}
        items.append({"prompt": [begun, *others], "completion": rows[place]["completion"]})
    return items


def offline(model: RewardModel, items: Sequence[dict[str, Any]]) -> list[float]:
    """As `score` does it."""
    rewards: list[float] = []
    for at in range(0, len(items), BATCH):
        rewards += model.score_batch([(one["prompt"], one["completion"]) for one in items[at : at + BATCH]]).tolist()
    return rewards


async def served(url: str, items: Sequence[dict[str, Any]]) -> list[float]:
    """All requests at once, in order."""
    limits = httpx2.Limits(max_connections=REQUESTS)
    async with httpx2.AsyncClient(base_url=url, timeout=3_600, limits=limits) as client:

        async def one(place: int) -> list[float]:
            answer = await client.post("/score", json={"items": items[place * ITEMS : (place + 1) * ITEMS]})
            if answer.status_code != httpx2.codes.OK:
                raise Unavailable(f"{answer.status_code}: {answer.text}")
            rewards: list[float] = answer.json()["rewards"]
            return rewards

        answers = await asyncio.gather(*(one(place) for place in range(REQUESTS)))
    return [reward for rewards in answers for reward in rewards]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        path, items = made(Path(folder), given.hidden, given.layers), utterances(Path(folder) / "store")
        model = RewardModel.load(path, device="cpu")
        command = [sys.executable, "-m", "sotopia_rl_data", "serve", "--reward-model", path, "--port", "0"]
        with subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().strip()
                asyncio.run(served(url, items))  # both warm
                wanted = offline(model, items)
                compare(given.rounds, model, url, items, wanted)
            finally:
                server.terminate()


def compare(
    rounds: int, model: RewardModel, url: str, items: Sequence[dict[str, Any]], wanted: Sequence[float]
) -> None:
    """Both in turns, and a line for each round."""
    ratios = []
    print(f"{len(items):,} utterances, {REQUESTS} requests at once\nround  score/s  served/s  ratio  lost  difference")
    for number in range(rounds):
        began = time.perf_counter()
        offline(model, items)
        between = time.perf_counter()
        found = asyncio.run(served(url, items))
        ended = time.perf_counter()
        rates = len(items) / (between - began), len(found) / (ended - between)
        ratios.append(rates[1] / rates[0])
        gap = max(abs(a - b) for a, b in zip(found, wanted, strict=True))
        lost = len(items) - len(found)
        print(f"{number:5}  {rates[0]:7.1f}  {rates[1]:8.1f}  {ratios[-1]:5.2f}  {lost:4}  {gap:.1e}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
