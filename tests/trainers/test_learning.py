"""Learning is real: planted signals are found on held-out environments, shuffled ones are not; GRPO raises rewards."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixtures.training import clone_of, learn, practise, quarters

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = [pytest.mark.train, pytest.mark.slow]

from fixtures.training import (
    after_an_offer,
    once,
    says_thanks,
)
from transformers import logging

torch.set_num_threads(1)
logging.disable_progress_bar()


def assert_learned(found: dict[str, float]) -> None:
    assert found["spearman"] >= 0.9
    assert found["mse"] < 0.3 * min(found["mean_mse"], found["turn_mse"])


@pytest.fixture(scope="module")
def thankful(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Episodes of three utterances, rewarded for their thanks, and the reward model that learned it."""
    planted = {"episodes": 100, "environments": 40, "turns": 3, "reward": says_thanks}
    return once(tmp_path_factory, "thankful", lambda root: learn(root, 12, **planted))


@pytest.fixture(scope="module")
def clone(thankful: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A policy that speaks as those episodes do, whatever they are rewarded with."""
    return once(tmp_path_factory, "thankful-clone", lambda out: clone_of(thankful[0], out))


def test_a_reward_of_the_utterance_is_learned(thankful: tuple[Path, dict[str, Any]]):
    assert_learned(thankful[1]["metrics"]["test"])


def test_a_reward_that_depends_on_the_history_is_learned(tmp_path: Path):
    record = learn(tmp_path, 15, episodes=100, environments=40, turns=4, reward=after_an_offer)
    assert record["packing"]["rows"] == "tree"
    assert_learned(record["metrics"]["test"])


def test_shuffled_labels_teach_nothing(tmp_path: Path):
    planted: dict[str, Any] = {"episodes": 80, "environments": 40, "turns": 4, "reward": says_thanks}
    found = learn(tmp_path, 3, shuffled=True, splits=quarters, **planted)["metrics"]["test"]
    assert found["mse"] > 0.99 * found["mean_mse"]
    assert abs(found["spearman"]) < 0.2


def test_cloning_lowers_the_loss_on_held_out_environments(clone: tuple[Path, dict[str, Any]]):
    first, *_, last = clone[1]["held_out"]  # before the first step, and at the end
    assert last < 0.5 * first
    assert clone[1]["metrics"]["validation"]["loss"] == min(clone[1]["held_out"])


@pytest.mark.parametrize("seed", range(3))
def test_grpo_raises_the_mean_reward_by_at_least_a_fifth(
    seed: int, tmp_path: Path, thankful: tuple[Path, Any], clone: tuple[Path, Any]
):
    """Of what is sampled, from the first tenth of the steps to the last. All rewards lie between 0 and 1."""
    found = practise(thankful[0], clone[0], tmp_path, seed)
    assert found["reward_last"] >= found["reward_first"] + 0.2
