"""The whole way, from the wheel: label with a judge, publish, load by name where nothing of ours is, train, score."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fixtures.environments import install_wheel, once, python_of
from fixtures.hub_client import environment

from sotopia_rl_data.fake_provider.running import running

pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.parametrize("hub", ["lfs"], indirect=True)]

STRANGER = """
import json, sys
from datasets import load_dataset
rows = load_dataset(sys.argv[1], revision=sys.argv[2])
print(json.dumps({name: [row["reward"] for row in split] for name, split in rows.items()}))
"""
SOME = (
    "episode_id IN ('sample-boat-sale-3', 'sample-mothers-house-3', 'sample-tent-refund-3', 'sample-winter-shelter-3')"
)
TINY = "import sys; from sotopia_rl_data.trainers.tiny import make_tiny; make_tiny(sys.argv[1], hidden=32)"


@pytest.fixture
def trainer(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, with what its extra `train` requires."""
    folder = once(tmp_path_factory, "trainer", lambda folder: install_wheel(built, folder, extra="train"))
    return python_of(folder)


class Person:
    """Somebody at a machine of their own: a folder, a store and a cache that nobody else has."""

    def __init__(self, folder: Path, hub: Any, python: Path) -> None:
        folder.mkdir()
        self.folder, self.python = folder, python
        self.environment = environment(hub.server.url, folder / "hf", hub.xet, "hf_alice")
        del self.environment["PYTHONPATH"]

    def runs(self, *arguments: object) -> Any:
        """What Python with these arguments prints last, as JSON."""
        command = [str(self.python), *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout or "null")

    def sotopia(self, *arguments: object) -> Any:
        return self.runs("-m", "sotopia_rl_data", *arguments, "--store", "store", "--json")


def test_what_one_person_labels_and_publishes_others_load_by_name_train_on_and_score(
    hub, trainer: Path, datasets_only: Path, tmp_path: Path
):
    repo = hub.repo("mission")
    labeller, stranger, researcher = (
        Person(tmp_path / name, hub, python)
        for name, python in (("labeller", trainer), ("stranger", datasets_only), ("researcher", trainer))
    )
    labeller.sotopia(
        "import", "--name", "lab/episodes", "--where", SOME, "--seed", "4"
    )  # puts one or two in each split
    with running() as provider:
        labelled = labeller.sotopia("label", "lab/episodes", "--judge", f"openai:sim@{provider.url}/v1", "--out", repo)
    pushed = labeller.sotopia("push-to-hub", repo)
    assert (labelled["failures"], pushed["version"]) == ({}, "v1.0.0")

    loaded = stranger.runs("-c", STRANGER, repo, "v1.0.0")
    rewards = [reward for split in loaded.values() for reward in split]
    assert (set(loaded), len(rewards)) == ({"train", "validation", "test"}, labelled["utterances"])
    assert None not in rewards

    researcher.runs("-c", TINY, "tiny")
    model = ("--model", "tiny", "--preset", "tiny", "--set", "max_steps=3", "--output", "rm")
    trained = researcher.sotopia("train", "rm", "--dataset", f"{repo}@v1.0.0", *model)
    commit = hub.tags(repo)["v1.0.0"]
    assert (trained["dataset"]["digest"], trained["dataset"]["commit"]) == (labelled["digest"], commit)
    scored = researcher.sotopia("score", f"{repo}@v1.0.0", "--reward-model", "rm", "--out", "lab/scored")
    sql = f"SELECT episode_id, agent, turn, raw FROM attributions WHERE judge = '{scored['judge']}'"
    numbers = researcher.sotopia("query", "lab/scored", sql)
    assert len({(one["episode_id"], one["agent"], one["turn"]) for one in numbers}) == scored["rows"] == len(rewards)
    assert None not in {one["raw"] for one in numbers}
