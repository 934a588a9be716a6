"""The environment of `verifiers`: vf-eval plays the episodes that `rollout` plays, and rewards them as `label` does.

Needs verifiers, which is large, and uv, with which it takes packages from an index:
pip install 'sotopia-rl-data[verifiers]' uv, then run this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.acting_provider import act, acting
from fixtures.labelling import rows
from fixtures.places import ROOT

from sotopia_rl_data.labelers import Elicitation, RewardSettings, label
from sotopia_rl_data.rollouts import World
from sotopia_rl_data.rollouts.episode_run import Rules
from sotopia_rl_data.rollouts.rollout import plan_of, rollout
from sotopia_rl_data.rollouts.scenarios import FIELDS, read_scenarios
from sotopia_rl_data.samples import SCENARIOS
from sotopia_rl_data.store import Store

pytest.importorskip("verifiers", reason="needs verifiers: pip install 'sotopia-rl-data[verifiers]'")
pytestmark = [pytest.mark.slow]

TURNS = 7
# The level is the number of times that the words "thank you" stand in the transcript; where "???" does, nonsense.
JUDGE = """
import json
class Thanks:
    id = "thanks"
    async def answer(self, question):
        said = question.messages[1]["content"]
        level = "pardon" if "???" in said else min(3, said.count("thank you"))
        ((agent, measure),) = question.slots
        return json.dumps({agent: {measure: level}})
"""


def written(path: Path) -> Path:
    """A file of twenty scenes, no two alike, and one that the judge says nonsense about."""
    files = sorted(SCENARIOS.glob("*.yaml"))
    scenes = []
    for i in range(21):
        known = yaml.safe_load(files[i % len(files)].read_text("utf-8"))
        mark = "???" if i == 20 else f"It is day {i}."
        names = {"environment_id": f"env{i}", "codename": f"scene{i}", "scenario": f"{known['scenario']} {mark}"}
        scenes.append({field: known[field] for field in FIELDS} | names)
    path.write_text(json.dumps(scenes))
    return path


def evaluated(url: str, folder: Path, scenarios: Path, *more: str) -> list[dict[str, Any]]:
    """The episodes that vf-eval plays."""
    local = [word for seat in ("policy", "partner") for word in (f"--env.{seat}.runtime.type", "subprocess")]
    command = [
        *(str(Path(sys.executable).with_name("vf-eval")), "sotopia-dialogue", "-m", "policy", "--no-push", "--no-rich"),
        *("-o", str(folder / "out"), "-c", "6", "--client.base-url", url, "--client.api-key-var", "OPENAI_API_KEY"),
        *("--env.partner.model", "partner", *local, "--env.turns", str(TURNS)),
        *("--env.taskset.scenarios", str(scenarios), "--env.judge", f"{folder / 'judge.py'}:Thanks"),
        *("--env.dimensions", "goal", "--env.store", str(folder / "judged"), *more),
    ]
    paths = [str(ROOT), str(ROOT / "examples" / "verifiers_environment"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OPENAI_API_KEY": "none", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
    (traces,) = (folder / "out").glob("*/traces.jsonl")
    assert done.returncode in (0, 1), done.stderr[-3_000:]
    return [json.loads(line) for line in traces.read_text().splitlines()]


def test_vf_eval_plays_and_rewards_the_episodes_that_rollout_and_label_give(tmp_path: Path):
    (tmp_path / "judge.py").write_text(JUDGE)
    scenarios = written(tmp_path / "scenarios.json")
    store = Store(tmp_path / "store")
    with acting() as provider:
        models = {"a": f"openai:policy@{provider.url}", "b": f"openai:partner@{provider.url}"}
        plan = plan_of(read_scenarios(scenarios), Rules(turns=TURNS, layout="chat"), **models)
        assert rollout(store, plan, "lab/played").episodes == 21
        rolled, provider.asked[:] = sorted(provider.asked), []
        episodes = evaluated(provider.url, tmp_path, scenarios)
        played = sorted(provider.asked)
    assert len(episodes) == 21
    assert played == rolled  # every prompt of both seats, to the byte

    judged = Elicitation(judges=[f"{tmp_path / 'judge.py'}:Thanks"], schema="utterance-quality", dimensions=["goal"])
    version = label(store, "lab/played", judged, RewardSettings(weights={"goal": 1})).version
    scenes = {scene.environment.environment_id: scene for scene in read_scenarios(scenarios)}
    wanted: dict[str, list[float | None]] = {}
    for row in rows(version, "rewards", store):
        scene = scenes[row["environment_id"]]
        if row["agent"] == scene.agents[0]:
            wanted.setdefault(scene.environment.codename, []).append(row["raw_goal"])
    policies = {
        trace["task"]["data"]["name"]: (episode, trace)
        for episode in episodes
        for trace in episode["traces"]
        if trace["agent"]["name"] == "policy"
    }
    assert {name: trace["info"]["turn_rewards"] for name, (_, trace) in policies.items()} == wanted
    assert len({tuple(rewards) for rewards in wanted.values()}) > 5

    for name, (episode, trace) in policies.items():
        if name == "scene20":  # no reward is made up
            assert set(trace["info"]["turn_rewards"]) == {None}
            assert (episode["ok"], trace["rewards"]) == (False, {})
            assert "have no reward" in episode["errors"][0]["message"]
        else:
            mean = sum(wanted[name]) / len(wanted[name])
            assert (episode["ok"], trace["rewards"]["mean_turn_reward"]["score"]) == (True, pytest.approx(mean))
        assert [one["agent"]["trainable"] for one in episode["traces"]].count(True) == 1


def test_an_episode_that_ends_before_the_policy_acts_has_an_error_and_no_reward(tmp_path: Path):
    (tmp_path / "judge.py").write_text(JUDGE)
    scenarios = tmp_path / "scenarios.json"
    known = json.loads(written(scenarios).read_text())[0]
    for day in range(1_000):  # until the partner, who acts first, leaves
        scenarios.write_text(json.dumps([known | {"scenario": f"It is day {day}."}]))
        (scene,) = read_scenarios(scenarios)
        if "leave" in act(World(scene, max_turns=TURNS).prompt(scene.agents[0], "chat")):
            break
    with acting() as provider:
        (episode,) = evaluated(provider.url, tmp_path, scenarios, "--env.place", "1")
    assert not episode["ok"]
    assert "never acted" in episode["errors"][0]["message"]
