"""Split honesty, in what the three trainers are really given: no environment, and no episode, on two sides."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from fixtures.training import make_dataset, toy_model, train_rm
from transformers import logging

from sotopia_rl_data import open_dataset
from sotopia_rl_data.store import Store
from sotopia_rl_data.trainers import RewardModel
from sotopia_rl_data.trainers.api import score
from sotopia_rl_data.trainers.config import PolicyGRPOConfig, PolicySFTConfig, RMConfig, configure
from sotopia_rl_data.trainers.data import load_rows
from sotopia_rl_data.trainers.encoding import Encoder, dialogues, tokenizer_of

torch.set_num_threads(1)
logging.disable_progress_bar()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty episodes of twenty environments; with splits of its own, and without any."""
    root = tmp_path_factory.mktemp("store")
    make_dataset(root, "toys/split", turns=2)
    make_dataset(root, "toys/whole", turns=2, splits=lambda row: "train")
    return root


def environments(texts: Iterable[str]) -> set[str]:
    """Which environments the prompts are from: each says its number, and an episode is of one environment."""
    return {re.search(r"evening, number (env-\d+)", text).group(1) for text in texts}


def given_to_rm(found: Any, config: Any, tokenizer: Any) -> list[list[str]]:
    from sotopia_rl_data.trainers.reward_model.rows import prepare
    from sotopia_rl_data.trainers.reward_model.trainer import build_trainer, load_model

    prepared = prepare(found, config)
    trainer = build_trainer(config, prepared, load_model(config, prepared))
    sides = (trainer.train_dataset, trainer.eval_dataset, trainer.all_rows["test"])
    return [[tokenizer.decode(sample.ids) for row in side for sample in row] for side in sides]


def given_to_sft(found: Any, config: Any, tokenizer: Any) -> list[list[str]]:
    from sotopia_rl_data.trainers.policies import build_sft_trainer

    trainer = build_sft_trainer(config, dialogues(found, Encoder(tokenizer, 4096), with_completion=True), tokenizer)
    return [
        [tokenizer.decode(ids) for ids in side["input_ids"]] for side in (trainer.train_dataset, trainer.eval_dataset)
    ]


def given_to_grpo(found: Any, config: Any, tokenizer: Any) -> list[list[str]]:
    from transformers import AutoModelForSequenceClassification

    from sotopia_rl_data.trainers.policies import build_grpo_trainer

    judge = RewardModel(AutoModelForSequenceClassification.from_pretrained(config.model, num_labels=1), tokenizer)
    fitted = dialogues(found, Encoder(tokenizer, 4096), with_completion=False)
    trainer = build_grpo_trainer(config, fitted, tokenizer, judge)
    return [[json.dumps(p) for p in side["prompt"]] for side in (trainer.train_dataset, trainer.eval_dataset)]


@pytest.mark.parametrize(
    ("config_class", "given"),
    [(RMConfig, given_to_rm), (PolicySFTConfig, given_to_sft), (PolicyGRPOConfig, given_to_grpo)],
)
@pytest.mark.parametrize("name", ["split", "whole"])
def test_what_a_trainer_is_given_has_no_environment_on_two_sides(
    store: Path, tiny: str, tmp_path: Path, config_class: Any, given: Any, name: str
):
    options = {"dataset": f"toys/{name}", "model": tiny, "output_dir": str(tmp_path)}
    config = configure(config_class, preset="tiny", options=options, settings=["eval_strategy=steps", "eval_steps=2"])
    found = load_rows(f"toys/{name}", store=store)
    sides = [environments(texts) for texts in given(found, config, tokenizer_of(config))]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert found.splits_by == ("dataset" if name == "split" else "environment_id")
    assert sides[0] == {row.environment_id for row in found.read("train")}


def test_rows_of_somebody_elses_are_trained_on_and_scored_under_keys_of_their_own(tmp_path: Path, tiny: str):
    """No ids, no splits: what was imported is divided by situation, and a score belongs to the row whose text it is."""
    from sotopia_rl_data.importers.importing import import_dataset

    asked = "Imagine you are Mia.\nScenario: Evening {} is planned.\nParticipants: Mia and Ben\nTurn #{}: say something"
    rows = [
        {"input": asked.format(e, t), "output": f"answer {e} {t}", "value": (e % 5) / 4}
        for e in range(30)
        for t in range(2)
    ]
    (tmp_path / "theirs.json").write_text(json.dumps([*rows, rows[0] | {"value": 0.75}]))  # the same text twice
    import_dataset(Store(tmp_path), [tmp_path / "theirs.json"], "lab/theirs")
    record = train_rm("lab/theirs", tiny, tmp_path / "rm", preset="tiny", store=str(tmp_path))
    assert sum(record["rows"].values()) == 61
    assert min(record["rows"].values()) > 0
    made, again = (score(ref, str(tmp_path / "rm"), store=tmp_path) for ref in ("lab/theirs@v1.0.0", "lab/theirs"))
    assert (made["ref"], made["rows"], again["created"]) == ("lab/theirs@v2.0.0", 61, False)
    asked = """SELECT completion[1].content, agent, turn, reward, raw FROM rewards JOIN attributions
               USING (episode_id, agent, turn) ORDER BY 1, 3"""
    found = [tuple(row.values()) for row in open_dataset("lab/theirs", Store(tmp_path)).sql(asked).to_pylist()]
    assert len(found) == 61
    assert [row[:3] for row in found[:3]] == [("answer 0 0", "assistant", t) for t in (0, 1)] + [
        ("answer 0 1", "assistant", 0)
    ]
    assert sorted(row[3] for row in found[:2]) == [0.0, 0.75]
    assert found[0][4] == found[1][4]
    model = RewardModel.load(tmp_path / "rm", device="cpu")
    assert found[2][4] == pytest.approx(model.score(str(rows[1]["input"]), "answer 0 1"), abs=1e-5)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_score_of_a_dataset_with_one_split_is_written(tmp_path: Path, tiny: str, split: str):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    make_dataset(tmp_path, "toys/one", environments=1, episodes=4, splits=lambda row: split)
    AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1).save_pretrained(tmp_path / "rm")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "rm")
    made = score("toys/one", str(tmp_path / "rm"), store=tmp_path)
    (stored,) = open_dataset(made["ref"], tmp_path).sql("SELECT count(*) FROM attributions").column(0).to_pylist()
    assert made["rows"] == stored == 24
