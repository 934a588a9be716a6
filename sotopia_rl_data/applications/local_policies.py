"""Local models in self-play: a policy that generates, perhaps with an adapter of `train sft` or `train grpo`, and a
reward model that scores drafts for best-of-N. Both answer in batches, in a thread beside the event loop, and their
answers go through the ledger.

Importing this module does not import torch. There is no quantisation; for speed, serve the policy with vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sotopia_rl_data.asking.local import BatchedModel, LocalModel, check_sampling, fingerprint
from sotopia_rl_data.asking.providers import sampling_of
from sotopia_rl_data.code import check_installed
from sotopia_rl_data.errors import AskingError, NotFound, Rejected, SotopiaDataError, UsageError
from sotopia_rl_data.labelers.judges.transformers import load_causal_model
from sotopia_rl_data.refs import is_path
from sotopia_rl_data.request import Reply, Request, Target
from sotopia_rl_data.rollouts.policies import TEMPERATURE
from sotopia_rl_data.schema import Message

_DEFAULT = {"temperature": TEMPERATURE, "max_tokens": 256}


def local_player(spec: str, sampling: Mapping[str, Any] | None = None) -> LocalModel:
    """The policy PATH_OR_ID[+ADAPTER]. The weights are loaded later. Raises UsageError, NotFound."""
    base, _, adapter = spec.partition("+")
    if not base:
        raise UsageError(
            "The policy 'transformers:' needs a model after the colon.",
            "write transformers:PATH_OR_ID, or transformers:PATH+ADAPTER",
        )
    check_installed("A local policy", "torch", "transformers")
    _check_folder("model", base, "config.json", "adapter_config.json")
    _check_folder("adapter", adapter, "adapter_config.json")
    parts = [part for part in (base, adapter) if part]
    weights = {Path(part).resolve().name: fingerprint(Path(part)) for part in parts if Path(part).is_dir()}
    name = "+".join(Path(part).resolve().name if Path(part).is_dir() else part for part in parts)
    check_sampling(sampling)
    settings = sampling_of(_DEFAULT, sampling)
    if weights:
        settings["weights"] = weights
    return LocalModel(Target("transformers", name, "", settings), partial(load_causal_model, base, adapter))


class RewardScorer(BatchedModel):
    """A reward model as a player that is sent drafts. Its answer is a JSON list with one reward for each draft.

    It is loaded at once, because its identity is a hash of it. Raises NotFound and InputError, as `RewardModel.load`.
    """

    def __init__(self, name: str) -> None:
        check_installed("A reward model", "torch", "transformers")
        _check_folder("reward model", name, "config.json", "adapter_config.json")
        from sotopia_rl_data.trainers import RewardModel

        self._model = RewardModel.load(name)
        super().__init__(Target("transformers", f"rm:{self._model.identity}"))

    def answers(self, requests: Sequence[Request]) -> Sequence[Reply | AskingError]:
        """Scores the drafts of all requests together; the drafts of one request have the same prompt."""
        dialogues = [drafts_of(request.messages) for request in requests]
        try:
            scores = self._model.score_batch([draft for drafts in dialogues for draft in drafts])
        except SotopiaDataError as error:
            return [Rejected(error.message, error.hint)] * len(requests)
        rewards = iter(scores.tolist())
        return [Reply(json.dumps(list(islice(rewards, len(drafts)))), model=self.id) for drafts in dialogues]


def drafts_of(messages: Sequence[Message]) -> list[tuple[Sequence[Message], Sequence[Message]]]:
    """(prompt, draft) for each assistant message at the end of the messages."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    return [(messages[:end], [draft]) for draft in messages[end:]]


def _check_folder(what: str, name: str, *files: str) -> None:
    """Raises NotFound where `name` is a path without any of the files."""
    if name and is_path(name) and not any((Path(name) / file).is_file() for file in files):
        raise NotFound(f"There is no {what} in {name}.", f"name a folder that has a {files[0]}, or an id on the Hub")
