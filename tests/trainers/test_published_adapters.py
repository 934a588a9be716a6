"""Reward models as sotopia-rl's trainer writes them: an adapter that names no task, with the score head among the
modules that it saves, and with or without the tokenizer."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from peft import LoraConfig, PeftModelForSequenceClassification, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.trainers.reward_model.model import RewardModel
from sotopia_rl_data.trainers.tiny import make_tiny

LORA: dict[str, Any] = {"r": 8, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
TALK = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_an_adapter_without_a_task_scores_as_in_the_program_that_made_it(base, tmp_path, with_tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model = PeftModelForSequenceClassification(model, LoraConfig(**LORA))
    with torch.no_grad():  # as if it had been trained
        model.base_model.model.score.modules_to_save["default"].weight.normal_()
    model.save_pretrained(tmp_path / "rm")
    if with_tokenizer:
        tokenizer.save_pretrained(tmp_path / "rm")
    settings = json.loads((tmp_path / "rm" / "adapter_config.json").read_text())
    assert (settings["task_type"], "score" in settings["modules_to_save"]) == (None, True)

    text = tokenizer.apply_chat_template(TALK, tokenize=False).strip()
    with torch.no_grad():
        expected = model.eval()(**tokenizer(text, return_tensors="pt")).logits.item()
    assert RewardModel.load(tmp_path / "rm", device="cpu").score("Hello?", "Yes.") == pytest.approx(expected, abs=1e-5)


def test_an_adapter_that_has_no_head_is_not_a_reward_model(base, tmp_path):
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**LORA))
    policy.save_pretrained(tmp_path / "policy")
    with pytest.raises(InputError, match=r"is not a reward model: it has no score\.weight"):
        RewardModel.load(tmp_path / "policy", device="cpu")
