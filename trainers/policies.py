"""What behaviour cloning and GRPO share: prompts that fit, and the policy's tokenizer and weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import set_seed

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.schema import Message
from trainers.data import Example, Examples
from trainers.encoding import Encoder, load_tokenizer
from trainers.modeling import quantization, resolve_dtype, split_revision, told

KEYS = ("episode_id", "environment_id", "agent", "turn", "reward")


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Rows whose prompts fit, as `datasets.Dataset`s by split, and what was cut (turns, in rows) or left out."""

    splits: dict[str, Dataset]
    turns_cut: int
    rows_cut: int
    too_long: int


def policy_tokenizer(config: Any) -> Any:
    """The tokenizer of `config.model`. Raises NotFound."""
    name, revision = split_revision(config.model)
    with told(config.model):
        return load_tokenizer(name, pad_token=config.pad_token, chat_template=config.chat_template, revision=revision)


def load_causal(config: Any) -> Any:
    """The policy's weights, in 4 bits for QLoRA. Raises NotFound."""
    from transformers import AutoModelForCausalLM

    name, revision = split_revision(config.model)
    bits = quantization(config.adapter)
    options = {"quantization_config": bits} if bits is not None else {}
    set_seed(config.seed)
    with told(config.model):
        return AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=resolve_dtype(config.dtype, config.adapter), **options
        )


@contextmanager
def settings_told() -> Iterator[None]:
    """Turns what TRL says about settings that do not go together into one sentence."""
    try:
        yield
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"TRL refuses these settings: {first}", "change the values it names, with --set") from error


def dialogues(found: Examples, encoder: Encoder, with_completion: bool) -> Dialogues:
    """Every row's prompt, cut to fit (together with its completion where that is trained on), in key order.

    Raises InputError where none fits.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    cuts = []
    answer: list[Message] = [{"role": "assistant", "content": ""}]
    pairs = [(example.prompt, example.completion if with_completion else answer) for example in found.rows]
    for example, fitted in zip(found.rows, encoder.fit(pairs), strict=True):
        if fitted is not None:
            prompt, cut = fitted
            cuts.append(cut)
            rows.setdefault(example.split, []).append(_row(example, prompt, with_completion))
    if not cuts:
        raise InputError(
            f"No prompt fits into {encoder.max_length} tokens, even with its history cut.",
            "raise the limit, with --set",
        )
    return Dialogues(
        splits={split: Dataset.from_list(of) for split, of in rows.items()},
        turns_cut=sum(cuts),
        rows_cut=sum(c > 0 for c in cuts),
        too_long=len(found.rows) - len(cuts),
    )


def _row(example: Example, prompt: Iterable[Any], with_completion: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": list(prompt)}
    if with_completion:
        return row | {"completion": list(example.completion)}
    return row | {key: getattr(example, key) for key in KEYS}
