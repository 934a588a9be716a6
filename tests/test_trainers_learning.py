"""Learning is real: planted signals are found on held-out environments, shuffled ones are not; GRPO raises rewards."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("trl", reason="needs the train extra")
pytestmark = [pytest.mark.train, pytest.mark.slow]

from train_toys import after_an_offer, make_dataset, once, says_thanks, toy_model, train_grpo, train_rm, train_sft
from transformers import logging

torch.set_num_threads(1)
logging.disable_progress_bar()

FAST = ("disable_tqdm=true", "learning_rate=0.01", "warmup_steps=10", "lr_scheduler_type=cosine")
BY_EPOCH = ("max_steps=-1", "eval_strategy=epoch", "save_strategy=epoch", "resamples=0", "logging_steps=50")
WIDE = ("per_device_train_batch_size=8", "per_device_eval_batch_size=32")


def learn(root: Path, epochs: int, seed: int = 42, **planted: Any) -> dict[str, Any]:
    """A reward model of a planted dataset, all in `root`; the run's record."""
    ref = make_dataset(root, **planted)
    model = toy_model(root / "model")
    settings = [*FAST, *BY_EPOCH, *WIDE, f"num_train_epochs={epochs}", f"seed={seed}"]
    return train_rm(ref, model, root / "rm", preset="tiny", store=str(root), settings=settings)


def clone_of(root: Path, out: Path) -> dict[str, Any]:
    """A policy that speaks as the episodes of `root` do; its record, and its losses on held-out environments."""
    steps = ("max_steps=80", "eval_steps=40", "save_steps=40", "eval_on_start=true", "adapter=none")
    options: dict[str, Any] = {"preset": "tiny", "store": str(root), "settings": [*FAST, *WIDE, *steps]}
    record = train_sft("toys/rewards", str(root / "model"), out, **options)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return record | {"held_out": [row["eval_loss"] for row in rows if "eval_loss" in row]}


def practise(root: Path, clone: Path, out: Path, seed: int) -> dict[str, float]:
    """GRPO of the clone against the reward model of `root`: the mean reward over the first and the last steps."""
    settings = [
        *FAST[:1], "learning_rate=3e-3", "max_steps=20", "adapter=none", "beta=0", "max_completion_length=40",
        "per_device_train_batch_size=32", "num_generations=8", "truncated_reward=0", "format_weight=0",
        "log_completions=false", f"seed={seed}",
    ]  # fmt: skip
    options: dict[str, Any] = {"preset": "tiny", "store": str(root), "settings": settings}
    record = train_grpo("toys/rewards", str(clone), out, reward_model=str(root / "rm"), **options)
    return dict(record["metrics"]["train"])


def quarters(row: dict[str, Any]) -> str:
    """Half of the environments to train on, and enough to be sure on the others."""
    return ("train", "train", "validation", "test")[int(row["environment_id"].removeprefix("env-")) % 4]


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
