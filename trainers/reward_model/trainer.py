"""The regression reward model: score an utterance given what its speaker saw (paper, Eq. 5).

It is transformers' Trainer with a stock `...ForSequenceClassification`, and three things that this lacks: a loss
normalised over the utterances of the whole optimiser step (the same step whatever the accumulation, the number of
processes and the packing), rows that hold all utterances of an agent in an episode, and metrics over utterances rather
than rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, Trainer, set_seed

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.trainers.config import RMConfig, one_of
from sotopia_rl_data.trainers.filling import FilledRows, filled, one_row
from sotopia_rl_data.trainers.modeling import (
    check_one_gpu,
    check_patterns,
    is_sharded,
    loading_errors,
    lora_config,
    quantization,
    resolve_dtype,
    settings_errors,
    split_revision,
    without_reports,
)
from sotopia_rl_data.trainers.reward_model import attention
from sotopia_rl_data.trainers.reward_model.head import KEY, save
from sotopia_rl_data.trainers.reward_model.metrics import RewardMetrics, statistics_of
from sotopia_rl_data.trainers.reward_model.precision import with_float32_head
from sotopia_rl_data.trainers.reward_model.rows import (
    BOOKKEEPING,
    PackedRows,
    PlainBatch,
    PlainRows,
    Prepared,
    Row,
    tree_batch,
)
from sotopia_rl_data.trainers.reward_model.tree import pack

log = logging.getLogger(__name__)

PROBED = 16  # utterances from which the head's start is computed
WORTH_PACKING = 1.2  # `packing=auto` packs if the plain rows have at least this many times the tokens


def load_model(config: RMConfig, prepared: Prepared) -> nn.Module:
    """The model to train: a stock sequence classifier with its head's units in the configuration, with an adapter where
    the run trains one."""
    name, revision = split_revision(config.model)
    tokenizer = prepared.encoder.tokenizer
    set_seed(config.seed)  # the head and LoRA start from random weights
    with loading_errors(config.model), without_reports():
        check_patterns(name, revision)
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            num_labels=len(prepared.head.targets),
            dtype=resolve_dtype(config.dtype, config.adapter),
            quantization_config=quantization(config.adapter),
            trust_remote_code=False,
        )
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.config.problem_type = "regression"
    model.config.id2label = dict(enumerate(prepared.head.targets))
    model.config.label2id = {t: i for i, t in enumerate(prepared.head.targets)}
    setattr(model.config, KEY, prepared.head.to_config())
    attention.attend_as(with_float32_head(model), config.attention)
    trains_later = config.adapter != "qlora" or config.device.type != "cpu"  # bitsandbytes, once evaluated on a CPU
    if trains_later and not is_sharded(config):
        start_at_mean(model.to(config.device), prepared)
    lora = lora_config(config, "SEQ_CLS")
    if lora is None:
        return model
    from peft import get_peft_model, prepare_model_for_kbit_training

    if config.adapter == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=bool(config.gradient_checkpointing))
    with settings_errors():
        return get_peft_model(model, lora)


def start_at_mean(model: nn.Module, prepared: Prepared) -> None:
    """Let the head, which has no bias, begin with scores around the mean of the labels.

    The hidden states that it reads have much in common. W += m μ / |μ|², where μ is their mean over some train
    utterances and m that of the labels, adds m to the mean score.
    """
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        return
    train = prepared.utterances["train"]
    some = [train[at] for at in range(0, len(train), -(-len(train) // PROBED))]
    labels = np.stack([one.labels for one in some], dtype=np.float64)
    known = np.stack([one.weights > 0 for one in some])
    mean = (labels * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, states: seen.append(states[0].reshape(-1, head.in_features)[-1]))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for one in some:
            model(input_ids=torch.from_numpy(one.ids.astype(np.int64))[None].to(head.weight.device))
        hook.remove()
        common = torch.stack(seen).double().mean(dim=0)
        head.weight += (torch.from_numpy(mean).to(common)[:, None] * common / (common @ common)).to(head.weight.dtype)
    model.train(was_training)


class RewardTrainer(Trainer):  # type: ignore[misc]  # mypy skips transformers
    """Trainer over utterances. The loss is the weighted squared error, summed over the step's utterances and divided by
    their number, whatever processes and rows they are spread over."""

    loss_is_scaled_for_ga = True

    all_rows: Mapping[str, Sequence[Row]]  # keys: the splits
    packing: Mapping[str, Any]  # "rows": "tree" or "none"; "ratio": tokens of plain rows over those of packed ones

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
        """Logits [rows, M, K] and each one's utterance [rows, M] (-100: none), where M is the most utterances in a row.

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
            save(self.compute_metrics.head, output_dir or self.args.output_dir)


def check_metric(config: RMConfig, targets: Sequence[str]) -> None:
    """Raises UsageError where the best checkpoint is to be chosen by something that is not measured."""
    measured = list(statistics_of([]))
    by_target = [f"{target}_{name}" for target in targets for name in measured] if len(targets) > 1 else []
    if config.load_best_model_at_end:
        wanted = str(config.metric_for_best_model).removeprefix("eval_")
        one_of("metric_for_best_model", wanted, [*measured, *by_target])


def training_rows(prepared: Prepared, packed: bool) -> dict[str, Sequence[Row]]:
    """Each split's rows, packed or plain."""
    of = PackedRows if packed else PlainRows
    return {split: of(utterances) for split, utterances in prepared.utterances.items()}


def choose_packing(prepared: Prepared, config: RMConfig, model: nn.Module) -> bool:
    """Whether to pack. `auto` packs if that is worth it and possible."""
    if config.packing == "none":
        return False
    able = attention.can_read_many(model.get_base_model() if hasattr(model, "get_base_model") else model)
    if config.packing == "tree" and not able:
        raise UsageError(
            f"packing=tree needs a model that scores several tokens of a row; {type(model).__name__} does not.",
            "--set packing=none",
        )
    return able and (config.packing == "tree" or prepared.sharing >= WORTH_PACKING)


def self_check(model: nn.Module, rows: Sequence[Row], pad: int) -> tuple[float, float]:
    """Largest difference between packed and plain scores, as a share of the scores' range, and how large it may be.

    It is relative because the scores of an untrained head are close together: rounding is a tiny share of their range,
    while a token that attends to what it should not makes a large one. What shows in long rows only, as sliding windows
    do, is seen because the longest row is compared, and the one that branches most.
    """
    telling = telling_rows(rows)
    utterances = [one for row in telling for one in row]
    device = next(model.parameters()).device

    def scores(batch: Mapping[str, Any]) -> NDArray[np.float32]:
        inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items() if k not in BOOKKEEPING}
        logits: NDArray[np.float32] = model(**inputs).logits.float().cpu().numpy()
        return logits

    was_training = model.training
    model.eval()
    with torch.no_grad():
        packed = np.concatenate([scores(tree_batch([row])) for row in telling])
        plain = np.concatenate([scores(PlainBatch(pad)([[one]])) for one in utterances])
        padded = scores(PlainBatch(pad)([[one] for one in utterances[:4]]))
    model.train(was_training)
    return attention.relative_gap(packed, plain), attention.allowed_gap(model, plain, padded)


def telling_rows(rows: Sequence[Row], most: int = 512) -> list[Row]:
    """The row with the longest utterance and the one whose tree has most segments, of at most `most` rows that are
    spread evenly over all."""
    looked_at = [rows[at] for at in np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
    longest = max(looked_at, key=lambda row: max(len(one.ids) for one in row))
    fullest = sorted(looked_at, key=len)[-16:]
    branching = max(fullest, key=lambda row: len(pack([one.ids for one in row]).segments))
    return [longest] if branching is longest else [longest, branching]


def build_trainer(
    config: RMConfig, prepared: Prepared, model: nn.Module, callbacks: Sequence[Any] = ()
) -> RewardTrainer:
    """A trainer over the prepared rows. Packing is chosen, compared with plain rows, and dropped where scores
    differ."""
    check_one_gpu(config)
    check_metric(config, prepared.head.targets)
    packed = choose_packing(prepared, config, model)
    pad = prepared.encoder.tokenizer.pad_token_id
    rows = training_rows(prepared, packed)
    if packed and config.self_check and not is_sharded(config):
        model.to(config.device)
        gap, allowed = self_check(model, rows["train"], pad)
        if not gap <= allowed:
            log.warning(
                "Packed and plain scores differ (%.2g of their range): going on with one row for each utterance.", gap
            )
            packed, rows = False, training_rows(prepared, False)
    train = rows["train"]
    if config.tokens_per_device_batch:
        stored = prepared.utterances["train"].stored
        sizes = stored.row_sizes() if packed else stored.lengths()
        batches = filled(sizes, config.tokens_per_device_batch, is_padded=not packed, seed=config.seed)
        train = FilledRows(train, batches, one_row)
    with settings_errors():
        trainer = RewardTrainer(
            model=model,
            args=config,
            data_collator=tree_batch if packed else PlainBatch(pad, config.padding_side),
            train_dataset=train,
            eval_dataset=rows.get("validation"),
            processing_class=prepared.encoder.tokenizer,
            callbacks=list(callbacks),
            compute_metrics=RewardMetrics(prepared, config.resamples, config.seed),
        )
    trainer.all_rows = rows
    ratio = 1.0 if config.packing == "none" else round(prepared.sharing, 3)
    trainer.packing = {"rows": "tree" if packed else "none", "ratio": ratio}
    return trainer
