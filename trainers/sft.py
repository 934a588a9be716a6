"""Behaviour cloning: TRL's SFTTrainer on prompt and completion, with the loss on the completion alone.

The policy is trained on the prompts that the dataset was built with, which are the ones it will be served. What to
imitate is a condition: `where="reward >= 0.7"` for one's own best turns, `where="list_contains(models, 'gpt-4o')"` for
another's. Over-long prompts lose turns from the middle of their history; the answer is never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import EarlyStoppingCallback
from trl import SFTTrainer

from sotopia_rl_data.errors import UsageError
from trainers.config import PolicySFTConfig
from trainers.modeling import quantization, resolve_dtype, split_revision, told
from trainers.policies import Dialogues


def build_trainer(
    config: PolicySFTConfig, found: Dialogues, tokenizer: Any, callbacks: Sequence[Any] = ()
) -> SFTTrainer:
    """TRL's trainer over the train and validation rows. Raises NotFound for the model, UsageError without validation."""
    held_out = found.splits.get("validation")
    if held_out is None and config.eval_strategy != "no":
        mend = "--set split_by=grouped divides it by environment; --set eval_strategy=no trains without looking"
        raise UsageError(f"The validation split of {config.dataset} is empty: nothing to choose a checkpoint by.", mend)
    name, revision = split_revision(config.model)
    config.model_init_kwargs = dict(config.model_init_kwargs or {}) | {
        "revision": revision,
        "dtype": resolve_dtype(config.dtype, config.adapter),
    }
    stop = [EarlyStoppingCallback(config.patience)] if config.patience else []
    with told(config.model):
        return SFTTrainer(
            model=name,
            args=config,
            train_dataset=found.splits["train"],
            eval_dataset=held_out,
            processing_class=tokenizer,
            quantization_config=quantization(config.adapter),
            peft_config=config.lora().config("CAUSAL_LM"),
            callbacks=[*stop, *callbacks],
        )
