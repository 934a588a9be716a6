"""Loads models, in full or with LoRA or QLoRA, and says in one sentence why one cannot be loaded or trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.asking.local import check_adapter_settings
from sotopia_rl_data.code import check_installed
from sotopia_rl_data.errors import InputError, NotFound, SotopiaDataError, UsageError
from sotopia_rl_data.hashing import sha256_of

if TYPE_CHECKING:
    from sotopia_rl_data.trainers.config import PolicyDPOConfig, PolicyGRPOConfig, PolicySFTConfig, TrainerConfig


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or else its class."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def split_revision(name: str) -> tuple[str, str | None]:
    """("org/name", "rev") for "org/name@rev". A path, which starts with ./ ../ or / or exists, has no revision."""
    if Path(name).exists() or name.startswith(("./", "../", "/")) or "@" not in name:
        return name, None
    model, _, revision = name.rpartition("@")
    return model, revision


_ABOUT_A_MODEL = (RuntimeError, NotImplementedError, RecursionError)


def model_folder(model: str) -> Path:
    """The folder of a model that was loaded: its own, or the Hub's snapshot, whose name is the commit."""
    from transformers.utils import cached_file

    name, revision = split_revision(model)
    return Path(name) if Path(name).is_dir() else Path(str(cached_file(name, "config.json", revision=revision))).parent


def lora_config(config: TrainerConfig, task: str) -> Any:
    """PEFT's LoraConfig for `task` (for "SEQ_CLS", PEFT keeps the score head in the adapter), or None for no adapter.

    It names the commit of the model that was loaded, which the adapter fits.
    """
    from peft import LoraConfig

    if config.adapter == "none":
        return None
    names = config.lora_target_modules
    return LoraConfig(
        task_type=task,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=names if names == "all-linear" else [name.strip() for name in names.split(",")],
        revision=None if Path(split_revision(config.model)[0]).is_dir() else model_folder(config.model).name,
    )


def load_causal(config: PolicySFTConfig | PolicyDPOConfig | PolicyGRPOConfig) -> Any:
    """A policy's weights, in 4 bits for QLoRA. Raises NotFound."""
    from transformers import AutoModelForCausalLM, set_seed

    name, revision = split_revision(config.model)
    set_seed(config.seed)
    with loading_errors(config.model):
        check_patterns(name, revision)
        return AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=resolve_dtype(config.dtype, config.adapter),
            quantization_config=quantization(config.adapter),
            trust_remote_code=False,
        )


@contextmanager
def loading_errors(name: str) -> Iterator[None]:
    """Turns the errors of loading a model into one sentence, and lets no library ask whether to run a model's code."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # of a config within a config it asks in spite of our "no"
    try:
        yield
    except (SotopiaDataError, MemoryError):
        raise
    except Exception as error:  # of the libraries that read a stranger's files
        if isinstance(error, RuntimeError) and type(error) not in _ABOUT_A_MODEL:
            raise  # a subclass is an accelerator's error, such as out of memory
        raise _unloadable(name, error) from error


def _unloadable(name: str, error: Exception) -> SotopiaDataError:
    """The sentence about a model that a library could not load."""
    from sotopia_rl_data.hub.client import why_not_found

    begins, told = f"The model {name!r} cannot be loaded", first_line(error).rstrip(".: ")
    another = "bring it here again, or name another model"
    if type(error) is RuntimeError:
        return InputError(
            f"The weights of {name!r} do not have the shapes of the model that they are loaded into.",
            "name the base model of these weights",
        )
    if isinstance(error, ImportError):
        return InputError(f"{begins}: {told}.", "install what it needs, or name another model")
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        code = "it brings Python code of its own, which is never run"
        return InputError(f"{begins}: {code}.", "name a model whose config.json has no auto_map")
    if isinstance(error, (OSError, ValueError, KeyError)):
        told = why_not_found(split_revision(name)[0], error) or told
        told = f"one of its files has no {told}" if isinstance(error, KeyError) else told
        return NotFound(
            f"{begins}: {told}.", "name a folder that `train` wrote, as in ./runs/rm, or a model of the Hub"
        )
    if _is_of_a_file(error):
        return InputError(f"{begins}: one of its files is damaged ({told}).", another)
    return InputError(f"{begins}: {told}.", another)


def _is_of_a_file(error: Exception) -> bool:
    """Whether a library that reads files could not read one: safetensors, pickle, or tokenizers, which raises plain
    exceptions; or JSON has a list where an object is meant, or brackets without end."""
    from safetensors import SafetensorError

    of_json = (TypeError, AttributeError, IndexError, RecursionError)
    return type(error) is Exception or isinstance(error, (SafetensorError, EOFError, UnpicklingError, *of_json))


@contextmanager
def settings_errors() -> Iterator[None]:
    """Turns the libraries' errors about settings that do not go together into one sentence."""
    try:
        yield
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error) not in (RuntimeError, NotImplementedError):
            raise  # a subclass is an accelerator's error, such as out of memory
        raise UsageError(
            f"Training cannot start with these settings: {first_line(error)}", "change the named ones with --set"
        ) from error


def check_patterns(name: str, revision: str | None = None) -> None:
    """Raises ValueError where an adapter in a folder or repository, which transformers loads too, has an expression
    that takes too long to try."""
    from transformers.utils import find_adapter_config_file

    check_adapter_settings(find_adapter_config_file(name, revision=revision))


def check_adapter(name: str, revision: str | None, task: str, hint: str) -> None:
    """Raises InputError where the adapter was trained for another task than `task`, NotFound where there is none.

    An adapter of a classifier may name no task: whether it has the head is seen when it is loaded.
    """
    from peft import PeftConfig

    with loading_errors(name):
        check_patterns(name, revision)
        trained_for = PeftConfig.from_pretrained(name, revision=revision).task_type
    if trained_for != task and not (trained_for is None and task == "SEQ_CLS"):
        raise InputError(f"The adapter {name} was trained for {trained_for}; one for {task} is needed.", hint)


def context_of(config: Any) -> int | None:
    """How many tokens a model can read, by its configuration; None where that sets no limit."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def bound_to_context(config: TrainerConfig) -> None:
    """Lower a run's maximum lengths to what the model's context holds. Raises NotFound."""
    from transformers import AutoConfig

    name, revision = split_revision(config.model)
    with loading_errors(config.model):
        context = context_of(AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False))
    if context is None:
        return
    if config.kind == "grpo":
        room = max(0, context - (config.max_completion_length or 0))
        config.max_prompt_length = min(config.max_prompt_length, room)
    else:
        config.max_length = min(config.max_length or context, context)


@contextmanager
def without_reports() -> Iterator[None]:
    """Silences transformers' report that a score head is new, where it is meant to be."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def oom_hint(hint: str) -> Iterator[None]:
    """Turns an out-of-memory error of the accelerator into one sentence; `hint` says what to lower."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SotopiaDataError("The accelerator ran out of memory.", hint) from error


def check_one_gpu(config: TrainerConfig) -> None:
    """Raises UsageError where one process sees several GPUs, because the library would divide each batch among them."""
    if config.n_gpu > 1:
        raise UsageError(
            f"This process sees {config.n_gpu} GPUs but can train on only one.",
            "for all: accelerate launch -m sotopia_rl_data train …; for one: set CUDA_VISIBLE_DEVICES=0",
        )


def is_sharded(config: TrainerConfig) -> bool:
    """Whether no process holds whole weights until the trainer has wrapped them (FSDP, DeepSpeed).

    `accelerate launch` says so in the environment; the configuration knows its own options only.
    """
    flags = os.environ.get("ACCELERATE_USE_FSDP", ""), os.environ.get("ACCELERATE_USE_DEEPSPEED", "")
    return bool(config.fsdp or config.deepspeed or any(flag.lower() == "true" for flag in flags))


def quantization(kind: str) -> Any:
    """4-bit NF4 for QLoRA, else None. Raises UsageError where bitsandbytes is not installed."""
    if kind != "qlora":
        return None
    check_installed("QLoRA", "bitsandbytes", hint="pip install bitsandbytes, or --set adapter=lora")
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def resolve_dtype(dtype: str, adapter: str) -> Any:
    """The weights' dtype. `auto`: bfloat16 for a frozen base where the accelerator has it, else float32."""
    import torch

    if dtype != "auto":
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype):
            raise UsageError(f"dtype cannot be {dtype!r}.", "name float32, bfloat16 or float16")
        return named
    half = adapter != "none" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if half else torch.float32


def fingerprint(tokenizer: Any) -> str:
    """SHA-256 over the vocabulary, the special tokens and the chat template, which decide how text becomes tokens."""
    return sha256_of([tokenizer.get_vocab(), tokenizer.special_tokens_map, tokenizer.chat_template])


def vocabulary_of(model: str) -> int | None:
    """How many tokens a model knows, by its configuration; None where that does not say."""
    from transformers import AutoConfig

    name, revision = split_revision(model)
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    return getattr(config.get_text_config(), "vocab_size", None)


def check_vocabulary(tokenizer: Any, size: int | None, name: str) -> None:
    """Raises InputError where the tokenizer has tokens beyond the `size` that the model knows. A special token is not
    counted, unless rows are padded with it: text does not become one (Gemma 3 has one for images)."""
    if size is None:
        return
    special = set(tokenizer.all_special_ids) - {tokenizer.pad_token_id, tokenizer.eos_token_id}
    top = max((number for number in tokenizer.get_vocab().values() if number not in special), default=0)
    if top >= size:
        raise InputError(
            f"The tokenizer of {name} has token ids up to {top}, but the model knows only {size} tokens.",
            "put the tokenizer that the model was trained with into the model's folder",
        )
