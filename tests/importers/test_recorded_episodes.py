"""The importers on recorded episodes, as the sotopia library writes them: every one, every action, exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from fixtures.places import OWN, ROOT, Recordings
from fixtures.records import lines

from sotopia_rl_data import open_dataset
from sotopia_rl_data.importers import TrainingRow, plan, read
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.schema import Episode
from sotopia_rl_data.store import Store

# (place, dialect, episodes by set); the library's own export loses the two episodes whose evaluator failed
PLACES = [
    ("v014/redis_json", "legacy", {"own": 9, "large": 30}),
    ("v014/episodes.jsonl", "legacy", {"own": 7, "large": 28}),
    ("v014/episodes.csv", "legacy", {"own": 7, "large": 28}),
    ("v015_asis", "0.1.5", {"own": 3, "large": 2}),
    ("head_asis", "head", {"own": 2, "large": 2}),
    ("head_multi", "head", {"own": 2, "large": 2}),
    ("head_patched/local_storage", "head", {"own": 5, "large": 11}),
    ("head_patched/episodes.jsonl", "head", {"own": 5, "large": 11}),
    ("head_patched/episodes.csv", "head", {"own": 5, "large": 11}),
]
ACTIONS = {
    ("own", "v014/redis_json"): 67,
    ("own", "head_patched/local_storage"): 29,
    ("large", "v014/redis_json"): 388,
    ("large", "head_patched/local_storage"): 65,
}
# The log cannot tell a failed generation from a chosen no-op, and it loses no argument: nothing else is excepted.
LOST_ARGUMENTS: set[tuple[str, int]] = set()


def test_our_own_recordings_are_what_their_script_makes(tmp_path):
    subprocess.run([sys.executable, ROOT / "tests" / "fixtures" / "make_recordings.py", tmp_path], check=True)
    for path in (one for one in tmp_path.rglob("*") if one.is_file()):
        assert path.read_bytes() == (OWN.root / path.relative_to(tmp_path)).read_bytes(), path


def episodes(recordings: Recordings, place: str) -> dict[str, Episode]:
    """The episodes of a place, which must hold nothing else."""
    items = list(read([recordings.episodes / place]))
    assert [i for i in items if not isinstance(i, Episode)] == []
    return {e.episode_id: e for e in items}


def truth(recordings: Recordings, place: str) -> dict[str, list[dict[str, Any]]]:
    """The true actions of each episode of a set that has a record of them."""
    path = recordings.episodes / Path(place).parts[0] / "truth_actions.jsonl"
    found = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        one = json.loads(line)
        found[one["episode_id"]].append(one)
    return found


@pytest.mark.parametrize(("place", "dialect", "counts"), PLACES)
def test_every_episode_is_imported_in_its_dialect(recordings, place, dialect, counts):
    found = episodes(recordings, place)
    assert len(found) == counts[recordings.name]
    assert {e.dialect for e in found.values()} == {dialect}


@pytest.mark.parametrize("place", [place for place, _, _ in PLACES if "_asis" not in place and "multi" not in place])
def test_every_action_is_the_true_one(recordings, place):
    found, true = episodes(recordings, place), truth(recordings, place)
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
    assert compared == ACTIONS.get((recordings.name, place), compared)


def test_ids_names_and_order_are_those_of_the_profiles(recordings):
    profiles = {
        p["agent_id"]: f"{p['first_name']} {p['last_name']}"
        for p in map(json.loads, (recordings.profiles / "agent_profiles.jsonl").read_text("utf-8").splitlines())
    }
    for place, _, _ in PLACES:
        for episode in episodes(recordings, place).values():
            assert [a.name for a in episode.agents] == [profiles[a.agent] for a in episode.agents]


@pytest.mark.parametrize("place", ["v014/episodes.jsonl", "head_patched/episodes.jsonl"])
def test_jsonl_csv_and_the_log_are_the_same_episode(recordings, place):
    exported = episodes(recordings, place)
    assert episodes(recordings, place.replace(".jsonl", ".csv")) == exported
    logs = episodes(recordings, "v014/redis_json" if place.startswith("v014") else "head_patched/local_storage")
    for episode_id, episode in exported.items():
        log = logs[episode_id]
        same = ("environment_id", "turns", "scores", "observations", "dialect", "models", "tag", "reasoning")
        assert [getattr(log, f) for f in same] == [getattr(episode, f) for f in same]
        facts = [[(a.agent, a.name, a.model, a.background, a.secret) for a in e.agents] for e in (log, episode)]
        assert facts[0] == facts[1]
        if place.startswith("head"):  # with profiles beside the log, the rest is equal too
            assert (log.codename, log.scenario) == (episode.codename, episode.scenario)
            assert [a.goal for a in log.agents] == [a.goal for a in episode.agents]


def test_a_failed_evaluation_is_missing_and_every_other_score_is_as_logged(recordings):
    missing = 0
    for place in ("v014/redis_json", "v015_asis", "head_asis", "head_multi", "head_patched/local_storage"):
        found = episodes(recordings, place)
        for path in (recordings.episodes / place).rglob("*.json"):
            log = json.loads(path.read_text(encoding="utf-8"))
            if "messages" not in log:
                continue
            episode = found[log["pk"]]
            for agent, reward in zip(episode.agents, log["rewards"], strict=True):
                theirs = {} if isinstance(reward, float) else reward[1]
                ours = {s.dimension: s.score for s in episode.scores if s.agent == agent.agent}
                assert ours == {d: v for d, v in theirs.items() if d != "overall_score"}
                missing += not ours
    assert (
        missing == {"own": 2 * 2 + (2 + 2 + 3) + 2 * 2 + 3 + 4, "large": 2 * 2 + 2 * 2 + 2 * 2 + 4 + 3}[recordings.name]
    )


def test_what_an_agent_was_shown_is_kept_byte_for_byte(recordings):
    for path in (recordings.episodes / "v014" / "redis_json").glob("*.json"):
        log = json.loads(path.read_text(encoding="utf-8"))
        shown = [(t, m[1], m[2]) for t, turn in enumerate(log["messages"]) for m in turn if m[0] == "Environment"]
        (episode,) = read([path])
        names = {a.agent: a.name for a in episode.agents}
        assert [(o.turn, names[o.agent], o.text) for o in episode.observations] == shown


@pytest.mark.slow
def test_the_whole_folder_is_imported_at_once_each_episode_once(recordings, tmp_path):
    store = Store(tmp_path)
    report = import_dataset(store, [recordings.episodes], "o/all", options=ImportOptions(strict=True))
    dialects, duplicates = {
        "own": ({"legacy": 9, "0.1.5": 3, "head": 9}, 7 * 2 + 5 * 2),
        "large": ({"legacy": 30, "0.1.5": 2, "head": 15}, 28 * 2 + 11 * 2),
    }[recordings.name]
    assert (report.episodes, report.failures) == (sum(dialects.values()), 0)
    assert report.duplicates == duplicates
    assert dict(report.dialects) == dialects
    assert {Path(s).name for s in plan([recordings.episodes]).skipped} == {
        "manifest.json",
        "report.json",
        "served_prompts.jsonl",
        "truth_actions.jsonl",
    }
    dataset = open_dataset("o/all", store)
    assert {e.episode_id: e.turns for e in dataset.episodes()} == {
        e.episode_id: e.turns for e in read([recordings.episodes]) if isinstance(e, Episode)
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


def test_labels_of_annotated_rows_land_on_the_true_turns_of_the_log_or_nowhere(recordings, tmp_path):
    exported = recordings.episodes / "v014" / "episodes.jsonl"
    exports = [json.loads(line) for line in exported.read_text("utf-8").split("\n")[:-1]]
    rows = lines(tmp_path / "rows.jsonl", *[r for one in exports for r in annotated(one)])
    store = Store(tmp_path / "store")
    report = import_dataset(store, [rows, exported], "o/n")
    rendered = {
        (episode_id, t["agent"], t["turn"]): t["rendered"].split("\n\n")[0].strip()
        for episode_id, turns in truth(recordings, "v014").items()
        for t in turns
    }
    names = {a["agent"]: a["name"] for e in exports for a in _agents(e)}
    labels = open_dataset("o/n", store).sql("SELECT episode_id, agent, turn, raw FROM attributions").to_pylist()
    for one in labels:
        assert one["raw"] == number([rendered[one["episode_id"], names[one["agent"]], one["turn"]]])
    counts = {"own": (55, 51, 4), "large": (368, 364, 4)}  # a label or a failure, all of them
    assert (report.utterances, len(labels), report.failures) == counts[recordings.name]


def _agents(export: dict[str, Any]) -> list[dict[str, str]]:
    return [{"agent": i, "name": n} for i, n in zip(export["agent_ids"], export["social_goals"], strict=True)]


def test_the_references_training_json_is_four_examples_of_one_scenario(recordings):
    examples = list(read([recordings.reference]))
    assert all(isinstance(e, TrainingRow) for e in examples)
    assert [e.reward for e in examples] == [9.0, 1.0, -1.0, 0.0]
    assert len({e.scenario for e in examples}) == 1
    assert examples[0].scenario.startswith("Two friends")
