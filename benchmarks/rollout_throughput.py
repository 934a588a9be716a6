"""How fast episodes are played: turns a second against a localhost provider of a known latency.

    python benchmarks/rollout_throughput.py [--latency 0.5] [--concurrency 256] [--episodes 768] [--turns 20]

Two models of one provider talk over the bundled scenarios; every episode goes on to the turn limit, each turn one call,
journaled, its prompt rendered anew. Ideal is the episodes in flight divided by the latency. `steady` counts from the
moment that all are in flight until the last episode has been placed; `whole` is the run, with its slow start, the last
episodes ending alone, and the commit. CPU is this process's, threads included; the provider is another one.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.prompts.template import Template, own_template
from sotopia_rl_data.rollouts.episode_run import MOST_REPEATS, Rules
from sotopia_rl_data.rollouts.plan import RolloutPlan
from sotopia_rl_data.rollouts.rollout import plan_of, rollout
from sotopia_rl_data.rollouts.scenarios import bundled
from sotopia_rl_data.store import Store

TALK = (
    '{"type": "object", "properties": {"action_type": {"const": "speak"}, "argument": {"type": "string"}}, '
    '"required": ["action_type", "argument"], "additionalProperties": false}'
)


def talkative() -> Template:
    """Our own template, but for a schema that lets nobody leave or fall silent."""
    own = own_template("single")
    return replace(own, variants=tuple(replace(one, schema=TALK) for one in own.variants))


def plan_for(url: str, episodes: int, turns: int) -> RolloutPlan:
    scenes = bundled()
    policies = {"a": f"openai:sim-a@{url}", "b": f"openai:sim-b@{url}"}
    rules = Rules(turns=turns, template=talkative())
    repeat = -(-episodes // len(scenes))
    swap = repeat > MOST_REPEATS  # then each scene is played with the two models in either place
    return plan_of(scenes, rules, **policies, swap=swap, repeat=-(-repeat // 2) if swap else repeat)


def steady(marks: list[tuple[float, int, int]], concurrency: int, episodes: int) -> float | None:
    """Turns a second between the first mark at which all were in flight and the last before the last was placed."""
    full = [m for m in marks if m[1] > 0.9 * concurrency * 2]  # two turns of everybody: the slow start is over
    full = [m for m in full if m[2] + concurrency <= episodes]
    if len(full) < 2:
        return None
    return (full[-1][1] - full[0][1]) / (full[-1][0] - full[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--episodes", type=int, default=768)
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, running(latency=options.latency) as provider:
        plan = plan_for(provider.openai_url, options.episodes, options.turns)
        marks: list[tuple[float, int, int]] = []

        def heard(done: int, total: int | None = None, words: str = "") -> None:
            marks.append((time.monotonic(), int(words.split()[0].replace(",", "")), done))

        before = resource.getrusage(resource.RUSAGE_SELF)
        how = AskOptions(concurrency=options.concurrency, progress=heard)
        report = rollout(Store(Path(directory)), plan, "bench/play", options=how)
        after = resource.getrusage(resource.RUSAGE_SELF)
        most = provider.log()["most_in_flight"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ideal = options.concurrency / options.latency
    rate, whole = steady(marks, options.concurrency, len(plan)), report.asked / report.seconds
    told = "too short a run to say" if rate is None else f"{rate:,.0f} turns/s, {rate / ideal:.0%} of ideal"
    print(f"{report.episodes:,} episodes of {report.asked / report.episodes:.1f} turns, {most} in flight at most")
    print(f"ideal {ideal:,.0f} turns/s; steady {told}; whole run {whole:,.0f} turns/s ({whole / ideal:.0%})")
    print(f"{cpu / report.asked * 1000:.2f} ms of CPU a turn; peak {after.ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
