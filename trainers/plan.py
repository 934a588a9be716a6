"""`train … --plan`: what a run would take with its settings and its dataset, and what to lower where it does not fit.

A sample of the train rows is tokenised. It gives the mean tokens of a row, for tokens a step, and the largest batch,
for the activations (`memory.py`). Where the run does not fit, the settings in `LOWERED` are tried one after another,
each on top of the last, until it does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sotopia_rl_data.schema import Message
from sotopia_rl_data.trainers.config import TrainerConfig
from sotopia_rl_data.trainers.data import DatasetRow, DatasetRows, check_splits, load_rows
from sotopia_rl_data.trainers.encoding import Encoder, none_fits, tokenizer_of
from sotopia_rl_data.trainers.filling import filled
from sotopia_rl_data.trainers.memory import USABLE, ActivationCounts, Gpus, meta_model, static_of
from sotopia_rl_data.trainers.modeling import bound_to_context, split_revision
from sotopia_rl_data.trainers.pairs import paired
from sotopia_rl_data.trainers.reward_server import is_server

BLOCKS, BLOCK = 8, 64  # the sample: rows that lie together, since they share prefixes, from places all over the split


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of a run as they would be batched: `largest` is the batch with most tokens, as the model's inputs; `tokens`
    the mean of a row; `rows` how many the train split would have; `packed` whether they are trees; `batch_rows` how
    many a batch has on one device, or the mean of that."""

    largest: Mapping[str, Any]
    tokens: float
    rows: int
    packed: bool
    batch_rows: float = 1.0


def plan_of(config: TrainerConfig, gpus: str) -> dict[str, Any]:
    """What the run takes on each of `gpus`: see `docs/training.md`. Nothing is written or trained. Raises NotFound,
    UsageError, InputError as the training would."""
    devices = Gpus.parse(gpus)
    bound_to_context(config)
    targets = getattr(config, "targets", [])
    data = load_rows(
        config.dataset,
        store=config.store,
        targets=targets,
        where=config.where,
        split_by=config.split_by,
        sentinels=config.sentinels,
        need_reward=config.kind in ("rm", "dpo"),
    )
    evaluating = config.eval_strategy != "no"
    if config.kind == "dpo":
        data = paired(data, evaluating)
    check_splits(data, data.sizes, evaluating)
    encoder = Encoder(tokenizer_of(config), _most_tokens(config))
    rows = sample_of(data)
    counts = ActivationCounts()

    def reported(changed: TrainerConfig) -> dict[str, Any]:
        return report_of(changed, _batched(changed, rows, data.counts()["train"], encoder), counts, devices)

    report = reported(config)
    lowered = copy.copy(config)
    tried: list[str] = []
    last = report
    for change in LOWERED:
        if last["fits"]:
            break
        settings = change(lowered)
        for name, value in settings.items():
            setattr(lowered, name, value)
            tried.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
        if settings:
            last = reported(lowered)
    return report | {"lower": tried if last["fits"] else [], "fits_then": last["fits"]}


def _most_tokens(config: TrainerConfig) -> int | None:
    return config.max_prompt_length if config.kind == "grpo" else config.max_length


def sample_of(data: DatasetRows) -> list[DatasetRow]:
    """Train rows from places all over the split, in key order."""
    size = data.counts()["train"]
    if size <= BLOCKS * BLOCK:
        return list(data.read("train"))
    starts = [at * (size - BLOCK) // (BLOCKS - 1) for at in range(BLOCKS)]
    return [row for start in starts for row in data.read("train", start, start + BLOCK)]


# --- what a run does with the sample ----------------------------------------------------------------------------------


def _batched(
    config: TrainerConfig, rows: Sequence[DatasetRow], count: int, encoder: Encoder
) -> tuple[nn.Module, Sample]:
    model = meta_model(config, max(1, len(getattr(config, "targets", []))))
    return model, batched_as_trained(config, rows, count, encoder, model)


def report_of(
    config: TrainerConfig, trained: tuple[nn.Module, Sample], counts: ActivationCounts, gpus: Gpus
) -> dict[str, Any]:
    """What a run takes on each of `gpus`; `trained` is its model without memory and its rows."""
    model, batched = trained
    static = static_of(model, config)
    activations = counts.of(model, config, batched.largest)
    taken = {
        "weights": static.weights,
        "gradients": static.gradients,
        "gradient_buckets": static.gradients if gpus.count > 1 else 0,
        "optimizer": static.optimizer,
        "activations": activations.saved,
        "recomputed": activations.recomputed,
        **(_generation(config, model, batched.largest, gpus) if config.kind == "grpo" else {}),
        **({"reference": _reference(config, model, static.gradients)} if config.kind in ("grpo", "dpo") else {}),
    }
    total = sum(taken.values())
    return {
        "kind": config.kind,
        "model": config.model,
        "dataset": config.dataset,
        "parameters": static.parameters,
        "trainable": static.trainable,
        "bytes": taken | {"total": total},
        "batch_tokens": int(batched.largest["input_ids"].numel()),
        "packed": batched.packed,
        **_steps(config, batched, gpus),
        "gpus": asdict(gpus),
        "usable": int(USABLE * gpus.bytes_each),
        "fits": total <= USABLE * gpus.bytes_each,
        "not_counted": ["what kernels need in passing", "gaps of the allocator", "CUDA's own context"],
    }


def batched_as_trained(
    config: TrainerConfig, rows: Sequence[DatasetRow], count: int, encoder: Encoder, model: nn.Module
) -> Sample:
    """The sample as the run would batch it; `count` is how many rows the whole train split has."""
    if config.kind == "rm":
        return _reward_rows(config, rows, count, encoder, model)
    answers = config.kind != "grpo"
    empty: list[Message] = [{"role": "assistant", "content": ""}]
    encoded = encoder.encode([(row.prompt, row.completion if answers else empty) for row in rows])
    lengths = [len(one.ids) + (0 if answers else int(config.max_completion_length or 0)) for one in encoded if one]
    if not lengths:
        raise none_fits(encoder.max_length)
    each = 2 if config.kind == "dpo" else 1  # a pair is read as two rows
    found = round(count / each * len(lengths) / len(rows))
    return _padded(config, lengths, found, each)


def _padded(config: Any, lengths: Sequence[int], count: int, each: int = 1) -> Sample:
    """Of `count` rows of such lengths, padded, `each` of them read as so many."""
    most = getattr(config, "tokens_per_device_batch", None)
    size, longest = float(config.per_device_train_batch_size), max(lengths)
    largest = torch.zeros(each * int(size), longest, dtype=torch.long)
    if most:
        batches = filled(np.array(lengths), most, is_padded=True, seed=config.seed)
        size = len(lengths) / len(batches)
        full = max(1, most // longest)
        largest = torch.zeros(full, most // full, dtype=torch.long)
    return Sample({"input_ids": largest}, each * float(np.mean(lengths)), count, False, size)


def _reward_rows(config: Any, rows: Sequence[DatasetRow], count: int, encoder: Encoder, model: Any) -> Sample:
    from sotopia_rl_data.trainers.reward_model import attention
    from sotopia_rl_data.trainers.reward_model.rows import LabelledUtterance, one_each_group
    from sotopia_rl_data.trainers.reward_model.trainer import WORTH_PACKING
    from sotopia_rl_data.trainers.reward_model.tree import pack, packed_size

    none = np.zeros(0, dtype=np.float32)
    fitted = [
        (row, one.ids)
        for row, one in zip(rows, encoder.encode([(r.prompt, r.completion) for r in rows]), strict=True)
        if one
    ]
    if not fitted:
        raise none_fits(encoder.max_length)
    utterances = [
        LabelledUtterance(i, (row.episode_id, row.agent) if row.episode_id else ("", "", str(i)), ids, none, none)
        for i, (row, ids) in enumerate(fitted)
    ]
    trees = [[one.ids for one in row] for row in one_each_group(utterances, config.row_tokens)]
    sizes = [packed_size(ids) for ids in trees]
    apart = sum(len(one.ids) for one in utterances)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    worth = config.packing == "tree" or apart >= WORTH_PACKING * sum(sizes)
    size = config.per_device_train_batch_size
    if config.packing != "none" and worth and attention.can_read_many(base):
        most, mean = config.tokens_per_device_batch, float(size)
        biggest = sorted(range(len(trees)), key=lambda i: -sizes[i])
        if most:
            mean = len(trees) / len(filled(np.array(sizes), most, is_padded=False, seed=config.seed))
            size = max(1, int(np.searchsorted(np.cumsum([sizes[i] for i in biggest]), most, side="right")))
        batch = attention.tree_inputs(pack([ids for i in biggest[:size] for ids in trees[i]]))
        return Sample(batch, sum(sizes) / len(sizes), round(count * len(trees) / len(rows)), True, mean)
    lengths = [len(one.ids) for one in utterances]
    return _padded(config, lengths, round(count * len(lengths) / len(rows)))


def _steps(config: Any, batched: Sample, gpus: Gpus) -> dict[str, Any]:
    """Rows and tokens of an optimiser step over all GPUs, and how many steps there are."""
    a_step = batched.batch_rows * config.gradient_accumulation_steps * gpus.count
    rows = batched.rows * (int(config.num_generations or 1) if config.kind == "grpo" else 1)
    an_epoch = max(1, math.ceil(rows / a_step))
    steps = config.max_steps if config.max_steps > 0 else math.ceil(an_epoch * config.num_train_epochs)
    return {"rows_a_step": round(a_step), "tokens_a_step": round(a_step * batched.tokens), "steps": steps}


def _generation(config: Any, model: Any, batch: Mapping[str, Any], gpus: Gpus) -> dict[str, int]:
    """What GRPO keeps beside the training: the completions' keys and values, and the reward model."""
    shape = model.config.get_text_config()
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    a_token = 2 * shape.num_hidden_layers * heads * width * 2  # keys and values, in bfloat16
    at_once = config.per_device_train_batch_size * (config.steps_per_generation or config.gradient_accumulation_steps)
    cache = at_once * batch["input_ids"].shape[1] * a_token
    if config.use_vllm:
        colocated = config.vllm_mode == "colocate"
        cache = int(config.vllm_gpu_memory_utilization * gpus.bytes_each) if colocated else 0
    served = is_server(config.reward_model)
    return {
        "kv_cache": cache,
        "reward_model": 0 if served else _reward_model_bytes(config.reward_model),
    }


def _reference(config: Any, model: Any, adapter: int) -> int:
    """The policy as it was: a second model, a second adapter, or the model without its new adapter."""
    if not config.beta:
        return 0
    whole = sum(one.numel() * one.element_size() for one in model.parameters())
    return whole if config.adapter == "none" else adapter if config.policy_adapter else 0


def _reward_model_bytes(name: str) -> int:
    """The weights of a reward model in bfloat16, as it is loaded onto a GPU."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from sotopia_rl_data.trainers.merging import base_of
    from sotopia_rl_data.trainers.modeling import loading_errors
    from sotopia_rl_data.trainers.reward_model.model import snapshot

    where, revision = split_revision(name)
    with loading_errors(name):
        folder = snapshot(where, revision)
        base, commit = base_of(folder) or (str(folder), None)
        shape = AutoConfig.from_pretrained(base, revision=commit, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(shape, dtype=torch.bfloat16, trust_remote_code=False)
    return sum(one.numel() * one.element_size() for one in model.parameters())


# --- what to lower ----------------------------------------------------------------------------------------------------


def _checkpointing(config: Any) -> dict[str, Any]:
    return {} if config.gradient_checkpointing else {"gradient_checkpointing": True}


def _fewer_rows(config: Any) -> dict[str, Any]:
    """The same step from batches of one row."""
    size = config.per_device_train_batch_size
    if size == 1:
        return {}
    before = config.gradient_accumulation_steps
    changed = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": size * before}
    if getattr(config, "steps_per_generation", None) == before:  # else TRL would generate for each part of a step
        changed["steps_per_generation"] = size * before
    return changed


def _fewer_tokens(config: Any) -> dict[str, Any]:
    """The same step from batches that hold the longest row and little more."""
    most: int = getattr(config, "tokens_per_device_batch", None) or 0
    parts = most // config.max_length if most else 0
    if parts < 2:
        return {}
    changed = {"tokens_per_device_batch": most // parts}
    if config.kind == "rm" and config.row_tokens > most // parts:
        changed["row_tokens"] = most // parts
    return changed | {"gradient_accumulation_steps": parts * config.gradient_accumulation_steps}


def _shorter_rows(config: Any) -> dict[str, Any]:
    return {"row_tokens": config.row_tokens // 2} if config.kind == "rm" and config.row_tokens > 2048 else {}


def _adapter(config: Any) -> dict[str, Any]:
    return {"adapter": "lora"} if config.adapter == "none" else {}


def _quantised(config: Any) -> dict[str, Any]:
    return {"adapter": "qlora"} if config.adapter == "lora" else {}


LOWERED = (_checkpointing, _fewer_rows, _fewer_tokens, _shorter_rows, _adapter, _quantised)
