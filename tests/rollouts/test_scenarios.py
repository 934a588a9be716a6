"""People's own scenarios: read from each format alike, and refused by line; the library's profiles in both shapes."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from fixtures.places import LARGE, RECORDED, ROOT
from hypothesis import given
from hypothesis import strategies as st

from sotopia_rl_data.errors import InputError, NotFound, UsageError
from sotopia_rl_data.rollouts import HARD, Profiles, Scene, World, bundled, read_profiles, read_scenarios
from sotopia_rl_data.rollouts.markup import shown
from sotopia_rl_data.samples import SCENARIOS

TREE = {
    "environment_id": "env-tree",
    "codename": "tree",
    "relationship": "friend",
    "scenario": "Two neighbours & one tree.",
    "agents": [
        {"agent": "ann", "name": "Ann Lee", "background": "Ann Lee bakes.", "secret": "It is hers.", "goal": "Keep it"},
        {"name": "Bob O'Hara", "personality": "Bob is loud.", "goal": "Fell it (<extra_info>by noon</extra_info>)"},
    ],
}  # fmt: skip
BENCH = {**TREE, "environment_id": "env-bench", "relationship": "stranger", "scenario": "A bench, two people, rain."}


def flat(record: dict) -> dict[str, str]:
    """A scenario as a row of CSV."""
    people = {f"{field}_{i}": said for i, one in enumerate(record["agents"], 1) for field, said in one.items()}
    return {k: v for k, v in record.items() if k != "agents"} | people


class Unaliased(yaml.SafeDumper):
    """Writes what is there twice, twice."""

    def ignore_aliases(self, data):
        return True


def dumped(records: list[dict]) -> str:
    return yaml.dump(records, Dumper=Unaliased, allow_unicode=True, sort_keys=False)


def write(folder: Path, suffix: str, records: list[dict]) -> Path:
    path = folder / f"scenarios{suffix}"
    if suffix == ".csv":
        rows = [flat(record) for record in records]
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            table.writeheader()
            table.writerows(rows)
        return path
    as_text = {
        ".yaml": dumped(records),
        ".json": json.dumps(records, indent=2),
        ".jsonl": "".join(json.dumps(record) + "\n" for record in records),
    }
    path.write_text(as_text[suffix], encoding="utf-8")
    return path


FORMATS = (".yaml", ".json", ".jsonl", ".csv")


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_scenes(suffix, tmp_path):
    tree, bench = read_scenarios(write(tmp_path, suffix, [TREE, BENCH]))
    assert (tree.agents, bench.environment.relationship) == (("ann", "Bob O'Hara"), "stranger")
    assert tree.environment.goals == ("Keep it", "Fell it (<extra_info>by noon</extra_info>)")
    assert World(tree).messages()[0][0][2] == (
        "\nHere is the context of this interaction:\nScenario: Two neighbours & one tree.\n"
        "Participants: Ann Lee and Bob O'Hara\nAnn Lee's background: Ann Lee bakes. Ann's secrets: It is hers.\n"
        "Bob O'Hara's background: Personality and values description: Bob is loud. \n"
        "Ann Lee's goal: Keep it\nBob O'Hara's goal: Unknown\nConversation Starts:\n"
    )
    assert "Fell it (by noon)" in World(tree).messages()[0][1][2]
    assert "Ann Lee's background: Unknown" in World(bench).messages()[0][1][2]


def test_one_scenario_alone_and_several_yaml_documents_are_read_too(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(TREE))
    (tmp_path / "two.yaml").write_text(f"{yaml.safe_dump(TREE)}---\n{yaml.safe_dump([BENCH])}")
    assert [len(read_scenarios(tmp_path / name)) for name in ("one.json", "two.yaml")] == [1, 2]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_words_of_scenario_files_before_they_took_those_of_episodes_are_read(suffix, tmp_path):
    before = {"environment_id": "environment", "agents": "cast"}
    old = {before.get(key, key): value for key, value in TREE.items()}
    old["cast"] = [{"id" if key == "agent" else key: said for key, said in one.items()} for one in TREE["agents"]]
    if suffix == ".csv":
        row = {"environment": "env-tree"} | {k: v for k, v in flat(TREE).items() if k != "environment_id"}
        row = {key.replace("agent_", "id_"): value for key, value in row.items()}
        (tmp_path / "old.csv").write_text(",".join(row) + "\n" + ",".join(f'"{value}"' for value in row.values()))
    else:
        write(tmp_path, suffix, [old]).rename(tmp_path / f"old{suffix}")
    assert read_scenarios(tmp_path / f"old{suffix}") == read_scenarios(write(tmp_path, suffix, [TREE]))
    (tmp_path / "both.json").write_text(json.dumps(TREE | {"cast": []}))
    with pytest.raises(InputError, match="has `cast` and `agents`, which are the same field"):
        read_scenarios(tmp_path / "both.json")


def test_a_scenario_of_an_episode_file_has_the_same_words():
    """What `agents` and `environment_id` are called in the bundled scenarios and in the bundled episodes."""
    scenario = yaml.safe_load((SCENARIOS / "boat_sale.yaml").read_text("utf-8"))
    episode = json.loads((SCENARIOS.parent / "episodes.plain.jsonl").read_text("utf-8").partition("\n")[0])
    assert {"environment_id", "codename", "scenario", "agents"} <= scenario.keys() & episode.keys()
    words = ("agent", "name", "goal", "background", "secret")
    for ours, theirs in zip(scenario["agents"].values(), episode["agents"], strict=True):
        assert [ours[word] for word in words] == [theirs[word] for word in words]


FAULTS = {
    "gaol": ({"gaol": "x"}, "the scenario has the unknown field 'gaol'"),
    "no scenario": ({"scenario": None}, "`scenario` is"),
    "relationship": ({"relationship": "enemy"}, "`relationship` is 'enemy'; there are stranger, know_by_name"),
    "alone": ({"agents": TREE["agents"][:1]}, "`agents` is not a list of two people or more"),
    "no goal": ({"agents": [TREE["agents"][0], {"name": "Bob"}]}, "agent 2: `goal` is missing"),
    "no name": ({"agents": [TREE["agents"][0], {"goal": "g"}]}, "agent 2: `name` is missing"),
    "same id": ({"agents": [TREE["agents"][0], {"agent": "ann", "name": "Z", "goal": "g"}]}, "two agents have"),
    "unclosed": ({"scenario": "A <p viewer='agent_0'>secret"}, "the scenario has markup that is not well-formed XML"),
    "less": ({"scenario": "3 < 4"}, r'a plain "<" is written &lt;'),
    "bold": ({"scenario": "a <b>c</b>"}, "the scenario has the element <b>, which nobody would see"),
    "viewer": ({"scenario": "a <p viewer='agent_2'>c</p>"}, "is for the viewer 'agent_2'; there are agent_0, agent_1"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_is_told_with_its_line(name, suffix, tmp_path):
    change, said = FAULTS[name]
    bad = {key: value for key, value in (BENCH | change).items() if value is not None}
    path = write(tmp_path, suffix, [TREE, bad])
    with pytest.raises(InputError) as error:
        read_scenarios(path)
    place, _, message = error.value.message.partition(": ")
    second = {".yaml": 1 + dumped([TREE]).count("\n"), ".csv": 3, ".jsonl": 2}
    second[".json"] = 2 + json.dumps([TREE], indent=2).count("\n") - 1
    assert place == f"{path}:{second[suffix]}"
    assert error.value.hint == (
        "a scenario has environment_id, codename, relationship, scenario, agents; each of its agents has agent, name, "
        "called, background, personality, secret, goal"
    )
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".jsonl"])
def test_half_of_a_surrogate_pair_is_refused_since_no_file_of_ours_could_hold_it(suffix, tmp_path):
    path = tmp_path / f"half{suffix}"
    path.write_text(json.dumps({**TREE, "codename": "\ud83d"}))
    with pytest.raises(InputError, match="holds half of a surrogate pair"):
        read_scenarios(path)


def test_several_faults_are_told_at_once_and_an_id_stands_for_one_environment(tmp_path):
    with pytest.raises(InputError) as error:
        read_scenarios(write(tmp_path, ".jsonl", [TREE, {"a": 1}, {**TREE, "scenario": "Other."}, {"b": 1}]))
    assert [line.rpartition("scenarios.jsonl")[2].split(" has")[0] for line in error.value.message.split("\n")] == [
        ":2: the scenario", ":4: the scenario", ": the environment 'env-tree' is described twice, in different ways.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yaml", "- {scenario: [}", "a.yaml:1: this is not YAML"),
        ("a.json", '[\n{"a": 1},\n{"a": }\n]', "a.json:3: this is not JSON"),
        ("a.json", '{"a": 1}\n{"b": 1}', "a.json:2: there is more text after the JSON object"),
        ("a.jsonl", '{"a": 1}\n{', "a.jsonl:2: this is not JSON"),
        ("a.csv", "environment,scenario\nx\n", "a.csv:2: this row does not have the 2 cells"),
        ("a.csv", "environment,scenario\nx,y,z\n", "a.csv:2: this row does not have the 2 cells"),
        ("a.csv", f"environment_id,name_{'9' * 5000}\ne,A\n", "a.csv:2: the scenario has the unknown field 'name_9999"),
        ("a.yaml", "", "holds no scenario"),
        ("a.json", "[]", "holds no scenario"),
        ("a.json", "", "holds no scenario"),
        ("a.txt", "x", "one of the endings .yaml, .yml, .json, .jsonl, .csv"),
        ("a.yaml", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("a.yaml", "just text", "a.yaml:1: the scenario is text, not an object"),
        ("a.yaml", "- ? [1]\n  : 2\n", "a.yaml:1: "),
    ],
)
def test_a_file_that_is_no_scenario_file_is_refused_in_a_sentence(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_scenarios(tmp_path / name)
    assert said in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_scenarios(tmp_path / "absent.yaml")


def test_a_yaml_file_of_scenarios_may_have_four_million_characters(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text(f"#{'x' * 3_900_000}\n{dumped([TREE])}")
    assert len(read_scenarios(path)) == 1
    path.write_text(f"#{'x' * 4_000_000}\n{dumped([TREE])}")
    with pytest.raises(InputError, match=r"long.yaml is larger than 4,000,000 characters\.") as error:
        read_scenarios(path)
    assert error.value.hint == "make it smaller; scenarios may also be JSON Lines"


def test_a_list_of_200_000_scenarios_is_read_once_and_not_once_for_each_of_them(tmp_path):
    (tmp_path / "many.json").write_text("[" + "{},\n" * 200_000 + "{}]")
    begun = time.process_time()
    with pytest.raises(InputError, match=r"many\.json:1: ") as error:
        read_scenarios(tmp_path / "many.json")
    assert ("many.json:5: " in error.value.message, error.value.message[-18:]) == (True, " (and 199996 more)")
    assert time.process_time() - begun < 8


@given(st.binary(max_size=200), st.sampled_from(FORMATS))
def test_whatever_lies_in_a_file_it_is_scenes_or_a_sentence(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_scenarios(path)


def test_the_scenarios_that_ship_can_be_played_in_every_dialect():
    scenes = bundled()
    assert len(scenes) == 13
    assert Counter(s.environment.relationship for s in scenes)["stranger"] == 2
    for scene in scenes:
        for dialect in ("legacy", "0.1.5", "head"):
            for place, (_, name, opening) in enumerate(World(scene, dialect).messages()[0]):
                assert scene.people[place].name == name
                assert shown(scene.environment.goals[place], place) in opening
                assert scene.people[place].secret in opening
                assert scene.people[1 - place].secret not in opening


# --- the library's profiles ---------------------------------------------------------------------------------------


def test_both_published_shapes_of_the_profiles_hold_the_same(recordings):
    lines = read_profiles(recordings.profiles)
    folders = read_profiles(recordings.episodes / "head_patched" / "local_storage")
    counts = {"own": (8, 8, 16, 6), "large": (40, 90, 450, 120)}[recordings.name]
    pairs, knows = (sum(map(len, found.values())) for found in (lines.pairs, lines.knows))
    assert (len(lines.people), len(lines.environments), pairs, knows) == counts
    assert (folders.people, folders.environments) == (lines.people, lines.environments)
    assert {k: sorted(v) for k, v in folders.pairs.items()} == {k: sorted(v) for k, v in lines.pairs.items()}
    assert len(list(lines.scenes())) == pairs


def test_hard_is_the_published_list():
    assert hashlib.sha256("\n".join(HARD).encode()).hexdigest()[:16] == "022c1b2616b20ab7"
    if LARGE not in RECORDED:
        return
    text = (LARGE.profiles / "benchmark_env_ids.txt").read_text()
    hard, everything = (
        json.loads(f"[{part.strip()}]") for part in text.split("SOTOPIA-HARD:")[1].split("SOTOPIA-ALL:")
    )
    assert list(HARD) == hard
    assert set(hard) <= set(everything) == set(read_profiles(LARGE.profiles).environments)


def profile_lines(folder: Path, *records: dict) -> Path:
    (folder / "profiles.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


ENV = {"env_id": "e", "scenario": "s", "agent_goals": ["g", "h"], "relationship": 3}
ENV |= {"age_constraint": "[(18, 30), (40, 70)]"}
AGENTS = [{"agent_id": one, "first_name": one, "age": age} for one, age in (("a", 20), ("b", 50), ("c", 60))]


def test_an_environment_without_pairs_takes_agents_of_its_relationship_and_ages(tmp_path):
    knows = [
        {"agent1_id": x, "agent2_id": y, "relationship": r} for x, y, r in (("b", "a", 3), ("a", "c", 3), ("a", "b", 2))
    ]
    found = read_profiles(profile_lines(tmp_path, ENV, *AGENTS, *knows))
    assert [scene.agents for scene in found.scenes()] == [("a", "c")]
    paired = {"env_id": "e", "agent_ids": ["c", "b"]}
    assert [
        scene.agents for scene in read_profiles(profile_lines(tmp_path, ENV, *AGENTS, *knows, paired)).scenes()
    ] == [("c", "b")]


@pytest.mark.parametrize(
    ("records", "error", "said"),
    [
        ([ENV, *AGENTS], NotFound, "No two agents fit the environment 'e'"),
        ([ENV, *AGENTS, {"env_id": "e", "agent_ids": ["a", "z"]}], NotFound, "There is no agent 'z'"),
        ([ENV, *AGENTS, {"env_id": "e", "agent_ids": ["a", "b", "c"]}], UsageError, "2 goals for 3 agents"),
        ([ENV, *AGENTS, {"env_id": "e", "agent_ids": ["a", "a"]}], UsageError, "is played by a, a"),
        ([ENV, {"foo": 1}], InputError, "profiles.jsonl:2: its keys (foo) are not those of a profile"),
        ([ENV, {"first_name": 3}], InputError, "profiles.jsonl:2: `first_name` is a number"),
        ([{**ENV, "scenario": "\ud83d"}], InputError, "profiles.jsonl:1: its text holds half of a surrogate pair"),
        ([{**ENV, "relationship": 9}], InputError, "profiles.jsonl:1: `relationship` is 9"),
        ([{**ENV, "agent_goals": [1]}], InputError, "`agent_goals` is not a list of texts"),
        ([ENV], InputError, "holds 0 agents and 1 environments"),
    ],
)
def test_profiles_that_cannot_be_used_are_told_by_line(records, error, said, tmp_path):
    with pytest.raises(error) as raised:
        list(read_profiles(profile_lines(tmp_path, *records)).scenes())
    assert said in raised.value.message
    assert raised.value.hint


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["[(1, 2)]", "3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
KEYS = "first_name last_name age secret agent_id pk gender occupation env_id scenario agent_goals relationship"
KEYS += " age_constraint agent_ids agent1_id agent2_id"


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.sampled_from(KEYS.split()), ANY, min_size=2), max_size=4))
def test_any_records_make_scenes_or_a_sentence(records):
    found = Profiles()
    with suppress(InputError, NotFound, UsageError):
        for record in records:
            found.add(record, "key")
        for scene in found.scenes():
            assert len(World(scene, "head").messages()[0]) == len(scene.people)


def test_an_environment_that_is_not_there_and_a_folder_that_is_none(tmp_path):
    found = read_profiles(profile_lines(tmp_path, ENV, *AGENTS))
    with pytest.raises(NotFound, match="no environment 'x'"):
        list(found.scenes(["x"]))
    with pytest.raises(InputError, match="is not a folder"):
        read_profiles(tmp_path / "absent")


def test_a_scene_is_a_noun_of_its_people(tmp_path):
    (scene,) = read_scenarios(write(tmp_path, ".yaml", [TREE]))
    assert isinstance(scene, Scene)
    assert scene.person("ann").name == "Ann Lee"
    with pytest.raises(KeyError):
        scene.person("cay")


DOCS = (ROOT / "docs" / "rollouts.md").read_text("utf-8")


def test_the_scenario_and_the_code_in_the_docs_are_as_they_say(tmp_path):
    simulator = DOCS.split("## The simulator")[1]
    yaml_block, python_block = (simulator.split(f"```{name}\n")[1].split("```")[0] for name in ("yaml", "python"))
    (tmp_path / "docs.yaml").write_text(yaml_block, encoding="utf-8")
    (scene,) = read_scenarios(tmp_path / "docs.yaml")
    assert scene.agents == ("ann", "Bob O'Hara")
    assert "wasps" not in World(scene).messages()[0][1][2].split("goal:")[0]
    names: dict[str, object] = {}
    exec(python_block, names)
    assert len(names["episode"].turns) == len(names["served"]) == names["world"].turn
