"""Policies, by TRL: behaviour cloning on prompt and completion, and single-turn GRPO over the dataset's prompts.

Behaviour cloning takes its loss on the completion alone. The policy is trained on the prompts that the dataset was
built with, which are those it will be served. Which turns it imitates is a condition: `where="reward >= 0.7"` for the
best turns, `where="model = 'gpt-4o'"` for those of another model. Over-long prompts lose turns from the middle of their
history; an answer is never cut.

In GRPO the policy starts from an SFT adapter, loaded under PEFT's own name `default`. The reference of the KL term is
that same SFT policy, not the base model. The reward model is loaded by itself, pinned, with its own tokenizer.
Generation is TRL's: in process, or by vLLM as a server or colocated, through TRL's own options.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from trl import SFTTrainer

from sotopia_rl_data.errors import BadAnswer, InputError, UsageError
from sotopia_rl_data.schema import Message
from sotopia_rl_data.thoughts import without_thought
from sotopia_rl_data.trainers.config import PolicyDPOConfig, PolicyGRPOConfig, PolicySFTConfig, one_of
from sotopia_rl_data.trainers.encoding import Dialogues
from sotopia_rl_data.trainers.filling import FilledRows, FlatBatch, filled
from sotopia_rl_data.trainers.modeling import (
    check_adapter,
    check_one_gpu,
    load_causal,
    loading_errors,
    lora_config,
    model_folder,
    settings_errors,
    split_revision,
)
from sotopia_rl_data.trainers.policy_trainer import PolicyTrainer
from sotopia_rl_data.trainers.reward_model.model import RewardModel
from sotopia_rl_data.trainers.reward_server import RewardServer, is_server
from sotopia_rl_data.trainers.rewards import Reward, named_rewards, valid_action
from sotopia_rl_data.trainers.tokenised import lengths_of

log = logging.getLogger(__name__)


def build_sft_trainer(
    config: PolicySFTConfig, dialogues: Dialogues, tokenizer: Any, callbacks: Sequence[Any] = ()
) -> SFTTrainer:
    """TRL's trainer for behaviour cloning on the train and validation rows. Raises NotFound, UsageError."""
    if config.load_best_model_at_end:  # the loss is the only metric by which TRL can choose the best step
        one_of("metric_for_best_model", str(config.metric_for_best_model).removeprefix("eval_"), ["loss"])
    model = load_causal(config)
    check_one_gpu(config)
    if "labels" in dialogues.splits["train"].column_names:  # they are as TRL would make them, and would copy them
        config.dataset_kwargs = {**(config.dataset_kwargs or {}), "skip_prepare_dataset": True}
    with settings_errors():
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=dialogues.splits["train"],
            eval_dataset=dialogues.splits.get("validation"),
            processing_class=tokenizer,
            peft_config=lora_config(config, "CAUSAL_LM"),
            callbacks=list(callbacks),
        )
    if config.tokens_per_device_batch:
        lengths = lengths_of(trainer.train_dataset, "input_ids")
        batches = filled(lengths, config.tokens_per_device_batch, is_padded=True, seed=config.seed)
        trainer.train_dataset = FilledRows(trainer.train_dataset, batches)
        trainer.data_collator = FlatBatch(trainer.data_collator)
    return trainer


# --- GRPO: rewards ----------------------------------------------------------------------------------------------------


class ModelReward:
    """A reward model, here or on a server, as a reward. It scores the whole batch at once, so that completions share
    their prompt.

    A completion is scored without its thought. Where a server has no reward it is None.
    """

    def __init__(self, model: RewardModel | RewardServer) -> None:
        self.model = model
        self.__name__ = "reward_model"

    def __call__(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[Sequence[Message]], **columns: Any
    ) -> list[float | None]:
        spoken = [[*messages[:-1], _answer(messages[-1])] for messages in completions]
        scores = self.model.score_batch(zip(prompts, spoken, strict=True)).tolist()
        return [None if math.isnan(score) else score for score in scores]


def _answer(message: Message) -> Message:
    """A completion's message without the thought; empty where the thought has no end."""
    try:
        return {**message, "content": without_thought(message.get("content") or "")}
    except BadAnswer:
        return {**message, "content": ""}


# --- GRPO: the policy and its trainer ---------------------------------------------------------------------------------


def load_policy(config: PolicyDPOConfig | PolicyGRPOConfig) -> tuple[Any, Any]:
    """The policy, and the LoRA configuration to wrap it with (None: nothing is left to do)."""
    if config.policy_adapter is None:
        policy, lora = load_causal(config), lora_config(config, "CAUSAL_LM")
        if lora is None:  # TRL loads the reference by this name and no revision: name the revision's folder
            policy.config._name_or_path = str(model_folder(config.model))
        return policy, lora
    if config.adapter == "none":
        raise UsageError(
            "adapter=none trains every weight, but the policy starts from an adapter.",
            "merge the adapter into the model first, or --set adapter=lora",
        )
    from peft import PeftModel

    adapter, revision = split_revision(config.policy_adapter)
    check_adapter(adapter, revision, "CAUSAL_LM", "name a folder that `train sft` wrote")
    base = load_causal(config)
    with loading_errors(config.policy_adapter):
        return PeftModel.from_pretrained(base, adapter, revision=revision, is_trainable=True), None


def rewards_of(config: PolicyGRPOConfig, model: RewardModel | RewardServer) -> tuple[list[Reward], list[float]]:
    """The reward model (weight 1), the form of the action, and further rewards; and the weight of each."""
    rewards: list[Reward] = [ModelReward(model)]
    weights = [1.0]
    if config.format_weight:
        rewards.append(valid_action)
        weights.append(config.format_weight)
    further, further_weights = named_rewards(config.rewards)
    return rewards + further, weights + further_weights


def end_tokens(tokenizer: Any, model: str) -> list[int]:
    """The ids at which the policy stops generating: its tokenizer's, and those of its generation config."""
    from transformers import GenerationConfig

    name, revision = split_revision(model)
    try:
        ends = GenerationConfig.from_pretrained(name, revision=revision).eos_token_id
    except OSError:  # without a generation config, only the tokenizer's end token ends a completion
        ends = None
    if ends is None:
        return [tokenizer.eos_token_id]
    return [tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]


def held_out_judge(config: PolicyGRPOConfig) -> Reward | None:
    """What judges held-out answers and is not trained on: a reward model, a server, or a reward of `file.py:Name`; None
    where none is named. Raises UsageError where it is the reward model, and what loading it raises."""
    name = config.held_out_judge
    if name is None:
        return None
    if name in (config.reward_model, *config.rewards):
        raise UsageError(
            f"The policy is trained on {name}, so it cannot be the held-out judge.",
            "name another reward model or judge with --held-out-judge",
        )
    if ".py:" in name:
        ((judge,), _) = named_rewards([name])
        return judge
    if is_server(name):
        return ModelReward(RewardServer(name))
    return ModelReward(RewardModel.load(name, device=config.device))


def held_out_rows(config: PolicyGRPOConfig, dialogues: Dialogues) -> Any:
    """At most `held_out_prompts` rows of the validation split, spread evenly over it; None where nothing is evaluated.

    Where there is no such row, evaluation is switched off in `config`, which is said.
    """
    if config.eval_strategy == "no":
        return None
    rows = dialogues.splits.get("validation")
    if rows is None or not len(rows):
        log.warning("No row is held out, so that rewards are not evaluated, and hacking them would not be seen.")
        config.eval_strategy, config.eval_on_start = "no", False
        return None
    places = range(0, len(rows), max(1, -(-len(rows) // config.held_out_prompts)))
    return rows.select(places)


def load_rewards(config: PolicyGRPOConfig, dialogues: Dialogues) -> RewardModel | RewardServer:
    """The reward model, or the server that has it. Raises InputError where the model cannot hold a prompt and its
    answer, Unavailable where no server answers, and what `RewardModel.load` raises."""
    if is_server(config.reward_model):
        return RewardServer(config.reward_model)
    model = RewardModel.load(config.reward_model, device=config.device)
    check_fits(model, dialogues, config, "reward model")
    return model


def check_fits(model: RewardModel, dialogues: Dialogues, config: PolicyGRPOConfig, what: str) -> None:
    """Raises InputError where the context of the model, `what` it is, cannot hold one of the longest prompts and an
    answer."""
    answer: list[Message] = [{"role": "assistant", "content": " word" * (config.max_completion_length or 0)}]
    if any(encoded is None for encoded in model.encoder.encode([(prompt, answer) for prompt in dialogues.longest])):
        raise InputError(
            f"The {what}'s context of {model.encoder.max_length} tokens cannot hold a prompt and its answer.",
            f"lower max_prompt_length or max_completion_length with --set, or use a {what} with a longer context",
        )


def build_grpo_trainer(
    config: PolicyGRPOConfig,
    dialogues: Dialogues,
    tokenizer: Any,
    model: RewardModel | RewardServer,
    callbacks: Sequence[Any] = (),
) -> PolicyTrainer:
    """TRL's GRPO trainer with our rewards. Raises UsageError where TRL refuses the batch sizes or other options."""
    policy, lora = load_policy(config)
    functions, weights = rewards_of(config, model)
    config.reward_weights = weights
    rows = held_out_rows(config, dialogues)
    judge = held_out_judge(config) if rows is not None else None
    if isinstance(judge, ModelReward) and isinstance(judge.model, RewardModel):
        check_fits(judge.model, dialogues, config, "held-out judge")
    tokenizer.padding_side = "left"
    check_one_gpu(config)
    with settings_errors():
        trainer = PolicyTrainer(
            model=policy,
            reward_funcs=functions,
            args=config,
            train_dataset=dialogues.splits["train"],
            eval_dataset=rows,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=list(callbacks),
        )
    trainer.ends = frozenset(end_tokens(tokenizer, config.model))
    trainer.judge = judge
    return trainer


def forget_reference(policy: Any) -> None:
    """Drop TRL's copy of the starting adapter, so that only `default` is saved, where stock loaders look for it."""
    if "ref" in getattr(policy, "peft_config", {}):
        policy.delete_adapter("ref")
