"""Behaviour cloning: TRL's SFTTrainer on prompt and completion, with the loss on the completion alone.

The policy is trained on the prompts that the dataset was built with, which are the ones it will be served. What to
imitate is a condition: `where="reward >= 0.7"` for one's own best turns, `where="model = 'gpt-4o'"` for another's.
Over-long prompts lose turns from the middle of their history; the answer is never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import EarlyStoppingCallback
from trl import SFTTrainer

from sotopia_rl_data.trainers.config import PolicySFTConfig, one_of
from sotopia_rl_data.trainers.encoding import Dialogues
from sotopia_rl_data.trainers.modeling import check_one_gpu, load_causal, lora_config, settings_errors


def build_trainer(
    config: PolicySFTConfig, dialogues: Dialogues, tokenizer: Any, callbacks: Sequence[Any] = ()
) -> SFTTrainer:
    """TRL's trainer over the train and validation rows. Raises NotFound, UsageError."""
    if config.load_best_model_at_end:  # the one metric that TRL hands to what chooses the best
        one_of("metric_for_best_model", str(config.metric_for_best_model).removeprefix("eval_"), ["loss"])
    stop = [EarlyStoppingCallback(config.patience)] if config.patience and config.eval_strategy != "no" else []
    model = load_causal(config)
    check_one_gpu(config)
    with settings_errors():
        return SFTTrainer(
            model=model,
            args=config,
            train_dataset=dialogues.splits["train"],
            eval_dataset=dialogues.splits.get("validation"),
            processing_class=tokenizer,
            peft_config=lora_config(config, "CAUSAL_LM"),
            callbacks=[*stop, *callbacks],
        )
