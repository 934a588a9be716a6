"""The simulator, given the completions of a recorded run, plays the same episodes: what cannot be the same is pinned
here and told in docs/rollouts.md."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from fixtures.places import Recordings

from sotopia_rl_data.importers import read
from sotopia_rl_data.prompts import learn, load_template
from sotopia_rl_data.prompts.wrapper import LIST, types_in
from sotopia_rl_data.rollouts import Action, Profiles, Scene, World, read_profiles
from sotopia_rl_data.schema import ACTION_TYPES, Episode, Turn

LOGS = {"v014": "v014/redis_json", "head_patched": "head_patched/local_storage/EpisodeLog"}
DIALECTS = {"v014": "legacy", "head_patched": "head"}
# An episode that the library began and could not finish: an agent whispered to somebody who is not there, twice.
CRASHED = "head_patched-004"
# A completion that meant a no-op but lacks `to`: unreadable to the library too (its log has the request to mend it),
# while the set's own record counts as failed only what came out as something else than was meant.
MEANT_NOTHING = ("37fd2521-643e-4cc8-b0c4-05a9e9de7be9", 2)  # of the large set


@cache
def profiles(recordings: Recordings) -> Profiles:
    return read_profiles(recordings.profiles)


@cache
def logs(recordings: Recordings, name: str) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text("utf-8")) for path in sorted((recordings.episodes / LOGS[name]).glob("*.json"))]
    return {log["pk"]: log for log in found}


@cache
def served(recordings: Recordings, name: str) -> dict[str, list[dict[str, Any]]]:
    """The requests that agents were served, by the manifest's name of the episode, in the order of turns."""
    requests = defaultdict(list)
    for line in (recordings.episodes / name / "served_prompts.jsonl").read_text("utf-8").splitlines():
        request = json.loads(line)
        if request["kind"] == "agent":
            requests[request["episode"]].append(request)
    return requests


def manifest(recordings: Recordings, name: str) -> list[dict[str, Any]]:
    return json.loads((recordings.episodes / name / "manifest.json").read_text("utf-8"))


def shown_actions(prompt: str) -> tuple[str, ...]:
    """The action types in the order in which the prompt lists them."""
    (order,) = {types_in(match[0]) for match in LIST.finditer(prompt) if match["separator"] == " "}
    return order


def world_of(recordings: Recordings, name: str, log: dict[str, Any]) -> World:
    people = tuple(profiles(recordings).people[agent] for agent in log["agents"])
    return World(Scene(profiles(recordings).environments[log["environment"]], people), DIALECTS[name])


def runs(recordings: Recordings, name: str) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    found = logs(recordings, name)
    return [(found[r[0]["episode_id"]], r) for r in served(recordings, name).values() if r[0]["episode_id"] in found]


def replay(world: World, requests: list[dict[str, Any]]) -> World:
    """Play the recorded completions for as long as there are any and the episode goes on."""
    for request in requests:
        (agent,) = world.acting
        assert (world.scene.person(agent).name, world.turn) == (request["agent"], request["turn"])
        world.step({agent: world.read_or_nothing(agent, request["completion"])})
    return world


EPISODES = {"own": {"v014": 9, "head_patched": 5}, "large": {"v014": 30, "head_patched": 11}}
PROMPTS = {"own": {"v014": 67, "head_patched": 29}, "large": {"v014": 388, "head_patched": 65}}


@pytest.mark.parametrize("name", list(LOGS))
def test_messages_termination_and_turns_are_those_of_the_recorded_log(recordings, name):
    assert len(runs(recordings, name)) == len(logs(recordings, name)) == EPISODES[recordings.name][name]
    for log, requests in runs(recordings, name):
        world = replay(world_of(recordings, name, log), requests)
        assert [[list(message) for message in turn] for turn in world.messages()] == log["messages"]
        assert world.done
        assert world.turn == len(log["messages"]) - 1 == len(requests)
        assert world.ended == log["reasoning"].split("\n")[0] + "\n"


@pytest.mark.parametrize("name", list(LOGS))
def test_the_episode_is_the_one_that_the_importer_reads_from_the_log(recordings, name):
    folder = recordings.episodes / name
    imported = {e.episode_id: e for e in read([folder / "episodes.jsonl"]) if isinstance(e, Episode)}
    truth = [json.loads(line) for line in (folder / "truth_actions.jsonl").read_text("utf-8").splitlines()]
    failed = {(t["episode_id"], t["turn"]): t["generation_failed"] for t in truth}
    for log, requests in runs(recordings, name):
        theirs = imported.get(log["pk"])
        if theirs is None:
            assert {type(reward) for reward in log["rewards"]} == {float}  # the library cannot export these two
            continue
        world = replay(world_of(recordings, name, log), requests)
        ours = world.episode(log["pk"], models=theirs.models, tag=theirs.tag)
        flags = {turn: flag for (episode_id, turn), flag in failed.items() if episode_id == log["pk"]}
        flags |= {MEANT_NOTHING[1]: True} if log["pk"] == MEANT_NOTHING[0] else {}
        assert {t.turn: t.failed for t in ours.turns} == flags
        assert theirs.reasoning.startswith(ours.reasoning)
        known = {"source": theirs.source, "reasoning": theirs.reasoning, "scores": theirs.scores}
        unseen = {"relationship": theirs.relationship, "turns": tuple(replace(t, failed=None) for t in ours.turns)}
        assert replace(ours, **known, **unseen) == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LOGS))
def test_with_a_learned_template_the_prompts_are_the_served_ones_byte_for_byte(recordings, name, tmp_path):
    imported = [e for e in read([recordings.episodes / LOGS[name]]) if isinstance(e, Episode)]
    report = learn(recordings.episodes / name / "served_prompts.jsonl", imported)
    template = load_template(report.template.save(tmp_path / "served.yaml"))
    verdicts = Counter()
    for log, requests in runs(recordings, name):
        world = world_of(recordings, name, log)
        for request in requests:
            (agent,) = world.acting
            prompt = world.prompt(agent, "single", template)
            verdicts["exact" if prompt == [{"role": "user", "content": request["prompt"]}] else "different"] += 1
            world.step({agent: world.read_or_nothing(agent, request["completion"])})
    # One process made each set, so each has one order of the action list; another process's would be `reordered`.
    assert verdicts == {"exact": PROMPTS[recordings.name][name]}


# Sets of which only logs are kept: played again from the actions that the importer reads, with three and four agents.
PARTLY = {"v015_asis": "0.1.5", "head_asis": "head", "head_multi": "head"}


@pytest.mark.parametrize("name", list(PARTLY))
def test_logs_without_their_completions_are_played_again_from_their_actions(recordings, name):
    played = 0
    for episode in (e for e in read([recordings.episodes / name]) if isinstance(e, Episode)):
        log = json.loads((recordings.episodes / name / f"{episode.episode_id}.json").read_text("utf-8"))
        environment = profiles(recordings).environments[episode.environment_id]
        # where more take part than have a goal, the library makes goals up; the simulator wants them written
        goals = environment.goals + tuple(agent.goal for agent in episode.agents[len(environment.goals) :])
        people = tuple(profiles(recordings).people[agent.agent] for agent in episode.agents)
        world = World(Scene(replace(environment, goals=goals), people), PARTLY[name])
        for turn in episode.turns:
            world.step({turn.agent: Action(turn.action_type, turn.text, turn.to)})
        assert world.done
        assert [[list(message) for message in turn] for turn in world.messages()] == log["messages"]
        assert log["reasoning"].startswith(world.ended)
        played += 1
    assert played == len(list((recordings.episodes / name).glob("*.json"))) >= 2


def test_the_episode_that_the_library_could_not_finish_is_the_same_until_it_crashed(recordings):
    (entry,) = [one for one in manifest(recordings, "head_patched") if one["episode"] == CRASHED]
    assert (entry["pk"], "Invalid recipient(s)" in entry["error"]) == (None, True)
    by_name = {person.name: agent for agent, person in profiles(recordings).people.items()}
    log = {"environment": entry["env"], "agents": [by_name[name] for name in entry["agents"]]}
    world = world_of(recordings, "head_patched", log)
    requests = recordings.episodes / "head_patched" / "served_prompts.jsonl"
    learned = learn(requests, read([recordings.episodes / LOGS["head_patched"]]))
    *good, first_try, second_try = served(recordings, "head_patched")[CRASHED]
    for request in [*good, first_try]:
        (agent,) = world.acting
        assert world.prompt(agent, "single", learned.template)[0]["content"] == request["prompt"]
        world.step({agent: world.read_or_nothing(agent, request["completion"])})
    # The library asked a second time, with its complaint in the prompt, and gave up; here the turn is a flagged no-op.
    assert "Invalid action" in second_try["prompt"]
    assert (second_try["turn"], second_try["completion"]) == (first_try["turn"], first_try["completion"])
    assert world.episode("e").turns[-1] == Turn(3, world.scene.agents[1], "none", failed=True)
    assert not world.done


def test_the_order_of_the_action_list_is_one_in_each_set_and_another_in_the_other(recordings):
    orders = {
        name: {shown_actions(r["prompt"]) for _, requests in runs(recordings, name) for r in requests} for name in LOGS
    }
    assert [len(found) for found in orders.values()] == [1, 1]
    assert orders["v014"] != orders["head_patched"]
    assert {frozenset(order) for found in orders.values() for order in found} == {frozenset(ACTION_TYPES)}
