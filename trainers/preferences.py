"""Policies that learn from preferences, by TRL's DPO: the chosen completion of a prompt is to become likelier than the
rejected one, measured against the policy as it was.

Training, losses and reference are TRL's. Added are rows that are tokenised already, and an evaluation that is exact
over the held-out pairs (TRL averages batches, and so does what is told of losses other than the usual one). It has two
baselines: the reference, which makes no difference between the two, and of which it is told how often the chosen one is
the likelier; and length, since to prefer what is longer, or shorter, is the first thing that such a policy learns. A
pair is told apart where the implicit reward, β times the gain of the log-likelihood over the reference, is higher for
the chosen completion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from trl import DPOTrainer
from trl.trainer.utils import selective_log_softmax, use_adapter

from sotopia_rl_data import statistics as stats
from sotopia_rl_data.trainers.config import PolicyDPOConfig, one_of
from sotopia_rl_data.trainers.encoding import Dialogues
from sotopia_rl_data.trainers.modeling import check_one_gpu, settings_errors
from sotopia_rl_data.trainers.policies import load_policy
from sotopia_rl_data.trainers.tokenised import lengths_of

MEASURED = ("loss", "accuracy", "margin")
WITH_INTERVAL = ("accuracy", "margin")


class PreferenceTrainer(DPOTrainer):  # type: ignore[misc]  # mypy skips trl
    """TRL's trainer over pairs that are tokenised already, with its own evaluation."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The dataset as it is: TRL would tokenise it again, in one process."""
        return dataset

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Tensor, Tensor]:
        """Of each pair, chosen before rejected: the loss of its batch (0 where it is the usual one, which a pair has by
        itself) and the policy's log-likelihoods [pairs, 3]; the reference's and the lengths [pairs, 4]."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = torch.zeros(1) if is_usual(self.args) else self.compute_loss(model, inputs)
            policy, reference = log_likelihoods(model, inputs), self._reference(inputs)
        self._metrics["eval"].clear()  # means over batches, of what is measured over pairs
        lengths = inputs["completion_mask"].sum(dim=1).view(2, -1)
        of_batch = loss.to(policy).expand(1, policy.shape[1])
        return (
            None,
            torch.cat([of_batch, policy]).T.contiguous(),
            torch.cat([reference.float(), lengths]).T.contiguous(),
        )

    def _reference(self, inputs: dict[str, Any]) -> Tensor:
        """[2, pairs] log-likelihoods under the policy as it was, computed just as those under the policy."""
        if "ref_chosen_logps" in inputs:
            return torch.stack([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        if self.ref_model is not None:
            return log_likelihoods(self.ref_model, inputs)
        policy = self.accelerator.unwrap_model(self.model)
        with use_adapter(policy, "ref" if "ref" in policy.peft_config else None):
            return log_likelihoods(self.model, inputs)


def is_usual(config: Any) -> bool:
    """Whether the loss of a pair is the sigmoid one of the paper, -log σ(margin) (Rafailov et al. 2023, Eq. 7)."""
    is_changed = config.ld_alpha is not None or config.use_weighting or config.label_smoothing
    return config.loss_type == ["sigmoid"] and config.f_divergence_type == "reverse_kl" and not is_changed


def log_likelihoods(model: Any, inputs: dict[str, Any]) -> Tensor:
    """[2, pairs] log-likelihood of each chosen and each rejected completion, given its prompt."""
    ids, mask = inputs["input_ids"], inputs["completion_mask"]
    kept = ids.shape[1] - max(1, int(mask.argmax(dim=1).min()))  # from where the first completion begins
    logits = model(
        input_ids=ids, attention_mask=inputs["attention_mask"], logits_to_keep=kept + 1, use_cache=False
    ).logits[:, :-1]
    tokens = selective_log_softmax(logits[:, -kept:].float(), ids[:, -kept:])
    return (tokens * mask[:, -kept:]).sum(dim=1).view(2, -1)


class PreferenceMetrics:
    """What Trainer calls `compute_metrics`: over the held-out pairs, the loss, the accuracy and the margin (chosen less
    rejected implicit reward), with 95 % intervals that resample pairs, and the baselines of the module."""

    def __init__(self, config: PolicyDPOConfig, prefers_longer: bool) -> None:
        self.beta, self.resamples, self.seed = config.beta, config.resamples, config.seed
        self.is_usual = is_usual(config)
        self.prefers_longer = prefers_longer

    def __call__(self, prediction: Any) -> dict[str, float]:
        """From transformers' EvalPrediction: what `prediction_step` returned, over all pairs."""
        loss, *policy = np.asarray(prediction.predictions, dtype=np.float64).T
        reference_chosen, reference_rejected, *lengths = np.asarray(prediction.label_ids, dtype=np.float64).T
        chosen, rejected = self.beta * (policy[0] - reference_chosen), self.beta * (policy[1] - reference_rejected)
        longer = lengths[0] - lengths[1] if self.prefers_longer else lengths[1] - lengths[0]
        of_pairs = {"accuracy": (chosen > rejected).astype(np.float64), "margin": chosen - rejected}
        if self.is_usual:
            loss = np.logaddexp(0.0, -of_pairs["margin"])
        measured = {"loss": float(loss.mean())}
        for name in WITH_INTERVAL:
            measured[name] = float(of_pairs[name].mean())
            interval = self._interval(of_pairs[name]) if self.resamples else None
            if interval is not None:
                measured[f"{name}_low"], measured[f"{name}_high"] = interval
        measured |= {"chosen_reward": float(chosen.mean()), "rejected_reward": float(rejected.mean())}
        if self.is_usual:
            measured["reference_loss"] = math.log(2)
        measured["reference_accuracy"] = float((reference_chosen > reference_rejected).mean())
        measured["length_accuracy"] = float((longer > 0).mean())
        return measured

    def _interval(self, values: NDArray[np.float64]) -> tuple[float, float] | None:
        return stats.bootstrap_interval(
            lambda weights: float(np.average(values, weights=weights)),
            range(len(values)),
            resamples=self.resamples,
            seed=self.seed,
        )


def build_dpo_trainer(
    config: PolicyDPOConfig, pairs: Dialogues, tokenizer: Any, callbacks: Sequence[Any] = ()
) -> PreferenceTrainer:
    """TRL's DPO trainer over the train and validation pairs. Raises NotFound, UsageError."""
    if config.load_best_model_at_end:
        one_of("metric_for_best_model", str(config.metric_for_best_model).removeprefix("eval_"), MEASURED)
    policy, lora = load_policy(config)
    check_one_gpu(config)
    train = pairs.splits["train"]
    with settings_errors():
        trainer = PreferenceTrainer(
            model=policy,
            args=config,
            train_dataset=train,
            eval_dataset=pairs.splits.get("validation"),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=list(callbacks),
        )
    trainer.compute_metrics = PreferenceMetrics(config, prefers_longer(train))
    return trainer


def prefers_longer(pairs: Any) -> bool:
    """Whether the chosen completion is more often the longer one of a pair than the shorter one."""
    return bool(np.sign(lengths_of(pairs, "chosen_ids") - lengths_of(pairs, "rejected_ids")).sum() >= 0)
