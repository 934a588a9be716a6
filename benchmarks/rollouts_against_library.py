"""The simulator against the sotopia library itself: random episodes, played by both, compared word for word.

    python -m venv /tmp/library && /tmp/library/bin/pip install sotopia==0.1.4 pydantic==2.10.6
    python benchmarks/rollouts_against_library.py --library /tmp/library/bin/python --dialect legacy [--episodes 400]

Made-up people of every relationship act at random: all action types, whispers in `head`, speech with markup that is
well formed, broken, or for one viewer; two to four agents; several limits of turns and silence. Prints how many
episodes have the same messages, the same end and the same reason, and the first differences. Python below 3.13; for
0.1.5 and head install that version; no Redis is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = ["hello", "I", "<3", "&", "&amp;", "5 > 4", "\n\n", "Turn #3:", '"said: "', "{agent}", ";", "😀", "did nothing"]
MARKUP = ["<b>x</b>", "<p>y</p>", "</p>", "<p viewer='agent_0'>zero</p>", "<p viewer='agent_1'>one</p>"]
MARKUP += ["<extra_info>e</extra_info>", '<strategy_hint viewer="agent_1">s</strategy_hint>', "<i"]
FIRST, LAST = ("Ada", "Bo", "Cy", "Di", "Eli", "Fay"), ("O'Hare", "Núñez", "van Dyk", "Lee-Poe")
GENDERS = ("Man", "Woman", "Nonbinary")


def text(draw: random.Random, longest: int) -> str:
    return " ".join(draw.choice([*WORDS, *WORDS, *MARKUP]) for _ in range(draw.randint(0, longest)))


def person(draw: random.Random, number: int) -> dict[str, Any]:
    """An AgentProfile record of somebody who does not exist."""
    first, last = FIRST[number % len(FIRST)], draw.choice(LAST)
    made = {"agent_id": f"agent-{number}", "first_name": first, "last_name": last, "age": draw.randint(18, 70)}
    made |= {"occupation": draw.choice(["Baker", "Night Porter"]), "gender": draw.choice((*GENDERS, ""))}
    made |= {"gender_pronoun": "They/them", "public_info": f"{first} has a dog & a cat."}
    made |= {"personality_and_values": draw.choice([f"{first} is calm.", ""])}
    return made | {"secret": draw.choice([f"{first} sings at night", f"{first} <3 chess", ""])}


def action(draw: random.Random, me: str, names: list[str], private: bool) -> dict[str, Any]:
    kinds = ["none", "speak", "non-verbal communication", "action", "leave"]
    kind = draw.choices(kinds, [20, 60, 10, 10, 6])[0]
    made: dict[str, Any] = {"action_type": kind, "argument": "" if kind in ("none", "leave") else text(draw, 4)}
    if private:
        others = [name for name in names if name != me]
        made["to"] = draw.sample(others, draw.randint(1, len(others))) if draw.random() < 0.3 else []
    return made


def plans(dialect: str, episodes: int, seed: int) -> Iterator[dict[str, Any]]:
    """Who meets, by which rules, and what each would do in each turn."""
    draw = random.Random(seed)
    for number in range(episodes):
        count = 2 if dialect == "legacy" else draw.choice([2, 2, 3, 4])
        people = [person(draw, i) for i in range(count)]
        names = [f"{one['first_name']} {one['last_name']}" for one in people]
        rules = {"max_turns": draw.choice([3, 6, 20]), "max_stale": draw.choice([0, 1, 2, 4])}
        rules |= {"order": draw.choice(["round-robin", "round-robin", "simultaneous"])}
        goals = [f"Goal {i} (<extra_info>of {i}</extra_info>) {text(draw, 2)}" for i in range(count)]
        scenario = f"A lift & two floors. <p viewer='agent_{draw.randint(0, 2)}'>It stops.</p>"
        environment = {"env_id": f"env-{number}", "scenario": scenario, "agent_goals": goals}
        environment |= {"relationship": draw.randint(0, 5)}
        turns = [
            {name: action(draw, name, names, dialect == "head") for name in names} for _ in range(rules["max_turns"])
        ]
        yield {"people": people, "names": names, "environment": environment, "rules": rules, "turns": turns}


# --- this half runs in the library's Python ------------------------------------------------------------------------


async def library_plays(plan: dict[str, Any]) -> dict[str, Any]:
    from types import SimpleNamespace

    from sotopia.database.persistent_profile import RelationshipType
    from sotopia.envs.evaluators import RuleBasedTerminatedEvaluator
    from sotopia.envs.parallel import ParallelSotopiaEnv
    from sotopia.messages import AgentAction

    class Mute:
        """An evaluator of the ended episode that has nothing to say."""

        prompt = ""

        async def __acall__(self, *args: object, **options: object) -> list[object]:
            return []

    rules, environment = plan["rules"], dict(plan["environment"])
    environment["relationship"] = RelationshipType(environment["relationship"])
    env = ParallelSotopiaEnv(
        env_profile=SimpleNamespace(**environment),
        action_order=rules["order"],
        evaluators=[RuleBasedTerminatedEvaluator(rules["max_turns"], rules["max_stale"])],
        terminal_evaluators=[Mute()],
        model_name="none",
    )
    people = [SimpleNamespace(profile=SimpleNamespace(**one)) for one in plan["people"]]
    seen = env.reset(agents=dict(zip(plan["names"], people, strict=True)))
    log, ended, info = [], False, {}
    while not ended:
        log.append([["Environment", name, seen[name].to_natural_language()] for name in env.agents])
        wanted = plan["turns"][env.turn_number]
        forced = {"action_type": "none", "argument": ""} | ({"to": []} if "to" in wanted[env.agents[0]] else {})
        due = dict(zip(env.agents, env.action_mask, strict=True))
        acts = {name: AgentAction(**(wanted[name] if due[name] else forced)) for name in env.agents}
        log[-1] += [[name, "Environment", act.to_natural_language()] for name, act in acts.items()]
        seen, _, terminated, _, info = await env.astep(acts)
        ended = all(terminated.values())
    log.append([["Environment", name, seen[name].to_natural_language()] for name in env.agents])
    return {"messages": log, "reason": info[env.agents[0]]["comments"]}


# --- this half runs in ours ----------------------------------------------------------------------------------------


def we_play(plan: dict[str, Any], dialect: str) -> dict[str, Any]:
    from sotopia_rl_data.rollouts import Profiles, Scene, World

    profiles = Profiles()
    for record in (*plan["people"], plan["environment"]):
        profiles.add(record, "")
    (environment,) = profiles.environments.values()
    world = World(Scene(environment, tuple(profiles.people.values())), dialect, **plan["rules"])
    names = {one.agent: one.name for one in profiles.people.values()}
    while not world.done:
        wanted = plan["turns"][world.turn]
        world.step({agent: world.read(agent, json.dumps(wanted[names[agent]])) for agent in world.acting})
    return {"messages": [[list(m) for m in turn] for turn in world.messages()], "reason": world.ended}


def first_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    pairs = zip(ours["messages"], theirs["messages"], strict=False)
    for turn, (here, there) in enumerate(pairs):
        for mine, other in zip(here, there, strict=False):
            if mine != other:
                return f"turn {turn}: here {mine}, in the library {other}"
    return f"ended here {ours['reason']!r}, in the library {theirs['reason']!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", metavar="PYTHON", help="the Python of an environment with sotopia")
    parser.add_argument("--dialect", default="legacy", choices=["legacy", "0.1.5", "head"])
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        for line in sys.stdin:
            print("PLAYED " + json.dumps(asyncio.run(library_plays(json.loads(line)))))
        return 0
    if not options.library:
        parser.error("name the library's Python with --library")
    wanted = list(plans(options.dialect, options.episodes, options.seed))
    child = subprocess.run(
        [options.library, str(Path(__file__).resolve()), "--play"],
        input="".join(json.dumps(plan) + "\n" for plan in wanted),
        capture_output=True,
        text=True,
        check=False,
    )
    played = [json.loads(line[7:]) for line in child.stdout.splitlines() if line.startswith("PLAYED ")]
    if child.returncode or len(played) != len(wanted):
        print(child.stderr[-2000:], file=sys.stderr)
        return 1
    equal, turns, differing = 0, 0, []
    for plan, theirs in zip(wanted, played, strict=True):
        ours = we_play(plan, options.dialect)
        equal, turns = equal + (ours == theirs), turns + len(theirs["messages"]) - 1
        differing += [] if ours == theirs else [first_difference(ours, theirs)]
    print(f"{options.dialect}: {equal} of {len(wanted)} episodes equal, {turns} turns")
    print("\n".join(differing[:5]), end="\n" if differing else "")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
