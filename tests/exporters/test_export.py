"""`export --to sotopia`: what the sotopia library reads, and what our own importers read back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from fixtures.environments import once, python_of
from fixtures.flat_calls import plan_of, rollout
from fixtures.places import RECORDED, Recordings
from fixtures.records import ANN, SAM, log
from fixtures.stores import episode as plain_episode

from sotopia_rl_data.errors import InputError, StoreError, UsageError
from sotopia_rl_data.exporters.exporting import differences, export_sotopia
from sotopia_rl_data.exporters.sotopia import agent_profile, episode_log, raw_messages
from sotopia_rl_data.importers import read, samples_path
from sotopia_rl_data.importers.formats.episode_log import read_episode_log
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.rollouts import bundled
from sotopia_rl_data.schema import Episode, Score
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.tables import EPISODES, EPISODES_WITH_META, episode_table

PLACES = [
    "v014/redis_json",
    "v014/episodes.jsonl",
    "v015_asis",
    "head_asis",
    "head_multi",
    "head_patched/local_storage",
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def committed(store: Store, *episodes: Episode, columns: pa.Schema = EPISODES) -> Version:
    with store.stage("lab/toys") as stage:
        stage.write("episodes", "train", episode_table(episodes, columns))
        return stage.commit({"kind": "episodes", "seed": 0}).version


def toy(**changes) -> Episode:
    """Ann says something, Sam leaves, as the library logged it."""
    episode, _ = read_episode_log(log([{ANN: 'said: "He said: "no"."'}, {SAM: "left the conversation"}]), "", None)
    return replace(episode, **changes)


def test_messages_come_back_as_they_were_logged():
    record = log([{ANN: 'said: "hi"'}, {SAM: "[action] sits"}, {}, {SAM: "left the conversation"}])
    episode, _ = read_episode_log(record, "", None)
    assert [[list(message) for message in turn] for turn in raw_messages(episode)] == record["messages"]


def test_private_actions_and_spaces_come_back_in_the_head_dialect():
    record = log([{ANN: f"[private to ['{SAM}']]  said: \"psst\"", SAM: " did nothing"}, {ANN: " did nothing"}])
    episode, _ = read_episode_log(record, "", None)
    assert episode.dialect == "head"
    written = raw_messages(episode)
    assert written[0][2] == (ANN, "Environment", f"[private to ['{SAM}']]  said: \"psst\"")
    assert written[0][3] == (SAM, "Environment", " did nothing")


def test_a_missing_score_is_written_as_the_library_writes_one_and_read_back_as_missing():
    log_ = episode_log(toy(scores=()), "gpt-4")
    assert log_["rewards"] == [0.0, 0.0]
    again, _ = read_episode_log(log_, "", None)
    assert again.scores == ()


def test_the_scores_of_one_evaluator_are_written(store: Store, tmp_path: Path):
    ours = [Score("id-0", "goal", 7.0, "ours"), Score("id-1", "goal", 3.0, "ours")]
    version = committed(store, toy(scores=(*toy().scores, *ours)))
    with pytest.raises(UsageError, match="several evaluators: gpt-4, ours"):
        export_sotopia(version, tmp_path / "out")
    report = export_sotopia(version, tmp_path / "out", evaluator="ours")
    record = json.loads((tmp_path / "out" / "EpisodeLog" / "E1.json").read_text())
    assert record["rewards"] == [[7.0, {"goal": 7.0, "overall_score": 7.0}], [3.0, {"goal": 3.0, "overall_score": 3.0}]]
    assert record["models"][0] == "ours"
    assert report.differs == {"scores": 1, "models": 1}  # the other evaluator stays behind, and is counted


def test_a_plain_episode_is_written_and_what_the_format_cannot_hold_is_counted(store: Store, tmp_path: Path):
    report = export_sotopia(committed(store, plain_episode(1)), tmp_path / "out")
    assert (report.episodes, report.equal) == (1, 0)
    # `failed`, what was seen, how it is written; that an agent's model is not known, though `models` names it
    assert set(report.differs) == {"turns.failed", "observations", "dialect", "agents.model"}
    (again,) = read([tmp_path / "out" / "EpisodeLog" / "e0001.json"])
    assert isinstance(again, Episode)
    assert [(t.turn, t.agent, t.action_type, t.text, t.to) for t in again.turns] == [
        (t.turn, t.agent, t.action_type, t.text, t.to) for t in plain_episode(1).turns
    ]


def test_an_id_that_is_no_file_name_is_listed_and_the_rest_written(store: Store, tmp_path: Path):
    version = committed(store, toy(), toy(episode_id="../E2"))
    report = export_sotopia(version, tmp_path / "out")
    assert report.episodes == 1
    assert report.failures == ("../E2: '../E2' cannot be the name of a file",)
    with pytest.raises(InputError, match="No episode of"):
        export_sotopia(committed(store, toy(episode_id="../E2")), tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "store"]


def test_an_agents_meta_does_not_change_its_id_its_name_or_its_secret(store: Store, tmp_path: Path):
    ann, sam = toy().agents
    meta = {"pk": "../../../evil", "agent_id": "x", "first_name": "Eve", "last_name": "X", "secret": "S", "more": 1}
    ann = replace(ann, meta=json.dumps(meta), secret="hers")
    version = committed(store, toy(agents=(ann, sam)), columns=EPISODES_WITH_META)
    report = export_sotopia(version, tmp_path / "out")
    assert (report.episodes, report.agents) == (1, 2)
    assert sorted(p.name for p in (tmp_path / "out" / "AgentProfile").iterdir()) == ["id-0.json", "id-1.json"]
    profile = json.loads((tmp_path / "out" / "AgentProfile" / "id-0.json").read_text())
    first, last = profile["first_name"], profile["last_name"]
    assert (profile["pk"], f"{first} {last}", profile["secret"], profile["more"]) == ("id-0", ANN, "hers", 1)
    assert "agent_id" not in profile
    assert not list(tmp_path.glob("**/evil*"))


def test_a_folder_that_is_in_use_or_cannot_be_written_is_left_alone(store: Store, tmp_path: Path):
    version = committed(store, toy())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="is not an empty folder"):
        export_sotopia(version, tmp_path / "mine")
    with pytest.raises(StoreError, match="cannot be written"):
        export_sotopia(version, tmp_path / "mine" / "notes.txt" / "below")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_the_samples_come_back_equal_from_the_logs_and_from_the_rows(store: Store, tmp_path: Path):
    version = import_dataset(store, [samples_path()], "samples").version
    report = export_sotopia(version, tmp_path / "out")
    assert (report.episodes, report.equal, report.differs) == (32, 32, {})
    samples = {e.episode_id: e for e in read([samples_path()]) if isinstance(e, Episode)}
    for place in ("EpisodeLog", "episodes.jsonl"):
        again = [one for one in read([tmp_path / "out" / place]) if isinstance(one, Episode)]
        assert [differences(samples[one.episode_id], one) for one in again] == [[]] * 32


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_recorded_episodes_are_imported_again_with_the_same_digest(
    recordings: Recordings, place: str, store: Store, tmp_path: Path
):
    first = import_dataset(store, [recordings.episodes / place], "lab/real").version
    report = export_sotopia(first, tmp_path / "out")
    assert (report.equal, report.differs, report.failures) == (report.episodes, {}, ())
    back = "out/episodes.jsonl" if place.endswith(".jsonl") else "out"
    again = import_dataset(store, [tmp_path / back], "lab/again").version
    rows = [{split: one.digest for split, one in v.manifest.configs["episodes"].items()} for v in (first, again)]
    assert rows[0] == rows[1]


def test_the_messages_of_a_recorded_log_are_written_letter_by_letter(recordings: Recordings):
    for place in ("v014/redis_json", "head_patched/local_storage/EpisodeLog"):
        logs = [json.loads(path.read_text()) for path in (recordings.episodes / place).rglob("*.json")]
        for one in (one for one in logs if "messages" in one):
            episode, _ = read_episode_log(one, "", None)
            assert [[list(m) for m in turn] for turn in raw_messages(episode)] == one["messages"]


MERCER = {
    "first_name": "Dr. Ada",
    "last_name": "Mercer",
    "age": 52,
    "occupation": "Ferry Pilot",
    "gender": "Woman",
    "gender_pronoun": "She/her",
    "public_info": "Ada keeps bees. ",
    "big_five": "Openness - high",
    "moral_values": ["Care"],
    "personality_and_values": "Ada is dry.",
    "secret": "She cannot swim",
}
TOLD = (
    "Dr. Ada Mercer is a 52-year-old female ferry pilot. She/her pronouns. Ada keeps bees. "
    " Personality and values description: Ada is dry."
)


def with_a_profile(folder: Path, opening: str) -> Episode:
    """An episode of Dr. Ada Mercer, whose profile lies beside the log; `opening` is what she was told of herself."""
    record = log([{"Dr. Ada Mercer": 'said: "hi"'}], names=("Dr. Ada Mercer", SAM))
    record["messages"][0][0][2] = f"Scenario: a ferry\nParticipants: x\nDr. Ada Mercer's background: {opening}\n"
    for name, one in (("EpisodeLog/E1", record), ("AgentProfile/id-0", MERCER | {"pk": "id-0"})):
        (folder / name).parent.mkdir(parents=True)
        (folder / f"{name}.json").write_text(json.dumps(one))
    (episode,) = read([folder])
    assert isinstance(episode, Episode)
    return episode


def test_what_a_profile_says_is_kept_and_written_again(tmp_path: Path):
    episode = with_a_profile(tmp_path, f"{TOLD} Dr. Ada's secrets: She cannot swim")
    ada = episode.agents[0]
    assert json.loads(ada.meta or "")["occupation"] == "Ferry Pilot"
    assert (ada.background, ada.secret) == (TOLD, "She cannot swim")
    assert agent_profile(ada, episode) == MERCER | {"pk": "id-0"}


def test_without_a_profile_the_fields_are_those_that_the_background_states(tmp_path: Path):
    episode = with_a_profile(tmp_path, f"{TOLD} Dr. Ada's secrets: She cannot swim")
    ada = replace(episode.agents[0], meta=None)
    stated = {name: one for name, one in MERCER.items() if name not in ("big_five", "moral_values")}
    assert agent_profile(ada, episode) == stated | {"pk": "id-0", "occupation": "ferry pilot"}
    plain = replace(ada, background="A ferry pilot.", meta='{"age": "about 50", "mbti": "INTJ", "moral_values": [1]}')
    assert agent_profile(plain, episode) == {
        "pk": "id-0",
        "first_name": "Dr. Ada",
        "last_name": "Mercer",
        "public_info": "A ferry pilot.",
        "mbti": "INTJ",
        "secret": "She cannot swim",
    }


LIBRARY = """
import json, sys
from pathlib import Path
from sotopia.database import AgentProfile, EnvironmentProfile, EpisodeLog, episodes_to_jsonl, jsonl_to_episodes
from sotopia.database import serialization

place = Path(sys.argv[1])
logs = [EpisodeLog.get(path.stem) for path in sorted((place / "EpisodeLog").iterdir())]
rows = {one.pk: one for one in jsonl_to_episodes(str(place / "episodes.jsonl"))}
assert all(rows[one.pk] == one for one in logs), "a row and its log differ"
people = [AgentProfile.get(path.stem) for path in (place / "AgentProfile").iterdir()]
environments = [EnvironmentProfile.get(path.stem) for path in (place / "EnvironmentProfile").iterdir()]
# its own export wants two agents and an evaluator that did not fail
whole = [one for one in logs if len(one.agents) == 2 and not any(isinstance(r, float) for r in one.rewards)]
episodes_to_jsonl(whole, sys.argv[2])
if len(sys.argv) > 3:  # each agent is rendered as from its own profile
    backgrounds = [serialization.get_agents_background_from_episode(one) for one in logs]
    own = {one.pop("agent_id"): one for one in map(json.loads, open(sys.argv[3]))}
    serialization.AgentProfile.get = lambda pk: AgentProfile(pk=pk, **own[pk])
    assert backgrounds == [serialization.get_agents_background_from_episode(one) for one in logs]
print(json.dumps([len(logs), len(people), len(environments), len(whole)]))
"""
# (what is exported, episodes that the library's own export takes)
EXPORTED: list[tuple[str, Recordings | None, int]] = [("samples", None, 31), ("rollout", None, 0)]
EXPORTED += [
    (place, recordings, whole[recordings.name])
    for recordings in RECORDED
    for place, whole in (
        ("v014/redis_json", {"own": 7, "large": 28}),
        ("v014/episodes.jsonl", {"own": 7, "large": 28}),
        ("v015_asis", {"own": 0, "large": 0}),
        ("head_asis", {"own": 0, "large": 0}),
        ("head_multi", {"own": 0, "large": 0}),
        ("head_patched/local_storage", {"own": 5, "large": 11}),
    )
]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A Python that has the sotopia library, in an environment of its own: only what its database needs (8 s)."""
    if sys.version_info >= (3, 13):
        pytest.skip("the sotopia library needs Python < 3.13")
    return python_of(once(tmp_path_factory, "library", install_library))


def install_library(folder: Path) -> None:
    install = [sys.executable, "-m", "pip", "--python", str(python_of(folder)), "install", "-q"]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [*install, "--no-deps", "sotopia==0.1.5"],
        [*install, "pydantic==2.10.6", "redis-om>=0.3,<0.4", "rich<15"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            told = done.stderr.strip().splitlines()[-1]
            pytest.skip(f"the sotopia library cannot be installed ({' '.join(command[3:])}): {told}")


def _version(place: str, recordings: Recordings | None, store: Store) -> Version:
    if place == "rollout":
        rollout(store, plan_of(bundled()), "lab/real")
        return store.resolve("lab/real")
    return import_dataset(store, [recordings.episodes / place if recordings else samples_path()], "lab/real").version


@pytest.mark.slow
@pytest.mark.parametrize(("place", "recordings", "whole"), EXPORTED)
def test_the_real_library_validates_what_was_exported_renders_it_as_before_and_exports_it_itself(
    place: str, recordings: Recordings | None, whole: int, library: Path, store: Store, tmp_path: Path
):
    version = _version(place, recordings, store)
    data = tmp_path / "home" / ".sotopia" / "data"  # where the library's local storage lies
    report = export_sotopia(version, data)
    own = tmp_path / "own.jsonl"
    done = subprocess.run(
        [library, "-c", LIBRARY, data, own, *([recordings.profiles / "agent_profiles.jsonl"] if recordings else [])],
        env={"HOME": str(tmp_path / "home"), "SOTOPIA_STORAGE_BACKEND": "local"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted == [report.episodes, report.agents, report.environments, whole]
    ours = {row["episode_id"]: row for row in map(json.loads, (data / "episodes.jsonl").read_text().splitlines())}
    for theirs in map(json.loads, own.read_text().splitlines()):
        mine = ours[theirs["episode_id"]]
        assert set(theirs) == set(mine)
        same = set(mine) - {"agents_background", "social_interactions"}  # the library's sentences are its own
        assert {k: mine[k] for k in same} == {k: theirs[k] for k in same}
