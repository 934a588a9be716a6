"""What a provider bills as input for one episode, by how it is asked: packed, one call a dimension, instructions first.

    python benchmarks/billed_input.py [--turns 20] [--words 30]

One episode, seven dimensions, both agents, against the loopback provider, which keeps a prefix cache by the providers'
rules and bills four bytes as a token. All three ways ask for the same numbers through the same loop. `instructions
first` is our own wording in the order that prompts usually have: the question with its dimension and form, then the
rubric, then the episode; one call for each agent and dimension. `weighed` counts a cached token at its price: half of a
fresh one, a tenth of it; writing to a cache counts as reading fresh (a quarter more at Anthropic, in brackets).
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.dispatch import ask_all
from sotopia_rl_data.dimensions import SOTOPIA_EVAL
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.judges import judge
from sotopia_rl_data.labelers.plan import LabelPlan
from sotopia_rl_data.labelers.questions import QuestionPart, Questions
from sotopia_rl_data.labelers.requests import request_of, target_of
from sotopia_rl_data.labelers.schemas import schema
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Lookup
from sotopia_rl_data.request import Request
from sotopia_rl_data.schema import Agent, Episode, Score, Turn

BY = "gpt-4"
WORDS = (
    "well I think we could share the house on weekends if you take care of the garden and tell me before your friends "
    "come because last summer nobody asked and I had to clean the kitchen alone which was not what we agreed on"
)


def episode(turns: int, words: int) -> Episode:
    """Two agents who speak in turn, about `words` words each time, scored on seven dimensions."""
    chance = random.Random(0)
    said = (" ".join(chance.choices(WORDS.split(), k=chance.randint(words // 2, words * 3 // 2))) for _ in range(turns))
    agents = (
        Agent(
            "a",
            "Mia Davis",
            goal="Keep the house to yourself for all of July, without saying that you have let it to strangers.",
            background="Mia Davis is a 41-year-old carpenter. She repairs old boats, sings in a choir and cannot stand "
            "an untidy kitchen. She speaks before she thinks, and is the first to say sorry.",
            secret="She is behind with the payments for her workshop.",
        ),
        Agent(
            "b",
            "Noah Stone",
            goal="Have the house for the first two weeks of July, and stay on good terms with your cousin.",
            background="Noah Stone is a 35-year-old nurse with two small children. He plans everything months ahead, "
            "keeps every letter he ever got and avoids a quarrel for as long as he can.",
            secret="He has promised the same two weeks to his in-laws.",
        ),
    )
    scores = tuple(Score(agent, one.name, one.low, BY) for agent in "ab" for one in SOTOPIA_EVAL)
    told = tuple(Turn(number, "ab"[number % 2], "speak", text) for number, text in enumerate(said))
    scenario = "Two cousins who inherited a house by the sea talk about who may use it in July."
    return Episode("e", "env", agents, told, scores, scenario=scenario)


def plan(ask: Packing, url: str) -> LabelPlan:
    """Importance on all dimensions, asked of the provider at `url`."""
    dimensions = tuple(one.name for one in SOTOPIA_EVAL)
    return LabelPlan(schema("direct"), dimensions, BY, (judge(url),), packing=ask)


def instructions_first(question: Question) -> Question:
    """The same words in another order: what varies comes first, so that no two questions begin alike."""
    rubric, shown, _, asked = (message["content"] for message in question.messages)
    text = "\n\n".join((asked, rubric, shown))
    return replace(question, messages=[{"role": "user", "content": text}], cache_until=0)


def requests(made: LabelPlan, told: Episode, first: bool) -> Iterable[Request]:
    if not first:
        return made.requests([told], made.judges[0])
    target = target_of(made.judges[0])
    return [request_of(instructions_first(question), target) for question in made.questions(told)]


def billed(way: str, protocol: str, told: Episode) -> dict[str, int]:
    """What the provider billed for one way of asking, by kind of token."""
    with running(latency=0.05) as provider, tempfile.TemporaryDirectory() as folder, Ledger(Path(folder)) as ledger:
        url = f"{protocol}:sim@{provider.openai_url if protocol == 'openai' else provider.url}"
        made = plan("packed" if way == "packed" else "per-dimension", url)
        asyncio.run(ask(made, requests(made, told, way == "instructions first"), ledger, told))
        log: dict[str, Any] = provider.log()
        return {"calls": log["answered"], **log["usage"]}


async def ask(made: LabelPlan, asked: Iterable[Request], ledger: Ledger, told: Episode) -> None:
    questions, one = Questions(QuestionPart(made, lambda: [told])), made.judges[0]
    lookup = Lookup(ledger, lambda request, reply: questions.accepts(request, reply, ledger))
    try:
        outcome = await ask_all(asked, one.send, lookup)  # type: ignore[attr-defined]
    finally:
        await one.close()  # type: ignore[attr-defined]
    if outcome.failed or outcome.unreachable:
        raise SystemExit(f"{outcome.failed} answers failed, {outcome.unreachable} calls were lost")


def weighed(usage: dict[str, int], cached: float, written: float = 1.0) -> float:
    """Input tokens, cached and written ones at these shares of the price."""
    fresh = usage["input"] - usage["cached"] - usage["written"]
    return fresh + cached * usage["cached"] + written * usage["written"]


def ratios(protocol: str, told: Episode) -> dict[str, dict[str, float]]:
    """For each way of asking: its billed tokens, and their share of the instructions-first prompts'."""
    found: dict[str, dict[str, float]] = {}
    usages = {way: billed(way, protocol, told) for way in ("instructions first", "per-dimension", "packed")}
    base = usages["instructions first"]
    for way, usage in usages.items():
        shares = {"half": weighed(usage, 0.5) / weighed(base, 0.5), "tenth": weighed(usage, 0.1) / weighed(base, 0.1)}
        premium = weighed(usage, 0.1, 1.25) / weighed(base, 0.1, 1.25)
        found[way] = {**usage, "plain": usage["input"] / base["input"], **shares, "premium": premium}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--words", type=int, default=30, help="in an utterance, on average")
    given = parser.parse_args()
    told = episode(given.turns, given.words)
    print("| protocol | way | calls | tokens in | cached | of the first: unweighed | cached at half | at a tenth |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for protocol in ("openai", "anthropic"):
        for way, one in ratios(protocol, told).items():
            tenth = f"{one['tenth']:.3f}" + (f" ({one['premium']:.3f})" if protocol == "anthropic" else "")
            counts = f"{one['calls']:.0f} | {one['input']:,.0f} | {one['cached']:,.0f}"
            print(f"| {protocol} | {way} | {counts} | {one['plain']:.3f} | {one['half']:.3f} | {tenth} |", flush=True)


if __name__ == "__main__":
    main()
