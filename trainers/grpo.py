"""Single-turn GRPO: TRL's GRPOTrainer over the dataset's prompts, rewarded by a reward model of one's own.

The policy starts from an SFT adapter, loaded under PEFT's own name `default`, and the KL reference is that same SFT
policy, not the base. The reward model is loaded apart, pinned, with its own tokenizer. Generation is TRL's: in
process, or vLLM as a server or colocated, by TRL's own options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl import GRPOTrainer

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers.config import PolicyGRPOConfig
from sotopia_rl_data.trainers.modeling import check_adapter, check_one_gpu, lies_in, settings_told, split_revision, told
from sotopia_rl_data.trainers.policies import Dialogues, load_causal
from sotopia_rl_data.trainers.reward_model import RewardModel
from sotopia_rl_data.trainers.rewarding import ModelReward, Reward, named_rewards, valid_action


def load_policy(config: PolicyGRPOConfig) -> tuple[Any, Any]:
    """The policy, and the LoRA configuration that it still has to be wrapped with (None: it is as it should be)."""
    if config.policy_adapter is None:
        return _policy_of_its_own(config)
    if config.adapter == "none":
        raise UsageError(
            "Every weight is to be trained, but the policy starts from an adapter.",
            "merge the adapter into the model first, or --set adapter=lora",
        )
    from peft import PeftModel

    adapter, revision = split_revision(config.policy_adapter)
    check_adapter(adapter, revision, "CAUSAL_LM", "name what `train sft` left")
    base = load_causal(config)
    with told(config.policy_adapter):
        return PeftModel.from_pretrained(base, adapter, revision=revision, is_trainable=True), None


def _policy_of_its_own(config: PolicyGRPOConfig) -> tuple[Any, Any]:
    """A policy that starts from no adapter. TRL loads the reference by the name that the policy has, and without its
    revision: the name is that of the folder in which this revision lies."""
    policy, lora = load_causal(config), config.lora().config("CAUSAL_LM", config.model)
    if lora is None:
        policy.config._name_or_path = str(lies_in(config.model))
    return policy, lora


def rewards_of(config: PolicyGRPOConfig, tokenizer: Any, model: RewardModel) -> tuple[list[Reward], list[float]]:
    """The reward model (weight 1), the form of the action, and further rewards, with their weights."""
    rewards, weights = named_rewards(config.rewards)
    main = ModelReward(model, end_tokens(tokenizer, config.model), config.truncated_reward)
    form = [(valid_action, config.format_weight)] if config.format_weight else []
    return [main, *(f for f, _ in form), *rewards], [1.0, *(w for _, w in form), *weights]


def end_tokens(tokenizer: Any, model: str) -> list[int]:
    """The ids at which the policy's generation ends: its tokenizer's, and those of its generation config."""
    from transformers import GenerationConfig

    name, revision = split_revision(model)
    try:
        known = GenerationConfig.from_pretrained(name, revision=revision).eos_token_id
    except OSError:  # a model without a generation config ends at its tokenizer's token alone
        known = None
    return [tokenizer.eos_token_id, *(known if isinstance(known, list) else [known] if known is not None else [])]


def check_fits(model: RewardModel, found: Dialogues, completion_tokens: int) -> None:
    """Raises InputError where the reward model's context cannot hold the longest prompt and an answer."""
    longest = sorted(found.splits["train"]["prompt"], key=lambda p: sum(len(m["content"]) for m in p))[-4:]
    answer = [{"role": "assistant", "content": " word" * completion_tokens}]
    if any(fitted is None for fitted in model.encoder.encode([(prompt, answer) for prompt in longest])):
        raise InputError(
            f"The reward model's context of {model.encoder.max_length} tokens cannot hold a prompt and its answer.",
            "lower max_prompt_length or max_completion_length with --set, or use one with a longer context",
        )


def build_trainer(
    config: PolicyGRPOConfig, found: Dialogues, tokenizer: Any, model: RewardModel, callbacks: Sequence[Any] = ()
) -> GRPOTrainer:
    """TRL's trainer with our rewards. Raises UsageError where TRL finds the batch sizes or options at odds."""
    policy, lora = load_policy(config)
    functions, weights = rewards_of(config, tokenizer, model)
    config.reward_weights = weights
    tokenizer.padding_side = "left"
    check_one_gpu(config)
    with settings_told():
        return GRPOTrainer(
            model=policy,
            reward_funcs=functions,
            args=config,
            train_dataset=found.splits["train"],
            eval_dataset=found.splits.get("validation") if config.eval_strategy != "no" else None,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=list(callbacks),
        )


def forget_reference(policy: Any) -> None:
    """Drop TRL's copy of the starting adapter, so that only `default` is saved, where stock loaders look for it."""
    if "ref" in getattr(policy, "peft_config", {}):
        policy.delete_adapter("ref")
