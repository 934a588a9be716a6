"""Packed rows are compared with plain ones, before training and in use, and given up where they score differently."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

import numpy as np
from fixtures.training import act, chat_prompt, make_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sotopia_rl_data.trainers import RewardModel
from sotopia_rl_data.trainers.tiny import make_tiny

torch.set_num_threads(1)

PROMPT = chat_prompt("Ann", ("Ann", "Bo"), "3", ["hello there", "an offer", "well"], 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny(tmp_path_factory.mktemp("tiny"), hidden=32, layers=2))


class Blurred(torch.nn.Embedding):
    """Mixes each token with its left neighbour in the row, as recurrent layers do: no tree can be right for it."""

    def forward(self, ids: Any) -> Any:
        found = super().forward(ids)
        return found + found.roll(1, dims=1)


def test_packing_that_scores_differently_is_given_up(tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from sotopia_rl_data.trainers.config import RMConfig, configure
    from sotopia_rl_data.trainers.data import load_rows
    from sotopia_rl_data.trainers.reward_model.rows import prepare
    from sotopia_rl_data.trainers.reward_model.trainer import build_trainer, load_model

    store = tmp_path / "store"
    ref = make_dataset(store, "toys/branching", layout="single")
    options = {"dataset": ref, "model": tiny, "output_dir": str(tmp_path / "out"), "packing": "tree"}
    config = configure(RMConfig, preset="tiny", options=options)
    prepared = prepare(load_rows(ref, store=store), config)
    for spoilt in (False, True):
        model = load_model(config, prepared)
        if spoilt:
            model.set_input_embeddings(Blurred.from_pretrained(model.get_input_embeddings().weight, freeze=False))
        trainer = build_trainer(config, prepared, model)
        assert trainer.packing["rows"] == ("none" if spoilt else "tree")
        assert ("going on with one row for each utterance" in caplog.text) == spoilt
    trainer.train()


def test_packing_that_scores_differently_is_given_up_in_use_too(tiny: str):
    from sotopia_rl_data.trainers.reward_model.attention import NAME, attend_as

    model = attend_as(AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1), NAME)
    model.set_input_embeddings(Blurred.from_pretrained(model.get_input_embeddings().weight))
    ours = RewardModel(model, AutoTokenizer.from_pretrained(tiny))
    dialogues = [(PROMPT, act(word)) for word in ("yes", "no thanks", "an offer")]
    alone = [ours.score(*one) for one in dialogues]  # one alone shares nothing
    for _ in range(2):
        assert ours.score_batch(dialogues) == pytest.approx(alone, abs=1e-6)


class Farsighted(torch.nn.Embedding):
    """Mixes each token with the one 60 tokens before it in the row: only a long row shows that."""

    def forward(self, ids: Any) -> Any:
        found = super().forward(ids)
        return torch.cat([found[:, :60], found[:, 60:] + found[:, :-60]], dim=1)


def test_what_shows_in_long_rows_only_is_seen_when_one_comes(tiny: str):
    from sotopia_rl_data.trainers.reward_model.attention import NAME, attend_as

    model = attend_as(AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1), NAME)
    model.set_input_embeddings(Farsighted.from_pretrained(model.get_input_embeddings().weight))
    ours = RewardModel(model, AutoTokenizer.from_pretrained(tiny))
    short = [("a", "yes"), ("a", "no")]
    counted = " ".join(map(str, range(60)))
    long = [(f"{counted} {end}", "yes") for end in ("b", "c", "d d d")]
    ours.score_batch(short)
    assert ours.packs
    alone = [ours.score(*one) for one in long]
    assert ours.score_batch(long) == pytest.approx(alone, abs=1e-6)
    assert not ours.packs


def test_the_rows_that_are_compared_are_the_longest_and_the_one_that_branches_most():
    from sotopia_rl_data.trainers.reward_model.rows import LabelledUtterance
    from sotopia_rl_data.trainers.reward_model.trainer import telling_rows

    def row(*sequences: list[int]) -> list[LabelledUtterance]:
        nothing = np.zeros(1, dtype=np.float32)
        return [LabelledUtterance(0, (), np.array(ids, dtype=np.int32), nothing, nothing) for ids in sequences]

    short, run = row([1, 2], [1, 2, 3]), row([1], [1, 2], [1, 2, 3], [1, 2, 3, 4])
    long, branching = row(list(range(50))), row([1, 2], [1, 3], [1, 4])
    rows = [short, short, run, long, branching, short]
    assert telling_rows(rows) == [long, branching]
    assert telling_rows([run]) == [run]


def test_in_half_precision_a_gap_is_judged_by_what_rounding_does():
    from sotopia_rl_data.trainers.reward_model.attention import allowed_gap

    plain = np.array([[0.0], [1.0], [2.0]])
    half, single = torch.nn.Linear(1, 1).bfloat16(), torch.nn.Linear(1, 1)
    gaps = [allowed_gap(half, plain, plain[:2] + noise) for noise in (0.0, 0.06, 2.0)]
    assert gaps == pytest.approx([0.05, 0.12, 0.25])
    assert allowed_gap(single, plain, plain[:2] + 2.0) == 0.01
