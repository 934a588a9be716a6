"""The importers on episodes that the sotopia library really wrote: every one, every action, exactly."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from fixtures.places import RECORDINGS
from fixtures.records import lines

from sotopia_rl_data import open_dataset
from sotopia_rl_data.importers import TrainingRow, plan, read
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store

EPISODES = RECORDINGS / "sotopia_episodes"
REFERENCE = RECORDINGS / "sotopia_rl_reference" / "sotopia_pi_gpt4_rm_overfit.json"
pytestmark = pytest.mark.skipif(not EPISODES.is_dir(), reason=f"{EPISODES.name} is not beside this clone")

# (place, episodes, dialect); the library's own export loses the two episodes whose evaluator failed
PLACES = [
    ("v014/redis_json", 30, "legacy"),
    ("v014/episodes.jsonl", 28, "legacy"),
    ("v014/episodes.csv", 28, "legacy"),
    ("v015_asis", 2, "0.1.5"),
    ("head_asis", 2, "head"),
    ("head_multi", 2, "head"),
    ("head_patched/local_storage", 11, "head"),
    ("head_patched/episodes.jsonl", 11, "head"),
    ("head_patched/episodes.csv", 11, "head"),
]
# The log cannot tell a failed generation from a chosen no-op, and it loses no argument: nothing else is excepted.
LOST_ARGUMENTS: set[tuple[str, int]] = set()


def episodes(place: str) -> dict[str, Episode]:
    """The episodes of a place, which must hold nothing else."""
    items = list(read([EPISODES / place]))
    assert [i for i in items if not isinstance(i, Episode)] == []
    return {e.episode_id: e for e in items}


def truth(place: str) -> dict[str, list[dict[str, Any]]]:
    """The true actions of each episode of a set that has a record of them."""
    path = EPISODES / Path(place).parts[0] / "truth_actions.jsonl"
    found = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        one = json.loads(line)
        found[one["episode_id"]].append(one)
    return found


@pytest.mark.parametrize(("place", "count", "dialect"), PLACES)
def test_every_episode_is_imported_in_its_dialect(place, count, dialect):
    found = episodes(place)
    assert len(found) == count
    assert {e.dialect for e in found.values()} == {dialect}


@pytest.mark.parametrize("place", [place for place, _, _ in PLACES if "_asis" not in place and "multi" not in place])
def test_every_action_is_the_true_one(place):
    found, true = episodes(place), truth(place)
    assert set(found) <= set(true)
    if "episodes." not in place:
        assert set(found) == set(true)
    compared = 0
    for episode_id, episode in found.items():
        names = {a.agent: a.name for a in episode.agents}
        ours = [(t.turn, names[t.agent], t.action_type, t.text, [names[a] for a in t.to]) for t in episode.turns]
        theirs = [(t["turn"], t["agent"], t["action_type"], t["argument"], t["to"]) for t in true[episode_id]]
        assert [o for o in ours if (episode_id, o[0]) not in LOST_ARGUMENTS] == theirs
        compared += len(ours)
    assert compared == {"v014/redis_json": 388, "head_patched/local_storage": 65}.get(place, compared)


def test_ids_names_and_order_are_those_of_the_profiles():
    profiles = {
        p["agent_id"]: f"{p['first_name']} {p['last_name']}"
        for p in map(json.loads, (RECORDINGS / "sotopia_profiles" / "agent_profiles.jsonl").read_text().splitlines())
    }
    for place, _, _ in PLACES:
        for episode in episodes(place).values():
            assert [a.name for a in episode.agents] == [profiles[a.agent] for a in episode.agents]


@pytest.mark.parametrize("place", ["v014/episodes.jsonl", "head_patched/episodes.jsonl"])
def test_jsonl_csv_and_the_log_are_the_same_episode(place):
    exported = episodes(place)
    assert episodes(place.replace(".jsonl", ".csv")) == exported
    logs = episodes("v014/redis_json" if place.startswith("v014") else "head_patched/local_storage")
    for episode_id, episode in exported.items():
        log = logs[episode_id]
        same = ("environment_id", "turns", "scores", "observations", "dialect", "models", "tag", "reasoning")
        assert [getattr(log, f) for f in same] == [getattr(episode, f) for f in same]
        facts = [[(a.agent, a.name, a.model, a.background, a.secret) for a in e.agents] for e in (log, episode)]
        assert facts[0] == facts[1]
        if place.startswith("head"):  # with profiles beside the log, the rest is equal too
            assert (log.codename, log.scenario) == (episode.codename, episode.scenario)
            assert [a.goal for a in log.agents] == [a.goal for a in episode.agents]


def test_a_failed_evaluation_is_missing_and_every_other_score_is_as_logged():
    missing = 0
    for place in ("v014/redis_json", "v015_asis", "head_asis", "head_multi", "head_patched/local_storage"):
        found = episodes(place)
        for path in (EPISODES / place).rglob("*.json"):
            log = json.loads(path.read_text(encoding="utf-8"))
            if "messages" not in log:
                continue
            episode = found[log["pk"]]
            for agent, reward in zip(episode.agents, log["rewards"], strict=True):
                theirs = {} if isinstance(reward, float) else reward[1]
                ours = {s.dimension: s.score for s in episode.scores if s.agent == agent.agent}
                assert ours == {d: v for d, v in theirs.items() if d != "overall_score"}
                missing += not ours
    assert missing == 2 * 2 + 2 * 2 + 2 * 2 + 4 + 3


def test_what_an_agent_was_shown_is_kept_byte_for_byte():
    for path in (EPISODES / "v014" / "redis_json").glob("*.json"):
        log = json.loads(path.read_text(encoding="utf-8"))
        shown = [(t, m[1], m[2]) for t, turn in enumerate(log["messages"]) for m in turn if m[0] == "Environment"]
        (episode,) = read([path])
        names = {a.agent: a.name for a in episode.agents}
        assert [(o.turn, names[o.agent], o.text) for o in episode.observations] == shown


def test_the_whole_folder_is_imported_at_once_each_episode_once(tmp_path):
    store = Store(tmp_path)
    report = import_dataset(store, [EPISODES], "o/all", strict=True)
    assert (report.episodes, report.failures) == (30 + 2 + 2 + 2 + 11, 0)
    assert report.duplicates == 28 * 2 + 11 * 2
    assert dict(report.dialects) == {"legacy": 30, "0.1.5": 2, "head": 15}
    assert {Path(s).name for s in plan([EPISODES]).skipped} == {
        "manifest.json",
        "report.json",
        "served_prompts.jsonl",
        "truth_actions.jsonl",
    }
    dataset = open_dataset("o/all", store)
    assert {e.episode_id: e.turns for e in dataset.episodes()} == {
        e.episode_id: e.turns for e in read([EPISODES]) if isinstance(e, Episode)
    }
    (leak,) = dataset.sql("SELECT count(*) AS n FROM episodes AS e WHERE e::VARCHAR LIKE '%127.0.0.1%'").to_pylist()
    assert leak == {"n": 0}


def annotated(export: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that sotopia-rl's scripts make of an export row: the lossy conversation, numbered by place // 2. The
    judge's number is a function of who says what."""
    names = list(export["social_goals"])
    said = [
        (n, p[len(n) + 1 :].strip())
        for p in export["social_interactions"].split("\n\n")
        for n in names
        if p.startswith(n)
    ]
    rows = []
    for agent in names:
        entries = {f"Utterance {i // 2} by {name}": [text, 0] for i, (name, text) in enumerate(said)}
        for (key, entry), raw in zip(entries.items(), map(number, entries.values()), strict=True):
            entry[1] = {"reward": raw / 3 * 6, "attribution": raw} if key.endswith(f" by {agent}") else 0
        rows.append(
            {
                "episode_id": export["episode_id"],
                "scenario": export["scenario"],
                "agent": agent,
                "goal": export["social_goals"][agent],
                "attributed_utterances": entries,
                "is_first_speaker": agent == names[0],
                "goal_score": 6,
            }
        )
    return rows


def number(entry: list[Any]) -> int:
    """0 to 3, by the text."""
    return len(entry[0]) % 4


def test_labels_of_annotated_rows_land_on_the_true_turns_of_the_log_or_nowhere(tmp_path):
    exports = [json.loads(line) for line in (EPISODES / "v014" / "episodes.jsonl").read_text().splitlines()]
    rows = lines(tmp_path / "rows.jsonl", *[r for one in exports for r in annotated(one)])
    store = Store(tmp_path / "store")
    report = import_dataset(store, [rows, EPISODES / "v014" / "episodes.jsonl"], "o/n")
    rendered = {
        (episode_id, t["agent"], t["turn"]): t["rendered"].split("\n\n")[0].strip()
        for episode_id, turns in truth("v014").items()
        for t in turns
    }
    names = {a["agent"]: a["name"] for e in exports for a in _agents(e)}
    labels = open_dataset("o/n", store).sql("SELECT episode_id, agent, turn, raw FROM attributions").to_pylist()
    for one in labels:
        assert one["raw"] == number([rendered[one["episode_id"], names[one["agent"]], one["turn"]]])
    assert (report.utterances, len(labels), report.failures) == (368, 364, 4)  # a label or a failure, all of them


def _agents(export: dict[str, Any]) -> list[dict[str, str]]:
    return [{"agent": i, "name": n} for i, n in zip(export["agent_ids"], export["social_goals"], strict=True)]


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"{REFERENCE.name} is not beside this clone")
def test_the_references_training_json_is_four_examples_of_one_scenario():
    examples = list(read([REFERENCE]))
    assert all(isinstance(e, TrainingRow) for e in examples)
    assert [e.reward for e in examples] == [9.0, 1.0, None, 0.0]
    assert len({e.scenario for e in examples}) == 1
    assert examples[0].scenario.startswith("Two friends, both avid fans")
