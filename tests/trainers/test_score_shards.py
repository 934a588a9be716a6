"""`score --shard I/N`: a reward model scores parts of a dataset, and the version is that of one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fixtures.flat_calls import label
from fixtures.labelling import boats, put

from sotopia_rl_data.control_tokens import ControlTokens
from sotopia_rl_data.ledger.attempt import answered
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.merge import merge
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.shards import Shard
from sotopia_rl_data.store import Store

pytestmark = pytest.mark.train
pytest.importorskip("torch")

from sotopia_rl_data.trainers.data import DatasetRow  # noqa: E402
from sotopia_rl_data.trainers.score import BATCH, KeptScores, judge_of, score_dataset, score_shard  # noqa: E402


class Length:
    """A reward model that scores the length of a completion; the last digits depend on what is scored together, as
    those of real ones do."""

    identity = "length@1"
    head = SimpleNamespace(targets=("reward",))
    encoder = SimpleNamespace(plain=ControlTokens(SimpleNamespace(all_special_tokens=["<|im_end|>"])).plain_messages)

    def __init__(self, **conditions: Any) -> None:
        self.scored = 0
        self._conditions = conditions

    def conditions(self) -> dict[str, Any]:
        return self._conditions

    def score_heads(self, dialogues: Sequence[Any]) -> np.ndarray:
        self.scored += len(dialogues)
        together = sum(len(completion[-1]["content"]) for _, completion in dialogues)
        return np.array([[len(completion[-1]["content"]) / 7 + 1e-12 * together] for _, completion in dialogues])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put(store, boats(400))
    label(store, "lab/episodes", schema="uniform", preset="uniform", weights={"goal": 1}, dimensions=["goal"])
    return store


def test_the_scores_of_three_shards_make_the_version_of_one_process(store: Store, tmp_path: Path):
    model: Any = Length()
    alone = score_dataset("lab/episodes-rewards", model, store=store.root, out="lab/alone", ledger=tmp_path / "alone")
    assert (alone["rows"], model.scored) == (1_600, 1_600)
    ledgers = [tmp_path / f"shard-{number}" for number in (1, 2, 3)]
    told = [
        score_shard("lab/episodes-rewards", model, Shard(number, 3), store=store.root, ledger=ledger)
        for number, ledger in enumerate(ledgers, 1)
    ]
    assert sum(part["rows"] for part in told) == 1_600
    assert max(part["rows"] for part in told) <= 2 * BATCH
    assert model.scored == 2 * 1_600
    merge(store.root / ".ledger", ledgers)
    whole = score_dataset("lab/episodes-rewards", model, store=store.root, out="lab/whole")
    assert model.scored == 2 * 1_600  # all of them were kept
    assert store.resolve(whole["ref"]).digest == store.resolve(alone["ref"]).digest


def test_a_shard_that_is_scored_again_computes_nothing(store: Store):
    model: Any = Length()
    first = score_shard("lab/episodes-rewards", model, Shard(1, 4), store=store.root)
    scored = model.scored
    again = score_shard("lab/episodes-rewards", model, Shard(1, 4), store=store.root)
    assert (first["hits"], again["hits"], model.scored) == (0, first["rows"], scored)
    assert scored > 0


def test_scores_under_other_conditions_are_not_taken_from_the_ledger(store: Store):
    long: Any = Length(max_length=512)
    short: Any = Length(max_length=64)
    for model in (long, short):
        assert score_shard("lab/episodes-rewards", model, Shard(1, 4), store=store.root)["hits"] == 0
    assert score_shard("lab/episodes-rewards", short, Shard(1, 4), store=store.root)["hits"] == short.scored > 0


def test_only_scores_of_texts_with_control_tokens_are_made_again(tmp_path: Path):
    """What an earlier version kept, for which such a token in a text ended the turn."""
    model: Any = Length()
    plain, live = (
        DatasetRow("train", "", "", "", None, (), ({"role": "assistant", "content": text},))
        for text in ("Hello", "Hello<|im_end|>")
    )
    with Ledger(tmp_path) as ledger:
        for row in (plain, live):
            request = Request(Target("reward-model", judge_of(model), sampling={}), [*row.prompt, *row.completion])
            ledger.append(answered(request, request.key, request.hashes[0], Reply("[0.5]"), 0.0))
        kept = KeptScores(ledger, model)
        known = kept.known([plain])
        assert known is not None
        assert known.tolist() == [[0.5]]
        assert kept.known([live]) is None
        kept.keep([live], np.array([[1.0]]), 0.0)
        again = kept.known([live])
        assert again is not None
        assert again.tolist() == [[1.0]]


def test_the_conditions_of_scores_are_what_the_identity_of_a_folder_leaves_out(tmp_path: Path):
    from fixtures.training import toy_model
    from tokenizers import normalizers
    from transformers import AutoModelForSequenceClassification

    from sotopia_rl_data.trainers.encoding import load_tokenizer
    from sotopia_rl_data.trainers.reward_model.model import RewardModel

    folder = toy_model(tmp_path / "model")
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)

    def conditions(max_length: int = 100, template: str = "", lowercase: bool = False) -> dict[str, Any]:
        tokenizer = load_tokenizer(folder)
        if lowercase:
            tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.chat_template = template + tokenizer.chat_template
        return RewardModel(classifier, tokenizer, name=folder, max_length=max_length).conditions()

    first = conditions()
    assert conditions() == first
    found = [first, conditions(max_length=50), conditions(template="{{ 'so: ' }}"), conditions(lowercase=True)]
    (Path(folder) / "adapter_config.json").write_text('{"lora_alpha": 32}')
    found.append(conditions())
    classifier.bfloat16()
    found.append(conditions())
    assert all(one not in found[:at] for at, one in enumerate(found))


def test_a_run_that_died_goes_on_with_what_was_scored(store: Store):
    class Dying(Length):
        def score_heads(self, dialogues: Sequence[Any]) -> np.ndarray:
            if self.scored == 2 * BATCH:
                raise KeyboardInterrupt
            return super().score_heads(dialogues)

    dying: Any = Dying()
    with pytest.raises(KeyboardInterrupt):
        score_dataset("lab/episodes-rewards", dying, store=store.root)
    model: Any = Length()
    assert score_dataset("lab/episodes-rewards", model, store=store.root)["rows"] == 1_600
    assert model.scored == 1_600 - 2 * BATCH
