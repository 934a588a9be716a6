"""transformers: a local model as a judge, in batches: `transformers:PATH_OR_ID`. Needs the extra `train`.

The answer's schema stands in the prompt; an answer that breaks it is sent back once, like any other. For speed, serve
the model with vLLM and name it as `openai:MODEL@URL`: this one needs no server. Leaves out constrained decoding,
quantisation and several GPUs.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labelers.judge import Question
from labelers.judges.api import sampling_of
from labelers.judges.sending import request_of
from sotopia_rl_data.asking.request import Finish, Reply, Request, Target, Usage
from sotopia_rl_data.asking.schemas import with_schema_in_words
from sotopia_rl_data.errors import AskingError, NotFound, Rejected, UsageError
from sotopia_rl_data.refs import is_path

BATCH = 8
_GATHER_S = 0.02  # how long a batch waits for others to join it
_DEFAULT = {"temperature": 0, "max_tokens": 2048}
_PEEK = 1 << 20  # bytes of each end of a weights' file that its fingerprint covers
_WRONG = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError)


def judge(where: str, sampling: Mapping[str, Any] | None = None) -> Transformers:
    """The judge for a model's folder or its id on the Hub. Raises UsageError, NotFound; loads nothing yet."""
    if not where:
        raise UsageError("transformers names no model.", "write transformers:PATH_OR_ID")
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None:
        raise UsageError("A local judge needs torch and transformers.", "pip install 'sotopia-rl-data[train]'")
    folder = Path(where)
    if is_path(where) and not (folder / "config.json").is_file():
        raise NotFound(f"There is no model in {where}.", "name a folder that has a config.json, or an id on the Hub")
    chosen = sampling_of(_DEFAULT, sampling)
    if not folder.is_dir():
        return Transformers(where, Target("transformers", where, "", chosen))
    return Transformers(
        where, Target("transformers", folder.resolve().name, "", {**chosen, "weights": fingerprint(folder)})
    )


def fingerprint(folder: Path) -> str:
    """Hex SHA-256 over the folder's files: their names, sizes, and up to the first and last MiB of each."""
    found = hashlib.sha256()
    for path in sorted(one for one in folder.iterdir() if one.is_file()):
        size = path.stat().st_size
        found.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            found.update(file.read(_PEEK))
            file.seek(max(0, size - _PEEK))
            found.update(file.read(_PEEK))
    return found.hexdigest()


class Transformers:
    """Gathers requests into batches and answers them one batch at a time, beside the event loop."""

    concurrency = 2 * BATCH

    def __init__(self, where: str, target: Target) -> None:
        self.id = target.model
        self.target = target
        self._where = where
        self._model: _Model | None = None
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._working: asyncio.Task[None] | None = None

    async def send(self, request: Request) -> Reply:
        """One answer. Raises Rejected where the model cannot be loaded or the prompt does not fit it."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await future

    async def answer(self, question: Question) -> Reply:
        """The same for a Question."""
        return await self.send(request_of(question, self.target))

    async def close(self) -> None:
        """Let the model go."""
        if self._working is not None and not self._working.done():
            self._working.cancel()
        self._working = self._model = None
        self._waiting.clear()

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER_S)
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            replies = await asyncio.to_thread(self._answers, [request for request, _ in batch])
            for (_, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, AskingError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)

    def _answers(self, requests: Sequence[Request]) -> Sequence[Reply | AskingError]:
        try:
            self._model = self._model or _Model(self._where)
            return self._model.answers(requests, self.id)
        except _WRONG as wrong:
            said = (str(wrong).strip() or type(wrong).__name__).splitlines()[0].rstrip(".")
            error = Rejected(f"The model {self.id} cannot answer: {said}.", "serve it with vLLM, or name another model")
            return [error] * len(requests)


class _Model:
    """The weights and the tokenizer, on the GPU where there is one."""

    def __init__(self, where: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(where, padding_side="left")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        model: Any = AutoModelForCausalLM.from_pretrained(where, dtype="auto")
        self._model: Any = model.to(device).eval()

    def answers(self, requests: Sequence[Request], name: str) -> Sequence[Reply | AskingError]:
        """An answer to each, or why there is none. All share one sampling: raised limits are batched apart."""
        found: dict[int, Reply | AskingError] = {}
        texts = [self._text(request) for request in requests]
        sizes = [len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        room = getattr(self._model.config, "max_position_embeddings", None) or 1 << 30
        together: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            if sizes[place] >= room:
                said = f"The question's {sizes[place]:,} tokens do not fit {name}."
                found[place] = Rejected(said, "name a model with a longer context")
            else:
                together.setdefault(int(request.target.sampling.get("max_tokens", 2048)), []).append(place)
        for limit, places in together.items():
            left = min(limit, room - max(sizes[place] for place in places))
            made = self._generate([texts[place] for place in places], left, requests[places[0]].target.sampling, name)
            found |= dict(zip(places, made, strict=True))
        return [found[place] for place in range(len(requests))]

    def _text(self, request: Request) -> str:
        messages = list(request.messages)
        if request.answer_schema is not None:
            messages = with_schema_in_words(messages, request.answer_schema)
        if self._tokenizer.chat_template:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return "\n\n".join(message["content"] for message in messages) + "\n\n"

    def _generate(self, texts: list[str], limit: int, sampling: Mapping[str, Any], name: str) -> list[Reply]:
        import torch

        given = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        given = given.to(self._model.device)
        warm = float(sampling.get("temperature", 0) or 0)
        how: dict[str, Any] = {"do_sample": True, "temperature": warm} if warm else {"do_sample": False}
        with torch.inference_mode():
            made = self._model.generate(
                **given, max_new_tokens=limit, pad_token_id=self._tokenizer.pad_token_id, **how
            )[:, given["input_ids"].shape[1] :]
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        replies = []
        for row, mask in zip(made.tolist(), given["attention_mask"], strict=True):
            end = next((i for i, token in enumerate(row) if token in ends), None)
            finish: Finish = "length" if end is None else "stop"
            said = row if end is None else row[:end]
            text = self._tokenizer.decode(said, skip_special_tokens=True)
            replies.append(Reply(text, finish, name, Usage(input=int(mask.sum()), output=len(said))))
        return replies
