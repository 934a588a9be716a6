"""A run's model as one whole checkpoint that other programs take as it lies: pipelines, vLLM, OpenRLHF, verl.

Three things keep a stock program from giving `score()`'s number for what `train rm` writes, and all are undone here.
An adapter is merged into its base. The head's units are folded into its weights, several heads into one (the aggregate
is linear in the logits), so that the logit is the reward. And the chat template ends where the score is read: it writes
nothing after the token that ends the assistant's turn.

The merging is done in float32 and rounded once; the head stays in float32. A policy of `train sft` or `train grpo` is
merged in the same way, and its template stays as it is. Left out: quantising.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers.encoding import load_tokenizer
from sotopia_rl_data.trainers.modeling import check_patterns, fingerprint, loading_errors, resolve_dtype
from sotopia_rl_data.trainers.reward_model.head import KEY, RewardHead
from sotopia_rl_data.trainers.reward_model.model import RewardModel
from sotopia_rl_data.trainers.run_folder import RunFolder

TARGET = "reward"
HEADS = ("score", "classifier")  # what transformers' classifiers call their head
_ENDS_THERE = (
    "{{%- set whole -%}}{template}{{%- endset -%}}{{{{ whole if add_generation_prompt else whole.rstrip() }}}}"
)


def merge_run(run: str | Path, out: str | Path, *, dtype: str | None = None) -> dict[str, Any]:
    """Write the model of the folder `run` as a whole checkpoint into the new folder `out`, with its tokenizer, the
    run's record and a card. `dtype` is float32, bfloat16 or float16; by default that of the base model's files.

    Returns the record, with `merged`: the run's identity, dtype, and `offset` (what a stock program's number lacks; 0
    but where a head without a bias had to be given one). Raises NotFound where there is no run, UsageError where `out`
    exists, InputError where the model cannot be merged.
    """
    folder, target = RunFolder.existing(run), Path(out)
    record = folder.read()
    with _new_folder(target) as beside:
        with loading_errors(str(folder.path)):
            merged = _reward_model(folder.path) if record["kind"] == "rm" else _policy(folder.path)
        model, tokenizer, facts = merged
        chosen = resolve_dtype(dtype, "none") if dtype else _dtype_of_base(folder.path)
        model.to(chosen)
        if record["kind"] == "rm":
            _head_of(model)[1].float()
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        facts |= {"from": folder.path.resolve().name, "dtype": str(chosen).removeprefix("torch.")}
        written = RunFolder(beside)
        record = record | {"merged": facts}
        written.write(record)
        written.write_card(record, title=target.resolve().name)
    return record


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, renamed to it at the end. Raises UsageError where it exists, InputError where it
    cannot be written."""
    if target.exists():
        raise UsageError(f"{target} exists already.", "name another folder with --output")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}.", "name another folder") from error
    try:
        yield beside
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _reward_model(folder: Path) -> tuple[nn.Module, Any, dict[str, Any]]:
    loaded = RewardModel.load(folder, device="cpu", dtype=torch.float32)
    tokenizer = loaded.encoder.tokenizer
    offset = fold(loaded.model, loaded.head)
    tokenizer.chat_template = ending_where_read(tokenizer)
    units = RewardHead((TARGET,), (1.0,), (offset,), (1.0,), fingerprint(tokenizer))
    setattr(loaded.model.config, KEY, units.to_config())
    return loaded.model, tokenizer, {"offset": offset}


def fold(model: nn.Module, head: RewardHead) -> float:
    """Make the model's logit the reward itself, in place: one head, in the reward's units. Returns what remains to be
    added to it, which is not 0 only where the units have a mean and the head has no bias to hold it.

    reward = sum_k w_k (logit_k std_k + mean_k) / sum_k w_k, and logit_k = W_k h.
    """
    shares = np.array(head.weights) / sum(head.weights)
    offset = float(shares @ np.array(head.mean))
    scale = torch.from_numpy(shares * np.array(head.std))
    name, old = _head_of(model)
    new = nn.Linear(old.in_features, 1, bias=old.bias is not None)
    with torch.no_grad():
        new.weight.copy_((scale @ old.weight.double())[None])
        if old.bias is not None:
            new.bias.copy_(scale @ old.bias.double() + offset)
            offset = 0.0
    setattr(model, name, new)
    config: Any = model.config
    config.id2label, config.label2id, config.problem_type = {0: TARGET}, {TARGET: 0}, "regression"
    return offset


def _head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """The name and the layer of a classifier's head. Raises InputError where it is not a single layer."""
    for name in HEADS:
        layer = getattr(model, name, None)
        if isinstance(layer, nn.Linear):
            return name, layer
    raise InputError(
        f"The head of {type(model).__name__} is not a single layer, so its units cannot be folded into its weights.",
        "use it as it is, by RewardModel.load or serve",
    )


def ending_where_read(tokenizer: Any) -> str:
    """The tokenizer's chat template without white space after the last turn; as it is where there is none, and where
    a generation prompt is asked for."""
    template = str(tokenizer.chat_template)
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(probe, tokenize=False)
    return template if text == text.rstrip() else _ENDS_THERE.format(template=template)


def _policy(folder: Path) -> tuple[nn.Module, Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    base = base_of(folder)
    name, revision = base or (str(folder), None)
    check_patterns(str(folder))
    check_patterns(name, revision)
    model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=torch.float32, trust_remote_code=False)
    if base:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return model, load_tokenizer(str(folder)), {}


def base_of(folder: Path) -> tuple[str, str | None] | None:
    """The model, with its revision, that the adapter in `folder` fits; None where there is no adapter."""
    adapter = folder / "adapter_config.json"
    if not adapter.exists():
        return None
    settings = json.loads(adapter.read_text(encoding="utf-8"))
    return settings["base_model_name_or_path"], settings.get("revision")


def _dtype_of_base(folder: Path) -> torch.dtype:
    """The dtype of the files that the run's weights are, or are an adapter of."""
    from transformers import AutoConfig

    name, revision = base_of(folder) or (str(folder), None)
    config: Any = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    return getattr(config, "dtype", None) or torch.float32
