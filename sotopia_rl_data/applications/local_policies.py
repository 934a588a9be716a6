"""Local models in self-play: a policy that generates, with an adapter of `train sft` or `train grpo`, and a reward
model that scores drafts for best-of-N. Both are asked in batches, beside the event loop, through the ledger.

Importing this module loads no torch. Leaves out quantisation; for speed, serve the policy with vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.local import BatchedModel, Loaded, LocalModel, fingerprint
from sotopia_rl_data.asking.providers import sampling_of
from sotopia_rl_data.code import check_installed
from sotopia_rl_data.errors import AskingError, NotFound, Rejected, SotopiaDataError, UsageError
from sotopia_rl_data.refs import is_path
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.rollouts.policies import TEMPERATURE
from sotopia_rl_data.schema import Message

_DEFAULT = {"temperature": TEMPERATURE, "max_tokens": 256}


def local_player(where: str, sampling: Mapping[str, Any] | None = None) -> LocalModel:
    """The policy PATH_OR_ID[+ADAPTER]. Loads nothing yet. Raises UsageError, NotFound."""
    base, _, adapter = where.partition("+")
    if not base:
        raise UsageError("transformers names no model.", "write transformers:PATH_OR_ID, or transformers:PATH+ADAPTER")
    check_installed("A local policy", "torch", "transformers")
    _check_folder("model", base, "config.json", "adapter_config.json")
    _check_folder("adapter", adapter, "adapter_config.json")
    parts = [part for part in (base, adapter) if part]
    weights = {Path(part).resolve().name: fingerprint(Path(part)) for part in parts if Path(part).is_dir()}
    name = "+".join(Path(part).resolve().name if Path(part).is_dir() else part for part in parts)
    settings = sampling_of(_DEFAULT, sampling)
    if weights:
        settings["weights"] = weights
    return LocalModel(Target("transformers", name, "", settings), partial(_load, base, adapter))


class RewardScorer(BatchedModel):
    """A reward model as a player that is sent drafts: the answer is a JSON list, one reward for each of them.

    Loaded at once, so that its identity is known. Raises NotFound and InputError as `RewardModel.load` does.
    """

    def __init__(self, name: str) -> None:
        check_installed("A reward model", "torch", "transformers")
        _check_folder("reward model", name, "config.json", "adapter_config.json")
        from sotopia_rl_data.trainers import RewardModel

        self._model = RewardModel.load(name)
        super().__init__(Target("transformers", f"rm:{self._model.identity}"))

    def answers(self, requests: Sequence[Request]) -> Sequence[Reply | AskingError]:
        """The drafts of every request scored together; they share their prompts."""
        dialogues = [drafts_of(request.messages) for request in requests]
        try:
            scores = self._model.score_batch([draft for drafts in dialogues for draft in drafts])
        except SotopiaDataError as error:
            return [Rejected(error.message, error.hint)] * len(requests)
        rewards = iter(scores.tolist())
        return [Reply(json.dumps(list(islice(rewards, len(drafts)))), model=self.id) for drafts in dialogues]


def drafts_of(messages: Sequence[Message]) -> list[tuple[Sequence[Message], Sequence[Message]]]:
    """(prompt, draft) for each of the assistant messages that the messages end in."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    return [(messages[:end], [draft]) for draft in messages[end:]]


def _check_folder(what: str, where: str, *files: str) -> None:
    """Raises NotFound where a path is named that holds none of the files."""
    if where and is_path(where) and not any((Path(where) / name).is_file() for name in files):
        raise NotFound(f"There is no {what} in {where}.", f"name a folder that has a {files[0]}, or an id on the Hub")


def _load(base: str, adapter: str) -> Loaded:
    """The tokenizer and the weights, the adapter merged into them, on the GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    has_tokenizer = adapter and (Path(adapter) / "tokenizer_config.json").is_file()
    tokenizer: Any = AutoTokenizer.from_pretrained(adapter if has_tokenizer else base, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
