"""What a training run takes, without a GPU: bytes of each kind on a GPU, tokens a step, steps, and whether it fits.

Nothing is guessed from a formula that can be counted. The model is built without memory (torch's meta device), with
its head and its adapter as the run has them: that gives weights and gradients to the byte. The optimiser takes one
step on them, and its state is counted. For the activations, the model reads the largest batch of a sample of the
dataset on fake tensors, which have shapes and no memory, and what autograd saves for the backward pass is counted.

Not counted: what kernels need in passing, the allocator's gaps, CUDA's own context. `USABLE` leaves room for them; how
much they take has not been measured.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.trainers.config import TrainerConfig
from sotopia_rl_data.trainers.modeling import loading_errors, lora_config, resolve_dtype, split_revision

GIB = 2**30
USABLE = 0.9  # of a GPU's memory: the rest is for what is not counted


@dataclass(frozen=True, slots=True)
class Gpus:
    """`count` GPUs with `bytes_each`, as "8x80GB" names them."""

    count: int
    bytes_each: int

    @classmethod
    def parse(cls, text: str) -> Gpus:
        """From COUNTxSIZEGB. Raises UsageError."""
        found = re.fullmatch(r"(\d+)x(\d+)(?:GB|GiB)?", text.strip(), re.IGNORECASE)
        if not found or not int(found[1]) or not int(found[2]):
            raise UsageError(f"{text!r} does not name GPUs.", "write their number and size: --gpus 8x80GB")
        return cls(int(found[1]), int(found[2]) * GIB)


# --- the model, without memory ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Static:
    """Bytes that do not depend on the batch, and how many parameters there are."""

    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int


def static_of(model: nn.Module, config: TrainerConfig) -> Static:
    """What the model and its training take, whatever the rows. `model` has no memory (meta device)."""
    parameters = list(model.parameters())
    trained = [one for one in parameters if one.requires_grad]
    packed = packed_bytes(model) if config.adapter == "qlora" else {}
    tensors = [*parameters, *model.buffers()]
    return Static(
        parameters=sum(one.numel() for one in parameters),
        trainable=sum(one.numel() for one in trained),
        weights=sum(packed.get(id(one), _bytes(one)) for one in tensors),
        gradients=sum(map(_bytes, trained)),
        optimizer=optimizer_bytes(trained, config),
    )


def _bytes(tensor: torch.Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())


def packed_bytes(model: nn.Module) -> dict[int, int]:
    """Bytes of the weights that bitsandbytes keeps in 4 bits (NF4, quantised twice), by the parameter's id: half a byte
    a weight, and a scale of a byte for each 64 weights and of four bytes for each 256 of these."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and not layer.weight.requires_grad and "lora_" not in name:
            if name.rpartition(".")[2] in ("lm_head", "score") or "modules_to_save" in name:
                continue
            blocks = -(-layer.weight.numel() // 64)
            found[id(layer.weight)] = -(-layer.weight.numel() // 2) + blocks + 4 * -(-blocks // 256)
    return found


def optimizer_bytes(trained: Sequence[nn.Parameter], config: TrainerConfig) -> int:
    """The state of the configured optimiser, after a step without memory. Raises UsageError for one that cannot take
    such a step."""
    from transformers import Trainer

    kind, options = Trainer.get_optimizer_cls_and_kwargs(config)
    copies = [nn.Parameter(torch.empty_like(one, device="meta")) for one in trained]
    for one in copies:
        one.grad = torch.empty_like(one)
    try:
        optimizer = kind(copies, **options | {"fused": False} if "fused" in options else options)
        optimizer.step()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise UsageError(
            f"The memory of the optimiser {config.optim} cannot be counted without a GPU.",
            "plan with --set optim=adamw_torch",
        ) from error
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(_bytes(value) for value in states if isinstance(value, torch.Tensor))


def meta_model(config: TrainerConfig, heads: int = 1) -> nn.Module:
    """The model of a run as it is trained, without memory: with its head and its adapter. Raises NotFound."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    name, revision = split_revision(config.model)
    with loading_errors(config.model):
        shape = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    dtype = dtype_of(config)
    kind = AutoModelForSequenceClassification if config.kind == "rm" else AutoModelForCausalLM
    with torch.device("meta"):
        if config.kind == "rm":
            shape.num_labels = heads
        with loading_errors(config.model):
            model = kind.from_config(shape, dtype=dtype, trust_remote_code=False)
        if config.adapter == "qlora":  # what is not in 4 bits is trained beside in float32
            packed = packed_bytes(model.requires_grad_(False))
            for one in model.parameters():
                one.data = one.data if id(one) in packed else one.data.float()
        if config.kind == "rm":
            from sotopia_rl_data.trainers.reward_model import attention
            from sotopia_rl_data.trainers.reward_model.precision import with_float32_head

            attention.attend_as(with_float32_head(model), config.attention)
        return with_adapter(model, config)


def with_adapter(model: nn.Module, config: TrainerConfig) -> nn.Module:
    """The model with the adapter that the run trains."""
    if config.adapter == "none":
        return model
    from peft import PeftConfig, get_peft_model

    lora = lora_config(config, "SEQ_CLS" if config.kind == "rm" else "CAUSAL_LM")
    if config.kind in ("grpo", "dpo") and config.policy_adapter:
        adapter, revision = split_revision(config.policy_adapter)
        with loading_errors(config.policy_adapter):
            lora = PeftConfig.from_pretrained(adapter, revision=revision)
            lora.inference_mode = False
    return get_peft_model(model, lora)


def dtype_of(config: TrainerConfig) -> torch.dtype:
    """The dtype of the weights: as `resolve_dtype` has it on a GPU with bfloat16, or on this CPU with `use_cpu`."""
    if config.dtype == "auto" and not config.use_cpu:
        return torch.float32 if config.adapter == "none" else torch.bfloat16
    return resolve_dtype(config.dtype, config.adapter)


# --- activations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes that autograd saves for the backward pass of one batch, and of the layer that is computed anew meanwhile
    (0 without gradient checkpointing)."""

    saved: int
    recomputed: int


class ActivationCounts:
    """Activations of a run's batches. What one batch saves is counted once for each kind of model, and scaled by the
    tokens for others of it: what a decoder saves grows with them."""

    def __init__(self) -> None:
        self._counted: dict[tuple[Any, ...], tuple[int, int]] = {}  # bytes and tokens

    def of(self, model: nn.Module, config: TrainerConfig, batch: Mapping[str, Any]) -> Activations:
        """What the model saves while it reads `batch`."""
        plain = self._saved(model, config, batch, checkpointing=False)
        if not config.gradient_checkpointing:
            return Activations(plain, 0)
        layers = max(1, int(getattr(model.config.get_text_config(), "num_hidden_layers", 1)))
        kept = self._saved(model, config, batch, checkpointing=True)
        return Activations(kept, (plain - kept) // layers)

    def _saved(self, model: nn.Module, config: TrainerConfig, batch: Mapping[str, Any], checkpointing: bool) -> int:
        kind = (config.adapter, checkpointing, "tree" in batch)
        tokens = int(batch["input_ids"].numel())
        if kind not in self._counted:
            self._counted[kind] = _saved(model, config, batch, checkpointing), tokens
        size, of_tokens = self._counted[kind]
        return size * tokens // of_tokens


def _saved(model: nn.Module, config: TrainerConfig, batch: Mapping[str, Any], checkpointing: bool) -> int:
    """What autograd saves, counted on tensors without memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = copy.deepcopy(model).train()
    if checkpointing:
        fake.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if config.adapter != "none":
            fake.enable_input_require_grads()
    _make_fake(fake, mode)
    inputs = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    with mode, counted(fake) as saved, torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bfloat16(config)):
        loss_of(fake, config, inputs)
        return saved.bytes


def in_bfloat16(config: TrainerConfig) -> bool:
    """Whether the run computes in bfloat16: it does on a GPU, unless it is told otherwise."""
    if config.use_cpu:
        return bool(config.bf16)
    return not config.fp16 if config.asked_bf16 is None else config.asked_bf16


def loss_of(model: nn.Module, config: TrainerConfig, inputs: Mapping[str, Any]) -> torch.Tensor:
    """A loss with the graph of the run's own."""
    if config.kind == "rm":
        loss: torch.Tensor = (model(**inputs).logits.float() ** 2).sum()
    elif config.kind == "dpo":  # TRL makes the logits in pieces, and anew for the backward pass
        loss = model(**inputs, logits_to_keep=1, use_cache=False).logits.float().sum()
    elif config.kind == "sft":
        loss = model(**inputs, labels=inputs["input_ids"], use_cache=False).loss
    else:
        from trl.trainer.utils import selective_log_softmax

        kept = int(config.max_completion_length or 0)
        logits = model(**inputs, logits_to_keep=kept + 1, use_cache=False).logits[:, :-1][:, -kept:]
        loss = selective_log_softmax(logits / config.temperature, inputs["input_ids"][:, -kept:]).sum()
    return loss


class Saved:
    """The bytes of the tensors that autograd has saved, each storage once, without the model's own."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}
        self._seen: dict[int, Any] = {}  # the storages are held, so that no other takes the place of one

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._seen[storage._cdata] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(int(storage.nbytes()) for storage in self._seen.values())


@contextmanager
def counted(model: nn.Module) -> Iterator[Saved]:
    """What autograd saves within."""
    saved = Saved(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor):
        yield saved


def _make_fake(model: nn.Module, mode: Any) -> None:
    """Replace the tensors of a model without memory by fake ones that take themselves for a CPU's, whose attention
    saves what a GPU's saves."""
    made: dict[int, Any] = {}
    with mode:
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, one in tensors.items():
                    if one is None:
                        continue
                    if id(one) not in made:
                        new = torch.empty(one.shape, dtype=one.dtype)
                        is_parameter = isinstance(one, nn.Parameter)
                        made[id(one)] = nn.Parameter(new, requires_grad=one.requires_grad) if is_parameter else new
                    tensors[name] = made[id(one)]
