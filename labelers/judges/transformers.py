"""transformers: a local model as a judge, in batches: `transformers:PATH_OR_ID`. Needs the extra `train`.

The answer's schema stands in the prompt; an answer that breaks it is sent back once, like any other. How it is asked is
`asking/local.py`'s. Leaves out quantisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.local import MAX_TOKENS, Loaded, LocalModel, fingerprint
from sotopia_rl_data.asking.providers import sampling_of
from sotopia_rl_data.code import check_installed
from sotopia_rl_data.errors import AskingError, NotFound, UsageError
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.requests import request_of
from sotopia_rl_data.refs import is_path
from sotopia_rl_data.request import Reply, Request, Target

_DEFAULT = {"temperature": 0, "max_tokens": MAX_TOKENS}


def judge(where: str, sampling: Mapping[str, Any] | None = None) -> Transformers:
    """The judge for a model's folder or its id on the Hub. Raises UsageError, NotFound; loads nothing yet."""
    if not where:
        raise UsageError("transformers names no model.", "write transformers:PATH_OR_ID")
    check_installed("A local judge", "torch", "transformers")
    folder = Path(where)
    if is_path(where) and not (folder / "config.json").is_file():
        raise NotFound(f"There is no model in {where}.", "name a folder that has a config.json, or an id on the Hub")
    chosen = sampling_of(_DEFAULT, sampling)
    if not folder.is_dir():
        return Transformers(Target("transformers", where, "", chosen), partial(_load, where))
    weights = {**chosen, "weights": fingerprint(folder)}
    return Transformers(Target("transformers", folder.resolve().name, "", weights), partial(_load, where))


class Transformers(LocalModel):
    """A local model that knows what a Question is. Answers of a model of the Hub name its commit: the id may move."""

    def answers(self, requests: Sequence[Request]) -> Sequence[Reply | AskingError]:
        """What the model says to each, or why it cannot."""
        said = super().answers(requests)
        name = self.id if "weights" in self.target.sampling else _at_commit(self.id)
        return [replace(one, model=name) if isinstance(one, Reply) else one for one in said]

    async def answer(self, question: Question) -> Reply:
        """One answer. Raises Rejected where the model cannot be loaded or the prompt does not fit it."""
        return await self.send(request_of(question, self.target))


def _at_commit(name: str) -> str:
    """The id of a model of the Hub that was loaded, with the commit that lies in the Hub's cache for it."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return f"{name}@{Path(config).parent.name}" if isinstance(config, str) else name


def _load(where: str) -> Loaded:
    """The tokenizer and the weights, on the GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = AutoTokenizer.from_pretrained(where, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(where, dtype="auto")
    return tokenizer, model.to(device).eval()
