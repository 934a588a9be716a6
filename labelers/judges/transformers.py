"""transformers: a local model as a judge, in batches: `transformers:PATH_OR_ID`. Needs the extra `train`.

The answer's schema stands in the prompt; an answer that breaks it is sent back once, like any other. How requests are
gathered into batches is in `asking/local.py`. Leaves out quantisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.local import (
    MAX_TOKENS,
    Loaded,
    LocalModel,
    check_adapter_settings,
    check_sampling,
    fingerprint,
)
from sotopia_rl_data.asking.providers import sampling_of
from sotopia_rl_data.code import check_installed
from sotopia_rl_data.errors import AskingError, NotFound, UsageError
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.requests import request_of
from sotopia_rl_data.refs import is_path
from sotopia_rl_data.request import Reply, Request, Target

_DEFAULT = {"temperature": 0, "max_tokens": MAX_TOKENS}


def judge(name: str, sampling: Mapping[str, Any] | None = None) -> Transformers:
    """The judge for a model's folder or its id on the Hub. Raises UsageError, NotFound; loads nothing yet."""
    if not name:
        raise UsageError("The judge 'transformers:' needs a model after the colon.", "write transformers:PATH_OR_ID")
    check_installed("A local judge", "torch", "transformers")
    folder = Path(name)
    if is_path(name) and not (folder / "config.json").is_file():
        raise NotFound(
            f"There is no model in {name}: the file config.json is missing.",
            "name a model's folder, or an id on the Hub",
        )
    check_sampling(sampling)
    settings = sampling_of(_DEFAULT, sampling)
    if not folder.is_dir():
        return Transformers(Target("transformers", name, "", settings), partial(load_causal_model, name))
    settings = {**settings, "weights": fingerprint(folder)}
    return Transformers(Target("transformers", folder.resolve().name, "", settings), partial(load_causal_model, name))


class Transformers(LocalModel):
    """A local model that answers Questions. Answers of a model from the Hub name its commit, since the id may move."""

    def answers(self, requests: Sequence[Request]) -> Sequence[Reply | AskingError]:
        """A reply to each request, or the error that prevents one."""
        replies = super().answers(requests)
        name = self.id if "weights" in self.target.sampling else _at_commit(self.id)
        return [replace(reply, model=name) if isinstance(reply, Reply) else reply for reply in replies]

    async def answer(self, question: Question) -> Reply:
        """One answer. Raises Rejected where the model cannot be loaded or the prompt does not fit it."""
        return await self.send(request_of(question, self.target))


def _at_commit(name: str) -> str:
    """The id of a model from the Hub, with the commit that was loaded, which is the one in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return f"{name}@{Path(config).parent.name}" if isinstance(config, str) else name


def load_causal_model(base: str, adapter: str = "") -> Loaded:
    """A tokenizer that pads on the left, and the weights, with a LoRA adapter merged into them where one is named; on
    the GPU where there is one. Raises OSError where there is no such model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils
    from transformers.utils import find_adapter_config_file

    from sotopia_rl_data.hub.client import quiet, why_not_found

    quiet()
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # of a config within a config it asks in spite of our "no"
    has_tokenizer = adapter and (Path(adapter) / "tokenizer_config.json").is_file()
    try:
        beside = adapter if has_tokenizer else base
        tokenizer: Any = AutoTokenizer.from_pretrained(beside, padding_side="left", trust_remote_code=False)
        for name in (base, adapter):
            check_adapter_settings(find_adapter_config_file(name) if name else None)
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=False)
    except OSError as error:
        raise OSError(why_not_found(base, error) or str(error)) from error
    except (RuntimeError, MemoryError):
        raise
    except Exception as error:  # of the libraries that read a stranger's files
        if "trust_remote_code" in str(error):
            raise ValueError("it brings Python code of its own, which is never run") from error
        raise ValueError(str(error).strip() or type(error).__name__) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
