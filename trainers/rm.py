"""The regression reward model: score an utterance given what its speaker saw (paper, Eq. 5).

transformers' Trainer with a stock `...ForSequenceClassification`, and three things that it does not do by itself: a
loss normalised over the utterances of the whole optimiser step (the same step whatever the accumulation, the number of
processes and the packing), rows that hold a whole episode-agent, and metrics over utterances rather than rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, EarlyStoppingCallback, Trainer, set_seed

from sotopia_rl_data.trainers import attention
from sotopia_rl_data.trainers.config import RMConfig, one_of
from sotopia_rl_data.trainers.data import Example, target_table
from sotopia_rl_data.trainers.head import KEY, save
from sotopia_rl_data.trainers.metrics import Baselines, reward_metrics, statistics_of
from sotopia_rl_data.trainers.modeling import (
    check_one_gpu,
    is_sharded,
    quantization,
    quiet,
    resolve_dtype,
    settings_told,
    split_revision,
    told,
)
from sotopia_rl_data.trainers.packing import choose_packing, rounding, self_check, training_rows
from sotopia_rl_data.trainers.prepare import Prepared
from sotopia_rl_data.trainers.rows import BOOKKEEPING, PlainBatch, Rows, tree_batch

log = logging.getLogger(__name__)


def load_model(config: RMConfig, prepared: Prepared) -> nn.Module:
    """The model to train: a stock sequence classifier that carries its head's units, in PEFT where asked for."""
    name, revision = split_revision(config.model)
    tokenizer = prepared.encoder.tokenizer
    set_seed(config.seed)  # the head, and LoRA, start at random
    with told(config.model), quiet():
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            num_labels=len(prepared.head.targets),
            dtype=resolve_dtype(config.dtype, config.adapter),
            quantization_config=quantization(config.adapter),
        )
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.config.problem_type = "regression"
    model.config.id2label = dict(enumerate(prepared.head.targets))
    model.config.label2id = {t: i for i, t in enumerate(prepared.head.targets)}
    setattr(model.config, KEY, prepared.head.to_config())
    attention.attend_as(model, config.attention)
    lora = config.lora().config("SEQ_CLS", config.model)
    if lora is None:
        return model
    from peft import get_peft_model, prepare_model_for_kbit_training

    if config.adapter == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=bool(config.gradient_checkpointing))
    with settings_told():
        return get_peft_model(model, lora)


class RewardTrainer(Trainer):
    """Trainer over utterances. The loss is the weighted squared error, summed over the step's utterances and divided by
    their number, on whatever processes and in whatever rows they stand."""

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, judge: RewardJudge, **kwargs: Any) -> None:
        super().__init__(*args, compute_metrics=judge, **kwargs)
        self.judge = judge
        self.all_rows: dict[str, Rows] = {}
        self.packing: dict[str, Any] = {}

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of one optimiser step and how many utterances they hold, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(len(b["labels"]) for b in batches), device=device)
        return batches, self.accelerator.reduce(count, reduction="sum") if self.args.world_size > 1 else count

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Squared error of a batch as its share of the step's mean (processes' gradients are averaged later)."""
        logits = model(**{k: v for k, v in inputs.items() if k not in BOOKKEEPING}).logits.float()
        errors = (inputs["weights"] * (logits - inputs["labels"]) ** 2).sum()
        count = len(logits) if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = errors / count
        return (loss, {"logits": logits}) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Tensor, Tensor]:
        """Logits [rows, most in a row, K] and the utterance that each belongs to [rows, most in a row] (-100: none).

        A row's utterances stay together, so that gathering over processes and dropping the last batch's repeated rows
        work as for any dataset.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            _, outputs = self.compute_loss(model, inputs, return_outputs=True)
        logits, item = outputs["logits"], inputs["item"]
        place = torch.arange(len(item), device=item.device) - torch.searchsorted(item, item)
        shape = (int(item[-1]) + 1, int(place.max()) + 1)
        index = torch.full(shape, -100, device=item.device)
        index[item, place] = inputs["index"]
        table = torch.zeros(*shape, logits.shape[-1], device=item.device)
        table[item, place] = logits
        return None, table, index

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As the Trainer saves, and the head's units beside an adapter, which has no `config.json`."""
        super()._save(output_dir, state_dict)
        if hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):
            save(self.judge.head, output_dir or self.args.output_dir)


class RewardJudge:
    """Metrics of predictions, by the utterances' numbers: what Trainer calls `compute_metrics`."""

    def __init__(self, prepared: Prepared, resamples: int, seed: int) -> None:
        self.head = prepared.head
        self.examples = prepared.examples
        self.resamples = resamples
        self.seed = seed
        train = [r for r in prepared.examples if r.split == "train"]
        truth = self.head.known(target_table(train))
        whole = np.isfinite(truth)
        self.baselines = Baselines(truth[whole], [r.turn for r, known in zip(train, whole, strict=True) if known])
        many = len(self.head.targets) > 1
        self.by_target = [self._baselines_of(k, train) for k in range(len(self.head.targets))] if many else []

    def _baselines_of(self, k: int, train: Sequence[Example]) -> Baselines:
        known = [r for r in train if r.targets[k] is not None]
        return Baselines([r.targets[k] for r in known], [r.turn for r in known])

    def __call__(self, found: Any) -> dict[str, float]:
        """Metrics from (predictions [rows, m, K], label_ids [rows, m])."""
        index = np.asarray(found.label_ids).reshape(-1)
        logits = np.asarray(found.predictions).reshape(len(index), -1)
        numbers, first = np.unique(index, return_index=True)  # a row may have been repeated to fill the last batch
        there = numbers >= 0
        return self.metrics(numbers[there], logits[first[there]])

    def metrics(self, index: NDArray[np.int64], logits: NDArray[np.floating[Any]]) -> dict[str, float]:
        """Metrics of [N, K] logits for these utterances, where the reward is known; several heads also each by name."""
        rows = [self.examples[i] for i in index]
        rewards = self.head.rewards(logits)
        episodes = [r.episode_id or i for i, r in enumerate(rows)]
        truth = self.head.known(target_table(rows))
        whole = np.flatnonzero(np.isfinite(truth))
        result = reward_metrics(
            self.head.aggregate(rewards)[whole],
            truth[whole],
            [episodes[i] for i in whole],
            self.baselines.of([rows[i].turn for i in whole]),
            resamples=self.resamples,
            seed=self.seed,
        )
        for k, baselines_of_one in enumerate(self.by_target):
            result |= self._of_target(k, baselines_of_one, rows, rewards[:, k], episodes)
        return result

    def _of_target(
        self, k: int, known: Baselines, rows: Sequence[Example], rewards: NDArray[np.floating[Any]], episodes: list[Any]
    ) -> dict[str, float]:
        """One head's metrics, `<target>_mse` beside `mean_<target>_mse` and `turn_<target>_mse`."""
        there = [i for i, r in enumerate(rows) if r.targets[k] is not None]
        truth, names = [rows[i].targets[k] for i in there], [episodes[i] for i in there]
        beside = known.of([rows[i].turn for i in there])
        target = self.head.targets[k]
        alone = reward_metrics(rewards[there], truth, names, {}, resamples=0)
        found = {f"{target}_{name}": value for name, value in alone.items()}
        for baseline, guess in beside.items():
            alone = reward_metrics(guess, truth, names, {}, resamples=0)
            found |= {f"{baseline}_{target}_{name}": value for name, value in alone.items()}
        return found


def check_metric(config: RMConfig, targets: Sequence[str]) -> None:
    """Raises UsageError where the best checkpoint is to be chosen by something that is not measured."""
    measured = list(statistics_of([]))
    by_target = [f"{target}_{name}" for target in targets for name in measured] if len(targets) > 1 else []
    if config.load_best_model_at_end:
        wanted = str(config.metric_for_best_model).removeprefix("eval_")
        one_of("metric_for_best_model", wanted, [*measured, *by_target])


def build_trainer(
    config: RMConfig, prepared: Prepared, model: nn.Module, callbacks: Sequence[Any] = ()
) -> RewardTrainer:
    """A trainer over the prepared rows; packing is chosen, checked against plain rows, given up where it differs."""
    check_one_gpu(config)
    check_metric(config, prepared.head.targets)
    packed, ratio = choose_packing(prepared, config, model)
    pad = prepared.encoder.tokenizer.pad_token_id
    rows = training_rows(prepared, config, packed)
    if packed and config.self_check and not is_sharded(config):
        model.to(config.device)
        gap = self_check(model, rows["train"], pad)
        if not gap <= rounding(model):
            log.warning(
                "Packed and plain scores differ (%.2g of their range): going on with one row an utterance.", gap
            )
            packed, rows = False, training_rows(prepared, config, False)
    stop = [EarlyStoppingCallback(config.patience)] if config.patience and config.eval_strategy != "no" else []
    with settings_told():
        trainer = RewardTrainer(
            model=model,
            args=config,
            data_collator=tree_batch if packed else PlainBatch(pad, config.padding_side),
            train_dataset=rows["train"],
            eval_dataset=rows.get("validation"),
            processing_class=prepared.encoder.tokenizer,
            callbacks=[*stop, *callbacks],
            judge=RewardJudge(prepared, config.resamples, config.seed),
        )
    trainer.all_rows = rows
    trainer.packing = {"rows": "tree" if packed else "none", "ratio": round(ratio, 3)}
    return trainer
