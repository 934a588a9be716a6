"""What behaviour cloning and GRPO share: prompts that fit, and the policy's weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import set_seed

from sotopia_rl_data.schema import Message
from sotopia_rl_data.trainers.data import Example, Examples
from sotopia_rl_data.trainers.encoding import Cuts, Encoder, cuts_made
from sotopia_rl_data.trainers.modeling import quantization, resolve_dtype, split_revision, told

KEYS = ("episode_id", "environment_id", "agent", "turn", "reward")


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Rows whose prompts fit, as `datasets.Dataset`s by split, and what it took."""

    splits: dict[str, Dataset]
    cuts: Cuts


def load_causal(config: Any) -> Any:
    """The policy's weights, in 4 bits for QLoRA. Raises NotFound."""
    from transformers import AutoModelForCausalLM

    name, revision = split_revision(config.model)
    set_seed(config.seed)
    with told(config.model):
        return AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=resolve_dtype(config.dtype, config.adapter),
            quantization_config=quantization(config.adapter),
        )


def dialogues(found: Examples, encoder: Encoder, with_completion: bool) -> Dialogues:
    """Every row's prompt, cut to fit (together with its completion where that is trained on), in key order.

    Raises InputError where none fits.
    """
    answer: list[Message] = [{"role": "assistant", "content": ""}]
    fitted = encoder.fit([(row.prompt, row.completion if with_completion else answer) for row in found.rows])
    cuts = cuts_made([one and one[1] for one in fitted], encoder.max_length)
    rows: dict[str, list[dict[str, Any]]] = {}
    for example, one in zip(found.rows, fitted, strict=True):
        if one is not None:
            rows.setdefault(example.split, []).append(_row(example, one[0], with_completion))
    return Dialogues({split: Dataset.from_list(of) for split, of in rows.items()}, cuts)


def _row(example: Example, prompt: Iterable[Any], with_completion: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": list(prompt)}
    if with_completion:
        return row | {"completion": list(example.completion)}
    return row | {key: getattr(example, key) for key in KEYS}
